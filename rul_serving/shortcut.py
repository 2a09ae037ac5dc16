"""The usual answer to feature rows and to readings, without the long way through the framework.

What belongs here: seeing that a request is a usual one, and answering it. What does not: bodies
(``inference``, ``rows``), keys and limits (``access``, ``limits``), keeping readings (``writer``),
refusing anybody.

Finding a handler and filling its parameters takes longer than the model does. So a request for
figures or with a few readings that needs nothing out of the ordinary is answered here: its key is
known to this process, may ask or send and see the fleet, and a token is left; the fleet or its
model is known, and the body is small and right. Any other takes the long way, with nothing taken
from it, and is refused there; so there is one place where requests are refused, and each way does
what the other would. Readings that were taken and cannot be kept are told as the long way tells it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar.serialization import encode_json
from litestar.status_codes import HTTP_200_OK
from litestar.types import ASGIApp, Receive, Scope, Send

from rul_serving import inference, problems, rows, tracing
from rul_serving.batch import Sent
from rul_serving.limits import Lease, Limit
from rul_serving.principal import ASK, SEND, STATE, Principal
from rul_serving.problems import Refusal
from rul_serving.received import received
from rul_serving.service import Service
from rul_serving.tracing import ANSWER_HEADERS
from rul_store.keys import Role

LARGE_BYTES = 16 * 1024
"""More feature rows are read and computed beside the event loop; fewer take less than that."""
JSON, BYTES = b"application/json", b"application/octet-stream"
_HEADER_LENGTH = inference.HEADER_LENGTH.encode()


class Answer:
    """Bytes, sent as they are: Litestar's own response takes longer than the model.

    Args:
        body: JSON, and bytes behind it.
        json_length: Of the JSON, where there are.
    """

    def __init__(self, body: bytes, json_length: int | None = None) -> None:
        self._body = body
        self._headers = [
            (b"content-type", JSON if json_length is None else BYTES),
            (b"content-length", str(len(body)).encode()),
        ]
        if json_length is not None:
            self._headers.append((_HEADER_LENGTH, str(json_length).encode()))

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send them."""
        await send({"type": "http.response.start", "status": HTTP_200_OK, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


class _Failed:
    """What went wrong with readings, once they were taken."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await problems.respond(scope, receive, send, self._error)


def shortened(app: ASGIApp) -> ASGIApp:
    """The application, where usual requests for figures and with readings take the short way."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            await app(scope, receive, send)
            return
        for before, after, usual in _WAYS:
            if scope["path"].startswith(before) and scope["path"].endswith(after):
                message = await receive()
                fleet = scope["path"][len(before) : -len(after)]
                found = await usual(scope, message, fleet)
                if found is None:
                    await app(scope, _again(message, receive), send)
                else:
                    await found(scope, receive, send)
                return
        await app(scope, receive, send)

    return answer


async def _figures(scope: Scope, message: Any, fleet: str) -> ASGIApp | None:
    """The answer to usual feature rows."""
    service: Service = scope["litestar_app"].state.service
    served, principal = service.models.get(fleet), _admitted(service, scope, fleet, ASK)
    if served is None or principal is None or not _is_whole(service, message, LARGE_BYTES):
        return None
    model, version = served.loaded.model, served.loaded.version
    length = next((value for name, value in scope["headers"] if name == _HEADER_LENGTH), None)
    try:
        question = inference.read(
            message["body"], length, len(model.pipeline.names), service.settings.max_readings
        )
    except Refusal:
        return None
    lease = service.limits.lease(Limit.REQUESTS, principal.name)
    try:
        await service.limits.take(lease)
    except Refusal:
        return None
    _note(scope, principal, lease, INFER)
    try:
        figures = await service.gathering.figures(model, question.rows)
    except Exception:  # the long way asks again, and tells what is wrong
        return None
    return Answer(*inference.write(fleet, version, question.request, figures))


async def _readings(scope: Scope, message: Any, fleet: str) -> ASGIApp | None:
    """The answer to a few usual readings."""
    service: Service = scope["litestar_app"].state.service
    described, principal = service.descriptions.known(fleet), _admitted(service, scope, fleet, SEND)
    if (
        described is None
        or principal is None
        or not _is_whole(service, message, rows.LARGE_BYTES)
        or next((value for name, value in scope["headers"] if name == b"content-type"), b"") != JSON
    ):
        return None
    sent = rows.all_good(message["body"], described)
    if sent is None:
        return None
    lease = service.limits.lease(Limit.SENDINGS, principal.name)
    try:
        await service.limits.take(lease)
    except Refusal:
        return None
    _note(scope, principal, lease, READINGS)
    try:
        taken = Sent(rows=sent, trace_id=tracing.trace_id())
        receipt = await service.writer.send(described, taken, atomic=False)
        return Answer(encode_json(received(fleet, sent, receipt)))
    except Exception as error:
        return _Failed(error)


def _admitted(
    service: Service, scope: Scope, fleet: str, roles: frozenset[Role]
) -> Principal | None:
    principal = service.access.known(scope["headers"])
    if principal is None or principal.roles.isdisjoint(roles) or not principal.sees(fleet):
        return None
    return principal


def _is_whole(service: Service, message: Any, most_bytes: int) -> bool:
    """Whether this is a body, all of it, and a small one."""
    return (
        message["type"] == "http.request"
        and not message.get("more_body")
        and len(message["body"]) <= min(most_bytes, service.settings.max_body_bytes)
    )


def _note(scope: Scope, principal: Principal, lease: Lease, template: str) -> None:
    """What is told of the request elsewhere."""
    scope["state"].update({STATE: principal, ANSWER_HEADERS: lease.headers()})
    scope["path_template"] = template


def _again(first: Any, receive: Receive) -> Receive:
    """What was received once more, then what comes."""
    messages = [first]

    async def next_message() -> Any:
        return messages.pop() if messages else await receive()

    return next_message


INFER, READINGS = "/v2/models/{fleet}/infer", "/v1/fleets/{fleet}/readings"
_Usual = Callable[[Scope, Any, str], Awaitable[ASGIApp | None]]
_WAYS: tuple[tuple[str, str, _Usual], ...] = (
    ("/v2/models/", "/infer", _figures),
    ("/v1/fleets/", "/readings", _readings),
)
