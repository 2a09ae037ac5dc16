"""What is known of a fleet when it is asked whether to learn anew.

What belongs here: reading it together from where it is kept. What does not: the decision
(``retraining``).
"""

from datetime import datetime

import msgspec
import polars as pl
import sqlalchemy as sa

from rul_assets.retraining import Learnt, Situation
from rul_assets.tables import (
    BEGUN_AT,
    CANDIDATES,
    CORE,
    CORE_GENERATION,
    DRIFT,
    FEATURES,
    LIVES,
    RAW_ROWS,
    TRAINED_AT,
    VERSION,
)
from rul_core import drift, watch
from rul_core.drift import DriftReport
from rul_core.schema import UNIT, Fleet, Outcome
from rul_store import champions, lives, outcomes
from rul_store.histories import RAW
from rul_store.lake import Lake
from rul_store.lake_table import Table

WINDOWS = 3
"""Windows of live readings that must agree before a drift counts."""


def of(engine: sa.Engine, lake: Lake, fleet: Fleet) -> Situation:
    """The situation of a fleet: a few small queries and files, no model is opened.

    Args:
        engine: Knows lives and champions.
        lake: Knows candidates, outcomes and drift.
        fleet: Its description.
    """
    failed = lives.read(engine, fleet.name).filter(pl.col("outcome") == Outcome.FAILED.value)
    champion = champions.current(engine, fleet.name)
    version = champion.version if champion else ""
    outcomes = outcomes_of(lake, fleet.name, version)
    return Situation(
        failed_lives=failed.height,
        failed_units=failed[UNIT].n_unique(),
        learnt=learnt(lake, fleet.name),
        coverage=watch.live_coverage(outcomes, cap_cycles=fleet.learning.label_cap_cycles),
        drifted=drifted(lake, fleet.name, version),
        under_way=under_way(engine, lake, fleet.name),
    )


def under_way(engine: sa.Engine, lake: Lake, fleet: str) -> str:
    """Why the failed lives cannot be learnt from just now; empty when they can.

    What counts is that the core readings were made after the last failure became known, not that
    they hold every reading: where machines send all the time, they never do.
    """
    core, kept = lake.current(CORE, fleet), lake.current(FEATURES, fleet)
    if core is None:
        failed = lives.count_ended(engine, fleet, outcome=Outcome.FAILED)
        return f"{CORE} has not been made yet" if failed else ""
    if _failed_since(engine, core):
        return f"a life has failed since {CORE} was made"
    if kept is None or kept.notes[CORE_GENERATION] != str(core.generation):
        return f"{FEATURES} has not caught up with {CORE}"
    return ""


def untold_failures(engine: sa.Engine, lake: Lake, fleet: str) -> int:
    """How many lives have failed since core readings were made that hold all there is to hold.

    Where the failure came without another reading, as when a person told of it, nothing else would
    have them made again.
    """
    core, raw = lake.current(CORE, fleet), lake.current(RAW, fleet)
    if core is None or raw is None or int(core.notes[RAW_ROWS]) < raw.rows:
        return 0
    return _failed_since(engine, core)


def _failed_since(engine: sa.Engine, core: Table) -> int:
    begun_at = msgspec.json.decode(core.notes[BEGUN_AT], type=datetime)
    return lives.count_ended(engine, core.fleet, since=begun_at, outcome=Outcome.FAILED)


def learnt(lake: Lake, fleet: str) -> Learnt | None:
    """The newest candidate; none before the first training."""
    table = lake.current(CANDIDATES, fleet)
    if table is None:
        return None
    return Learnt(
        version=table.notes[VERSION],
        at=msgspec.json.decode(table.notes[TRAINED_AT], type=datetime),
        lives=int(table.notes[LIVES]),
    )


def outcomes_of(lake: Lake, fleet: str, version: str) -> pl.DataFrame:
    """What became of the version's prognoses, in ``watch.OUTCOMES_SCHEMA``."""
    if lake.current(outcomes.ASSET, fleet) is None:
        return pl.DataFrame(schema=watch.OUTCOMES_SCHEMA)
    return lake.scan(outcomes.ASSET, fleet).filter(pl.col("model_version") == version).collect()


def drifted(lake: Lake, fleet: str, version: str) -> tuple[str, ...]:
    """Channels that drifted from what the version learnt, window after window."""
    if lake.current(DRIFT, fleet) is None:
        return ()
    windows = lake.scan(DRIFT, fleet).filter(pl.col("model_version") == version).collect()
    reports = [
        msgspec.json.decode(report, type=DriftReport) for report in windows["report"].tail(WINDOWS)
    ]
    return tuple(sorted({channel for _, channel in drift.confirmed(reports, windows=WINDOWS)}))
