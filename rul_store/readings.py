"""Readings that came row by row, over HTTP, and how far they were taken into the lake.

What belongs here: writing them once, taking what is new by watermark. What does not: judging them
(``rul_core.quality``), files (``landing``), the lake.

The watermark is the number of a transaction: everything that earlier ones wrote was taken.
PostgreSQL numbers transactions as they begin, and they end in any order, so a count of rows would
pass over one that is still open. A take therefore ends before the oldest transaction still open;
what that one writes is left for the next take. Keep the watermark with what was taken, in one step
(``notes`` of ``lake``).

Numbers mean something in one history of one server only, so the watermark names that too. After a
restore into another, all readings are taken again: equal ones are found later, lost ones never.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
import polars as pl
import sqlalchemy as sa
from msgspec import Struct

from rul_core.errors import StoreError
from rul_core.schema import CYCLE, KEY, LIFE, TIME, UNIT, Fleet
from rul_store.copying import NewReadings, as_json, binary
from rul_store.database import Statement, begin, microseconds, pipelined, read_frame

TAKE_ROWS = 1_000_000
FEW = 200
"""So many readings are sent as JSON among other statements; more by ``COPY``."""
LAST_SEQ_AND_TIME: Statement = (
    "SELECT currval(pg_get_serial_sequence('readings', 'ingested_seq')), clock_timestamp()",
    {},
)
"""The ingestion number of the last reading that a connection kept, and the time of PostgreSQL."""


class Outcome(StrEnum):
    """What became of a reading that was to be kept."""

    NEW = "new"
    REPEATED = "repeated"
    """It was kept before, equal in every value."""
    CONFLICT = "conflict"
    """Other values are kept under the same unit, life, cycle."""


class Taken(Struct, frozen=True, kw_only=True):
    """What is new since a watermark."""

    readings: pl.DataFrame
    """Of the fleet's readings schema, in the order in which they were written."""
    watermark: str
    """For the next take."""
    more: bool
    """Whether the next take would find something now."""


def insert_many(
    connection: sa.Connection,
    fleet: Fleet,
    readings: pl.DataFrame,
    elsewhere: pl.DataFrame | None = None,
) -> list[Outcome]:
    """Keep readings, each (unit, life, cycle) once; the first that comes stays.

    Args:
        connection: An open transaction.
        fleet: The fleet they are of.
        readings: The columns of the fleet's readings schema; others are left out.
        elsewhere: Of the same schema: what is kept in another place, and counts before these.

    Returns:
        What became of each reading, in order.

    Raises:
        StoreError: A unit, life or cycle is null, or a cycle is not finite; nothing was kept.
    """
    given = _sound(fleet, readings)
    known = given.clear() if elsewhere is None else elsewhere.join(given, on=KEY, how="semi")
    wanted = given.join(known, on=KEY, how="anti", maintain_order="left")
    parameters = {
        "fleet": fleet.name,
        **{name: wanted[name].to_list() for name in (*KEY, TIME)},
        "measured": _arrays(fleet, wanted).to_list(),
        "layout": _layout(connection, fleet),
    }
    new = connection.execute(sa.text(_INSERT), parameters).all()
    if len(new) == given.height:
        return [Outcome.NEW] * len(new)
    kept = pl.concat([known, of_keys(connection, fleet, wanted.select(KEY).unique())])
    return _compared(given, kept, {tuple(row) for row in new})


def append_new(
    connection: sa.Connection, fleet: Fleet, given: NewReadings
) -> tuple[Statement, ...]:
    """Keep readings of which none is kept yet, and of which none comes twice, as fast as can be.

    Args:
        connection: An open transaction that holds the lives' rows, so that nobody else adds to
            them.
        fleet: The fleet they are of.
        given: In the order in which they are kept.

    Returns:
        What must be asked (``pipelined``) for them to be kept: few readings go with whatever else
        is asked, since ways to the server cost more than they do. Many are kept already.

    Raises:
        StoreError: A cycle is not finite; nothing was kept.
        psycopg.errors.UniqueViolation: A reading is kept already; the transaction is lost. For few
            readings, whoever asks is told.
    """
    foreign = np.flatnonzero(~np.isfinite(given.cycles))
    if foreign.size:
        at = int(foreign[0])
        raise _nameless(fleet, at + 1, given.units[at], given.lives[at], given.cycles[at])
    if len(given.units) <= FEW and not np.isinf(given.values).any():  # which JSON does not know
        layout = _layout_parameters(fleet)
        return (_ADD_LAYOUT, layout), (_APPEND, {**layout, "rows": as_json(given)})
    content = binary(fleet.name, _layout(connection, fleet), given)
    cursor = connection.connection.cursor()
    with cursor.copy(_COPY) as copy:
        copy.write(content)
    return ()


def last_seqs(connection: sa.Connection, fleet: Fleet, lives: pl.DataFrame) -> list[int]:
    """The ingestion number of each life's last reading, 0 where none was ever sent.

    Args:
        connection: An open transaction.
        fleet: The fleet they are of.
        lives: unit and life.
    """
    parameters = {"fleet": fleet.name, **{name: lives[name].to_list() for name in (UNIT, LIFE)}}
    return list(connection.execute(sa.text(_LAST_SEQS), parameters).scalars())


def last_heard(engine: sa.Engine) -> dict[str, datetime]:
    """By fleet: when readings last came, in a file or over HTTP."""
    with begin(engine) as connection:
        return {row.fleet: row.at for row in connection.execute(sa.text(_LAST_HEARD))}


def of_lives(
    connection: sa.Connection, fleet: Fleet, lives: pl.DataFrame, seq: int
) -> pl.DataFrame:
    """The readings of some lives up to an ingestion number, in the order in which they came.

    Args:
        connection: An open transaction.
        fleet: The fleet they are of.
        lives: unit and life, each pair once.
        seq: Of the last reading that counts.

    Returns:
        The fleet's readings schema.
    """
    parameters = {"unit": lives[UNIT].to_list(), "life": lives[LIFE].to_list(), "seq": seq}
    return _read(connection, fleet, _OF_LIVES, parameters)


def of_keys(connection: sa.Connection, fleet: Fleet, keys: pl.DataFrame) -> pl.DataFrame:
    """The readings of some cycles (unit, life, cycle, each once), in the order they came in.

    Returns:
        The fleet's readings schema.
    """
    parameters: dict[str, object] = {name: keys[name].to_list() for name in KEY}
    return _read(connection, fleet, _OF_KEYS, parameters)


def lives_since(
    connection: sa.Connection, fleet: str, watermark: str, units: Iterable[str]
) -> set[tuple[str, int]]:
    """Lives of some units to which a reading was added that a take did not have.

    Where the units' lives are locked, this is all that was acknowledged of them.

    Args:
        connection: An open transaction.
        fleet: The fleet's name.
        watermark: Of that take. One of another database's history stands for no take at all.
        units: Their names.
    """
    origin, *_ = connection.execute(sa.text(_WHERE_WE_ARE)).one()
    parameters = {"fleet": fleet, "first": _first(watermark, origin) or 0, "units": list(units)}
    return {(unit, life) for unit, life in connection.execute(sa.text(_LIVES_SINCE), parameters)}


def _first(watermark: str, origin: str) -> int | None:
    """The transaction that the watermark ends before; none where it is not of this history."""
    number = watermark.removeprefix(f"{origin}:")
    return int(number) if number != watermark else None


def _sound(fleet: Fleet, readings: pl.DataFrame) -> pl.DataFrame:
    given = readings.select(fleet.readings_schema.names()).cast(dict(fleet.readings_schema))
    nameless = given.with_row_index("row", offset=1).filter(
        pl.any_horizontal(pl.col(KEY).is_null()) | ~pl.col(CYCLE).is_finite()
    )
    if not nameless.is_empty():
        row, unit, life, cycle = nameless.select("row", *KEY).row(0)
        raise _nameless(fleet, row, unit, life, cycle)
    return given


def _nameless(fleet: Fleet, row: int, unit: str, life: int, cycle: float) -> StoreError:
    return StoreError(
        f"reading {row} of fleet {fleet.name!r} is of unit {unit!r}, life {life}, cycle "
        f"{cycle}; give each a unit, a life and a finite cycle"
    )


def _arrays(fleet: Fleet, readings: pl.DataFrame) -> pl.Series:
    """The channels of each reading, as PostgreSQL writes an array."""
    numbers = [pl.col(name).cast(pl.String).fill_null("NULL") for name in fleet.channels]
    inside = pl.concat_str(numbers, separator=",")
    return readings.select(pl.concat_str(pl.lit("{"), inside, pl.lit("}"))).to_series()


def take_after(
    engine: sa.Engine, fleet: Fleet, watermark: str = "", *, rows: int = TAKE_ROWS
) -> Taken:
    """The readings that were written since the watermark, by transactions that all have ended.

    Args:
        engine: The database.
        fleet: The fleet they are of.
        watermark: Of the take before; empty for the first.
        rows: About how many at most; what one transaction wrote stays together.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        origin, oldest_open, next_number = connection.execute(sa.text(_WHERE_WE_ARE)).one()
        parameters: dict[str, object] = {"fleet": fleet.name, "first": 0, "end": oldest_open}
        foreign = 0
        if (first := _first(watermark, origin)) is not None:
            parameters["first"] = first
        else:
            adopt = {"fleet": fleet.name, "next": next_number}
            foreign = connection.execute(sa.text(_ADOPT), adopt).rowcount
        cut = connection.execute(sa.text(_CUT), {**parameters, "rows": rows}).scalar()
        if cut is not None:
            parameters["end"] = cut
        readings = _read(connection, fleet, _IN_RANGE, parameters)
    return Taken(
        readings=readings,
        watermark=f"{origin}:{parameters['end']}",
        more=cut is not None or foreign > 0,
    )


def _layout(connection: sa.Connection, fleet: Fleet) -> int:
    parameters = _layout_parameters(fleet)
    for statement in (_FIND_LAYOUT, _ADD_LAYOUT, _FIND_LAYOUT):
        (rows,) = pipelined(connection, (statement, parameters))
        if rows:
            return rows[0][0]
    raise StoreError(f"the channels of fleet {fleet.name!r} could not be written; try again")


def _layout_parameters(fleet: Fleet) -> dict[str, Any]:
    return {"fleet": fleet.name, "channels": list(fleet.channels)}


def _read(
    connection: sa.Connection, fleet: Fleet, source: str, parameters: dict[str, object]
) -> pl.DataFrame:
    """Readings of a source (SQL), whatever channels the fleet had when they were written."""
    parameters = {**parameters, "fleet": fleet.name}
    layouts = connection.execute(sa.text(_LAYOUTS), {"fleet": fleet.name}).all()
    schema = pl.Schema({"seq": pl.Int64, **fleet.readings_schema})
    frames = [pl.DataFrame(schema=schema)]
    for layout, channels in layouts:
        measured = ", ".join(
            f"measured[{channels.index(name) + 1}]" if name in channels else "NULL"
            for name in fleet.channels
        )
        query = f"""
            SELECT ingested_seq, unit, life, cycle, {microseconds("time")}, {measured}
            FROM {source} AND layout = %(layout)s
        """  # noqa: S608 - the parts are constants and numbers
        frames.append(read_frame(connection, query, {**parameters, "layout": layout}, schema))
    return pl.concat(frames).sort("seq").drop("seq")


def _compared(
    given: pl.DataFrame, kept: pl.DataFrame, new: set[tuple[object, ...]]
) -> list[Outcome]:
    """``new`` are the keys that were not kept before: the first reading of each counts."""
    values = [name for name in given.columns if name not in KEY]
    beside = given.join(kept, on=KEY, how="left", suffix=" kept", maintain_order="left")
    differs = beside.select(
        pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name} kept")) for name in values)
    ).to_series()
    outcomes = []
    for key, other in zip(given.select(KEY).iter_rows(), differs, strict=True):
        if key in new:
            new.remove(key)
            outcomes.append(Outcome.NEW)
        else:
            outcomes.append(Outcome.CONFLICT if other else Outcome.REPEATED)
    return outcomes


# In the order of the key, so that two writers wait for each other and do not deadlock.
_INSERT = """
    INSERT INTO readings (fleet, unit, life, cycle, time, layout, measured)
    SELECT :fleet, unit, life, cycle, time, :layout, CAST(measured AS double precision[])
    FROM unnest(
        CAST(:unit AS text[]), CAST(:life AS bigint[]), CAST(:cycle AS double precision[]),
        CAST(:time AS timestamptz[]), CAST(:measured AS text[])
    ) WITH ORDINALITY AS given (unit, life, cycle, time, measured, row)
    ORDER BY unit, life, cycle, row
    ON CONFLICT DO NOTHING
    RETURNING unit, life, cycle
"""
_FIND_LAYOUT = "SELECT layout FROM layouts WHERE fleet = %(fleet)s AND channels = %(channels)s"
# Only a new one takes a number.
_ADD_LAYOUT = f"""
    INSERT INTO layouts (fleet, channels) SELECT %(fleet)s, %(channels)s
    WHERE NOT EXISTS ({_FIND_LAYOUT})
    ON CONFLICT DO NOTHING RETURNING layout
"""
_LAYOUTS = "SELECT layout, channels FROM layouts WHERE fleet = :fleet"
_OF_KEYS = """
    readings JOIN unnest(%(unit)s::text[], %(life)s::bigint[], %(cycle)s::double precision[])
        AS given (unit, life, cycle) USING (unit, life, cycle)
    WHERE fleet = %(fleet)s
"""
_OF_LIVES = """
    readings JOIN unnest(%(unit)s::text[], %(life)s::bigint[]) AS given (unit, life)
        USING (unit, life)
    WHERE fleet = %(fleet)s AND ingested_seq <= %(seq)s
"""
_LAST_SEQS = """
    SELECT coalesce(
        (
            SELECT max(ingested_seq) FROM readings AS kept
            WHERE kept.fleet = :fleet AND kept.unit = given.unit AND kept.life = given.life
        ),
        0
    )
    FROM unnest(CAST(:unit AS text[]), CAST(:life AS bigint[]))
        WITH ORDINALITY AS given (unit, life, place)
    ORDER BY place
"""
_LAST_HEARD = """
    SELECT fleet, max(at) AS at FROM (
        SELECT fleet, heard_at AS at FROM lives WHERE heard_at IS NOT NULL
        UNION ALL
        SELECT fleet, decided_at FROM landed_files WHERE status = 'taken'
    ) AS heard
    GROUP BY fleet
"""
_APPEND = f"""
    INSERT INTO readings (fleet, unit, life, cycle, time, layout, measured)
    SELECT %(fleet)s, unit, life, cycle, time, ({_FIND_LAYOUT}), measured
    FROM json_to_recordset(%(rows)s::json) AS given (
        unit text, life bigint, cycle double precision, time timestamptz,
        measured double precision[]
    )
"""  # noqa: S608 - the parts are constants
_COPY = """
    COPY readings (fleet, unit, life, cycle, time, layout, measured) FROM STDIN (FORMAT binary)
"""
_IN_RANGE = """
    readings
    WHERE fleet = %(fleet)s AND ingested_xid >= %(first)s AND ingested_xid < %(end)s
"""
_LIVES_SINCE = """
    SELECT DISTINCT unit, life FROM readings
    WHERE fleet = :fleet AND ingested_xid >= :first AND unit = ANY(:units)
"""
# A restore makes a new system, a new line of an old one, or over what lives a new database there.
_WHERE_WE_ARE = """
    SELECT
        (SELECT system_identifier FROM pg_control_system())::text
            || '/' || (SELECT timeline_id FROM pg_control_checkpoint())::text
            || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())::text,
        pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint
"""
# What a restore brought under numbers that this server has not reached counts as written now.
_ADOPT = """
    UPDATE readings SET ingested_xid = pg_current_xact_id()::text::bigint
    WHERE fleet = :fleet AND ingested_xid >= :next
"""
_CUT = """
    WITH range AS (
        SELECT ingested_xid FROM readings
        WHERE fleet = :fleet AND ingested_xid >= :first AND ingested_xid < :end
    )
    SELECT greatest(ingested_xid, (SELECT min(ingested_xid) + 1 FROM range))
    FROM range ORDER BY ingested_xid OFFSET :rows LIMIT 1
"""
