"""What the champion says of the machines in service, and whether they still are what it knows.

What belongs here: walking through running lives, and windows of new readings. What does not: the
rules of a prognosis (``rul_core.prognose``) and of a drift (``rul_core.watch``).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
import polars as pl
import sqlalchemy as sa

from rul_assets.inspection import portions
from rul_assets.tables import DRIFT, RAW_ROWS, VERSION
from rul_core import quality, watch
from rul_core.drift import DriftReport
from rul_core.prognose import prognose, unread
from rul_core.prognosis import Prognosis, Seen
from rul_core.schema import LIFE, UNIT, Fleet, Outcome
from rul_store import advisories, histories, lives, readings
from rul_store.database import begin
from rul_store.lake import Lake
from rul_store.models import LoadedModel

WINDOW_ROWS = 1_000_000
"""Raw readings of one window of drift at most."""
UNITS_AT_ONCE = 100
"""So many are recorded in one transaction."""
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
PROGNOSES_SCHEMA = pl.Schema(
    {
        UNIT: pl.String,
        LIFE: pl.Int64,
        "cycle": pl.Float64,
        "state": pl.String,
        "detail": pl.String,
        **dict.fromkeys(_FIGURES, pl.Float64),
        "model_version": pl.String,
        "computed_at": pl.Datetime("us", "UTC"),
    }
)


class Basis(NamedTuple):
    """The raw readings that prognoses are computed from."""

    raw_rows: int
    """How many of them, from the first."""
    watermark: str
    """How far the rows that were sent are among them."""


class Recorded(NamedTuple):
    """What became of the prognoses of a fleet."""

    new: int
    """So many were new to the ledger."""
    overtaken: int
    """So many were left out: their lives were heard of, or ended, since the readings were read."""


def in_service(lives: pl.DataFrame) -> pl.DataFrame:
    """Unit and life of the running lives, one a unit.

    Args:
        lives: A lives frame.
    """
    newest = lives.filter(pl.col(LIFE) == pl.col(LIFE).max().over(UNIT))
    return newest.filter(pl.col("outcome") == Outcome.RUNNING.value).select(UNIT, LIFE)


def prognoses(
    champion: LoadedModel, lake: Lake, running: pl.DataFrame, *, raw_rows: int, now: datetime
) -> list[Prognosis]:
    """The prognosis of every unit in service, also of those without a usable reading.

    Args:
        champion: The released model. Its description of the fleet counts: a sensor that was lost
            since the training is one that nobody reads any more.
        lake: Has the raw readings.
        running: unit and life, one a unit.
        raw_rows: How many of the raw readings count.
        now: For provenance, and to tell stale data by.
    """
    fleet, seen = champion.model.fleet, Seen(raw_rows=raw_rows)
    counted = histories.count_raw(lake, fleet, running, raw_rows)
    silent, said = [running.join(counted, on=[UNIT, LIFE], how="anti")], []
    for some in portions(counted):
        wanted = some.select(UNIT, LIFE)
        known = histories.read_raw(lake, fleet, wanted, raw_rows)
        silent.append(wanted.join(known, on=[UNIT, LIFE], how="anti"))
        said += prognose(
            champion.model, known, version=champion.version, now=now, explained=True, seen=seen
        )
    said += [
        unread(fleet, unit, life, version=champion.version, now=now, seen=seen)
        for unit, life in pl.concat(silent).iter_rows()
    ]
    return said


def record(
    engine: sa.Engine, lake: Lake, fleet: Fleet, said: Sequence[Prognosis], basis: Basis | None
) -> Recorded:
    """Write what is still the last word to the ledger, and open and move advisories by it.

    Lives are locked as those lock them that take readings in, some at a time, so that an arriving
    reading waits for few rows. What was acknowledged of a life since ``basis`` was prognosed on its
    arrival: what is said here without it must not take that one's place.

    Args:
        engine: The database.
        lake: Has the raw readings.
        fleet: Its description.
        said: One a unit.
        basis: What it is said from; none where no reading was looked at.

    Raises:
        Unavailable: PostgreSQL does not answer; what was recorded so far stays.
    """
    new, overtaken = 0, 0
    for first in range(0, len(said), UNITS_AT_ONCE):
        some = said[first : first + UNITS_AT_ONCE]
        with begin(engine) as connection:
            last = some if basis is None else _still_last(connection, lake, fleet.name, some, basis)
            new += len(advisories.say(connection, fleet, last).new)
        overtaken += len(some) - len(last)
    return Recorded(new, overtaken)


def _still_last(
    connection: sa.Connection, lake: Lake, fleet: str, said: Sequence[Prognosis], basis: Basis
) -> list[Prognosis]:
    """Those of running lives of which nothing else came; from here on nothing else does."""
    units = [one.unit for one in said]
    standing = lives.lock(connection, fleet, units)
    newer = readings.lives_since(connection, fleet, basis.watermark, units)
    newer |= histories.lives_since(lake, fleet, basis.raw_rows)
    return [
        one
        for one in said
        if (one.unit, one.life) not in newer
        and one.life == max(standing[one.unit])
        and standing[one.unit][one.life].outcome is Outcome.RUNNING
    ]


def as_frame(said: list[Prognosis]) -> pl.DataFrame:
    """Prognoses in ``PROGNOSES_SCHEMA``, without reasons, which the ledger keeps."""
    rows = [
        {**msgspec.structs.asdict(one), "model_version": one.provenance.model_version}
        for one in said
    ]
    return pl.DataFrame(
        [{name: row[name] for name in PROGNOSES_SCHEMA} for row in rows],
        schema=PROGNOSES_SCHEMA,
        orient="row",
    )


def watch_drift(
    lake: Lake, fleet: Fleet, champion: LoadedModel, *, now: datetime
) -> DriftReport | None:
    """Compare what came in since the last window with what the champion learnt, and keep it.

    Windows follow one another in the order in which raw readings came, so no reading is in two.

    Returns:
        The report, or none while too little has come in to say anything.
    """
    kept = lake.current(DRIFT, fleet.name)
    begin = int(champion.manifest.origin.data[RAW_ROWS])
    if kept is not None and kept.notes[VERSION] == champion.version:
        begin = int(kept.notes[RAW_ROWS])
    window = lake.scan(histories.RAW, fleet.name).slice(begin, WINDOW_ROWS).collect()
    conditions = champion.model.pipeline.conditions
    if not set(conditions.sensors).issubset({*window.columns} & {*fleet.channels}):
        return None
    usable = quality.inspect(window, fleet).usable
    report = watch.compare(usable, champion.reference(), conditions)
    if not {score.channel for score in report.scores}.intersection(conditions.sensors):
        return None
    end = begin + window.height
    lake.append(
        DRIFT,
        fleet.name,
        f"{champion.version}-{end}",
        pl.DataFrame(
            {
                "model_version": [champion.version],
                "from_row": [begin],
                "to_row": [end],
                "computed_at": [now],
                "drifted": [len(report.drifted)],
                "report": [msgspec.json.encode(report).decode()],
            }
        ),
        notes={VERSION: champion.version, RAW_ROWS: str(end)},
    )
    return report
