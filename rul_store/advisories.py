"""What becomes of advisories: prognoses, people and time move them.

What belongs here: taking each step in the order of the fleet's events. What does not: which step
leads where (``rul_core.advisories``), rows (``advisory_rows``), what was found (``verdicts``).

Whoever moves an advisory holds the lock of its fleet, so nothing happens between looking and
writing, and positions of events are in the order of the commits.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from rul_core.advisories import advance, allowed, opened
from rul_core.advisory_terms import (
    AdvisoryState,
    Case,
    Change,
    Close,
    EndLife,
    EventKind,
    Evidence,
    Rule,
    Serve,
    ServiceState,
    Step,
    Wait,
    rule_of,
)
from rul_core.errors import Outdated, UnknownUnit
from rul_core.prognosis import Prognosis
from rul_core.schema import Fleet
from rul_store import advisory_rows, ledger
from rul_store.advisory_rows import Advisory, AdvisoryEvent
from rul_store.database import Statement, begin, lock_fleet, pipelined, time_of
from rul_store.ledger import Appended
from rul_store.tables import advisories, current_prognoses

SYSTEM = "system"
"""Who did what prognoses and time do."""


class UnitService(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a unit does its work, and who said so."""

    state: ServiceState
    since: datetime | None = None
    by: str | None = None
    why: str | None = None


_Moved = tuple[Advisory, list[AdvisoryEvent]]
"""An advisory after a step, and what happened; the events have no position yet."""


def say(connection: sa.Connection, fleet: Fleet, prognoses: Sequence[Prognosis]) -> Appended:
    """Write prognoses to the ledger, and open and move advisories by them.

    Call it last in an open transaction that holds the units' lives. Where nothing is under the
    horizon and no advisory is open, no more is asked for it.
    """
    rule = rule_of(fleet)
    asked = _worth_a_look(fleet.name, rule, (one.unit for one in prognoses))
    appended = ledger.append(connection, fleet.name, prognoses, asked)
    _judge(connection, fleet.name, rule, appended.answers[0])
    return appended


def judge(connection: sa.Connection, fleet: Fleet, units: Iterable[str]) -> list[AdvisoryEvent]:
    """Hold the current prognoses of units against the fleet's rule; open and move advisories.

    Call it in the transaction that wrote the prognoses, which holds the fleet's lock until it ends.
    The same again changes nothing.

    Args:
        connection: That transaction.
        fleet: As it is described now.
        units: Whose prognoses were written.

    Returns:
        What happened, in order.
    """
    rule = rule_of(fleet)
    (found,) = pipelined(connection, _worth_a_look(fleet.name, rule, units))
    return _judge(connection, fleet.name, rule, found)


class _Found(NamedTuple):
    """A row of ``_WORTH_A_LOOK``."""

    unit: str
    life: int
    cycle: float
    recent_safe: list[float]
    ledger_id: UUID
    speaks: bool
    runs: bool
    serves: bool
    now: datetime


def _worth_a_look(fleet: str, rule: Rule, units: Iterable[str]) -> Statement:
    parameters = {
        "fleet": fleet,
        "units": sorted(set(units)),
        "below": rule.below,
        "of_last": rule.of_last,
        "horizon": rule.horizon_cycles,
    }
    return _WORTH_A_LOOK, parameters


def _judge(
    connection: sa.Connection, fleet: str, rule: Rule, rows: Sequence[tuple[Any, ...]]
) -> list[AdvisoryEvent]:
    found = [_Found(*row) for row in rows]
    if not found:
        return []
    units = [row.unit for row in found]
    kept = {one.unit: one for one in advisory_rows.open_of(connection, fleet, units)}
    moved: list[_Moved] = []
    for row in found:
        advisory = kept.get(row.unit)
        if advisory is not None and (row.life != advisory.life or not row.runs):
            moved.append(_step(advisory, EndLife(), row.now, f"life {advisory.life} is over"))
            advisory = None
        if not row.speaks:
            continue
        evidence = Evidence(cycle=row.cycle, recent_safe=tuple(row.recent_safe))
        if advisory is not None:
            moved.append(_weigh(advisory, evidence, row.ledger_id, rule, row.now))
        elif row.runs and row.serves and (change := opened(evidence, rule)):
            moved.append(_begin(fleet, row, change, rule))
    return _write(connection, fleet, moved)


def act(
    connection: sa.Connection,
    advisory_id: UUID,
    step: Step,
    *,
    who: str,
    why: str,
    expected: Collection[int] | None = None,
) -> Advisory:
    """Take a step that somebody asks for.

    Args:
        connection: An open transaction.
        advisory_id: Of which advisory.
        step: What is to be done.
        who: Asks for it.
        why: In that person's words.
        expected: The versions that it was decided on; any version where none.

    Returns:
        The advisory afterwards.

    Raises:
        UnknownAdvisory: There is no such advisory.
        Outdated: Something happened to it since.
        StepRefused: It cannot take that step; says which it can.
    """
    fleet = advisory_rows.find(connection, advisory_id).fleet
    now = _locked(connection, fleet)
    advisory = advisory_rows.find(connection, advisory_id)
    if expected is not None and advisory.version not in expected:
        raise Outdated(
            f"advisory {advisory_id} is at version {advisory.version} ({advisory.state}, since "
            f"{advisory.changed_at:%Y-%m-%d %H:%M:%S} UTC); look at it, then decide again"
        )
    moved = _step(advisory, step, now, why, who)
    if isinstance(step, Close) and advisory.active:
        # Only what is said from now on opens the next one.
        present = current_prognoses
        of_unit = (present.c.fleet == fleet, present.c.unit == advisory.unit)
        connection.execute(sa.update(present).where(*of_unit).values(recent_safe=[]))
    _write(connection, fleet, [moved])
    return moved[0]


def serve(
    connection: sa.Connection, fleet: str, unit: str, state: ServiceState, *, who: str, why: str
) -> UnitService:
    """Say whether a unit is in service; its open advisory steps aside, or comes back.

    Raises:
        UnknownUnit: Nothing is kept of the unit.
    """
    parameters = {"fleet": fleet, "unit": unit, "state": state.value, "who": who, "why": why}
    row = connection.execute(sa.text(_SERVE), parameters).first()
    if row is None:
        raise UnknownUnit(f"fleet {fleet!r} has no unit {unit!r}; see that the name is right")
    now = _locked(connection, fleet)
    moved = [
        _step(advisory, Serve(state=state), now, why, who)
        for advisory in advisory_rows.open_of(connection, fleet, [unit])
    ]
    _write(connection, fleet, moved)
    return UnitService(state=state, since=row.service_since, by=row.service_by, why=row.service_why)


def end_lives(
    connection: sa.Connection, fleet: str, units: Iterable[str], *, who: str
) -> list[AdvisoryEvent]:
    """Close the advisories of units whose life has ended, or whose next one has begun.

    Call it in the transaction that wrote the lives.
    """
    parameters = {"fleet": fleet, "units": sorted(set(units))}
    if connection.execute(sa.text(_OVER), parameters).first() is None:
        return []
    now = _locked(connection, fleet)
    over = {row.advisory_id: row for row in connection.execute(sa.text(_OVER), parameters)}
    moved = []
    for advisory in advisory_rows.read(connection, advisories.c.advisory_id.in_(list(over))):
        outcome = over[advisory.advisory_id].outcome
        ended = f"has ended: {outcome}" if outcome != "running" else "is followed by the next"
        why = f"life {advisory.life} {ended}"
        moved.append(_step(advisory, EndLife(), now, why, who))
    return _write(connection, fleet, moved)


def tend(engine: sa.Engine) -> int:
    """Let acknowledgements, plans and shelves lapse whose time is over; give how many events.

    Somebody does this every few seconds, for units that fall silent: everything else that touches
    an advisory looks at the time by itself.
    """
    due = advisories.c.until <= sa.func.clock_timestamp()
    with begin(engine) as connection:
        fleets = connection.execute(sa.select(advisories.c.fleet).where(due).distinct()).scalars()
        waiting = sorted(fleets)
    happened = 0
    for fleet in waiting:
        with begin(engine) as connection:
            now = _locked(connection, fleet)
            found = advisory_rows.read(connection, advisories.c.fleet == fleet, due)
            moved = [_step(advisory, Wait(), now, "") for advisory in found]
            happened += len(_write(connection, fleet, moved))
    return happened


def _locked(connection: sa.Connection, fleet: str) -> datetime:
    """The time, once it is this transaction's turn."""
    lock_fleet(connection, fleet)
    return time_of(connection)


def _begin(fleet: str, row: _Found, change: Change, rule: Rule) -> _Moved:
    advisory = Advisory(
        advisory_id=uuid4(),
        fleet=fleet,
        unit=row.unit,
        life=row.life,
        version=0,
        allowed=(),
        prognoses=1,
        first_ledger_id=row.ledger_id,
        last_ledger_id=row.ledger_id,
        rule=rule,
        opened_at=row.now,
        changed_at=row.now,
        state=change.case.state,
        **_standing(change.case),
    )
    return _after(advisory, change.case, [change], rule, row.now, "", SYSTEM)


def _weigh(
    advisory: Advisory, evidence: Evidence, ledger_id: UUID, rule: Rule, now: datetime
) -> _Moved:
    if ledger_id != advisory.last_ledger_id:
        advisory = replace(advisory, prognoses=advisory.prognoses + 1, last_ledger_id=ledger_id)
    case, changes = advance(advisory.case, evidence, rule, now)
    return _after(advisory, case, changes, rule, now, "", SYSTEM)


def _step(advisory: Advisory, step: Step, now: datetime, why: str, who: str = SYSTEM) -> _Moved:
    case, changes = advance(advisory.case, step, advisory.rule, now)
    return _after(advisory, case, changes, advisory.rule, now, why, who)


def _after(
    advisory: Advisory,
    case: Case,
    changes: list[Change],
    rule: Rule,
    now: datetime,
    why: str,
    who: str,
) -> _Moved:
    happened = []
    for version, change in enumerate(changes, advisory.version + 1):
        known = _why(change, rule)
        happened.append(
            AdvisoryEvent(
                advisory_id=advisory.advisory_id,
                fleet=advisory.fleet,
                unit=advisory.unit,
                position=0,
                version=version,
                kind=change.kind,
                before=change.before,
                after=change.case.state,
                at=now,
                who=SYSTEM if known else who,
                why=known or why,
                **_standing(change.case),
            )
        )
    is_closed = case.state is AdvisoryState.CLOSED
    return (
        replace(
            advisory,
            version=advisory.version + len(changes),
            state=case.state,
            allowed=allowed(case.state),
            held_end_cycle=case.held_end_cycle,
            changed_at=now if changes else advisory.changed_at,
            closed_at=(advisory.closed_at or now) if is_closed else None,
            **_standing(case),
        ),
        happened,
    )


def _standing(case: Case) -> dict[str, Any]:
    """What an advisory and its events have in common, of a case."""
    return {
        "active": case.active,
        "priority": case.priority,
        "cycle": case.cycle,
        "safe_cycles": None if case.safe_cycles == math.inf else case.safe_cycles,
        "until": case.until,
        "until_event": case.until_event,
    }


def _why(change: Change, rule: Rule) -> str:
    """Why prognoses or time changed an advisory; empty for what others do."""
    match change.kind:
        case EventKind.OPENED | EventKind.RECURRED:
            return (
                f"{rule.below} of the last {rule.of_last} prognoses are safe for less than "
                f"{rule.horizon_cycles:g}"
            )
        case EventKind.WORSENED:
            return f"the priority is {change.case.priority} now"
        case EventKind.CLEARED:
            return f"the last {rule.of_last} prognoses are safe for more than {rule.clear_cycles:g}"
        case EventKind.LAPSED:
            return f"it is no more {change.before}: the time is over, or the end came nearer"
    return ""


def _write(connection: sa.Connection, fleet: str, moved: Iterable[_Moved]) -> list[AdvisoryEvent]:
    """Keep what was moved and number what happened; the fleet's lock is held."""
    moved = list(moved)
    told = [event for _, happened in moved for event in happened]
    if told:
        first = advisory_rows.last_position(connection, fleet) + 1
        told = [replace(event, position=first + place) for place, event in enumerate(told)]
    borne_out = [advisory for advisory, happened in moved if not happened]
    changed = [advisory for advisory, happened in moved if happened]
    if borne_out:
        advisory_rows.attach(connection, borne_out)
    if changed:
        advisory_rows.write(connection, changed, told)
    return told


_SPEAKS = """
    present.state IN ('estimated', 'beyond_horizon') AND present.recent_safe <> '{}'
        AND present.life IS NOT NULL AND present.cycle IS NOT NULL
"""
# Questions of their own, for of a few units the key's index answers each in no time; joined, the
# tables of the whole fleet may be read. (EXISTS beside OR is answered for the whole fleet at once.)
_RUNS = """coalesce((
    SELECT outcome FROM lives WHERE lives.fleet = present.fleet AND lives.unit = present.unit
        AND lives.life = present.life
), 'running') = 'running'"""
_SERVES = """coalesce((
    SELECT service_state FROM units
    WHERE units.fleet = present.fleet AND units.unit = present.unit
), 'in_service') = 'in_service'"""
_WORTH_A_LOOK = f"""
    SELECT present.unit, present.life, present.cycle, present.recent_safe, present.ledger_id,
        {_SPEAKS} AS speaks, {_RUNS} AS runs, {_SERVES} AS serves, clock_timestamp() AS now
    FROM current_prognoses AS present
    WHERE present.fleet = %(fleet)s AND present.unit = ANY(%(units)s)
        AND (
            coalesce((
                SELECT true FROM advisories AS open
                WHERE open.fleet = present.fleet AND open.unit = present.unit
                    AND open.state <> 'closed'
            ), false)
            OR {_SPEAKS} AND %(below)s <= (
                SELECT count(*)
                FROM unnest(
                    present.recent_safe[cardinality(present.recent_safe) - %(of_last)s + 1 :]
                ) AS safe
                WHERE safe < %(horizon)s
            ) AND {_RUNS} AND {_SERVES}
        )
    ORDER BY present.unit
"""  # noqa: S608 - the parts are constants
_SERVE = """
    UPDATE units SET
        service_since = CASE WHEN service_state = :state THEN service_since
            ELSE clock_timestamp() END,
        service_by = CASE WHEN service_state = :state THEN service_by ELSE :who END,
        service_why = CASE WHEN service_state = :state THEN service_why ELSE :why END,
        service_state = :state
    WHERE fleet = :fleet AND unit = :unit
    RETURNING service_since, service_by, service_why
"""
_OVER = """
    SELECT advisory_id, coalesce(lives.outcome, 'running') AS outcome
    FROM advisories AS present
    LEFT JOIN lives USING (fleet, unit, life)
    WHERE fleet = :fleet AND unit = ANY(:units) AND present.state <> 'closed'
        AND (
            lives.outcome <> 'running'
            OR EXISTS (
                SELECT FROM lives AS later
                WHERE later.fleet = present.fleet AND later.unit = present.unit
                    AND later.life > present.life
            )
        )
"""
