"""Requests, as Prometheus counts them: how many, how they ended, how long they took, by route.

What belongs here: metrics of every request. What does not: what requests are about (``metrics``).

Litestar's middleware is not used: it costs a request as much as its answer, does not see requests
for unknown addresses, and counts a 429 as 200 (litestar#4747).
"""

from collections.abc import Iterable
from functools import cache

from litestar.status_codes import HTTP_500_INTERNAL_SERVER_ERROR
from prometheus_client import Counter, Gauge, Histogram

from rul_serving.shared_values import GAUGE_MODE

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""In seconds."""
_OF_ROUTE = ("method", "path", "status_code")
REQUESTS = Counter("rul_requests", "Requests answered, by route.", _OF_ROUTE)
REQUEST_ERRORS = Counter("rul_requests_error", "Requests answered with 500 and above.", _OF_ROUTE)
REQUEST_SECONDS = Histogram(
    "rul_request_duration_seconds", "Until the answer was sent.", _OF_ROUTE, buckets=BUCKETS
)
REQUESTS_BY_ROLE = Counter(
    "rul_requests_by_role",
    "Requests answered, by what whoever asked is for; one of several roles counts for each.",
    ("role",),
)
IN_PROGRESS = Gauge(
    "rul_requests_in_progress",
    "Requests that are being answered.",
    multiprocess_mode=GAUGE_MODE,
)


def answered(method: str, path: str, status: int, seconds: float) -> None:
    """Count a request that has been answered.

    Args:
        method: Of the request.
        path: The route's template, never the address itself.
        status: Of the answer.
        seconds: That it took.
    """
    requests, request_seconds = _series(method, path, status)
    requests.inc()
    request_seconds.observe(seconds)
    if status >= HTTP_500_INTERNAL_SERVER_ERROR:
        REQUEST_ERRORS.labels(method, path, str(status)).inc()


def asked_by(roles: Iterable[str]) -> None:
    """Count a request for each role of whoever asked."""
    for role in roles:
        _of_role(role).inc()


@cache
def _of_role(role: str) -> Counter:
    return REQUESTS_BY_ROLE.labels(role)


@cache
def _series(method: str, path: str, status: int) -> tuple[Counter, Histogram]:
    """Finding a series by its labels costs more than counting."""
    labels = (method, path, str(status))
    return REQUESTS.labels(*labels), REQUEST_SECONDS.labels(*labels)
