"""``/v1/fleets``: which fleets there are, their units ranked by risk, what became of prognoses."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter
from sqlalchemy.exc import DataError

from rul_core.errors import FleetError, StoreError
from rul_core.prognosis import VALID_STATES, State
from rul_core.schema import NAME_PATTERN, Fleet
from rul_serving import examples
from rul_serving.answers import (
    BrokenFleet,
    Fleets,
    FleetSummary,
    FleetTrackRecord,
    RankedUnits,
)
from rul_serving.paging import next_link
from rul_serving.present import View
from rul_serving.principal import READ, Principal
from rul_serving.problems import Kind, Refusal, declared
from rul_serving.service import Service
from rul_serving.windows import LONGEST_UNIT, UNIT_PATTERN
from rul_store import current, fleets, outcomes
from rul_store.lake import Lake, lake_needed

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
    names = await service.descriptions.names()
    described, broken = await service.disk.run(_described, service.settings.root, names)
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
    """What is said of the units in service now, by the probability to fail before the horizon.

    The header `Link` has the address of the next page (`rel="next"`), while there is one.
    """
    described = await service.fleet(fleet)
    now = View.of(described, service.models.get(fleet))
    try:
        page = await service.database.ask(
            current.ranked, fleet, state=only, limit=limit, after=cursor, **now.conditions()
        )
    except DataError as error:  # what PostgreSQL takes for no name of a unit
        raise Refusal(Kind.INVALID_CURSOR, str(error)) from error
    by_state = await service.database.ask(current.count_states, fleet, **now.conditions())
    answer = RankedUnits(
        fleet=fleet,
        units=[now.told(unit) for unit in page.units],
        units_by_state=by_state,
        units_without_valid_prognosis=sum(
            count for state, count in by_state.items() if state not in VALID_STATES
        ),
        next_cursor=page.cursor,
    )
    link = next_link(f"/v1/fleets/{fleet}/units", page.cursor, state=only, limit=limit)
    return Response(answer, headers=link)


@get(
    "/fleets/{fleet:str}/track-record",
    operation_id="trackRecord",
    summary="What came of a fleet's prognoses",
    tags=["fleets"],
    opt={"roles": READ},
    responses=examples.shown(examples.TRACK_RECORD, "The track record")
    | declared(
        Kind.INVALID_REQUEST,
        Kind.UNKNOWN_FLEET,
        Kind.INVALID_FLEET,
        Kind.UNAVAILABLE,
    ),
)
async def track_record(fleet: FleetName, service: NamedDependency[Service]) -> FleetTrackRecord:
    """Valid prognoses of lives that have failed since, against what happened.

    How often the bands held, with the binomial interval; how far points were off, by lead time; by
    model version, and of all. In every figure a life counts once. It is as fresh as `as_of`: it is
    made again after every run of `fleet_prognoses`, so also after every life that ends.
    """
    await service.fleet(fleet)
    with lake_needed():
        known = await service.disk.run(outcomes.read, Lake(service.settings.root), fleet)
    return FleetTrackRecord(
        fleet=fleet,
        as_of=known.as_of if known else None,
        record=known.record if known else None,
    )


def _described(root: Path, names: Iterable[str]) -> tuple[list[Fleet], list[BrokenFleet]]:
    described, broken = [], []
    for name in names:
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
