"""``/v1/prognoses``: the stateless what-if question."""

from dataclasses import dataclass
from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    Operation,
    Reference,
    RequestBody,
)
from litestar.params import RawBody
from litestar.status_codes import HTTP_200_OK

from rul_serving import examples, what_if
from rul_serving.answers import Prognoses
from rul_serving.problems import Kind, Refusal, declared
from rul_serving.service import Service
from rul_serving.windows import decode, refuse_too_many

JSON = "application/json"


@dataclass
class _TakesWindows(Operation):
    """Documents the body, which is decoded by hand: Litestar's decoder takes "1" for 1."""

    def __post_init__(self) -> None:
        body = OpenAPIMediaType(
            schema=Reference(ref="#/components/schemas/PrognosisRequest"),
            examples={
                "pumps": Example(summary="The life of one pump so far", value=examples.QUESTION)
            },
        )
        self.request_body = RequestBody(content={JSON: body}, required=True)


@post(
    "/prognoses",
    operation_id="prognoseWindows",
    operation_class=_TakesWindows,
    summary="What would be said of these readings",
    tags=["prognoses"],
    status_code=HTTP_200_OK,
    responses=examples.shown(examples.PROGNOSES, "One prognosis a unit")
    | declared(
        Kind.INVALID_REQUEST,
        Kind.UNKNOWN_FLEET,
        Kind.TOO_LARGE,
        Kind.UNSUPPORTED_MEDIA_TYPE,
        Kind.INVALID_READINGS,
        Kind.INVALID_FLEET,
    ),
)
async def prognose_windows(
    request: Request[Any, Any, Any], body: RawBody, service: NamedDependency[Service]
) -> Prognoses:
    """Whole windows of one or many units of a fleet; nothing is kept.

    Each window holds the unit's readings from the start of its life, sorted by cycle, with a value
    or null for every channel of the fleet (`GET /v1/fleets` lists them). The prognosis is that of
    the last reading. While the fleet has no released model its units are `not_configured`; where
    inference fails they are in `model_error`, and the trace id finds the cause.
    """
    given = request.content_type[0].lower()
    if given != JSON:
        detail = f"the content type is {given or 'missing'}; send JSON with Content-Type: {JSON}"
        raise Refusal(Kind.UNSUPPORTED_MEDIA_TYPE, detail)
    question = decode(body)
    limits = service.settings
    refuse_too_many(question, limits.max_units, limits.max_readings)
    fleet = await service.fleet(question.fleet)
    served = service.models.get(question.fleet)
    prognoses = await service.computing.run(
        what_if.answer, question, fleet, served.loaded if served else None
    )
    return Prognoses(prognoses=prognoses)
