"""``/v1/fleets/{fleet}/events``: what is new, as it comes."""

from typing import Annotated, Any

from litestar import Request, get
from litestar.di import NamedDependency
from litestar.params import HeaderParameter, QueryParameter
from litestar.response.base import ASGIResponse

from rul_core.errors import StoreError, Unavailable
from rul_serving import examples, tracing
from rul_serving.live import EventStream, Wanted
from rul_serving.principal import READ, Principal
from rul_serving.problems import Flaw, Kind, Refusal, declared
from rul_serving.routes.fleets import FleetName
from rul_serving.service import Service
from rul_serving.windows import LONGEST_UNIT, UNIT_PATTERN
from rul_store.news import NewsKind


@get(
    "/fleets/{fleet:str}/events",
    operation_id="followFleet",
    summary="New prognoses and advisories as they come",
    tags=["fleets"],
    opt={"roles": READ, "events": examples.EVENTS},
    responses=examples.streamed()
    | declared(
        Kind.INVALID_REQUEST,
        Kind.INVALID_CURSOR,
        Kind.UNKNOWN_FLEET,
        Kind.INVALID_FLEET,
        Kind.UNAVAILABLE,
    ),
)
async def follow_fleet(
    request: Request[Any, Any, Any],
    fleet: FleetName,
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
    unit: Annotated[
        str | None,
        QueryParameter(
            pattern=UNIT_PATTERN, max_length=LONGEST_UNIT, description="Only of this unit."
        ),
    ] = None,
    kind: Annotated[
        NewsKind | None, QueryParameter(name="type", description="Only events of this type.")
    ] = None,
    follow: Annotated[
        bool, QueryParameter(description="Whether to wait for more once all is told.")
    ] = True,
    last_event_id: Annotated[
        str | None,
        HeaderParameter(
            name="Last-Event-ID",
            max_length=100,
            description="The `id` that came last, to go on from there; `0` is the beginning.",
        ),
    ] = None,
) -> ASGIResponse:
    """Server-sent events: entries of the ledger, and what happens to advisories.

    A stream begins now, or after the event that `Last-Event-ID` names; whoever comes again with
    the `id` that came last misses nothing and gets nothing twice, from any server. The events
    `prognosis` and `advisory` have an entry of the ledger and an event of an advisory; `reset` says
    that the id is unknown here (the database was restored) and the stream begins now; `end` is the
    last one and says why. Blocks without an event keep the connection, and move the id on.
    """
    await service.descriptions.get(fleet)
    wanted = Wanted(fleet=fleet, unit=unit, kind=kind, follow=follow)
    try:
        stream = await service.live.open(wanted, last_event_id, principal)
    except Unavailable:
        raise
    except StoreError as error:
        flaw = Flaw(at="Last-Event-ID", message=f"{error}; begin without one, and look at all anew")
        raise Refusal(Kind.INVALID_CURSOR, f"{flaw.at}: {flaw.message}", [flaw]) from error
    request.scope["state"][tracing.GOES_ON] = True
    return EventStream(service.live, stream)
