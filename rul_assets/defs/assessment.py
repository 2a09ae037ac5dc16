"""Health assessment: a model learnt from failed lives, and the champion it may become.

What belongs here: the two assets and the blocking checks between them. What does not: training
(``rul_core.model``), the ruling (``rul_core.release``), moving the champion
(``rul_store.champions``). Nothing here is automatic: the retraining sensor alone asks for it.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path

import dagster as dg
import msgspec
import polars as pl
import redis
import sqlalchemy as sa

from rul_assets import candidate, reports
from rul_assets.defs.detection import features
from rul_assets.defs.manipulation import core_readings
from rul_assets.failures import explained
from rul_assets.partitions import FLEETS
from rul_assets.settings import Learning
from rul_assets.tables import (
    CANDIDATES,
    CORE,
    CORE_GENERATION,
    FEATURES,
    LIVES,
    PIPELINE,
    RAW_ROWS,
    TRAINED_AT,
    VERSION,
)
from rul_assets.told import BY_HAND, LEAKAGE, REASON_TAG
from rul_core import release
from rul_core.errors import BundleError, StoreError
from rul_core.features import Pipeline
from rul_core.leakage import CATCHES, GateOutcome, GateReport, GateTest
from rul_core.leakage_report import not_run
from rul_core.model import Prepared, train
from rul_core.release import Contender, Ruling
from rul_core.schema import KEY, LIFE, UNIT, Outcome
from rul_core.scoring import BandReport
from rul_store import champions, fleets, lives, versions
from rul_store.champions import Champion
from rul_store.lake import Lake
from rul_store.lake_table import Table
from rul_store.models import LoadedModel, Origin, load_model, save_model
from rul_store.registry import BundleStore
from rul_store.versions import Ruled


@dg.asset(
    deps=[core_readings, features],
    partitions_def=FLEETS,
    group_name=reports.Group.ASSESSMENT,
    kinds={"catboost"},
    owners=reports.OWNERS,
    pool="training",
)
@explained
def rul_model(
    context: dg.AssetExecutionContext,
    root: dg.ResourceParam[Path],
    engine: dg.ResourceParam[sa.Engine],
    lake: dg.ResourceParam[Lake],
    bundles: dg.ResourceParam[BundleStore],
    learning: dg.ResourceParam[Learning],
) -> dg.MaterializeResult:
    """A candidate: a model of the fleet's failed lives, with its evidence, in a bundle of its own.

    The bundle never changes. Whether it is released is decided afterwards.
    """
    fleet = fleets.load(root, context.partition_key)
    # Before anything is read: a release is refused when the champion has moved since.
    champion = champions.current(engine, fleet.name)
    known = lives.read(engine, fleet.name)
    kept = _features(lake, fleet.name)
    readings = _readings_of_failed(lake, fleet.name, known)
    training = train(
        readings,
        known,
        fleet,
        learning.recipe,
        seed=learning.seed,
        prepared=Prepared(
            msgspec.json.decode(kept.notes[PIPELINE], type=Pipeline),
            lake.scan(FEATURES, fleet.name),
        ),
        progress=lambda what, share: context.log.info("%3.0f %% %s", 100 * share, what),
    )
    origin = Origin(
        recipe=learning.recipe,
        seed=learning.seed,
        readings=readings.height,
        failed_lives=known.filter(pl.col("outcome") == Outcome.FAILED.value).height,
        data=_states(lake, fleet.name),
        champion_generation=champion.generation if champion else 0,
        code_version=version_of("rul-platform"),
        run_id=context.run.run_id,
        reason=context.run.tags.get(REASON_TAG, BY_HAND),
    )
    now = datetime.now(UTC)
    found = candidate.examine(training, readings, known, learning, origin, now=now)
    version = save_model(
        bundles,
        training,
        origin=origin,
        examples=readings,
        reference=found.reference,
        trajectories=found.trajectories,
        metrics=found.metrics,
        gate=found.gate,
        card=found.card,
        pictures=found.pictures,
        now=now,
    )
    rmse, promise = found.metrics.clipped.rmse_cycles, release.promised_band(found.metrics)
    lake.append(
        CANDIDATES,
        fleet.name,
        version,
        pl.DataFrame(
            {
                "version": [version],
                "run_id": [origin.run_id],
                "trained_at": [now],
                "reason": [origin.reason],
                "failed_lives": [origin.failed_lives],
                "rmse_cycles": [rmse.value],
                "coverage_90": [promise.overall.share],
                "gate_passed": [found.gate.passed],
            }
        ),
        notes={
            VERSION: version,
            TRAINED_AT: msgspec.json.encode(now).decode(),
            LIVES: str(origin.failed_lives),
        },
    )
    return dg.MaterializeResult(
        metadata=reports.table(
            lake,
            CANDIDATES,
            fleet.name,
            version=version,
            reason=origin.reason,
            failed_lives=origin.failed_lives,
            readings=origin.readings,
            rmse_cycles=rmse.value,
            coverage_90=promise.overall.share,
            mean_width_90_cycles=promise.mean_width_cycles.value,
            leakage_gate=dg.MetadataValue.md(found.gate.to_markdown()),
            card=dg.MetadataValue.md(found.card),
            **{
                name.removesuffix(".png"): reports.picture(candidate.PICTURES[name], png)
                for name, png in found.pictures.items()
            },
        ),
        data_version=dg.DataVersion(version),
    )


@dg.multi_asset_check(
    name="candidate_is_sound",
    specs=[
        dg.AssetCheckSpec(
            name, asset=rul_model, blocking=True, description=told, partitions_def=FLEETS
        )
        for name, told in {
            "bundle_verifies": "Every checksum is right, and the model answers as it did when "
            "it was trained.",
            "coverage_is_kept": "The 90 % band holds the truth as often as promised, overall and "
            "near the end, as far as chance lets one tell.",
            **{f"{LEAKAGE}{name}": f"Catches {catches}." for name, catches in CATCHES.items()},
        }.items()
    ],
)
@explained
def candidate_is_sound(
    context: dg.AssetCheckExecutionContext,
    lake: dg.ResourceParam[Lake],
    bundles: dg.ResourceParam[BundleStore],
) -> Iterator[dg.AssetCheckResult]:
    """What must hold of a candidate, whatever the champion is: read from its bundle."""
    version = candidate_of(lake, context.partition_key, context.run)
    try:
        loaded = load_model(bundles, context.partition_key, version)
    except BundleError as error:
        for spec in context.check_specs:
            yield dg.AssetCheckResult(
                check_name=spec.name, passed=False, description=str(error), asset_key=spec.asset_key
            )
        return
    yield _check("bundle_verifies", passed=True, figures={"files": len(loaded.bundle.checksums)})
    band = release.promised_band(loaded.metrics())
    yield _check("coverage_is_kept", passed=band.promise_kept, figures=_coverage(band))
    for finding in _findings(loaded):
        yield _check(
            f"{LEAKAGE}{finding.name}",
            passed=finding.outcome is GateOutcome.PASSED,
            # A test that could not run is told, and holds nothing back.
            severe=finding.outcome is not GateOutcome.NOT_RUN,
            description=finding.detail,
            figures=finding.figures,
        )


@dg.asset(
    deps=[rul_model],
    partitions_def=FLEETS,
    group_name=reports.Group.ASSESSMENT,
    kinds={"postgres"},
    owners=reports.OWNERS,
    check_specs=[
        dg.AssetCheckSpec(
            "challenger_is_not_worse",
            asset="released_model",
            partitions_def=FLEETS,
            description="The challenger is not worse than the champion beyond noise. When it is, "
            "the champion stays: no fault, so nothing is held back.",
        )
    ],
)
@explained
def released_model(
    context: dg.AssetExecutionContext,
    engine: dg.ResourceParam[sa.Engine],
    root: dg.ResourceParam[Path],
    lake: dg.ResourceParam[Lake],
    bundles: dg.ResourceParam[BundleStore],
    release_channel: dg.ResourceParam[redis.Redis | None],
):
    """The champion: the model that answers. It moves to the candidate unless that is worse.

    Both are judged on the same failed lives, of which neither had seen what it is judged on. A
    champion whose bundle is damaged or missing is replaced without a comparison.
    """
    fleet = context.partition_key
    challenger = load_model(bundles, fleet, candidate_of(lake, fleet, context.run))
    champion = champions.current(engine, fleet)
    if champion is not None and champion.version == challenger.version:
        return _told(champion, Ruling(released=True, why="it was the champion already"))
    known = lives.read(engine, fleet)
    try:
        standing = _contender(bundles, champion)
    except BundleError as error:  # it can be loaded nowhere, and training again is the remedy
        context.log.warning("the champion cannot be compared with: %s", error)
        ruling = Ruling(released=True, why=f"the champion cannot speak: {error}")
    else:
        ruling = release.rule(
            Contender(challenger.model, challenger.evidence()),
            standing,
            _readings_of_failed(lake, fleet, known),
            known,
        )
    ruled = Ruled(passed=ruling.released, why=ruling.why)
    versions.keep_ruling(engine, fleet, challenger.version, ruled)
    if not ruling.released:
        context.log.warning("%s is not released: %s", challenger.version, ruling.why)
        return _told(champion, ruling)
    champion = champions.move(
        engine,
        root,
        fleet,
        challenger.version,
        expected_generation=challenger.manifest.origin.champion_generation,
        action=champions.Action.RELEASE,
        by=f"run {context.run.run_id}",
        reason=f"{challenger.manifest.origin.reason}; {ruling.why}",
        redis_client=release_channel,
    )
    return _told(champion, ruling)


def candidate_of(lake: Lake, fleet: str, run: dg.DagsterRun) -> str:
    """The version that this run trained, or the newest where it trained none.

    Raises:
        StoreError: None was ever trained.
    """
    known = lake.scan(CANDIDATES, fleet).select("version", "run_id").collect()
    own = known.filter(pl.col("run_id").is_in([run.run_id, run.get_root_run_id() or ""]))
    return (known if own.is_empty() else own)["version"][-1]


def _findings(loaded: LoadedModel) -> list[GateTest]:
    """What the gate said of each of its tests, also of those that a bundle's gate did not have."""
    report = msgspec.json.decode(loaded.bundle.read("gate.json"), type=GateReport)
    said = {finding.name: finding for finding in report.findings}
    return [
        said.get(name) or not_run(name, "the gate that this candidate passed had no such test")
        for name in CATCHES
    ]


def _contender(bundles: BundleStore, champion: Champion | None) -> Contender | None:
    if champion is None:
        return None
    loaded = load_model(bundles, champion.fleet, champion.version)
    return Contender(loaded.model, loaded.evidence())


def _features(lake: Lake, fleet: str) -> Table:
    """The features, once they are known to be those of the core readings as they stand.

    Raises:
        StoreError: They are not: the core readings' checks failed, or features are being made.
    """
    core, kept = lake.current(CORE, fleet), lake.current(FEATURES, fleet)
    if core is None or kept is None or kept.notes[CORE_GENERATION] != str(core.generation):
        raise StoreError(
            f"there are no features of the newest core readings of fleet {fleet!r}; see that lives "
            "have failed and the checks of core_readings pass, materialise features, train again"
        )
    return kept


def _readings_of_failed(lake: Lake, fleet: str, known: pl.DataFrame) -> pl.DataFrame:
    failed = known.filter(pl.col("outcome") == Outcome.FAILED.value).lazy()
    of_failed = lake.scan(CORE, fleet).join(failed, on=[UNIT, LIFE], how="semi")
    return of_failed.sort(KEY).collect()


def _states(lake: Lake, fleet: str) -> dict[str, str]:
    """Which state of each table a model was made of."""
    core, kept = lake.current(CORE, fleet), lake.current(FEATURES, fleet)
    return {
        RAW_ROWS: core.notes[RAW_ROWS] if core else "0",
        **{
            table.asset: f"generation {table.generation}, {table.runs[-1].folder}"
            for table in (core, kept)
            if table
        },
    }


def _told(champion: Champion | None, ruling: Ruling) -> dg.MaterializeResult:
    paired = {} if ruling.paired is None else msgspec.to_builtins(ruling.paired)
    return dg.MaterializeResult(
        metadata={
            "released": ruling.released,
            "why": ruling.why,
            "champion": champion.version if champion else "none",
            "generation": champion.generation if champion else 0,
            **paired,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="challenger_is_not_worse",
                passed=ruling.released,
                severity=dg.AssetCheckSeverity.WARN,
                description=ruling.why,
                metadata=paired,
            )
        ],
        data_version=dg.DataVersion(champion.version if champion else "none"),
    )


def _check(
    name: str,
    *,
    passed: bool,
    figures: Mapping[str, float],
    severe: bool = True,
    description: str | None = None,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=rul_model.key,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN,
        description=description,
        metadata=dict(figures),
    )


def _coverage(band: BandReport) -> dict[str, float]:
    """Figures of a band's coverage, with the interval that decides."""
    places = {"overall": band.overall, "near_end": band.near_end}
    return {
        f"{place}_{name}": getattr(found, name)
        for place, found in places.items()
        if found
        for name in ("share", "low", "high", "n")
    }
