"""How it stands with each unit now: the units in service ranked by risk, and one unit.

What belongs here: the newest prognosis of each unit beside what is known of its lives. What does
not: writing it (``ledger``), the words for a unit of which nothing was said
(``rul_core.prognose``).

A unit is in service while its newest life runs. What was said of an earlier life says nothing of
it. Prognoses are kept as they were given; so that nobody has to write for one to grow stale, those
whose last reading is older than a moment are counted, and found, as ``stale_data``.
"""

from datetime import datetime

import msgspec
import sqlalchemy as sa

from rul_core.prognosis import Prognosis, State
from rul_store import cursors
from rul_store.database import begin


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """A unit."""

    unit: str
    life: int | None
    """The newest; none where only a prognosis without a life is known."""
    in_service: bool
    prognosis: Prognosis | None
    """The newest of that life, as it was given; none where nothing was said of it."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the ranking."""

    units: tuple[Present, ...]
    cursor: str | None
    """What to give as ``after`` for the next part; none after the last."""

    @property
    def prognoses(self) -> tuple[Prognosis, ...]:
        """Of those units that have one."""
        return tuple(unit.prognosis for unit in self.units if unit.prognosis is not None)


def ranked(
    engine: sa.Engine,
    fleet: str,
    *,
    state: State | None = None,
    limit: int = 50,
    after: str | None = None,
    unheard: State = State.NOT_CONFIGURED,
    stale_before: datetime | None = None,
) -> Page:
    """The units in service, the most likely to fail first.

    Those without a probability come last; equal ones are sorted by unit.

    Args:
        engine: The database.
        fleet: The fleet's name.
        state: Only units in this state.
        limit: How many at most.
        after: The cursor of the part before.
        unheard: The state of units of which nothing was said.
        stale_before: A prognosis with figures whose last reading is older than this is stale.

    Raises:
        InvalidCursor: The cursor is none that ``ranked`` gave.
        Unavailable: PostgreSQL does not answer.
    """
    probability, unit = (
        cursors.decode(after, tuple[float | None, str], "this ranking") if after else (None, None)
    )
    parameters = {
        "fleet": fleet,
        "state": state.value if state else None,
        "limit": limit + 1,
        "probability": probability,
        "unit": unit,
        "unheard": unheard.value,
        "stale_before": stale_before,
    }
    with begin(engine) as connection:
        rows = connection.execute(sa.text(_RANKED), parameters).all()
    units = tuple(
        Present(unit=row.unit, life=row.life, in_service=True, prognosis=_prognosis(row.prognosis))
        for row in rows[:limit]
    )
    last = rows[limit - 1] if len(rows) > limit else None
    cursor = cursors.encode((last.failure_probability, last.unit)) if last is not None else None
    return Page(units=units, cursor=cursor)


def count_states(
    engine: sa.Engine,
    fleet: str,
    *,
    unheard: State = State.NOT_CONFIGURED,
    stale_before: datetime | None = None,
) -> dict[State, int]:
    """How many units in service are in each state; arguments as of ``ranked``."""
    query = f"SELECT state, count(*) FROM {_IN_SERVICE} GROUP BY state"  # noqa: S608 - a constant
    parameters = {"fleet": fleet, "unheard": unheard.value, "stale_before": stale_before}
    with begin(engine) as connection:
        counted = {row[0]: row[1] for row in connection.execute(sa.text(query), parameters)}
    return {state: counted.get(state.value, 0) for state in State}


BANDS = ("act", "plan", "well", "unknown")
"""How a unit's safe bound lies to its fleet's horizon: ``act`` is below it, ``plan`` below twice,
``well`` above, ``unknown`` where there is none."""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """How many units in service of a fleet are in the same case."""

    state: State
    band: str
    """One of ``BANDS``."""
    units: int


def outlooks(
    engine: sa.Engine,
    fleet: str,
    *,
    unheard: State = State.NOT_CONFIGURED,
    stale_before: datetime | None = None,
) -> list[Outlook]:
    """The fleet's units in service by state and band; arguments as of ``ranked``."""
    parameters = {"fleet": fleet, "unheard": unheard.value, "stale_before": stale_before}
    with begin(engine) as connection:
        rows = connection.execute(sa.text(_OUTLOOKS), parameters).all()
    return [Outlook(state=State(row.state), band=row.band, units=row.units) for row in rows]


def fleets(engine: sa.Engine) -> tuple[str, ...]:
    """The fleets of which a unit is known, sorted."""
    query = "SELECT fleet FROM units UNION SELECT fleet FROM current_prognoses ORDER BY fleet"
    with begin(engine) as connection:
        return tuple(connection.execute(sa.text(query)).scalars())


def one(engine: sa.Engine, fleet: str, unit: str) -> Present | None:
    """How it stands with a unit, in service or not; none when nobody has heard of it."""
    with begin(engine) as connection:
        row = connection.execute(sa.text(_ONE), {"fleet": fleet, "unit": unit}).one_or_none()
    if row is None:
        return None
    life = row.newest if row.newest is not None else row.life
    outdated = row.newest is not None and (row.life is None or row.life < row.newest)
    return Present(
        unit=unit,
        life=life,
        in_service=row.outcome in (None, "running"),
        prognosis=None if outdated else _prognosis(row.prognosis),
    )


def _prognosis(text: str | None) -> Prognosis | None:
    if text is None:
        return None
    prognosis = msgspec.json.decode(text, type=Prognosis)
    # It was true then; whether the fleet has a model by now is not the unit's to say.
    return None if prognosis.state is State.NOT_CONFIGURED else prognosis


_IN_SERVICE = """(
    SELECT said.unit, said.life, said.failure_probability, said.safe_cycles, said.prognosis,
        CASE
            WHEN said.state = 'not_configured' THEN :unheard
            WHEN said.state IN ('estimated', 'beyond_horizon')
                AND said.last_read_at < CAST(:stale_before AS timestamptz) THEN 'stale_data'
            ELSE said.state
        END AS state
    FROM current_prognoses AS said
    WHERE said.fleet = :fleet AND NOT EXISTS (
        SELECT FROM lives WHERE lives.fleet = :fleet AND lives.unit = said.unit
            AND (
                said.life IS NULL OR lives.life > said.life
                OR (lives.life = said.life AND lives.outcome <> 'running')
            )
    )
    UNION ALL
    SELECT newest.unit, newest.life, NULL, NULL, NULL, :unheard
    FROM lives AS newest
    WHERE newest.fleet = :fleet AND newest.outcome = 'running'
        AND NOT EXISTS (
            SELECT FROM lives WHERE lives.fleet = :fleet AND lives.unit = newest.unit
                AND lives.life > newest.life
        )
        AND NOT EXISTS (
            SELECT FROM current_prognoses AS said
            WHERE said.fleet = :fleet AND said.unit = newest.unit AND said.life >= newest.life
        )
) AS present"""
_RANKED = f"""
    SELECT unit, life, failure_probability, prognosis::text AS prognosis FROM {_IN_SERVICE}
    WHERE (CAST(:state AS text) IS NULL OR state = :state)
        AND (
            CAST(:unit AS text) IS NULL
            OR failure_probability < CAST(:probability AS double precision)
            OR (failure_probability IS NOT DISTINCT FROM :probability AND unit > :unit)
            OR (failure_probability IS NULL AND :probability IS NOT NULL)
        )
    ORDER BY failure_probability DESC NULLS LAST, unit
    LIMIT :limit
"""  # noqa: S608 - the parts are constants
_OUTLOOKS = f"""
    SELECT state, band, count(*) AS units
    FROM (
        SELECT state,
            CASE
                WHEN safe_cycles IS NULL THEN 'unknown'
                WHEN safe_cycles < (prognosis->>'horizon_cycles')::float THEN 'act'
                WHEN safe_cycles < 2 * (prognosis->>'horizon_cycles')::float THEN 'plan'
                ELSE 'well'
            END AS band
        FROM {_IN_SERVICE}
    ) AS judged
    GROUP BY state, band ORDER BY state, band
"""  # noqa: S608
_ONE = """
    SELECT newest.life AS newest, newest.outcome, said.life, said.prognosis::text AS prognosis
    FROM (SELECT) AS asked
    LEFT JOIN LATERAL (
        SELECT life, outcome FROM lives
        WHERE fleet = :fleet AND unit = :unit ORDER BY life DESC LIMIT 1
    ) AS newest ON true
    LEFT JOIN current_prognoses AS said ON said.fleet = :fleet AND said.unit = :unit
    WHERE newest.life IS NOT NULL OR said.unit IS NOT NULL
        OR EXISTS (SELECT FROM units WHERE fleet = :fleet AND unit = :unit)
"""
