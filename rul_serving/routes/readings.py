"""``/v1/fleets/{fleet}/readings``: what machines send."""

from dataclasses import dataclass
from typing import Annotated, Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import QueryParameter, RawBody
from litestar.status_codes import HTTP_200_OK

from rul_serving import examples, rows, tracing
from rul_serving.answers import Received
from rul_serving.batch import Sent
from rul_serving.limits import Limit
from rul_serving.principal import SEND
from rul_serving.problems import Kind, declared
from rul_serving.received import received
from rul_serving.routes.fleets import FleetName
from rul_serving.service import Service


@dataclass
class _TakesReadings(Operation):
    """Documents the body, which is read row by row."""

    def __post_init__(self) -> None:
        one = Reference(ref="#/components/schemas/Reading")
        many = Schema(type=OpenAPIType.ARRAY, items=one, max_items=rows.MOST_ROWS)
        text = Schema(type=OpenAPIType.STRING)
        shown = Example(summary="One reading of one pump", value=[examples.READING])
        lines = "unit,cycle,load,vibration,temperature\npump-7,141,0.8,4.4,71.0\n"
        self.request_body = RequestBody(
            required=True,
            content={
                rows.JSON: OpenAPIMediaType(
                    schema=Schema(one_of=[many, one]), examples={"one": shown}
                ),
                rows.NDJSON: OpenAPIMediaType(schema=text),
                rows.CSV: OpenAPIMediaType(
                    schema=text, examples={"one": Example(summary="The same", value=lines)}
                ),
            },
        )


@post(
    "/fleets/{fleet:str}/readings",
    operation_id="sendReadings",
    operation_class=_TakesReadings,
    summary="Send readings of a fleet's units",
    tags=["readings"],
    status_code=HTTP_200_OK,
    opt={"roles": SEND, "naturally_idempotent": True, "limit": Limit.SENDINGS},
    responses=examples.shown(examples.RECEIVED, "What became of them")
    | declared(
        Kind.INVALID_REQUEST,
        Kind.UNKNOWN_FLEET,
        Kind.TOO_LARGE,
        Kind.UNSUPPORTED_MEDIA_TYPE,
        Kind.INVALID_READINGS,
        Kind.INVALID_FLEET,
        Kind.UNAVAILABLE,
    ),
)
async def send_readings(
    fleet: FleetName,
    request: Request[Any, Any, Any],
    body: RawBody,
    service: NamedDependency[Service],
    atomic: Annotated[
        bool, QueryParameter(description="Keep all readings or, where one is wrong, none.")
    ] = False,
) -> Received:
    """One to 10,000 readings, in whatever order; each is kept once.

    A reading is known by unit, life and cycle: sent again with the same values it changes nothing,
    with others it is a conflict and set aside. Late readings are put where they belong. So any
    request may be sent again. The answer comes once everything it says is committed: the good
    readings, and the prognosis of each unit that they are of. Where no reading is good, it is 422.

    As CSV, the columns are `unit`, `cycle`, the fleet's settings and sensors, and if known `life`
    and `time`; an empty cell is a value that was not read.
    """
    described = await service.descriptions.get(fleet)
    content_type = request.content_type[0].lower()
    if len(body) > rows.LARGE_BYTES:
        read = await service.computing.run(rows.parse, content_type, body, described)
    else:
        read = rows.parse(content_type, body, described)
    sent = Sent(rows=read, trace_id=tracing.trace_id())
    receipt = await service.writer.send(described, sent, atomic=atomic)
    return received(fleet, read, receipt)
