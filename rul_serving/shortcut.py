"""The usual answer to a few feature rows, without the long way through the framework.

What belongs here: seeing that a request is a usual one, and answering it. What does not: bodies
(``inference``), keys and limits (``access``, ``limits``), refusing anybody.

Finding a handler and filling its parameters takes longer than the model does. So a request to
``/v2/models/{fleet}/infer`` that needs nothing out of the ordinary is answered here: its key is
known to this process, may ask and see the fleet, has a token left in the lease; a model answers,
and the body is small and right. Any other takes the long way, with nothing taken from it, and is
refused there; so there is one place where requests are refused, and each does what the other would.
"""

from typing import Any

from litestar.status_codes import HTTP_200_OK
from litestar.types import ASGIApp, Receive, Scope, Send

from rul_serving import inference
from rul_serving.limits import Limit
from rul_serving.principal import ASK, STATE
from rul_serving.problems import Refusal
from rul_serving.service import Service
from rul_serving.tracing import ANSWER_HEADERS

LARGE_BYTES = 16 * 1024
"""A larger body is read and computed beside the event loop; a smaller one takes less than that."""
JSON, BYTES = b"application/json", b"application/octet-stream"
TEMPLATE = "/v2/models/{fleet}/infer"
_BEFORE, _AFTER = TEMPLATE.split("{fleet}")
_HEADER_LENGTH = inference.HEADER_LENGTH.encode()


class Answer:
    """The protocol's bytes, sent as they are: Litestar's own response takes longer than the model.

    Args:
        body: JSON, and bytes behind it.
        json_length: Of the JSON, where there are.
    """

    def __init__(self, body: bytes, json_length: int | None) -> None:
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


def shortened(app: ASGIApp) -> ASGIApp:
    """The application, where usual requests for figures take the short way."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or not scope["path"].endswith(_AFTER)
            or not scope["path"].startswith(_BEFORE)
            or scope["method"] != "POST"
            or scope["query_string"]
        ):
            await app(scope, receive, send)
            return
        message = await receive()
        usual = await _answer(scope, message)
        if usual is None:
            await app(scope, _again(message, receive), send)
        else:
            await usual(scope, receive, send)

    return answer


async def _answer(scope: Scope, message: Any) -> Answer | None:
    """The answer to a usual request; none where it is not one."""
    service: Service = scope["litestar_app"].state.service
    fleet, headers = scope["path"][len(_BEFORE) : -len(_AFTER)], scope["headers"]
    served, principal = service.models.get(fleet), service.access.known(headers)
    if (
        served is None
        or principal is None
        or principal.roles.isdisjoint(ASK)
        or not principal.sees(fleet)
        or message["type"] != "http.request"
        or message.get("more_body")
        or len(message["body"]) > min(LARGE_BYTES, service.settings.max_body_bytes)
    ):
        return None
    model, version = served.loaded.model, served.loaded.version
    length = next((value for name, value in headers if name == _HEADER_LENGTH), None)
    try:
        question = inference.read(
            message["body"], length, len(model.pipeline.names), service.settings.max_readings
        )
    except Refusal:
        return None
    lease = service.limits.lease(Limit.REQUESTS, principal.name)
    if not lease.take():
        return None
    scope["state"].update({STATE: principal, ANSWER_HEADERS: lease.headers()})
    scope["path_template"] = TEMPLATE
    try:
        figures = await service.gathering.figures(model, question.rows)
    except Exception:
        return None
    return Answer(*inference.write(fleet, version, question.request, figures))


def _again(first: Any, receive: Receive) -> Receive:
    """What was received once more, then what comes."""
    messages = [first]

    async def next_message() -> Any:
        return messages.pop() if messages else await receive()

    return next_message
