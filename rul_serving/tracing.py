"""One id for each request: in its logs, its problem and its answer's header.

What belongs here: where the id comes from, where it is put, the one log line that a request gets,
and that it is counted. What does not: how lines are written (``logs``), what is counted
(``counted``), spans and exporters.
"""

import re
from collections.abc import Awaitable, Iterable
from contextvars import ContextVar
from random import getrandbits
from time import perf_counter

import structlog
from litestar.status_codes import HTTP_400_BAD_REQUEST, HTTP_500_INTERNAL_SERVER_ERROR
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from rul_serving import counted
from rul_serving.principal import STATE

HEADER = "x-request-id"
ANSWER_HEADERS = "answer_headers"
"""Under this name a connection's state holds headers that its answer shall have, whatever it is."""
GOES_ON = "goes_on"
"""Under this name a connection's state says that its answer is a stream: it is answered once it
begins, and what it takes in all is how long the client stays."""
PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""Asked every few seconds; an answer below 400 is not worth a line."""

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_trace_id: ContextVar[str] = ContextVar("trace_id", default="")
_log = structlog.stdlib.get_logger(__name__)


def trace_id() -> str:
    """The id of the request that is being answered; empty outside of one."""
    return _trace_id.get()


def traced(app: ASGIApp) -> ASGIApp:
    """The application, where every request has an id, a log line and is counted.

    Requests for unknown addresses too, whose path stands as ``unmatched`` among the metrics.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        chosen = choose(scope["headers"])
        header = (HEADER.encode(), chosen.encode())
        started, status = perf_counter(), 0

        def count() -> None:
            counted.IN_PROGRESS.dec()
            template = scope.get("path_template", "unmatched")
            counted.answered(method, template, status, perf_counter() - started)
            if principal := state.get(STATE):
                counted.asked_by(principal.roles)

        def with_header(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if GOES_ON in state:
                    count()
                told = (*message.get("headers", ()), *state.get(ANSWER_HEADERS, ()), header)
                message = {**message, "headers": told}
            return send(message)

        method, path, state = scope["method"], scope["path"], scope.setdefault("state", {})
        token = _trace_id.set(chosen)
        counted.IN_PROGRESS.inc()
        try:
            await app(scope, receive, with_header)
        finally:
            was_counted = status and GOES_ON in state
            seconds, status = perf_counter() - started, status or HTTP_500_INTERNAL_SERVER_ERROR
            if not was_counted:
                count()
            if status >= HTTP_400_BAD_REQUEST or path not in PROBES:
                _log.info(
                    "request",
                    method=method,
                    path=path,
                    principal=getattr(state.get(STATE), "name", None),
                    status=status,
                    duration_seconds=round(seconds, 6),
                )
            _trace_id.reset(token)

    return answer


def choose(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's id where it is well formed (W3C's before X-Request-Id), or a new one.

    https://www.w3.org/TR/trace-context/#traceparent-header
    """
    given = dict(headers)
    parent = _TRACEPARENT.fullmatch(given.get(b"traceparent", b""))
    if parent and int(parent[1], 16):
        return parent[1].decode()
    if _REQUEST_ID.fullmatch(given.get(HEADER.encode(), b"")):
        return given[HEADER.encode()].decode()
    return f"{getrandbits(128):032x}"  # a name, no secret, and no call of the system
