"""``/v1/fleets/{fleet}/units/{unit}``: what is said of a unit now, and all that ever was."""

from typing import Annotated

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from rul_core.prognosis import Prognosis
from rul_serving import examples
from rul_serving.answers import UnitHistory
from rul_serving.paging import next_link
from rul_serving.present import View
from rul_serving.principal import ASK, READ
from rul_serving.problems import Kind, Refusal, declared
from rul_serving.routes.fleets import FleetName, UnitName
from rul_serving.service import Service
from rul_store import current, cursors, ledger
from rul_store.current import Present

LAST_POSITION = 2**63 - 1


@get(
    "/fleets/{fleet:str}/units/{unit:str}/prognosis",
    operation_id="currentPrognosis",
    summary="A unit's current prognosis",
    tags=["prognoses"],
    opt={"roles": ASK},
    responses=examples.shown(examples.PROGNOSIS, "The current prognosis")
    | declared(
        Kind.INVALID_REQUEST,
        Kind.UNKNOWN_FLEET,
        Kind.UNKNOWN_UNIT,
        Kind.IRREPRODUCIBLE,
        Kind.INVALID_FLEET,
        Kind.UNAVAILABLE,
    ),
)
async def current_prognosis(
    fleet: FleetName,
    unit: UnitName,
    service: NamedDependency[Service],
    explain: Annotated[
        bool, QueryParameter(description="Whether to say why, how firmly, and whom it resembles.")
    ] = False,
) -> Prognosis:
    """The newest prognosis of the unit's newest life, as the ledger has it.

    It turns `stale_data` by itself once its last reading is older than the fleet allows. A unit of
    whose life nothing was said yet is in a state that says so, without figures.

    With `explain`, contributions in cycles by sensor add up to the point; `explanation.stability`
    says how far the readings just before agree with them; and three lives of the training stood
    most nearly where the unit stands now, and ended as `lookalikes` say. It is computed from the
    readings and the model of the prognosis, also when others came since; without figures there is
    nothing to explain.
    """
    described = await service.fleet(fleet)
    found = await _known(service, fleet, unit)
    if explain and found.prognosis is not None:
        explained = await service.past.explained(found.prognosis)
        found = Present(
            unit=unit, life=found.life, in_service=found.in_service, prognosis=explained
        )
    return View.of(described, service.models.get(fleet)).told(found)


@get(
    "/fleets/{fleet:str}/units/{unit:str}/prognoses",
    operation_id="listPrognoses",
    summary="All that was ever said of a unit",
    tags=["prognoses"],
    opt={"roles": READ},
    responses=examples.shown(examples.UNIT_HISTORY, "A page")
    | declared(
        Kind.INVALID_REQUEST,
        Kind.INVALID_CURSOR,
        Kind.UNKNOWN_FLEET,
        Kind.UNKNOWN_UNIT,
        Kind.INVALID_FLEET,
        Kind.UNAVAILABLE,
    ),
)
async def list_prognoses(
    fleet: FleetName,
    unit: UnitName,
    service: NamedDependency[Service],
    limit: Annotated[
        int, QueryParameter(ge=1, le=1000, description="Entries on a page at most.")
    ] = 50,
    cursor: Annotated[
        str | None,
        QueryParameter(max_length=1000, description="`next_cursor` of the page before."),
    ] = None,
) -> Response[UnitHistory]:
    """The unit's entries in the ledger, the newest first, each as it was given then.

    The header `Link` has the address of the next page (`rel="next"`), while there is one.
    """
    await service.fleet(fleet)
    before = None
    if cursor is not None:
        before = cursors.decode(cursor, int, "this history")
        if not 0 < before <= LAST_POSITION:
            raise Refusal(Kind.INVALID_CURSOR, f"{cursor!r} is none; begin again without one")
    await _known(service, fleet, unit)
    entries = await service.database.ask(
        ledger.history, fleet, unit, limit=limit + 1, before=before
    )
    more = len(entries) > limit
    answer = UnitHistory(
        fleet=fleet,
        unit=unit,
        entries=list(entries[:limit]),
        next_cursor=cursors.encode(entries[limit - 1].position) if more else None,
    )
    path = f"/v1/fleets/{fleet}/units/{unit}/prognoses"
    return Response(answer, headers=next_link(path, answer.next_cursor, limit=limit))


async def _known(service: Service, fleet: str, unit: str) -> Present:
    found = await service.database.ask(current.one, fleet, unit)
    if found is None:
        detail = (
            f"nobody has heard of a unit {unit!r} of fleet {fleet!r}; see that the name is right, "
            "or send its readings"
        )
        raise Refusal(Kind.UNKNOWN_UNIT, detail)
    return found
