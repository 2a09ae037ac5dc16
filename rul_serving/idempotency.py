"""Requests that come twice: the header ``Idempotency-Key``.

What belongs here: the header, the statuses, and holding an answer back until it is kept. What does
not: why a key is good for one change, whoever dies when (``rul_store.idempotency``).

An answer below 500 is kept and given again; after one of 500 and above the key is given back,
unless the change was made.
"""

import hashlib
import re
from collections.abc import Awaitable
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from rul_serving import tracing
from rul_serving.guard import TAKES_KEY, UNSAFE
from rul_serving.principal import principal_of
from rul_serving.problems import Flaw, Kind, Refusal
from rul_store import idempotency
from rul_store.idempotency import RESERVED_SECONDS, Answer, Reservation, reserved
from rul_store.swallowed import swallow

HEADER = b"idempotency-key"
REPLAYED = "Idempotency-Replayed"
RETRY_AFTER_SECONDS = 1
STATE = "idempotency_reservation"
_WELL_FORMED = re.compile(rb"[!-~]{1,255}")


async def reserve(request: Request[Any, Any, Any]) -> Response[bytes] | None:
    """Reserve the request's key, or give what was answered; called once the guard has let it pass.

    Raises:
        Refusal: The key is malformed, used for another request, or its answer is not there.
        Unavailable: PostgreSQL does not answer.
    """
    if TAKES_KEY not in request.route_handler.opt:
        return None
    key = next((value for name, value in request.scope["headers"] if name == HEADER), None)
    if key is None:
        return None
    if _WELL_FORMED.fullmatch(key) is None:
        message = "give 1 to 255 visible ASCII characters"
        flaw = Flaw(at="Idempotency-Key", message=message)
        raise Refusal(Kind.INVALID_REQUEST, f"{flaw.at}: {message}", [flaw])
    found = await request.app.state.service.database.ask(
        idempotency.reserve,
        principal_of(request).name,
        key.decode(),
        await _fingerprint(request),
        tracing.trace_id(),
    )
    if isinstance(found, Reservation):
        request.scope["state"][STATE] = found
        reserved.set(found)
        return None
    if not found.same:
        raise Refusal(
            Kind.IDEMPOTENCY_KEY_REUSED,
            f"the key {key.decode()!r} was used for another request at "
            f"{found.reserved_at.isoformat()}; give each request a key of its own",
        )
    if found.answer is not None:
        headers = {**dict(found.answer.headers), REPLAYED: "true"}
        media_type = headers.pop("content-type", None)
        return Response(
            found.answer.body,
            status_code=found.answer.status,
            headers=headers,
            media_type=media_type,
        )
    if found.is_lost:
        raise Refusal(
            Kind.ANSWER_LOST,
            f"the request of {found.reserved_at.isoformat()} (trace id {found.trace_id}) made its "
            "change and its answer was lost; look at what it was about, and do not repeat it",
        )
    raise Refusal(
        Kind.IN_PROGRESS,
        f"the request of {found.reserved_at.isoformat()} (trace id {found.trace_id}) is not "
        f"answered yet; come again, for {RESERVED_SECONDS} seconds at most",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def kept(app: ASGIApp) -> ASGIApp:
    """The application, which keeps an answer for repeats before it gives it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        held: list[Any] = []

        async def keep_first(message: Message) -> None:
            reservation = scope["state"].get(STATE)
            if reservation is None:
                await send(message)
                return
            held.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await _settle(scope, reservation, held)
                for each in held:
                    await send(each)

        try:
            await app(scope, receive, keep_first)
        finally:
            reserved.set(None)

    def chosen(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        is_unsafe = scope["type"] == "http" and scope["method"] in UNSAFE
        if is_unsafe and any(name == HEADER for name, _ in scope["headers"]):
            return answer(scope, receive, send)
        return app(scope, receive, send)

    return chosen


async def _fingerprint(request: Request[Any, Any, Any]) -> bytes:
    scope = request.scope
    headers = dict(scope["headers"])
    told_by = [headers.get(name, b"") for name in (b"content-type", b"if-match")]
    path = scope["path"].encode()
    parts = (scope["method"].encode(), path, scope["query_string"], *told_by)
    told = msgspec.json.encode([*parts, await request.body()])
    return hashlib.sha256(told).digest()


async def _settle(scope: Scope, reservation: Reservation, held: list[Any]) -> None:
    """Keep the answer, or give the key back."""
    database = scope["litestar_app"].state.service.database
    start = held[0]
    try:
        if start["status"] >= 500:
            await database.ask(idempotency.release, reservation)
            return
        body = b"".join(message["body"] for message in held[1:])
        shown_once = scope["route_handler"].opt.get("shown_once")
        if shown_once and start["status"] < 400:
            body = msgspec.json.encode({**msgspec.json.decode(body), shown_once: None})
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in start["headers"]
            if name != b"content-length"
        ]
        answer = Answer(status=start["status"], headers=headers, body=body)
        await database.ask(idempotency.complete, reservation, answer)
    except Exception as error:  # the answer stands, whatever becomes of its record
        swallow("idempotency", error, "a repeat will be told that the answer was lost")
