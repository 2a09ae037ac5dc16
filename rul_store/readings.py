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

import polars as pl
import sqlalchemy as sa
from msgspec import Struct

from rul_core.errors import StoreError
from rul_core.schema import CYCLE, KEY, TIME, Fleet
from rul_store.database import begin, microseconds, read_frame

TAKE_ROWS = 1_000_000


class Inserted(Struct, frozen=True, kw_only=True):
    """What became of readings that were to be kept."""

    new: int
    repeated: int
    """They were kept before, equal in every value."""
    conflicts: pl.DataFrame
    """Of the fleet's readings schema: other values are kept under the same unit, life, cycle."""


class Taken(Struct, frozen=True, kw_only=True):
    """What is new since a watermark."""

    readings: pl.DataFrame
    """Of the fleet's readings schema, in the order in which they were written."""
    watermark: str
    """For the next take."""
    more: bool
    """Whether the next take would find something now."""


def insert_many(engine: sa.Engine, fleet: Fleet, readings: pl.DataFrame) -> Inserted:
    """Keep readings, each (unit, life, cycle) once; the first that comes stays.

    Args:
        engine: The database.
        fleet: The fleet they are of.
        readings: The columns of the fleet's readings schema; others are left out.

    Raises:
        StoreError: A unit, life or cycle is null, or a cycle is not finite; nothing was kept.
        Unavailable: PostgreSQL does not answer.
    """
    given = readings.select(fleet.readings_schema.names()).cast(dict(fleet.readings_schema))
    nameless = given.with_row_index("row", offset=1).filter(
        pl.any_horizontal(pl.col(KEY).is_null()) | ~pl.col(CYCLE).is_finite()
    )
    if not nameless.is_empty():
        row, unit, life, cycle = nameless.select("row", *KEY).row(0)
        raise StoreError(
            f"reading {row} of fleet {fleet.name!r} is of unit {unit!r}, life {life}, cycle "
            f"{cycle}; give each a unit, a life and a finite cycle"
        )
    numbers = [pl.col(name).cast(pl.String).fill_null("NULL") for name in fleet.channels]
    inside = pl.concat_str(numbers, separator=",")
    arrays = given.select(pl.concat_str(pl.lit("{"), inside, pl.lit("}")))
    parameters = {
        "fleet": fleet.name,
        **{name: given[name].to_list() for name in (*KEY, TIME)},
        "measured": arrays.to_series().to_list(),
    }
    with begin(engine) as connection:
        parameters["layout"] = _layout(connection, fleet)
        new = connection.execute(sa.text(_INSERT), parameters).rowcount
        if new == given.height:
            return Inserted(new=new, repeated=0, conflicts=given.clear())
        kept = _read(connection, fleet, _OF_KEYS, {key: parameters[key] for key in KEY})
    return _compared(given, kept.unique(KEY), new)


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
        if watermark.startswith(f"{origin}:"):
            parameters["first"] = int(watermark.removeprefix(f"{origin}:"))
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
    parameters = {"fleet": fleet.name, "channels": list(fleet.channels)}
    for statement in (_FIND_LAYOUT, _ADD_LAYOUT, _FIND_LAYOUT):
        found = connection.execute(sa.text(statement), parameters).scalar()
        if found is not None:
            return found
    raise StoreError(f"the channels of fleet {fleet.name!r} could not be written; try again")


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


def _compared(given: pl.DataFrame, kept: pl.DataFrame, new: int) -> Inserted:
    values = [name for name in given.columns if name not in KEY]
    beside = given.join(kept, on=KEY, how="left", suffix=" kept", maintain_order="left")
    conflicts = beside.filter(
        pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name} kept")) for name in values)
    ).select(given.columns)
    return Inserted(new=new, repeated=given.height - new - conflicts.height, conflicts=conflicts)


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
"""
_FIND_LAYOUT = """
    SELECT layout FROM layouts WHERE fleet = :fleet AND channels = CAST(:channels AS text[])
"""
_ADD_LAYOUT = """
    INSERT INTO layouts (fleet, channels) VALUES (:fleet, :channels)
    ON CONFLICT DO NOTHING RETURNING layout
"""
_LAYOUTS = "SELECT layout, channels FROM layouts WHERE fleet = :fleet"
_OF_KEYS = """
    readings JOIN unnest(%(unit)s::text[], %(life)s::bigint[], %(cycle)s::double precision[])
        AS given (unit, life, cycle) USING (unit, life, cycle)
    WHERE fleet = %(fleet)s
"""
_IN_RANGE = """
    readings
    WHERE fleet = %(fleet)s AND ingested_xid >= %(first)s AND ingested_xid < %(end)s
"""
# A restore by dump makes a new system, one to a point in time a new line of an old one.
_WHERE_WE_ARE = """
    SELECT
        (SELECT system_identifier FROM pg_control_system())::text
            || '/' || (SELECT timeline_id FROM pg_control_checkpoint())::text,
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
