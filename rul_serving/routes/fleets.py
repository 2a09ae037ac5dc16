"""``/v1/fleets``: which fleets there are, their units ranked by risk, the prognosis of each."""

from pathlib import Path
from typing import Annotated

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter
from sqlalchemy.exc import DataError

from rul_core.errors import FleetError, StoreError, Unavailable
from rul_core.prognosis import VALID_STATES, Prognosis, State
from rul_core.schema import NAME_PATTERN, Fleet
from rul_serving import examples
from rul_serving.answers import BrokenFleet, Fleets, FleetSummary, RankedUnits
from rul_serving.paging import next_link
from rul_serving.principal import ASK, READ, Principal
from rul_serving.problems import Kind, Refusal, declared
from rul_serving.service import Service
from rul_serving.windows import LONGEST_UNIT, UNIT_PATTERN
from rul_store import fleets, ledger

FleetName = Annotated[str, PathParameter(pattern=NAME_PATTERN, description="The fleet's name.")]
UnitName = Annotated[
    str,
    PathParameter(pattern=UNIT_PATTERN, max_length=LONGEST_UNIT, description="The unit's name."),
]


@get(
    "/fleets",
    operation_id="listFleets",
    summary="The fleets",
    tags=["fleets"],
    opt={"roles": READ},
    responses=examples.shown(examples.FLEETS, "All fleets") | declared(Kind.UNAVAILABLE),
)
async def list_fleets(
    service: NamedDependency[Service], principal: NamedDependency[Principal]
) -> Fleets:
    """Every described fleet that the key is for, with the channels that its readings must bring."""
    described, broken = await service.disk.run(_described, service.settings.root)
    return Fleets(
        fleets=[_summary(fleet, service) for fleet in described if principal.sees(fleet.name)],
        broken=[fleet for fleet in broken if principal.sees(fleet.name)],
    )


@get(
    "/fleets/{fleet:str}/units",
    operation_id="rankUnits",
    summary="A fleet's units, the likeliest to fail first",
    tags=["fleets"],
    opt={"roles": READ},
    responses=examples.shown(examples.RANKED, "A page")
    | declared(
        Kind.INVALID_REQUEST,
        Kind.INVALID_CURSOR,
        Kind.UNKNOWN_FLEET,
        Kind.INVALID_FLEET,
        Kind.UNAVAILABLE,
    ),
)
async def rank_units(
    fleet: FleetName,
    service: NamedDependency[Service],
    only: Annotated[
        State | None, QueryParameter(name="state", description="Only units in this state.")
    ] = None,
    limit: Annotated[
        int, QueryParameter(ge=1, le=1000, description="Units on a page at most.")
    ] = 50,
    cursor: Annotated[
        str | None,
        QueryParameter(max_length=1000, description="`next_cursor` of the page before."),
    ] = None,
) -> Response[RankedUnits]:
    """The current prognoses of the units in service, by the probability to fail before the horizon.

    The header `Link` has the address of the next page (`rel="next"`), while there is one.
    """
    await service.fleet(fleet)
    try:
        page = await service.database.ask(
            ledger.ranked, fleet, state=only, limit=limit, after=cursor
        )
    except Unavailable:
        raise
    except (StoreError, DataError) as error:
        raise Refusal(Kind.INVALID_CURSOR, str(error)) from error
    by_state = await service.database.ask(ledger.count_states, fleet)
    answer = RankedUnits(
        fleet=fleet,
        units=list(page.prognoses),
        units_by_state=by_state,
        units_without_valid_prognosis=sum(
            count for state, count in by_state.items() if state not in VALID_STATES
        ),
        next_cursor=page.cursor,
    )
    link = next_link(f"/v1/fleets/{fleet}/units", page.cursor, state=only, limit=limit)
    return Response(answer, headers=link)


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
        Kind.INVALID_FLEET,
        Kind.UNAVAILABLE,
    ),
)
async def current_prognosis(
    fleet: FleetName, unit: UnitName, service: NamedDependency[Service]
) -> Prognosis:
    """The newest prognosis that the platform gave of the unit."""
    await service.fleet(fleet)
    prognosis = await service.database.ask(ledger.one, fleet, unit)
    if prognosis is None:
        detail = (
            f"fleet {fleet!r} has no prognosis of a unit {unit!r}; see that the name is right, and "
            "that fleet_prognoses ran since its readings came"
        )
        raise Refusal(Kind.UNKNOWN_UNIT, detail)
    return prognosis


def _described(root: Path) -> tuple[list[Fleet], list[BrokenFleet]]:
    described, broken = [], []
    for name in fleets.names(root):
        try:
            described.append(fleets.load(root, name))
        except (FleetError, StoreError) as error:
            broken.append(BrokenFleet(name=name, problem=str(error)))
    return described, broken


def _summary(fleet: Fleet, service: Service) -> FleetSummary:
    served = service.models.get(fleet.name)
    return FleetSummary(
        name=fleet.name,
        description=fleet.description,
        unit_of_life=fleet.unit_of_life,
        settings=list(fleet.columns.settings),
        sensors=list(fleet.columns.sensors),
        label_cap_cycles=fleet.learning.label_cap_cycles,
        horizon_cycles=fleet.maintenance.lead_time_cycles,
        served_version=served.loaded.version if served else None,
    )
