"""Sensors: what happens outside the graph, and who asks for a training.

What belongs here: looking at the outside world, and asking for runs. What does not: deciding on a
training (``retraining``), what follows inside the graph (``automation``). All are on by default.
Concept: https://docs.dagster.io/guides/automate/sensors

A run is asked for once for what is new (its ``run_key``), and again when the run for it failed: the
file is still there. What is asked and the cursor that remembers it are one result, so neither is
there without the other.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import msgspec
import sqlalchemy as sa

from rul_assets import intake, situation
from rul_assets.defs.jobs import retrain, take_in
from rul_assets.partitions import FLEETS
from rul_assets.retraining import DAY, History, Policy, Request, decide
from rul_assets.told import DETAIL_TAG, EVIDENCE_TAG, REASON_TAG
from rul_core.errors import FleetError
from rul_core.schema import Fleet, Outcome
from rul_store import fleets, landing, lives, readings
from rul_store.lake import Lake

LOOK_SECONDS = 10
ATTEMPTS = 3
"""Runs for the same new files or rows as fast as they fail; then one an hour, for the reason may
pass, such as a full disk."""
ENDED_FOR_NOTHING = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=LOOK_SECONDS,
    emit_backfills=False,
    description="Moves data down the graph, as the assets' conditions say; one run a fleet.",
)


@dg.sensor(
    name="new_fleets",
    asset_selection=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=LOOK_SECONDS,
)
def new_fleets(
    context: dg.SensorEvaluationContext, root: dg.ResourceParam[Path]
) -> dg.SensorResult:
    """A description under ``fleets/`` makes a fleet; files without one are told of."""
    known = set(context.instance.get_dynamic_partitions(str(FLEETS.name)))
    added, told = [], []
    for name in fleets.names(root):
        try:
            fleets.load(root, name)
        except FleetError as error:
            told.append(str(error))
            continue
        if name not in known:
            added.append(name)
    described = {*fleets.names(root)}
    told += [
        f"landing/{name} has no description: write one with `rul fleet init {name} FILE`"
        for name in landing.fleets_with_landing(root)
        if name not in described
    ]
    requests = [FLEETS.build_add_request(added)] if added else []
    return dg.SensorResult(
        dynamic_partitions_requests=requests,
        skip_reason=None if added else dg.SkipReason("; ".join(told) or "no new fleet"),
    )


@dg.sensor(
    job=take_in,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=LOOK_SECONDS,
)
def new_files(
    context: dg.SensorEvaluationContext,
    root: dg.ResourceParam[Path],
    engine: dg.ResourceParam[sa.Engine],
) -> dg.SensorResult:
    """Files in a fleet's landing folder that have come to rest and were not taken."""
    requests = []
    for fleet in _fleets(context, root):
        ready = intake.landing_of(engine, root, fleet.name).look().ready
        if ready:
            requests.append(_take_in(context, fleet.name, f"files {_digest(ready)}"))
    return _asked(requests, "no new file")


@dg.sensor(
    job=take_in,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=6 * LOOK_SECONDS,
)
def new_rows(
    context: dg.SensorEvaluationContext,
    root: dg.ResourceParam[Path],
    engine: dg.ResourceParam[sa.Engine],
    lake: dg.ResourceParam[Lake],
) -> dg.SensorResult:
    """Readings that were sent over HTTP since the last take, and failures that people told of.

    Serving answers with each of them at once; the graph follows a minute later.
    """
    requests = []
    for fleet in _fleets(context, root):
        new = readings.take_after(engine, fleet, intake.watermark(lake, fleet.name), rows=1)
        if not new.readings.is_empty():
            requests.append(_take_in(context, fleet.name, f"rows to {new.watermark}"))
        elif situation.untold_failures(engine, lake, fleet.name):
            failed = lives.count_ended(engine, fleet.name, outcome=Outcome.FAILED)
            requests.append(_take_in(context, fleet.name, f"{failed} failed lives"))
    return _asked(requests, "no new row")


@dg.sensor(
    job=retrain,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=LOOK_SECONDS,
)
def retraining(
    context: dg.SensorEvaluationContext,
    root: dg.ResourceParam[Path],
    engine: dg.ResourceParam[sa.Engine],
    lake: dg.ResourceParam[Lake],
    policy: dg.ResourceParam[Policy],
) -> dg.SensorResult:
    """Asks for a training where there is a reason, which the run carries as a tag."""
    now = datetime.now(UTC)
    histories = msgspec.json.decode(context.cursor or "{}", type=dict[str, History])
    training, failed = _trainings(context.instance, now)
    requests, told = [], []
    for fleet in _fleets(context, root):
        name = fleet.name
        history, missed = histories.get(name, History()), failed.get(name, [])
        decision = decide(
            situation.of(engine, lake, fleet),
            history,
            policy,
            now=now,
            active=name in training,
            failed=missed,
        )
        if isinstance(decision, Request):
            histories[name] = history.after(decision, now)
            tried = missed.count(decision.evidence)
            requests.append(
                dg.RunRequest(
                    run_key=f"{name}: {decision.evidence}, try {tried + 1}",
                    partition_key=name,
                    tags={
                        REASON_TAG: decision.reason.value,
                        DETAIL_TAG: decision.detail,
                        EVIDENCE_TAG: decision.evidence,
                    },
                )
            )
        else:
            told.append(f"{name}: {decision.why}")
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else dg.SkipReason("; ".join(told) or "no fleet"),
        cursor=msgspec.json.encode(histories).decode(),
    )


def _fleets(context: dg.SensorEvaluationContext, root: Path) -> list[Fleet]:
    """The fleets that are known and described; ``new_fleets`` tells what is wrong with others."""
    found = []
    for name in sorted(context.instance.get_dynamic_partitions(str(FLEETS.name))):
        try:
            found.append(fleets.load(root, name))
        except FleetError as error:
            context.log.warning("%s; no sensor looks at this fleet until then", error)
    return found


def _take_in(context: dg.SensorEvaluationContext, fleet: str, evidence: str) -> dg.RunRequest:
    """A run for this evidence; another one after a failure, after ``ATTEMPTS`` one an hour."""
    tags = {EVIDENCE_TAG: evidence, "dagster/partition": fleet}
    failed = context.instance.get_runs_count(dg.RunsFilter(tags=tags, statuses=ENDED_FOR_NOTHING))
    attempt = f"try {failed + 1}" if failed < ATTEMPTS else f"{datetime.now(UTC):%Y-%m-%d %H} h"
    return dg.RunRequest(
        run_key=f"{fleet}: {evidence}, {attempt}",
        partition_key=fleet,
        tags={EVIDENCE_TAG: evidence},
    )


def _asked(requests: list[dg.RunRequest], otherwise: str) -> dg.SensorResult:
    return dg.SensorResult(
        run_requests=requests, skip_reason=None if requests else dg.SkipReason(otherwise)
    )


def _digest(paths: Iterable[Path]) -> str:
    """What the files are known by, as long as nobody touches them."""
    seen = hashlib.sha256()
    for path in paths:
        found = path.stat()
        seen.update(
            f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return seen.hexdigest()[:16]


def _trainings(
    instance: dg.DagsterInstance, now: datetime
) -> tuple[set[str], dict[str, list[str]]]:
    """Fleets that are being trained, and the evidence of trainings that failed in the last day."""
    training = {
        run.tags.get("dagster/partition", "")
        for run in instance.get_runs(dg.RunsFilter(statuses=ACTIVE))
        if run.job_name == retrain.name
        or "rul_model" in {key.to_user_string() for key in run.asset_selection or ()}
    }
    failed: dict[str, list[str]] = {}
    for record in instance.get_run_records(
        dg.RunsFilter(
            job_name=retrain.name,
            statuses=[dg.DagsterRunStatus.FAILURE],
            created_after=now - DAY - timedelta(hours=1),
        )
    ):
        tags = record.dagster_run.tags
        failed.setdefault(tags.get("dagster/partition", ""), []).append(tags.get(EVIDENCE_TAG, ""))
    return training, failed


@dg.definitions
def sensors() -> dg.Definitions:
    """All of them, so that none is forgotten."""
    return dg.Definitions(sensors=[automation, new_fleets, new_files, new_rows, retraining])
