"""Challengers that speak beside the champion, and what they say, which nobody is told.

What belongs here: nominating and withdrawing, keeping what challengers say, finding it again. What
does not: computing it (``rul_serving.shadow``), judging it (``rul_core.shadow``), what is said to
users (``ledger``).

Of each life the last prognosis of every fiftieth of the label cap is kept, so a life of any length
and rate of readings takes few rows.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import polars as pl
import sqlalchemy as sa

from rul_core.errors import Conflict
from rul_core.prognosis import Prognosis
from rul_core.schema import Fleet
from rul_store import audit, cursors
from rul_store.database import TIME_DTYPE, begin, microseconds, read_frame
from rul_store.registry import BundleStore

STEPS = 50
"""Parts of the label cap, in each of which one prognosis is kept."""
KEPT = timedelta(days=90)
"""How long what a former challenger said is kept."""
FIGURES = (
    "rul_cycles",
    "lower_50_cycles",
    "upper_50_cycles",
    "lower_90_cycles",
    "upper_90_cycles",
    "failure_probability",
)
ENDED_SCHEMA = pl.Schema(
    {
        "unit": pl.String,
        "life": pl.Int64,
        "cycle": pl.Float64,
        "model_version": pl.String,
        "computed_at": TIME_DTYPE,
        "outcome": pl.String,
        "end_cycle": pl.Float64,
        "state": pl.String,
        **dict.fromkeys(FIGURES, pl.Float64),
    }
)
"""What ``rul_core.watch.match`` takes."""


class Nominee(msgspec.Struct, frozen=True, kw_only=True):
    """A version that speaks beside the champion."""

    fleet: str
    version: str
    since: datetime
    nominated_by: str
    reason: str


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a challenger says of a unit."""

    prognosis: Prognosis
    ledger_id: UUID
    """Of what the champion said at that cycle."""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """What both said of a unit at a cycle, the last time that both spoke."""

    unit: str
    life: int
    cycle: float
    champion: Prognosis
    """As it stands in the ledger."""
    challenger: Prognosis
    """As nobody was told."""
    difference_cycles: float | None
    """The challenger's point less the champion's; null where one of them gave none."""


class PairPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some units."""

    pairs: tuple[Pair, ...]
    cursor: str | None
    """For the next page; none after the last."""


def nominate(
    engine: sa.Engine,
    root: Path,
    fleet: str,
    version: str,
    *,
    by: str,
    reason: str,
    trace_id: str = "",
) -> Nominee:
    """Let a version speak beside the champion.

    Args:
        engine: The database.
        root: The data root, with the bundles.
        fleet: The fleet's name.
        version: Which version; also one that the release gate speaks against.
        by: Says so.
        reason: For people, later.
        trace_id: Of the request, for the audit.

    Raises:
        UnknownVersion: There is no such version.
        BundleError: Its bundle is damaged.
        Conflict: It is the champion, there is none, or another is nominated.
        Unavailable: PostgreSQL does not answer.
    """
    BundleStore(root).open(fleet, version)
    given = {"fleet": fleet, "version": version, "by": by, "reason": reason}
    with begin(engine) as connection:
        # Held, so that nobody makes it the champion meanwhile, which would end the nomination.
        champion = connection.execute(sa.text(_HOLD_CHAMPION), given).scalar()
        if champion is None:
            raise Conflict(f"fleet {fleet!r} has no champion to speak beside; promote a version")
        if champion == version:
            raise Conflict(f"version {version} is the champion of fleet {fleet!r}")
        since = connection.execute(sa.text(_NOMINATE), given).scalar()
        if since is None:
            kept = connection.execute(sa.text(_NOMINEE), given).one()
            raise Conflict(
                f"{kept.nominated_by} nominated version {kept.version} of fleet {fleet!r} "
                f"({kept.since:%Y-%m-%d %H:%M:%S} UTC: {kept.reason}); withdraw it first"
            )
        _audit(connection, "model.nominate", fleet, version, by, reason, trace_id)
    return Nominee(fleet=fleet, version=version, since=since, nominated_by=by, reason=reason)


def withdraw(engine: sa.Engine, fleet: str, *, by: str, reason: str, trace_id: str = "") -> Nominee:
    """End the nomination; what the challenger said is kept for a while.

    Raises:
        Conflict: None is nominated.
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        row = connection.execute(sa.text(_WITHDRAW), {"fleet": fleet}).one_or_none()
        if row is None:
            raise Conflict(f"fleet {fleet!r} has no challenger; nominate one")
        _audit(connection, "model.withdraw", fleet, row.version, by, reason, trace_id)
    return msgspec.convert(row._asdict(), Nominee)


def nominees(engine: sa.Engine) -> dict[str, Nominee]:
    """The challenger of every fleet that has one, by fleet.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        rows = connection.execute(sa.text(_NOMINEES)).all()
    return {row.fleet: msgspec.convert(row._asdict(), Nominee) for row in rows}


def keep(connection: sa.Connection, fleet: Fleet, version: str, said: Sequence[Said]) -> None:
    """Keep what a challenger says, if it is nominated still.

    Args:
        connection: An open transaction.
        fleet: Its fleet.
        version: The challenger.
        said: One a unit, each with a life and a cycle.
    """
    step_cycles = fleet.learning.label_cap_cycles / STEPS
    rows = sorted(
        (
            one.prognosis.unit,
            one.prognosis.life,
            int((one.prognosis.cycle or 0.0) // step_cycles),
            one.prognosis.cycle,
            one.ledger_id,
            msgspec.json.encode(one.prognosis).decode(),
            one.prognosis.computed_at,
        )
        for one in said
    )
    columns = zip(*rows, strict=True) if rows else [()] * len(_TYPES)
    given = {name: list(column) for name, column in zip(_TYPES, columns, strict=True)}
    connection.execute(sa.text(_KEEP), {"fleet": fleet.name, "version": version, **given})


def page(
    engine: sa.Engine, fleet: str, version: str, *, limit: int, after: str | None = None
) -> PairPage:
    """What both said of each unit the last time, by unit.

    Raises:
        InvalidCursor: The cursor is none that this gave.
        Unavailable: PostgreSQL does not answer.
    """
    last = cursors.decode(after, str, "this shadow") if after else ""
    given = {"fleet": fleet, "version": version, "after": last, "limit": limit + 1}
    with begin(engine) as connection:
        rows = connection.execute(sa.text(_PAGE), given).all()
    pairs = tuple(
        _pair(_prognosis(row.champion), _prognosis(row.challenger), row) for row in rows[:limit]
    )
    more = len(rows) > limit
    return PairPage(pairs=pairs, cursor=cursors.encode(pairs[-1].unit) if more else None)


def ended(engine: sa.Engine, fleet: str, version: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What champion and challenger said of lives that have ended since.

    Returns:
        Two of ``ENDED_SCHEMA``, row by row of the same readings.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        champion, challenger = (
            read_frame(connection, _ended(who), {"fleet": fleet, "version": version}, ENDED_SCHEMA)
            for who in ("ledger", "shadow")
        )
    return champion, challenger


def remove_old(engine: sa.Engine) -> int:
    """Remove what former challengers said long ago; how many rows.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        return connection.execute(sa.text(_REMOVE_OLD), {"kept": KEPT}).rowcount


def _pair(champion: Prognosis, challenger: Prognosis, row: sa.Row) -> Pair:
    points = challenger.rul_cycles, champion.rul_cycles
    a, b = points
    return Pair(
        unit=row.unit,
        life=row.life,
        cycle=row.cycle,
        champion=champion,
        challenger=challenger,
        difference_cycles=None if a is None or b is None else a - b,
    )


def _prognosis(text: str) -> Prognosis:
    return msgspec.json.decode(text, type=Prognosis)


def _audit(
    connection: sa.Connection,
    action: str,
    fleet: str,
    version: str,
    by: str,
    reason: str,
    trace_id: str,
) -> None:
    audit.append(
        connection,
        principal=by,
        action=action,
        target=version,
        fleet=fleet,
        detail={"why": reason},
        trace_id=trace_id,
    )


def _ended(who: str) -> str:
    figures = ", ".join(f"({who}.prognosis->>'{name}')::double precision" for name in FIGURES)
    return f"""
        SELECT shadow.unit, shadow.life, shadow.cycle,
            {who}.prognosis->'provenance'->>'model_version',
            {microseconds("shadow.computed_at")}, lives.outcome, lives.end_cycle,
            {who}.prognosis->>'state', {figures}
        FROM shadow_prognoses AS shadow
        JOIN ledger USING (ledger_id)
        JOIN lives ON lives.fleet = shadow.fleet AND lives.unit = shadow.unit
            AND lives.life = shadow.life
        WHERE shadow.fleet = %(fleet)s AND shadow.version = %(version)s
            AND lives.outcome <> 'running'
        ORDER BY shadow.unit, shadow.life, shadow.cycle
    """  # noqa: S608 - the parts are constants


_HOLD_CHAMPION = "SELECT version FROM champions WHERE fleet = :fleet FOR SHARE"
_NOMINATE = """
    INSERT INTO challengers (fleet, version, nominated_by, reason)
    VALUES (:fleet, :version, :by, :reason) ON CONFLICT DO NOTHING RETURNING since
"""
_COLUMNS = "fleet, version, since, nominated_by, reason"
_NOMINEE = f"SELECT {_COLUMNS} FROM challengers WHERE fleet = :fleet"  # noqa: S608
_NOMINEES = f"SELECT {_COLUMNS} FROM challengers"  # noqa: S608
_WITHDRAW = f"DELETE FROM challengers WHERE fleet = :fleet RETURNING {_COLUMNS}"  # noqa: S608
_TYPES = {
    "unit": "text",
    "life": "bigint",
    "step": "bigint",
    "cycle": "double precision",
    "ledger_id": "uuid",
    "prognosis": "text",
    "computed_at": "timestamptz",
}
_GIVEN = ", ".join(f"CAST(:{name} AS {dtype}[])" for name, dtype in _TYPES.items())
_KEEP = f"""
    INSERT INTO shadow_prognoses AS kept (
        fleet, version, unit, life, step, cycle, ledger_id, prognosis, computed_at
    )
    SELECT :fleet, :version, unit, life, step, cycle, ledger_id, CAST(prognosis AS json),
        computed_at
    FROM unnest({_GIVEN}) AS given ({", ".join(_TYPES)})
    WHERE EXISTS (SELECT FROM challengers WHERE fleet = :fleet AND version = :version)
    ON CONFLICT (fleet, version, unit, life, step) DO UPDATE SET
        cycle = excluded.cycle, ledger_id = excluded.ledger_id, prognosis = excluded.prognosis,
        computed_at = excluded.computed_at
    WHERE excluded.cycle >= kept.cycle
"""  # noqa: S608
_PAGE = """
    SELECT DISTINCT ON (shadow.unit) shadow.unit, shadow.life, shadow.cycle,
        ledger.prognosis::text AS champion, shadow.prognosis::text AS challenger
    FROM shadow_prognoses AS shadow JOIN ledger USING (ledger_id)
    WHERE shadow.fleet = :fleet AND shadow.version = :version AND shadow.unit > :after
    ORDER BY shadow.unit, shadow.life DESC, shadow.step DESC LIMIT :limit
"""
_REMOVE_OLD = """
    DELETE FROM shadow_prognoses AS old
    WHERE computed_at < clock_timestamp() - CAST(:kept AS interval) AND NOT EXISTS (
        SELECT FROM challengers WHERE fleet = old.fleet AND version = old.version
    )
"""
