"""Readings that were sent and contradict one that is kept, for people to look at.

What belongs here: keeping each once, and giving them beside what is kept. What does not: telling
that a reading contradicts (``readings``), rows of files (they stand beside the lake's tables).
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
import polars as pl
import sqlalchemy as sa

from rul_core.schema import CYCLE, KEY, LIFE, TIME, UNIT, Fleet
from rul_store import cursors, histories, readings
from rul_store.database import begin
from rul_store.lake import Lake, lake_needed

_Key = tuple[str, int, float]


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """A reading that was not kept, and the one that was."""

    unit: str
    life: int
    cycle: float
    time: datetime | None = None
    """When it was read."""
    values: dict[str, float | None]
    """What it said, by channel."""
    kept_time: datetime | None = None
    """When the reading that is kept of this cycle was read."""
    kept_values: dict[str, float | None]
    """What that says, of the channels that the fleet has now."""
    reason: str
    set_aside_at: datetime
    trace_id: str | None = None
    """Of the first request that brought it."""


class SetAsidePage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a fleet's readings that were set aside, the newest first."""

    fleet: str
    readings: list[SetAside]
    next_cursor: str | None = None


def keep(
    connection: sa.Connection, fleet: Fleet, conflicts: pl.DataFrame, trace_ids: Sequence[str]
) -> None:
    """Keep readings that contradict one that is kept; the same again changes nothing.

    Args:
        connection: An open transaction.
        fleet: The fleet they are of.
        conflicts: The fleet's readings schema.
        trace_ids: Of the request that brought each.
    """
    parameters = {
        "fleet": fleet.name,
        "trace_id": list(trace_ids),
        **{name: conflicts[name].to_list() for name in KEY},
        "content": conflicts.select(pl.struct(pl.all()).struct.json_encode()).to_series().to_list(),
    }
    connection.execute(sa.text(_KEEP), parameters)


def page(
    engine: sa.Engine,
    lake: Lake,
    fleet: Fleet,
    *,
    unit: str | None = None,
    limit: int,
    after: str | None = None,
) -> SetAsidePage:
    """The newest first.

    Args:
        engine: The database.
        lake: Has what is kept of files.
        fleet: Its description.
        unit: This one's alone.
        limit: How many at most.
        after: The cursor of the page before.

    Raises:
        InvalidCursor: The cursor is none of this list's.
        Unavailable: PostgreSQL or the lake is away.
    """
    before = None
    if after is not None:
        before = cursors.decode(after, cursors.Before, "the readings set aside").before
    parameters = {
        "fleet": fleet.name,
        "unit": unit,
        "before": before,
        "limit": limit + 1,
    }
    with begin(engine) as connection:
        found = connection.execute(sa.text(_PAGE), parameters).all()
        rows = found[:limit]
        kept = _kept(connection, lake, fleet, [(row.unit, row.life, row.cycle) for row in rows])
    more = len(found) > limit
    return SetAsidePage(
        fleet=fleet.name,
        readings=[_told(row, kept) for row in rows],
        next_cursor=cursors.encode(cursors.Before(rows[-1].id)) if more else None,
    )


def _kept(
    connection: sa.Connection, lake: Lake, fleet: Fleet, keys: Sequence[_Key]
) -> dict[_Key, dict[str, object]]:
    """What is kept of some cycles; where a file says something of one, the file counts."""
    if not keys:
        return {}
    lives = sorted({(unit, life) for unit, life, _ in keys})
    wanted = pl.DataFrame(sorted(set(keys)), schema=list(KEY), orient="row")
    landed_rows = histories.Landed(lake).rows(connection, fleet.name)
    with lake_needed():
        landed = histories.read_landed(lake, fleet, lives, landed_rows)
    both = [landed.join(wanted, on=KEY, how="semi"), readings.of_keys(connection, fleet, wanted)]
    frame = pl.concat(both).unique(KEY, keep="first", maintain_order=True)
    return {(row[UNIT], row[LIFE], row[CYCLE]): row for row in frame.iter_rows(named=True)}


def _told(row: sa.Row, kept: dict[_Key, dict[str, object]]) -> SetAside:
    said = {name: value for name, value in row.content.items() if name not in KEY}
    beside = kept.get((row.unit, row.life, row.cycle), {})
    return msgspec.convert(
        {
            "unit": row.unit,
            "life": row.life,
            "cycle": row.cycle,
            "time": row.time,
            "values": {name: value for name, value in said.items() if name != TIME},
            "kept_time": beside.get(TIME),
            "kept_values": {
                name: value for name, value in beside.items() if name not in (*KEY, TIME)
            },
            "reason": row.reason,
            "set_aside_at": row.set_aside_at,
            "trace_id": row.trace_id,
        },
        SetAside,
    )


_KEEP = """
    INSERT INTO readings_set_aside (fleet, unit, life, cycle, reason, content, sha256, trace_id)
    SELECT :fleet, unit, life, cycle, 'conflict', CAST(content AS json),
        sha256(convert_to(content, 'UTF8')), trace_id
    FROM unnest(
        CAST(:unit AS text[]), CAST(:life AS bigint[]), CAST(:cycle AS double precision[]),
        CAST(:content AS text[]), CAST(:trace_id AS text[])
    ) AS given (unit, life, cycle, content, trace_id)
    ON CONFLICT DO NOTHING
"""
_PAGE = """
    SELECT id, unit, life, cycle, (content->>'time')::timestamptz AS time, content, reason,
        set_aside_at, trace_id
    FROM readings_set_aside
    WHERE fleet = :fleet AND (CAST(:unit AS text) IS NULL OR unit = :unit)
        AND (CAST(:before AS bigint) IS NULL OR id < :before)
    ORDER BY id DESC LIMIT :limit
"""
