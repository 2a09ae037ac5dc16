"""What people do about machines, each in one transaction with its entry in the audit.

What belongs here: putting the steps of one deed together. What does not: the steps (``advisories``,
``unit_lives``, ``verdicts``), who may do what (``rul_serving``).
"""

import math
from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from rul_core.advisories import action_of
from rul_core.advisory_terms import ByPeople, ServiceState
from rul_core.errors import Conflict
from rul_core.schema import Outcome
from rul_store import advisories, audit, unit_lives, verdicts
from rul_store.advisories import UnitService
from rul_store.advisory_rows import Advisory
from rul_store.database import begin
from rul_store.unit_lives import UnitLives
from rul_store.verdicts import Finding, Said, Verdict


class Doer(msgspec.Struct, frozen=True, kw_only=True):
    """Who does it, by which request."""

    principal: str
    trace_id: str


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a life ended."""

    outcome: Outcome
    life: int | None = None
    end_cycle: float | None = None
    time: datetime | None = None


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How the next life began."""

    life: int | None = None
    time: datetime | None = None


def act(
    engine: sa.Engine,
    advisory_id: UUID,
    step: ByPeople,
    *,
    why: str,
    by: Doer,
    expected: Collection[int] | None,
) -> Advisory:
    """Move an advisory; see ``advisories.act`` for what refuses it."""
    with begin(engine) as connection:
        advisory = advisories.act(
            connection, advisory_id, step, who=by.principal, why=why, expected=expected
        )
        detail = {"unit": advisory.unit, "version": advisory.version, "why": why}
        told = detail | msgspec.to_builtins(step)
        _audit(
            connection, by, f"advisory.{action_of(step)}", str(advisory_id), advisory.fleet, told
        )
    return advisory


def serve(
    engine: sa.Engine, fleet: str, unit: str, state: ServiceState, *, why: str, by: Doer
) -> UnitService:
    """Take a unit out of service, or back; see ``advisories.serve``."""
    with begin(engine) as connection:
        service = advisories.serve(connection, fleet, unit, state, who=by.principal, why=why)
        told = {"state": state.value, "why": why}
        _audit(connection, by, "unit.service_state", unit, fleet, told)
    return service


def change_lives(
    engine: sa.Engine,
    fleet: str,
    unit: str,
    *,
    end: End | None,
    start: Start | None,
    introduces: bool,
    by: Doer,
) -> UnitLives:
    """End a unit's life, or start its next, or both; the same again changes nothing.

    Args:
        engine: The database.
        fleet: The fleet's name.
        unit: Which machine.
        end: How a life ended, if one did.
        start: How the next began, if it did.
        introduces: Whether a unit that nobody has heard of becomes known.
        by: Says so.

    Raises:
        UnknownUnit: Nobody has heard of it, and it is not introduced.
        Conflict: What is kept says otherwise; nothing is changed.
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        if introduces:
            unit_lives.introduce(connection, fleet, unit)
        known = unit_lives.of(connection, fleet, unit, hold=True)
        told: dict[str, Any] = {}
        # With the number of the next life the end is that of the one before, also the second time.
        next_life = start.life if start and start.life else math.inf
        earlier = tuple(one for one in known.lives if one.life < next_life)
        before = msgspec.structs.replace(known, lives=earlier)
        if end is not None and _end(connection, before, end, by):
            told["end"] = msgspec.to_builtins(end)
            known = unit_lives.of(connection, fleet, unit)
        if start is not None and unit_lives.start(
            connection, known, who=by.principal, life=start.life, time=start.time
        ):
            told["start"] = msgspec.to_builtins(start)
            known = unit_lives.of(connection, fleet, unit)
        if told:
            _audit(connection, by, "unit.lives", unit, fleet, told)
    return known


def judge(
    engine: sa.Engine,
    fleet: str,
    unit: str,
    said: Said,
    *,
    by: Doer,
    advisory_id: UUID | None = None,
    life: int | None = None,
    end: End | None = None,
) -> Verdict:
    """Keep what was found, and end the life if it says so.

    Args:
        engine: The database.
        fleet: The fleet's name.
        unit: Which machine.
        said: What was found.
        by: Says so.
        advisory_id: What it answers; the open advisory about that life unless given.
        life: Which life; the one that runs, or else the last, unless given.
        end: How the life ended with it.

    Raises:
        UnknownUnit: Nobody has heard of the unit.
        Conflict: What is kept says otherwise; nothing is changed.
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        known = unit_lives.of(connection, fleet, unit, hold=True)
        kept = unit_lives.current(known, life)
        number = kept.life if kept else life or 1
        outcome = kept.outcome if kept else Outcome.RUNNING
        if end is None and outcome is Outcome.FAILED and said.finding is Finding.FOUND_NOTHING:
            raise Conflict(
                f"life {number} of unit {unit!r} ended in failure, so damage was there to be "
                "found; say found_damage"
            )
        verdict = verdicts.give(
            connection,
            fleet,
            unit,
            number,
            said,
            who=by.principal,
            advisory_id=advisory_id,
            outcome=end.outcome if end else outcome,
        )
        told: dict[str, Any] = {"unit": unit, "finding": said.finding.value, "life": number}
        if end is not None:
            end = msgspec.structs.replace(end, life=number)
            _end(connection, known, end, by)
            told["end"] = msgspec.to_builtins(end)
        _audit(connection, by, "verdict.give", str(verdict.verdict_id), fleet, told)
    return verdict


def _end(connection: sa.Connection, known: UnitLives, end: End, by: Doer) -> bool:
    return unit_lives.end(
        connection,
        known,
        end.outcome,
        who=by.principal,
        life=end.life,
        end_cycle=end.end_cycle,
        time=end.time,
    )


def _audit(
    connection: sa.Connection,
    by: Doer,
    action: str,
    target: str,
    fleet: str,
    detail: dict[str, Any],
) -> None:
    audit.append(
        connection,
        principal=by.principal,
        action=action,
        target=target,
        fleet=fleet,
        detail=detail,
        trace_id=by.trace_id,
    )
