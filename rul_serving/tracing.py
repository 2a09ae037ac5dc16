"""One id for each request: in its logs, its problem and its answer's header.

What belongs here: where the id comes from, where it is put, and the one log line a request gets.
What does not: how lines are written (``logs``), spans and exporters.
"""

import re
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from time import perf_counter

import structlog
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from rul_serving.principal import STATE

HEADER = "x-request-id"
ANSWER_HEADERS = "answer_headers"
"""Under this name a connection's state holds headers that its answer shall have, whatever it is."""
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
    """The application, with an id and a log line for every request, unknown addresses included."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        chosen = choose(scope["headers"])
        started, status = perf_counter(), 0

        async def with_header(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [
                    *message.get("headers", []),
                    *scope["state"].get(ANSWER_HEADERS, ()),
                    (HEADER.encode(), chosen.encode()),
                ]
                message = {**message, "headers": headers}
            await send(message)

        token = _trace_id.set(chosen)
        try:
            with bound_contextvars(trace_id=chosen):
                await app(scope, receive, with_header)
                if status >= 400 or scope["path"] not in PROBES:
                    _log.info(
                        "request",
                        method=scope["method"],
                        path=scope["path"],
                        principal=getattr(scope["state"].get(STATE), "name", None),
                        status=status,
                        duration_seconds=round(perf_counter() - started, 6),
                    )
        finally:
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
    return uuid.uuid4().hex
