"""Every prognosis ever given, written once.

What belongs here: recording, looking up, walking the chain. What does not: making prognoses
(``rul_core.prognose``), how it stands with each unit now (``current``), computing one again
(``replay``), judging them against what happened (``realised_outcomes``).

A prognosis is known by what it says and by the model and readings that it says it from; not by the
moment, the trace, the words and reasons for people, nor by how far other readings had come. Saying
the same again records nothing new, but brings the current one up to date.

The entries of a fleet are chained (``chain``) in the order of their positions, which is the order
of their commits: writers take turns under a lock that lasts from the last hash to the commit, a
batch at a time.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import polars as pl
import sqlalchemy as sa

from rul_core.errors import StoreError
from rul_core.prognosis import Prognosis, Seen
from rul_core.schema import RECENT_PROGNOSES
from rul_store.chain import Break, Link, hash_of, walk
from rul_store.database import (
    TIME_DTYPE,
    Statement,
    begin,
    locking,
    microseconds,
    pipelined,
    read_frame,
)
from rul_store.tables import ledger

PAGE = 1_000
"""Entries that are read at once on a walk along the chain."""
_FIGURES = (
    "rul_cycles",
    "lower_50_cycles",
    "upper_50_cycles",
    "lower_90_cycles",
    "upper_90_cycles",
    "safe_cycles",
    "failure_probability",
    "horizon_cycles",
)
LEDGER_SCHEMA = pl.Schema(
    {
        "position": pl.Int64,
        "ledger_id": pl.String,
        "unit": pl.String,
        "life": pl.Int64,
        "cycle": pl.Float64,
        "state": pl.String,
        **dict.fromkeys(_FIGURES, pl.Float64),
        "model_version": pl.String,
        "computed_at": TIME_DTYPE,
        "recorded_at": TIME_DTYPE,
        "outcome": pl.String,
        "end_cycle": pl.Float64,
    }
)
"""Of ``ledger_frame``; outcome and end_cycle are those of the life, null when it is not known."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A prognosis as it stands in the ledger."""

    ledger_id: UUID
    position: int
    """Its place in its fleet's chain, from 1."""
    recorded_at: datetime
    prognosis: Prognosis
    prev_hash: str
    """Hexadecimal, of the entry before."""
    hash: str
    """Hexadecimal, of this entry and all before it."""


class Appended(NamedTuple):
    """What became of prognoses on their way into the ledger."""

    said: list[Prognosis]
    """All of them, each with the name that it has there."""
    new: dict[UUID, Prognosis]
    """Those that were new to it, by ``ledger_id``, in the order of the chain."""
    answers: list[list[tuple[Any, ...]]]
    """To what was asked then."""


def ledger_id_of(prognosis: Prognosis) -> UUID:
    """What the ledger knows the prognosis by."""
    content = msgspec.structs.replace(
        prognosis,
        computed_at=None,
        detail="",
        contributions=(),
        explanation=None,
        provenance=msgspec.structs.replace(
            prognosis.provenance, trace_id=None, seen=Seen(), ledger_id=None
        ),
    )
    return UUID(bytes=hashlib.sha256(msgspec.json.encode(content)).digest()[:16])


def named(prognosis: Prognosis) -> Prognosis:
    """The prognosis as it stands in the ledger: it says what the ledger knows it by."""
    return _with_id(prognosis, ledger_id_of(prognosis))


def record(engine: sa.Engine, fleet: str, prognoses: Iterable[Prognosis]) -> int:
    """Write prognoses, all or none: ``append`` in a transaction of its own.

    Returns:
        How many were new to the ledger.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        return len(append(connection, fleet, prognoses).new)


def append(
    connection: sa.Connection, fleet: str, prognoses: Iterable[Prognosis], *then: Statement
) -> Appended:
    """Chain prognoses to the ledger and bring the current ones up to date.

    A current prognosis is replaced only by one of a later life, cycle or moment, in this order. The
    fleet's other writers wait from here to the end of the transaction, so call it last.

    Args:
        connection: An open transaction.
        fleet: The fleet's name.
        prognoses: Of its units.
        then: What is to be asked once they are written, sent with them.

    Raises:
        StoreError: A prognosis is of another fleet, or does not say when it was computed.
    """
    given: dict[UUID, tuple[datetime, Prognosis]] = {}
    told: list[Prognosis] = []
    for prognosis in prognoses:
        if prognosis.fleet != fleet or prognosis.computed_at is None:
            raise StoreError(
                f"the prognosis of unit {prognosis.unit!r} is of fleet {prognosis.fleet!r} and "
                f"computed at {prognosis.computed_at}; it must be of {fleet!r} and have a time"
            )
        ledger_id, moment = ledger_id_of(prognosis), prognosis.computed_at
        told.append(_with_id(prognosis, ledger_id))
        if ledger_id not in given or given[ledger_id][0] < moment:
            given[ledger_id] = (moment, told[-1])
    if not given:
        return Appended([], {}, pipelined(connection, *then))
    rows = {ledger_id: _values(ledger_id, prognosis) for ledger_id, (_, prognosis) in given.items()}
    # A statement of its own, since it must see what was committed while the lock was waited for.
    _, ((position, before, known),) = pipelined(
        connection, locking(fleet), (_HEAD, {"fleet": fleet, "ledger_id": list(rows)})
    )
    fresh = [row for ledger_id, row in rows.items() if ledger_id not in known]
    for row in fresh:
        position += 1
        row["position"], row["prev_hash"] = position, before
        before = hash_of(before, fleet, position, row["ledger_id"], row["prognosis"])
        row["hash"] = before
    written = msgspec.json.encode(list(rows.values())).decode()
    _, *answers = pipelined(connection, (_WRITE, {"fleet": fleet, "rows": written}), *then)
    new = {row["ledger_id"]: given[row["ledger_id"]][1] for row in fresh}
    return Appended(told, new, answers)


def verify(engine: sa.Engine, fleet: str) -> Iterator[Break | int]:
    """Walk the fleet's chain: every thousand entries and at the end, how many are right so far.

    Returns:
        Numbers of entries, and a ``Break`` as the last where one is not what was written.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    right = 0
    for link in walk(_links(engine, fleet)):
        if isinstance(link, Break):
            yield link
            return
        right += 1
        if right % PAGE == 0:
            yield right
    yield right


def _links(engine: sa.Engine, fleet: str) -> Iterator[Link]:
    """The entries in order; one whose columns say otherwise than its content is no link."""
    after = 0
    while True:
        with begin(engine) as connection:
            rows = connection.execute(sa.text(_CHAIN), {"fleet": fleet, "after": after}).all()
        for row in rows:
            parts = (fleet, row.position, row.ledger_id, row.prognosis)
            told = _values(row.ledger_id, _prognosis(row.prognosis))
            if any(told[name] != getattr(row, name) for name in _TOLD_TWICE):
                parts = ("the columns say otherwise",)
            yield Link(
                position=row.position,
                before=bytes(row.prev_hash),
                hash=bytes(row.hash),
                parts=parts,
            )
            after = row.position
        if len(rows) < PAGE:
            return


def history(
    engine: sa.Engine, fleet: str, unit: str, *, limit: int = 50, before: int | None = None
) -> tuple[Recorded, ...]:
    """What was ever said of the unit, newest first; ``before`` is the position to go on from."""
    query = _select_recorded().where(ledger.c.fleet == fleet, ledger.c.unit == unit)
    if before is not None:
        query = query.where(ledger.c.position < before)
    return _read_recorded(engine, query.order_by(ledger.c.position.desc()).limit(limit))


def since(
    engine: sa.Engine, fleet: str, position: int, *, limit: int = 100
) -> tuple[Recorded, ...]:
    """What was said of the fleet's units after a position, in order."""
    query = _select_recorded().where(ledger.c.fleet == fleet, ledger.c.position > position)
    return _read_recorded(engine, query.order_by(ledger.c.position).limit(limit))


def newest(
    engine: sa.Engine, fleet: str, model_version: str, *, limit: int
) -> tuple[Recorded, ...]:
    """What a version of the fleet's model said last, the newest first."""
    query = _select_recorded().where(
        ledger.c.fleet == fleet, ledger.c.model_version == model_version
    )
    return _read_recorded(engine, query.order_by(ledger.c.position.desc()).limit(limit))


def fleets(engine: sa.Engine) -> tuple[str, ...]:
    """The fleets that the ledger has an entry of, sorted."""
    query = sa.select(ledger.c.fleet).distinct().order_by(ledger.c.fleet)
    with begin(engine) as connection:
        return tuple(connection.execute(query).scalars())


def head(engine: sa.Engine, fleet: str) -> int:
    """The position of the fleet's last entry; 0 before the first."""
    query = sa.select(sa.func.max(ledger.c.position)).where(ledger.c.fleet == fleet)
    with begin(engine) as connection:
        return connection.execute(query).scalar() or 0


def entry(engine: sa.Engine, ledger_id: UUID) -> Recorded | None:
    """The prognosis of that id; none when the ledger has no such."""
    query = _select_recorded().where(ledger.c.ledger_id == ledger_id)
    return next(iter(_read_recorded(engine, query)), None)


def ledger_frame(
    engine: sa.Engine, fleet: str, *, ended: bool = False, model_version: str | None = None
) -> pl.DataFrame:
    """The fleet's ledger, beside what is known of each life, in the order of writing.

    Args:
        engine: The database.
        fleet: The fleet's name.
        ended: Only prognoses of lives that ended.
        model_version: Only prognoses of this version.

    Returns:
        ``LEDGER_SCHEMA``.
    """
    figures = ", ".join(f"(prognosis->>'{name}')::double precision" for name in _FIGURES)
    query = f"""
        SELECT position, ledger_id, unit, life, cycle, state, {figures}, model_version,
            {microseconds("computed_at")}, {microseconds("recorded_at")}, outcome, end_cycle
        FROM ledger LEFT JOIN lives USING (fleet, unit, life)
        WHERE fleet = %(fleet)s AND (NOT %(ended)s OR outcome <> 'running')
            AND (%(version)s::text IS NULL OR model_version = %(version)s)
        ORDER BY position
    """  # noqa: S608 - the parts are constants
    parameters = {"fleet": fleet, "ended": ended, "version": model_version}
    with begin(engine) as connection:
        return read_frame(connection, query, parameters, LEDGER_SCHEMA)


def _with_id(prognosis: Prognosis, ledger_id: UUID) -> Prognosis:
    provenance = msgspec.structs.replace(prognosis.provenance, ledger_id=ledger_id)
    return msgspec.structs.replace(prognosis, provenance=provenance)


def _values(ledger_id: UUID, prognosis: Prognosis) -> dict[str, Any]:
    return {
        "ledger_id": ledger_id,
        "unit": prognosis.unit,
        "life": prognosis.life,
        "cycle": prognosis.cycle,
        "state": prognosis.state.value,
        "prognosis": msgspec.json.encode(prognosis).decode(),
        "model_version": prognosis.provenance.model_version,
        "feature_spec": prognosis.provenance.feature_spec,
        "engine": prognosis.provenance.engine,
        "readings_seen": prognosis.provenance.readings,
        "computed_at": prognosis.computed_at,
        "failure_probability": prognosis.failure_probability,
        "rul_cycles": prognosis.rul_cycles,
        "safe_cycles": prognosis.safe_cycles,
        "last_read_at": prognosis.provenance.last_read_at,
    }


def _prognosis(text: str) -> Prognosis:
    return msgspec.json.decode(text, type=Prognosis)


def _select_recorded() -> sa.Select:
    columns = ledger.c
    text = sa.cast(columns.prognosis, sa.Text)
    return sa.select(
        columns.ledger_id,
        columns.position,
        columns.recorded_at,
        text.label("text"),
        columns.prev_hash,
        columns.hash,
    )


def _read_recorded(engine: sa.Engine, query: sa.Select) -> tuple[Recorded, ...]:
    with begin(engine) as connection:
        rows: Sequence[sa.Row] = connection.execute(query).all()
    return tuple(
        Recorded(
            ledger_id=row.ledger_id,
            position=row.position,
            recorded_at=row.recorded_at,
            prognosis=_prognosis(row.text),
            prev_hash=bytes(row.prev_hash).hex(),
            hash=bytes(row.hash).hex(),
        )
        for row in rows
    )


_TYPES = {
    "ledger_id": "uuid",
    "unit": "text",
    "life": "bigint",
    "cycle": "double precision",
    "state": "text",
    "prognosis": "text",
    "model_version": "text",
    "feature_spec": "text",
    "engine": "text",
    "readings_seen": "bigint",
    "computed_at": "timestamptz",
    "failure_probability": "double precision",
    "rul_cycles": "double precision",
    "safe_cycles": "double precision",
    "last_read_at": "timestamptz",
    "position": "bigint",
    "prev_hash": "text",
    "hash": "text",
}
"""Of the rows as JSON has them, bytes in base64; what is in the ledger already has no position."""
_TOLD_TWICE = (
    "unit", "life", "cycle", "state", "model_version", "feature_spec", "engine", "readings_seen",
    "computed_at",
)  # fmt: skip
"""Columns that say what the content says too."""
_HEAD = """
    SELECT
        coalesce((SELECT max(position) FROM ledger WHERE fleet = %(fleet)s), 0),
        coalesce(
            (SELECT hash FROM ledger WHERE fleet = %(fleet)s ORDER BY position DESC LIMIT 1),
            decode(repeat('00', 32), 'hex')
        ),
        ARRAY(SELECT ledger_id FROM ledger WHERE ledger_id = ANY(%(ledger_id)s::uuid[]))
"""
_CHAIN = f"""
    SELECT position, ledger_id, prognosis::text AS prognosis, prev_hash, hash,
        {", ".join(_TOLD_TWICE)}
    FROM ledger WHERE fleet = :fleet AND position > :after ORDER BY position LIMIT {PAGE}
"""  # noqa: S608 - the parts are constants
_SPEAKS = "({0}.state IN ('estimated', 'beyond_horizon') AND {0}.safe_cycles IS NOT NULL)"
_AGE = """(
    coalesce({0}.life, 0), coalesce({0}.cycle, '-Infinity'), {0}.computed_at, {0}.ledger_id
)"""
# Of the readings before this one: what was said of the same reading gives way to the newer.
_EARLIER_SAFE = f"""(
    CASE
        WHEN kept.life IS DISTINCT FROM excluded.life THEN '{{}}'
        WHEN kept.cycle IS NOT DISTINCT FROM excluded.cycle AND {_SPEAKS.format("kept")}
            THEN trim_array(kept.recent_safe, least(1, cardinality(kept.recent_safe)))
        ELSE kept.recent_safe[cardinality(kept.recent_safe) - {RECENT_PROGNOSES - 2}:]
    END
)"""
# All rows in one document: an array a column costs the client more than everything else here.
_WRITE = f"""
    WITH given AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(rows)s::json)
            AS given ({", ".join(f"{name} {dtype}" for name, dtype in _TYPES.items())})
    ), chained AS (
        INSERT INTO ledger (
            ledger_id, fleet, unit, life, cycle, state, prognosis, model_version, feature_spec,
            engine, readings_seen, computed_at, position, prev_hash, hash
        )
        SELECT ledger_id, %(fleet)s, unit, life, cycle, state, CAST(prognosis AS json),
            model_version, feature_spec, engine, readings_seen, computed_at, position,
            decode(prev_hash, 'base64'), decode(hash, 'base64')
        FROM given WHERE position IS NOT NULL ORDER BY position
    )
    INSERT INTO current_prognoses AS kept (
        fleet, unit, life, cycle, state, failure_probability, rul_cycles, safe_cycles, prognosis,
        ledger_id, computed_at, last_read_at, model_version, recent_safe
    )
    SELECT DISTINCT ON (unit) %(fleet)s, unit, life, cycle, state, failure_probability, rul_cycles,
        safe_cycles, CAST(prognosis AS json), ledger_id, computed_at, last_read_at, model_version,
        CASE
            WHEN NOT {_SPEAKS.format("given")} THEN '{{}}'
            WHEN state = 'estimated' THEN ARRAY[safe_cycles]
            ELSE ARRAY[CAST('Infinity' AS double precision)]
        END
    FROM given
    ORDER BY unit, {_AGE.format("given")} DESC
    ON CONFLICT (fleet, unit) DO UPDATE SET
        life = excluded.life, cycle = excluded.cycle, state = excluded.state,
        failure_probability = excluded.failure_probability, rul_cycles = excluded.rul_cycles,
        safe_cycles = excluded.safe_cycles, prognosis = excluded.prognosis,
        ledger_id = excluded.ledger_id, computed_at = excluded.computed_at,
        last_read_at = excluded.last_read_at, model_version = excluded.model_version,
        recent_safe = {_EARLIER_SAFE} || excluded.recent_safe
    WHERE {_AGE.format("excluded")} > {_AGE.format("kept")}
"""  # noqa: S608
