"""Advisories and their events as rows: reading, listing, writing.

What belongs here: the types of what is kept, and the queries. What does not: what may become of an
advisory (``rul_core.advisories``), who is asked to move it (``advisories``).
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rul_core.advisories import allowed
from rul_core.advisory_terms import (
    AdvisoryAction,
    AdvisoryState,
    Case,
    EventKind,
    Priority,
    Rule,
    Until,
)
from rul_core.errors import UnknownAdvisory
from rul_store import cursors, tables
from rul_store.database import begin


class _Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What an advisory and each of its events say."""

    advisory_id: UUID
    fleet: str
    unit: str
    version: int
    """How many events there are; newer evidence alone does not change it."""
    active: bool
    """Whether the rule's condition holds."""
    priority: Priority
    cycle: float
    """Of the newest prognosis that counts."""
    safe_cycles: float | None
    """Of that prognosis; null where the model could not see the end."""
    until: datetime | None = None
    """When the acknowledgement, plan or shelf runs out."""
    until_event: Until | None = None
    """What else ends the acknowledgement."""


class Advisory(_Standing, frozen=True, kw_only=True):
    """A unit nears its end: why that is thought, how it stands, and what may be done."""

    life: int
    state: AdvisoryState
    allowed: tuple[AdvisoryAction, ...]
    """What people may do with it now."""
    held_end_cycle: float | None = None
    """The cycle of the safe end, as it was foreseen when somebody acknowledged or planned."""
    prognoses: int
    """How many count as evidence."""
    first_ledger_id: UUID
    """The prognosis that opened it."""
    last_ledger_id: UUID
    """The newest prognosis that counts."""
    rule: Rule
    """Figures and words, as they were when the advisory opened."""
    opened_at: datetime
    changed_at: datetime
    closed_at: datetime | None = None

    @property
    def case(self) -> Case:
        """What decides on its next step."""
        return Case(
            state=self.state,
            active=self.active,
            priority=self.priority,
            cycle=self.cycle,
            safe_cycles=math.inf if self.safe_cycles is None else self.safe_cycles,
            until=self.until,
            until_event=self.until_event,
            held_end_cycle=self.held_end_cycle,
        )


class AdvisoryEvent(_Standing, frozen=True, kw_only=True):
    """Something that happened to an advisory: who, when, why, and how it stood afterwards."""

    position: int
    """Its place among the fleet's events, in the order of the commits."""
    kind: EventKind
    before: AdvisoryState | None
    """Null where the advisory begins."""
    after: AdvisoryState
    at: datetime
    who: str
    """A principal; `system` for what prognoses and time do."""
    why: str


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which advisories are wanted."""

    state: AdvisoryState | None = None
    priority: Priority | None = None
    unit: str | None = None
    is_open: bool | None = None


class AdvisoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list of advisories."""

    advisories: tuple[Advisory, ...]
    cursor: str | None


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what happened."""

    events: tuple[AdvisoryEvent, ...]
    cursor: str | None


def page(
    engine: sa.Engine, fleet: str, wanted: Filter, *, limit: int = 50, after: str | None = None
) -> AdvisoryPage:
    """Advisories of a fleet: the most urgent first, then the newest.

    Args:
        engine: The database.
        fleet: The fleet's name.
        wanted: Which.
        limit: How many at most.
        after: The cursor of the part before.

    Raises:
        InvalidCursor: The cursor is none that this list gave.
        Unavailable: PostgreSQL does not answer.
    """
    table = tables.advisories.c
    order = (table.priority, table.opened_at, table.advisory_id)
    query = sa.select(tables.advisories).where(table.fleet == fleet)
    if wanted.state is not None:
        query = query.where(table.state == wanted.state.value)
    if wanted.priority is not None:
        query = query.where(table.priority == wanted.priority.rank)
    if wanted.unit is not None:
        query = query.where(table.unit == wanted.unit)
    if wanted.is_open is not None:
        is_closed = table.state == AdvisoryState.CLOSED.value
        query = query.where(sa.not_(is_closed) if wanted.is_open else is_closed)
    if after is not None:
        priority, opened_at, advisory_id = cursors.decode(
            after, tuple[Priority, datetime, UUID], "this list"
        )
        query = query.where(sa.tuple_(*order) < (priority.rank, opened_at, advisory_id))
    with begin(engine) as connection:
        rows = connection.execute(query.order_by(*map(sa.desc, order)).limit(limit + 1)).all()
    found = tuple(map(_advisory, rows[:limit]))
    cursor = None
    if len(rows) > limit:
        last = found[-1]
        cursor = cursors.encode((last.priority, last.opened_at, last.advisory_id))
    return AdvisoryPage(advisories=found, cursor=cursor)


def one(engine: sa.Engine, advisory_id: UUID) -> Advisory:
    """The advisory of that id.

    Raises:
        UnknownAdvisory: There is none.
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        return find(connection, advisory_id)


def find(connection: sa.Connection, advisory_id: UUID) -> Advisory:
    """The same within a transaction.

    Raises:
        UnknownAdvisory: There is none.
    """
    found = read(connection, tables.advisories.c.advisory_id == advisory_id)
    if not found:
        raise UnknownAdvisory(f"there is no advisory {advisory_id}; see that the id is right")
    return found[0]


def read(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Advisory]:
    """The advisories that meet all conditions, by unit."""
    query = sa.select(tables.advisories).where(*conditions).order_by(tables.advisories.c.unit)
    return [_advisory(row) for row in connection.execute(query)]


def open_of(connection: sa.Connection, fleet: str, units: Sequence[str]) -> list[Advisory]:
    """The open advisories of units, one a unit at most."""
    table = tables.advisories.c
    is_open = table.state != AdvisoryState.CLOSED.value
    return read(connection, table.fleet == fleet, table.unit.in_(units), is_open)


def events(
    engine: sa.Engine, advisory_id: UUID, *, limit: int = 50, after: str | None = None
) -> EventPage:
    """What happened to an advisory, the first first.

    Raises:
        InvalidCursor: The cursor is none that this list gave.
        Unavailable: PostgreSQL does not answer.
    """
    table = tables.advisory_events.c
    seen = cursors.decode(after, int, "this list") if after is not None else 0
    query = sa.select(tables.advisory_events).where(
        table.advisory_id == advisory_id, table.version > seen
    )
    with begin(engine) as connection:
        rows = connection.execute(query.order_by(table.version).limit(limit + 1)).all()
    found = tuple(map(_event, rows[:limit]))
    cursor = cursors.encode(found[-1].version) if len(rows) > limit else None
    return EventPage(events=found, cursor=cursor)


def count_open(engine: sa.Engine) -> dict[tuple[Priority, AdvisoryState], int]:
    """How many advisories of all fleets stand where: what ``rul_advisories`` shows."""
    table = tables.advisories.c
    query = (
        sa.select(table.priority, table.state, sa.func.count())
        .where(table.state != AdvisoryState.CLOSED.value)
        .group_by(table.priority, table.state)
    )
    with begin(engine) as connection:
        counted = {(rank, state): count for rank, state, count in connection.execute(query)}
    return {
        (priority, state): counted.get((priority.rank, state.value), 0)
        for priority in Priority
        for state in AdvisoryState
        if state is not AdvisoryState.CLOSED
    }


def events_since(
    connection: sa.Connection,
    fleet: str,
    position: int,
    mark: sa.ColumnElement[str],
    limit: int,
    unit: str | None = None,
) -> list[tuple[AdvisoryEvent, str]]:
    """What happened to the fleet's advisories after a position, in order, each with its mark."""
    table = tables.advisory_events.c
    query = sa.select(tables.advisory_events, mark.label("mark")).where(
        table.fleet == fleet, table.position > position
    )
    if unit is not None:
        query = query.where(table.unit == unit)
    rows = connection.execute(query.order_by(table.position).limit(limit))
    return [(_event(row), row.mark) for row in rows]


def last_position(connection: sa.Connection, fleet: str) -> int:
    """The position of the fleet's newest event; 0 before the first."""
    table = tables.advisory_events.c
    query = sa.select(sa.func.coalesce(sa.func.max(table.position), 0)).where(table.fleet == fleet)
    return connection.execute(query).scalar_one()


def write(
    connection: sa.Connection, advisories: Sequence[Advisory], happened: Sequence[AdvisoryEvent]
) -> None:
    """Keep advisories as they are now, in this order, and the events that made them so."""
    rows = [_row(advisory, tables.advisories) for advisory in advisories]
    insert = postgresql.insert(tables.advisories)
    changed = {name: insert.excluded[name] for name in rows[0] if name != "advisory_id"}
    connection.execute(
        insert.on_conflict_do_update(index_elements=["advisory_id"], set_=changed), rows
    )
    table = tables.advisory_events
    connection.execute(sa.insert(table), [_row(event, table) for event in happened])


def attach(connection: sa.Connection, advisories: Sequence[Advisory]) -> None:
    """Keep the newest evidence of advisories to which nothing happened."""
    rows = [_row(advisory, tables.advisories) for advisory in advisories]
    parameters = {name: [row[name] for row in rows] for name in _EVIDENCE}
    connection.execute(sa.text(_ATTACH), parameters)


def _row(kept: Advisory | AdvisoryEvent, table: sa.Table) -> dict[str, Any]:
    """Values by column: the same for every row of the table."""
    values = {name: getattr(kept, name) for name in table.columns.keys()}  # noqa: SIM118
    values["priority"] = kept.priority.rank
    values["safe_cycles"] = math.inf if kept.safe_cycles is None else kept.safe_cycles
    if "rule" in values:
        values["rule"] = msgspec.to_builtins(values["rule"])
    return values


def _standing(row: sa.Row[Any]) -> dict[str, Any]:
    values = {str(name): value for name, value in row._mapping.items()}
    safe = values["safe_cycles"]
    ranked = {priority.rank: priority for priority in Priority}
    return {
        **values,
        "priority": ranked[values["priority"]],
        "safe_cycles": None if safe == math.inf else safe,
    }


def _advisory(row: sa.Row[Any]) -> Advisory:
    values = _standing(row)
    may = allowed(AdvisoryState(values["state"]))
    return msgspec.convert({**values, "allowed": may}, Advisory)


def _event(row: sa.Row[Any]) -> AdvisoryEvent:
    return msgspec.convert(_standing(row), AdvisoryEvent)


_EVIDENCE = {
    "advisory_id": "uuid",
    "cycle": "double precision",
    "safe_cycles": "double precision",
    "prognoses": "bigint",
    "last_ledger_id": "uuid",
}
_GIVEN = ", ".join(f"CAST(:{name} AS {dtype}[])" for name, dtype in _EVIDENCE.items())
_ATTACH = f"""
    UPDATE advisories AS kept SET
        cycle = given.cycle, safe_cycles = given.safe_cycles, prognoses = given.prognoses,
        last_ledger_id = given.last_ledger_id
    FROM unnest({_GIVEN}) AS given ({", ".join(_EVIDENCE)})
    WHERE kept.advisory_id = given.advisory_id
"""  # noqa: S608 - the parts are constants
