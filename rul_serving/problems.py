"""Every error as a problem (RFC 9457): a stable type, what happened, where, and the trace id.

What belongs here: the kinds of problem and how an exception becomes one. What does not: the rules
that refuse (they raise ``Refusal``), errors below the web (``rul_core.errors``).

Litestar's own plugin is not used: it puts the detail into the title, and leaves 500 as plain JSON.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, StrEnum
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException, ValidationException
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.types import Receive, Scope, Send

from rul_core.errors import (
    BundleError,
    Conflict,
    FleetError,
    GateNotPassed,
    InvalidCursor,
    Outdated,
    RulError,
    StepRefused,
    Unavailable,
    UnknownAdvisory,
    UnknownUnit,
    UnknownVersion,
)
from rul_serving import tracing
from rul_store.keys import redacted

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5

_log = structlog.stdlib.get_logger(__name__)


class Kind(Enum):
    """A kind of problem: its status and title. Names and statuses never change."""

    INVALID_REQUEST = 400, "The request cannot be read"
    INVALID_CURSOR = 400, "The cursor is not one that this service gave"
    UNAUTHENTICATED = 401, "A valid API key is needed"
    FORBIDDEN = 403, "The API key does not allow this"
    NOT_FOUND = 404, "There is nothing at this address"
    UNKNOWN_FLEET = 404, "There is no such fleet"
    UNKNOWN_UNIT = 404, "Nothing is kept of such a unit"
    UNKNOWN_MODEL = 404, "There is no such model"
    UNKNOWN_ENTRY = 404, "The ledger has no such entry"
    UNKNOWN_ADVISORY = 404, "There is no such advisory"
    UNKNOWN_KEY = 404, "There is no such API key"
    METHOD_NOT_ALLOWED = 405, "This address does not take this method"
    KEY_CONFLICT = 409, "The API keys as they are do not allow this"
    STEP_REFUSED = 409, "The advisory cannot take that step from where it is"
    CONTRADICTION = 409, "What is kept says otherwise"
    DAMAGED_MODEL = 409, "The model's bundle cannot be used"
    GATE_NOT_PASSED = 409, "The release gate speaks against the model"
    IN_PROGRESS = 409, "The first request with this idempotency key is still being answered"
    ANSWER_LOST = 409, "The change was made, but its answer was lost"
    IRREPRODUCIBLE = 409, "What this was computed from is not there any more"
    PRECONDITION_FAILED = 412, "Something has happened to it since it was looked at"
    TOO_LARGE = 413, "That is more than one request may bring"
    UNSUPPORTED_MEDIA_TYPE = 415, "The body is of a type that is not read here"
    INVALID_READINGS = 422, "The readings contradict themselves or their fleet"
    IDEMPOTENCY_KEY_REUSED = 422, "The idempotency key was used for another request"
    PRECONDITION_REQUIRED = 428, "The request must say which version it was decided on"
    RATE_LIMITED = 429, "That is more than this principal may ask for now"
    INTERNAL_ERROR = 500, "The service made a mistake"
    INVALID_FLEET = 500, "The fleet's description cannot be used"
    UNAVAILABLE = 503, "Something that this answer needs is away for now"

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value[0]

    @property
    def title(self) -> str:
        """The same for every problem of the kind."""
        return self.value[1]

    @property
    def slug(self) -> str:
        """The name in addresses."""
        return self.name.lower().replace("_", "-")

    @property
    def type(self) -> str:
        """A reference relative to the service, which tells there what the kind is."""
        return f"/problems/{self.slug}"


_LEFT = "client disconnected prematurely"
"""What Litestar raises where a body ends before it is whole."""
_OF_STATUS = {
    kind.status: kind
    for kind in (Kind.INVALID_REQUEST, Kind.NOT_FOUND, Kind.METHOD_NOT_ALLOWED, Kind.TOO_LARGE)
}
"""What the refusals of Litestar itself are."""


_OF_ERROR: dict[type[Exception], Kind] = {
    InvalidCursor: Kind.INVALID_CURSOR,
    UnknownUnit: Kind.UNKNOWN_UNIT,
    UnknownAdvisory: Kind.UNKNOWN_ADVISORY,
    StepRefused: Kind.STEP_REFUSED,
    UnknownVersion: Kind.UNKNOWN_MODEL,
    BundleError: Kind.DAMAGED_MODEL,
    GateNotPassed: Kind.GATE_NOT_PASSED,
    Conflict: Kind.CONTRADICTION,
    Outdated: Kind.PRECONDITION_FAILED,
}
"""What the errors below are that say enough by themselves."""


class Reason(StrEnum):
    """Why a reading was not kept."""

    NOT_A_READING = "not_a_reading"
    """Something in it is missing, or is not what it should be."""
    CONFLICT = "conflict"
    """Other values are kept of the same unit, life and cycle; this one is set aside."""
    UNKNOWN_UNIT = "unknown_unit"
    """The fleet takes no units that nobody has heard of."""
    LIFE_ENDED = "life_ended"
    """The life ended before this cycle, or no life of the unit runs."""


class Flaw(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong with a request."""

    at: str
    """Where: a path into the body such as ``units[0].readings[3].cycle``, or a parameter."""
    message: str
    """What is wrong, and what to do."""
    unit: str | None = None
    """The unit, where the place is one unit's."""
    index: int | None = None
    """Which of the unit's readings, from 0."""
    cycle: float | None = None
    """The cycle of that reading."""
    reason: Reason | None = None
    """Of a reading that was not kept."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What every error looks like (RFC 9457, ``application/problem+json``)."""

    type: str
    """Stable; ends in the kind's name and answers with what the kind means."""
    title: str
    """The same for every problem of the type."""
    status: int
    """The HTTP status."""
    detail: str
    """What happened this time, and what to do."""
    instance: str
    """The path that was asked."""
    trace_id: str
    """Finds the request in the logs; also in the header ``X-Request-Id``."""
    errors: list[Flaw] = []
    """Each thing that is wrong, where the request is: the first twenty, of readings all."""
    error: str | msgspec.UnsetType = msgspec.UNSET
    """Below ``/v2`` the detail once more, where clients of the inference protocol look for it."""


class Refusal(RulError):
    """The request will not be answered as asked."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        flaws: Sequence[Flaw] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind, self.flaws, self.headers = kind, list(flaws), dict(headers or {})


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """The problem that an exception is; what nobody foresaw is told to the log alone."""
    headers: dict[str, str] = {}
    flaws: list[Flaw] = []
    if isinstance(error, Refusal):
        kind, detail, flaws = error.kind, str(error), error.flaws
        headers.update(error.headers)
    elif type(error) in _OF_ERROR:
        kind, detail = _OF_ERROR[type(error)], str(error)
    elif isinstance(error, InternalServerException) and error.detail == _LEFT:
        # Nobody hears it; but it is no failure of ours, and must not be counted as one.
        kind, detail = Kind.INVALID_REQUEST, "the client left before the end of its body"
    elif isinstance(error, Unavailable):
        kind, detail = Kind.UNAVAILABLE, str(error)
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        _log.warning("unavailable", detail=detail)
    elif isinstance(error, FleetError):
        kind, detail = Kind.INVALID_FLEET, str(error)
        _log.error("fleet description refused", detail=detail)
    elif isinstance(error, HTTPException) and error.status_code in _OF_STATUS:
        kind, flaws = _OF_STATUS[error.status_code], _flaws_of(request, error)
        detail = error.detail if not flaws else f"{flaws[0].at}: {flaws[0].message}"
        headers.update(error.headers or {})
    else:
        kind, detail = Kind.INTERNAL_ERROR, "the cause is in the log, under the trace id"
        _log.error("request failed", exc_info=error)
    path = request.url.path
    problem = Problem(
        type=kind.type,
        title=kind.title,
        status=kind.status,
        # A key may have come where it does not belong, such as in the path.
        detail=redacted(detail),
        instance=redacted(path),
        trace_id=tracing.trace_id(),
        errors=[msgspec.structs.replace(flaw, message=redacted(flaw.message)) for flaw in flaws],
        error=redacted(detail) if path.startswith("/v2/") else msgspec.UNSET,
    )
    return Response(problem, status_code=kind.status, headers=headers, media_type=MEDIA_TYPE)


async def respond(scope: Scope, receive: Receive, send: Send, error: Exception) -> None:
    """Send the problem that an exception is, as Litestar does for a handler."""
    request: Request[Any, Any, Any] = Request(scope, receive, send)
    await answer(request, error).to_asgi_response(None, request)(scope, receive, send)


def declared(*kinds: Kind) -> dict[int, ResponseSpec]:
    """These problems and the internal error, for ``responses=`` of a handler."""
    return also({}, *kinds, Kind.INTERNAL_ERROR)


def also(responses: Mapping[int, ResponseSpec], *kinds: Kind) -> dict[int, ResponseSpec]:
    """The responses of a handler, with these problems where they are not among them."""
    specs = dict(responses)
    for kind in kinds:
        if kind.status in specs and kind.title in specs[kind.status].description:
            continue
        example = Problem(
            type=kind.type,
            title=kind.title,
            status=kind.status,
            detail="what happened this time, and what to do",
            instance="/v1/…",
            trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        )
        examples = [Example(summary=kind.title, value=msgspec.to_builtins(example))]
        description = kind.title
        if kind.status in specs:
            examples = [*(specs[kind.status].examples or []), *examples]
            description = f"{specs[kind.status].description}, or: {kind.title}"
        specs[kind.status] = ResponseSpec(
            Problem,
            generate_examples=False,
            description=description,
            media_type=MEDIA_TYPE,
            examples=examples,
        )
    return specs


def _flaws_of(request: Request[Any, Any, Any], error: HTTPException) -> list[Flaw]:
    """Litestar's list of what does not validate, by the names that the caller knows."""
    if not isinstance(error, ValidationException) or not isinstance(error.extra, list):
        return []
    parameters = request.route_handler.parsed_fn_signature.parameters
    flaws = []
    for found in error.extra:
        key = found["key"]
        known_as = getattr(getattr(parameters.get(key), "kwarg_definition", None), "name", None)
        flaws.append(Flaw(at=known_as or key, message=found["message"]))
    return flaws
