"""Units and their lives, as far as the platform knows.

What belongs here: keeping ``units`` and ``lives`` up to date, asking which lives ended. What does
not: telling from readings how a life ended (``rul_core.readers``).
"""

from collections.abc import Iterable
from datetime import datetime

import polars as pl
import sqlalchemy as sa
from msgspec import Struct

from rul_core.errors import StoreError
from rul_core.schema import LIFE, LIVES_SCHEMA, UNIT, Outcome
from rul_store import advisories, tables
from rul_store.database import Statement, begin, pipelined, read_frame


class Standing(Struct, frozen=True, kw_only=True):
    """How it stands with a life."""

    outcome: Outcome
    end_cycle: float | None
    token: int | None
    """Of the transaction that last added a reading over HTTP; None before the first."""


CONFLICTS_SCHEMA = pl.Schema(
    {**LIVES_SCHEMA, "kept_outcome": pl.String, "kept_end_cycle": pl.Float64}
)


def upsert(engine: sa.Engine, fleet: str, lives: pl.DataFrame, *, source: str) -> pl.DataFrame:
    """Take in what a source says of lives; the same again changes nothing.

    A running life may end; an ended life stays as it ended. The end of a life closes its advisory.

    Args:
        engine: The database.
        fleet: The fleet's name.
        lives: ``LIVES_SCHEMA``, each life once.
        source: The file or request that says so.

    Returns:
        ``CONFLICTS_SCHEMA``: each life that is said to have ended otherwise than is kept, with
        both ends. The kept one stays.

    Raises:
        StoreError: A life stands twice in the frame.
        Unavailable: PostgreSQL does not answer.
    """
    twice = lives.filter(pl.struct(UNIT, LIFE).is_duplicated())
    if not twice.is_empty():
        unit, life = twice.select(UNIT, LIFE).row(0)
        raise StoreError(f"{source}: life {life} of unit {unit!r} stands twice; give it once")
    given = {name: lives[name].to_list() for name in LIVES_SCHEMA}
    parameters = {"fleet": fleet, "source": source, **given}
    with begin(engine) as connection:
        connection.execute(sa.text(_INSERT_UNITS), parameters)
        if connection.execute(sa.text(_UPSERT_LIVES), parameters).rowcount:
            advisories.end_lives(connection, fleet, given[UNIT], who=source)
        conflicts = connection.execute(sa.text(_CONFLICTS), parameters).all()
    return pl.DataFrame(conflicts, schema=CONFLICTS_SCHEMA, orient="row")


def read(engine: sa.Engine, fleet: str) -> pl.DataFrame:
    """All lives of the fleet, ``LIVES_SCHEMA``, sorted by unit and life."""
    query = """
        SELECT unit, life, outcome, end_cycle FROM lives
        WHERE fleet = %(fleet)s ORDER BY unit, life
    """
    with begin(engine) as connection:
        return read_frame(connection, query, {"fleet": fleet}, LIVES_SCHEMA)


def count_ended(
    engine: sa.Engine, fleet: str, *, since: datetime | None = None, outcome: Outcome | None = None
) -> int:
    """How many lives are known to have ended.

    Args:
        engine: The database.
        fleet: The fleet's name.
        since: Count those only whose end became known after this time.
        outcome: Count those only that ended so.
    """
    lives = tables.lives.c
    query = sa.select(sa.func.count()).where(lives.fleet == fleet, lives.ended_at.is_not(None))
    if since is not None:
        query = query.where(lives.ended_at > since)
    if outcome is not None:
        query = query.where(lives.outcome == outcome.value)
    with begin(engine) as connection:
        return connection.execute(query).scalar_one()


def units(engine: sa.Engine, fleet: str) -> tuple[str, ...]:
    """The names of all units of the fleet, sorted."""
    unit = tables.units.c
    query = sa.select(unit.unit).where(unit.fleet == fleet).order_by(unit.unit)
    with begin(engine) as connection:
        return tuple(connection.execute(query).scalars())


def lock(
    connection: sa.Connection, fleet: str, units: Iterable[str]
) -> dict[str, dict[int, Standing]]:
    """All lives of some units, by unit and life, which nobody else changes until the end.

    Args:
        connection: An open transaction.
        fleet: The fleet's name.
        units: Their names; unknown ones are not among the answers.
    """
    found: dict[str, dict[int, Standing]] = {}
    _, rows = pipelined(connection, (_BY_KEYS, {}), (_LOCK, {"fleet": fleet, "unit": list(units)}))
    for unit, life, outcome, end_cycle, token in rows:
        standing = Standing(outcome=Outcome(outcome), end_cycle=end_cycle, token=token)
        found.setdefault(unit, {})[life] = standing
    return found


def start(
    connection: sa.Connection, fleet: str, lives: Iterable[tuple[str, int]], *, source: str
) -> set[tuple[str, int]]:
    """Begin lives (unit, life) that run, and units that nobody has heard of.

    Returns:
        Those that were not known.
    """
    given = list(lives)
    parameters = {
        "fleet": fleet,
        "source": source,
        UNIT: [unit for unit, _ in given],
        LIFE: [life for _, life in given],
        "outcome": [Outcome.RUNNING.value] * len(given),
        "end_cycle": [None] * len(given),
    }
    connection.execute(sa.text(_INSERT_UNITS), parameters)
    begun = connection.execute(sa.text(_START_LIVES), parameters)
    return {(unit, life) for unit, life in begun}


def marking(fleet: str, lives: Iterable[tuple[str, int]], token: int) -> Statement:
    """What says which transaction last added readings to lives (unit, life); they are locked."""
    given = list(lives)
    parameters = {
        "fleet": fleet,
        "token": token,
        UNIT: [unit for unit, _ in given],
        LIFE: [life for _, life in given],
    }
    return _MARK, parameters


def known_units(connection: sa.Connection, fleet: str, units: Iterable[str]) -> set[str]:
    """Those of the units that somebody has heard of."""
    unit = tables.units.c
    query = sa.select(unit.unit).where(unit.fleet == fleet, unit.unit.in_(list(units)))
    return set(connection.execute(query).scalars())


# What is asked of few units, here and in the rest of the transaction, goes by their keys. Tables
# of one row a unit are so small that PostgreSQL plans to read them whole, and goes on so when they
# have grown: while somebody holds a snapshot, as a dump does, each reading leaves an old row.
_BY_KEYS = "SELECT " + ", ".join(
    f"set_config('enable_{way}', 'off', true)"
    for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin")
)
_LOCK = """
    SELECT unit, life, outcome, end_cycle, token FROM lives
    WHERE fleet = %(fleet)s AND unit = ANY(%(unit)s)
    ORDER BY unit, life FOR UPDATE
"""
_MARK = """
    UPDATE lives SET token = %(token)s, heard_at = clock_timestamp()
    FROM unnest(%(unit)s::text[], %(life)s::bigint[]) AS given (unit, life)
    WHERE lives.fleet = %(fleet)s AND lives.unit = given.unit AND lives.life = given.life
"""
_GIVEN = """
    unnest(
        CAST(:unit AS text[]), CAST(:life AS bigint[]),
        CAST(:outcome AS text[]), CAST(:end_cycle AS double precision[])
    ) AS given (unit, life, outcome, end_cycle)
"""
# In the order of the key, so that two writers wait for each other and do not deadlock.
_INSERT_UNITS = f"""
    INSERT INTO units (fleet, unit)
    SELECT DISTINCT :fleet, unit FROM {_GIVEN} ORDER BY unit
    ON CONFLICT DO NOTHING
"""  # noqa: S608 - the parts are constants
_UPSERT_LIVES = f"""
    INSERT INTO lives (fleet, unit, life, outcome, end_cycle, ended_at, source)
    SELECT :fleet, unit, life, outcome, end_cycle,
        CASE WHEN outcome <> 'running' THEN clock_timestamp() END, :source
    FROM {_GIVEN} ORDER BY unit, life
    ON CONFLICT (fleet, unit, life) DO UPDATE SET
        outcome = excluded.outcome, end_cycle = excluded.end_cycle, ended_at = excluded.ended_at,
        source = excluded.source, updated_at = clock_timestamp()
    WHERE lives.outcome = 'running' AND excluded.outcome <> 'running'
"""  # noqa: S608
_START_LIVES = f"""
    INSERT INTO lives (fleet, unit, life, outcome, source)
    SELECT :fleet, unit, life, outcome, :source FROM {_GIVEN} ORDER BY unit, life
    ON CONFLICT DO NOTHING
    RETURNING unit, life
"""  # noqa: S608
_CONFLICTS = f"""
    SELECT given.unit, given.life, given.outcome, given.end_cycle, kept.outcome, kept.end_cycle
    FROM {_GIVEN} JOIN lives AS kept
        ON kept.fleet = :fleet AND kept.unit = given.unit AND kept.life = given.life
    WHERE given.outcome <> 'running'
        AND (given.outcome, given.end_cycle) IS DISTINCT FROM (kept.outcome, kept.end_cycle)
    ORDER BY given.unit, given.life
"""  # noqa: S608
