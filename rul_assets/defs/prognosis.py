"""Prognostic assessment: what the champion says of every machine, and what came of it.

What belongs here: the two assets. What does not: the rules (``rul_core.prognose``,
``rul_core.watch``), the ledger (``rul_store.ledger``), advisories (the next block of ISO 13374).
"""

from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import redis
import sqlalchemy as sa

from rul_assets import outlook, reports, situation
from rul_assets.automation import when_inputs_are_sound, when_readings_or_the_champion_change
from rul_assets.defs.assessment import released_model
from rul_assets.defs.manipulation import core_readings
from rul_assets.failures import explained
from rul_assets.partitions import FLEETS
from rul_assets.tables import CORE, PROGNOSES, RAW_ROWS, WATERMARK
from rul_assets.told import EXCESS_PSI, RESEMBLANCE
from rul_core import pictures, track_record, watch
from rul_core.drift import DriftReport
from rul_core.errors import StoreError
from rul_core.prognose import not_configured
from rul_core.prognosis import VALID_STATES
from rul_core.quality import within_limits
from rul_core.schema import KEY, LIFE, UNIT, Fleet
from rul_store import champions, fleets, histories, ledger, lives, news, outcomes
from rul_store.database import begin, time_of
from rul_store.lake import Lake
from rul_store.models import LoadedModel, load_model
from rul_store.registry import BundleStore


@dg.asset(
    deps=[core_readings, released_model],
    partitions_def=FLEETS,
    group_name=reports.Group.PROGNOSIS,
    kinds={"catboost", "postgres"},
    owners=reports.OWNERS,
    automation_condition=when_readings_or_the_champion_change(),
    check_specs=[
        dg.AssetCheckSpec(
            RESEMBLANCE,
            asset=PROGNOSES,
            partitions_def=FLEETS,
            description="What came in looks like what the champion learnt from, condition by "
            "condition and at the same stage of life. A drift that is confirmed asks for training.",
        )
    ],
)
@explained
def fleet_prognoses(
    context: dg.AssetExecutionContext,
    root: dg.ResourceParam[Path],
    engine: dg.ResourceParam[sa.Engine],
    lake: dg.ResourceParam[Lake],
    bundles: dg.ResourceParam[BundleStore],
    release_channel: dg.ResourceParam[redis.Redis | None],
):
    """The champion's prognosis of every machine in service, at its newest reading.

    Each is written once to the ledger, and the newest of each unit to ``current_prognoses``, which
    serving ranks. They are computed from the raw readings that ``core_readings`` was made of, just
    as prognoses over HTTP are, so that both say the same of the same readings and either can be
    computed again. Of a machine that was heard of since, nothing is recorded: serving has said the
    newer already, or the next run does. Without a champion each machine is told to be
    ``not_configured``.
    """
    fleet = fleets.load(root, context.partition_key)
    ticket = lake.ticket(PROGNOSES, fleet.name)
    with begin(engine) as connection:
        now = time_of(connection)
    champion = _champion(engine, bundles, fleet.name)
    running = outlook.in_service(lives.read(engine, fleet.name))
    if champion is None:
        said = not_configured(fleet, running[UNIT].to_list(), now)
        basis = drift = None
    else:
        basis = _basis(lake, fleet.name)
        said = outlook.prognoses(champion, lake, running, raw_rows=basis.raw_rows, now=now)
        drift = outlook.watch_drift(lake, fleet, champion, now=now)
    recorded = outlook.record(engine, lake, fleet, said, basis)
    news.announce(release_channel, fleet.name)
    frame = outlook.as_frame(said)
    lake.write(PROGNOSES, fleet.name, context.run.run_id, frame, ticket=ticket)
    valid = sum(one.state in VALID_STATES for one in said)
    return dg.MaterializeResult(
        metadata=reports.table(
            lake,
            PROGNOSES,
            fleet.name,
            champion=champion.version if champion else "none",
            new_in_ledger=recorded.new,
            units_heard_of_since=recorded.overtaken,
            states=reports.counts(frame, "state"),
            units_without_a_valid_prognosis=len(said) - valid,
            most_at_risk=_most_at_risk(frame, fleet),
            **(_fan(champion, lake, frame, basis.raw_rows) if champion and basis else {}),
        ),
        check_results=[_drift_check(lake, fleet, champion, drift)],
    )


@dg.asset(
    deps=[fleet_prognoses],
    partitions_def=FLEETS,
    group_name=reports.Group.PROGNOSIS,
    kinds={"polars", "postgres"},
    owners=reports.OWNERS,
    automation_condition=when_inputs_are_sound(),
    check_specs=[
        dg.AssetCheckSpec(
            "bands_hold_in_life",
            asset=outcomes.ASSET,
            partitions_def=FLEETS,
            description="The champion's bands held the truth of units that have failed since as "
            "often as promised, as far as chance lets one tell. Otherwise training is asked for.",
        )
    ],
)
@explained
def realised_outcomes(
    context: dg.AssetExecutionContext,
    root: dg.ResourceParam[Path],
    engine: dg.ResourceParam[sa.Engine],
    lake: dg.ResourceParam[Lake],
):
    """Every prognosis of a life that has failed since, beside what happened.

    The error, whether the bands held, and how early the first warning came; with them the track
    record, which the service prints. Lives that were replaced or removed are censored: nobody knows
    how long they would have lived.
    """
    fleet = fleets.load(root, context.partition_key)
    cap = fleet.learning.label_cap_cycles
    ticket = lake.ticket(outcomes.ASSET, fleet.name)
    ended = ledger.ledger_frame(engine, fleet.name, ended=True)
    matched = watch.match(ended, cap_cycles=cap)
    record = track_record.of(matched, ended, cap_cycles=cap)
    outcomes.write(lake, fleet.name, context.run.run_id, matched, record, ticket=ticket)
    champion = champions.current(engine, fleet.name)
    version = champion.version if champion else ""
    spoken = record.of_version(version)
    kept = {held.level: held.coverage for held in spoken.coverage} if spoken else {}
    figures = {
        f"{name}_{level * 100:.0f}": getattr(found, name)
        for level, found in kept.items()
        for name in ("share", "low", "high")
    }
    return dg.MaterializeResult(
        metadata=reports.table(
            lake,
            outcomes.ASSET,
            fleet.name,
            lives=record.overall.lives,
            censored_prognoses=ended.filter(pl.col("outcome") != "failed").height,
            mean_absolute_error_cycles=record.overall.mean_abs_error_cycles,
            median_lead_cycles=matched.unique(KEY[:2])["lead_cycles"].median(),
            **_outcomes_picture(matched, fleet),
        ),
        check_results=[
            dg.AssetCheckResult(
                check_name="bands_hold_in_life",
                passed=all(found.reaches(level) for level, found in kept.items()),
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"champion": version, **figures},
            )
        ],
    )


def _champion(engine: sa.Engine, bundles: BundleStore, fleet: str) -> LoadedModel | None:
    champion = champions.current(engine, fleet)
    return load_model(bundles, fleet, champion.version) if champion else None


def _basis(lake: Lake, fleet: str) -> outlook.Basis:
    """The raw readings that passed the checks of ``core_readings``."""
    core = lake.current(CORE, fleet)
    if core is None:
        raise StoreError(f"fleet {fleet!r} has no {CORE} yet; materialise it first")
    # A table of an earlier release has no watermark: what was sent may be newer than it.
    return outlook.Basis(int(core.notes[RAW_ROWS]), core.notes.get(WATERMARK, ""))


def _most_at_risk(frame: pl.DataFrame, fleet: Fleet) -> dg.MarkdownMetadataValue:
    worst = frame.drop_nulls("failure_probability").sort(
        "failure_probability", UNIT, descending=[True, False]
    )
    return reports.markdown_table(
        {
            "unit": row[UNIT],
            f"P(failure within {row['horizon_cycles']:g} {fleet.unit_of_life})": row[
                "failure_probability"
            ],
            "RUL": row["rul_cycles"],
            "safe": row["safe_cycles"],
            "state": row["state"],
        }
        for row in worst.head(10).iter_rows(named=True)
    )


def _fan(
    champion: LoadedModel, lake: Lake, frame: pl.DataFrame, raw_rows: int
) -> dict[str, dg.MarkdownMetadataValue]:
    """What the champion says along the life of the unit most at risk."""
    known = frame.drop_nulls("failure_probability").sort("failure_probability", UNIT)
    if known.is_empty():
        return {}
    worst, model = known.row(-1, named=True), champion.model
    life = pl.DataFrame([worst]).select(UNIT, LIFE)
    readings = histories.read_raw(lake, model.fleet, life, raw_rows)
    png = pictures.fan_of_one_life(
        model.predict(within_limits(readings, model.fleet)),
        cap_cycles=model.fleet.learning.label_cap_cycles,
        unit=worst[UNIT],
        unit_of_life=model.fleet.unit_of_life,
    )
    return {"fan_of_the_unit_most_at_risk": reports.picture("The unit most at risk", png)}


def _drift_check(
    lake: Lake, fleet: Fleet, champion: LoadedModel | None, report: DriftReport | None
) -> dg.AssetCheckResult:
    confirmed = situation.drifted(lake, fleet.name, champion.version) if champion else ()
    scores = report.by_channel() if report else {}
    return dg.AssetCheckResult(
        check_name=RESEMBLANCE,
        passed=not confirmed,
        severity=dg.AssetCheckSeverity.WARN,
        description=None if report else "too little has come in since the last window",
        metadata={
            "confirmed": list(confirmed),
            "drifted_in_this_window": sorted({s.channel for s in report.drifted} if report else ()),
            EXCESS_PSI: {name: float(score) for name, score in scores.items()},
        },
    )


def _outcomes_picture(matched: pl.DataFrame, fleet: Fleet) -> dict[str, dg.MarkdownMetadataValue]:
    shown = matched.drop_nulls("error_cycles")
    if shown.is_empty():
        return {}
    cap = fleet.learning.label_cap_cycles
    png = pictures.predicted_against_true(
        np.minimum(shown["true_rul_cycles"].to_numpy(), cap),
        shown["rul_cycles"].to_numpy(),
        cap_cycles=cap,
        unit_of_life=fleet.unit_of_life,
        title="Said against what happened",
    )
    return {"said_against_what_happened": reports.picture("Said against what happened", png)}
