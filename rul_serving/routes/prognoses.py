"""``/v1/prognoses``: the stateless what-if question."""

from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import RawBody
from litestar.status_codes import HTTP_200_OK

from rul_serving import examples, what_if
from rul_serving.answers import Prognoses
from rul_serving.bodies import refuse_other_types, takes
from rul_serving.guard import require_fleet
from rul_serving.principal import ASK, Principal
from rul_serving.problems import Kind, declared
from rul_serving.rows import LARGE_BYTES
from rul_serving.service import Service
from rul_serving.windows import PrognosisRequest, decode, refuse_too_many


@post(
    "/prognoses",
    operation_id="prognoseWindows",
    operation_class=takes(PrognosisRequest, "The life of one pump so far", examples.QUESTION),
    summary="What would be said of these readings",
    tags=["prognoses"],
    opt={"roles": ASK, "naturally_idempotent": True},
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
    request: Request[Any, Any, Any],
    body: RawBody,
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
) -> Prognoses:
    """Whole windows of one or many units of a fleet; nothing is kept.

    Each window holds the unit's readings from the start of its life, sorted by cycle, with a value
    or null for every channel of the fleet (`GET /v1/fleets` lists them). The prognosis is that of
    the last reading. While the fleet has no released model its units are `not_configured`; where
    inference fails they are in `model_error`, and the trace id finds the cause.
    """
    refuse_other_types(request)
    if len(body) > LARGE_BYTES:  # else nobody is answered meanwhile
        question = await service.computing.run(decode, body)
    else:
        question = decode(body)
    require_fleet(principal, question.fleet)
    limits = service.settings
    refuse_too_many(question, limits.max_units, limits.max_readings)
    fleet = await service.fleet(question.fleet)
    served = service.models.get(question.fleet)
    prognoses = await service.computing.run(
        what_if.answer, question, fleet, served.loaded if served else None
    )
    return Prognoses(prognoses=prognoses)
