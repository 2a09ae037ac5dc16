"""The lives of one unit, as people end and start them.

What belongs here: saying that a life ended or that the next began, and refusing what contradicts
what is kept. What does not: what files say of many lives (``lives``).
"""

from datetime import datetime

import msgspec
import sqlalchemy as sa

from rul_core.advisory_terms import ServiceState
from rul_core.errors import Conflict, UnknownUnit
from rul_core.schema import Outcome
from rul_store import advisories
from rul_store.advisories import UnitService
from rul_store.database import begin


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a unit, as it is kept."""

    life: int
    outcome: Outcome
    end_cycle: float | None = None
    """The last cycle of a life that has ended."""
    started_at: datetime
    """When the platform learnt of it."""
    ended_at: datetime | None = None
    """When the platform learnt that it had ended."""
    start_time: datetime | None = None
    """When it began, where somebody said so."""
    end_time: datetime | None = None
    """When it ended, where somebody said so."""
    source: str
    """The file or principal that said the last word."""


class UnitLives(msgspec.Struct, frozen=True, kw_only=True):
    """A unit: whether it is in service, and its lives, the first first."""

    fleet: str
    unit: str
    service: UnitService
    lives: tuple[Life, ...]


def read(engine: sa.Engine, fleet: str, unit: str) -> UnitLives:
    """What is kept of a unit.

    Raises:
        UnknownUnit: Nothing is kept of it.
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        return of(connection, fleet, unit)


def of(connection: sa.Connection, fleet: str, unit: str, *, hold: bool = False) -> UnitLives:
    """The same within a transaction; ``hold`` keeps others from changing it till the end of it.

    Raises:
        UnknownUnit: Nothing is kept of it.
    """
    parameters = {"fleet": fleet, "unit": unit}
    query = _UNIT + " FOR UPDATE" if hold else _UNIT
    row = connection.execute(sa.text(query), parameters).first()
    if row is None:
        raise UnknownUnit(
            f"nothing is kept of a unit {unit!r} of fleet {fleet!r}; see that the name is right"
        )
    query = _LIVES + " FOR UPDATE" if hold else _LIVES
    kept = connection.execute(sa.text(query), parameters)
    return UnitLives(
        fleet=fleet,
        unit=unit,
        service=UnitService(state=ServiceState(row.state), since=row.since, by=row.by, why=row.why),
        lives=tuple(msgspec.convert(life._asdict(), Life) for life in kept),
    )


def introduce(connection: sa.Connection, fleet: str, unit: str) -> None:
    """Make a unit known."""
    connection.execute(sa.text(_INTRODUCE), {"fleet": fleet, "unit": unit})


def current(known: UnitLives, life: int | None = None) -> Life | None:
    """The life of that number; without one the life that runs, or else the last.

    Raises:
        Conflict: More than one runs and no number is given, or there is none of that number.
    """
    if life is not None:
        found = [one for one in known.lives if one.life == life]
        if known.lives and not found:
            numbers = ", ".join(str(one.life) for one in known.lives)
            raise Conflict(
                f"unit {known.unit!r} has no life {life} (lives: {numbers}); start it first"
            )
        return found[0] if found else None
    running = [one for one in known.lives if one.outcome is Outcome.RUNNING]
    if len(running) > 1:
        numbers = ", ".join(str(one.life) for one in running)
        raise Conflict(f"lives {numbers} of unit {known.unit!r} all run; say which is meant")
    return next(iter(running or known.lives[-1:]), None)


def end(
    connection: sa.Connection,
    known: UnitLives,
    outcome: Outcome,
    *,
    who: str,
    life: int | None = None,
    end_cycle: float | None = None,
    time: datetime | None = None,
) -> bool:
    """End a life, and close its advisory; the same again changes nothing.

    Args:
        connection: The transaction in which ``known`` is held.
        known: The unit.
        outcome: How it ended.
        who: Says so.
        life: Which; the one that runs unless given.
        end_cycle: Its last cycle; that of its newest reading unless given.
        time: When it ended.

    Returns:
        Whether anything changed.

    Raises:
        Conflict: It ended otherwise, it has readings beyond that end, or its end is not known.
    """
    kept = current(known, life)
    number = kept.life if kept else life or 1
    whose = f"life {number} of unit {known.unit!r}"
    if kept is not None and kept.outcome is not Outcome.RUNNING:
        if kept.outcome is outcome and end_cycle in {None, kept.end_cycle}:
            return False
        raise Conflict(
            f"{whose} is kept as {kept.outcome} at cycle {kept.end_cycle:g}, as {kept.source} "
            "said; an end that is kept stays"
        )
    parameters = {"fleet": known.fleet, "unit": known.unit, "life": number}
    newest = connection.execute(sa.text(_NEWEST), parameters).scalar()
    if end_cycle is None:
        if newest is None:
            raise Conflict(f"nothing was ever read of {whose}; say at which cycle it ended")
        end_cycle = newest
    if newest is not None and end_cycle < newest:
        raise Conflict(
            f"{whose} has a reading at cycle {newest:g}, after cycle {end_cycle:g}; "
            "give the cycle of the last reading, or a later one"
        )
    values = {"outcome": outcome.value, "end_cycle": end_cycle, "time": time, "who": who}
    if not connection.execute(sa.text(_END), parameters | values).rowcount:
        raise Conflict(f"{whose} was ended by another just now; look at it, then decide again")
    advisories.end_lives(connection, known.fleet, [known.unit], who=who)
    return True


def start(
    connection: sa.Connection,
    known: UnitLives,
    *,
    who: str,
    life: int | None = None,
    time: datetime | None = None,
) -> bool:
    """Start the unit's next life; the same again, with its number, changes nothing.

    Args:
        connection: The transaction in which ``known`` is held.
        known: The unit, as it is after its life has ended.
        who: Says so.
        life: The number of the next life; one more than the last unless given.
        time: When it began.

    Returns:
        Whether anything changed.

    Raises:
        Conflict: A life still runs, or one of that number was there before.
    """
    last = known.lives[-1].life if known.lives else 0
    running = [one.life for one in known.lives if one.outcome is Outcome.RUNNING]
    if running and running == [life]:
        return False
    if running:
        raise Conflict(
            f"life {running[-1]} of unit {known.unit!r} still runs; say how it ended first"
        )
    number = last + 1 if life is None else life
    if number <= last:
        raise Conflict(f"the last life of unit {known.unit!r} was {last}; the next is {last + 1}")
    parameters = {"fleet": known.fleet, "unit": known.unit, "life": number}
    connection.execute(sa.text(_START), parameters | {"time": time, "who": who})
    return True


_UNIT = """
    SELECT service_state AS state, service_since AS since, service_by AS by, service_why AS why
    FROM units WHERE fleet = :fleet AND unit = :unit
"""
_LIVES = """
    SELECT life, outcome, end_cycle, started_at, ended_at, start_time, end_time, source
    FROM lives WHERE fleet = :fleet AND unit = :unit ORDER BY life
"""
_INTRODUCE = """
    INSERT INTO units (fleet, unit) VALUES (:fleet, :unit) ON CONFLICT DO NOTHING
"""
# Of rows that were sent, and of files, from which prognoses are made.
_NEWEST = """
    SELECT greatest(
        (SELECT max(cycle) FROM readings WHERE fleet = :fleet AND unit = :unit AND life = :life),
        (
            SELECT cycle FROM current_prognoses
            WHERE fleet = :fleet AND unit = :unit AND life = :life
        )
    )
"""
_END = """
    INSERT INTO lives (fleet, unit, life, outcome, end_cycle, ended_at, end_time, source)
    VALUES (:fleet, :unit, :life, :outcome, :end_cycle, clock_timestamp(), :time, :who)
    ON CONFLICT (fleet, unit, life) DO UPDATE SET
        outcome = excluded.outcome, end_cycle = excluded.end_cycle, ended_at = excluded.ended_at,
        end_time = excluded.end_time, source = excluded.source, updated_at = clock_timestamp()
    WHERE lives.outcome = 'running'
"""
_START = """
    INSERT INTO lives (fleet, unit, life, outcome, start_time, source)
    VALUES (:fleet, :unit, :life, 'running', :time, :who)
    ON CONFLICT DO NOTHING
"""
