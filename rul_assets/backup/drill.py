"""The code location of the drill: the one place that can read what backups hold.

What belongs here: its asset, those that open new runs and read again what is beyond the machine,
jobs and schedules. What does not: making backups (``definitions``), what a drill does
(``rul_backup.drill``).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from rul_assets import reports
from rul_assets.backup import resources
from rul_assets.failures import explained
from rul_backup.keeping import Backups
from rul_backup.reading import LOCAL, OFF_SITE
from rul_backup.verification import Finding

EVERY_DAY = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(hours=26), warn_window=timedelta(hours=25)
)

EVERY_HOUR = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(minutes=150), warn_window=timedelta(minutes=90)
)
AT_ONCE = timedelta(minutes=30)
"""For so long new runs are looked into; the rest waits for the next hour."""
ROUND = timedelta(days=28)
"""In so many days all that is beyond the machine is read again: two less than are promised."""
CAUGHT_UP = timedelta(days=1)
"""How much of a round is read at once after a silence, at most."""
_COMMON: dict[str, Any] = {
    "group_name": reports.Group.BACKUPS,
    "owners": reports.OWNERS,
}


@dg.asset(
    deps=["backup_manifest"],
    kinds={"file"},
    freshness_policy=EVERY_HOUR,
    check_specs=[
        dg.AssetCheckSpec(
            "every_new_run_opens",
            asset="new_runs",
            description="What each run kept is decrypted once, to the bytes that were kept, and "
            "read to its end as the dump, copy of Redis or tar that it is. One in which something "
            "is found is looked into every hour until it is gone.",
        )
    ],
    **_COMMON,
)
@explained
def new_runs(context: dg.AssetExecutionContext, backups: dg.ResourceParam[Backups]):
    """Runs of this machine that nobody has looked into yet, each opened and read once.

    What a run took over from an earlier one was opened with that.
    """
    last, _ = _last(context)
    looked = backups.look_into_new(
        last.get("until", 0), last.get("unsound", ()), AT_ONCE.total_seconds()
    )
    return dg.MaterializeResult(
        metadata={
            "runs": looked.runs,
            "until": looked.until,
            "left": looked.left,
            "unsound": looked.unsound,
        },
        check_results=[_whether("every_new_run_opens", looked.findings)],
    )


@dg.asset(
    deps=["offsite_copy"],
    kinds={"s3"},
    freshness_policy=EVERY_HOUR,
    check_specs=[
        dg.AssetCheckSpec(
            "what_is_beyond_is_what_was_written",
            asset="offsite_reread",
            description="Every object beyond the machine is read again at least once in 30 days, "
            "and has the checksum of what was written. One that has not is read every hour.",
        )
    ],
    **_COMMON,
)
@explained
def offsite_reread(context: dg.AssetExecutionContext, backups: dg.ResourceParam[Backups]):
    """The part of what is beyond the machine that was read longest ago."""
    name = "what_is_beyond_is_what_was_written"
    if not backups.goes_off_site:
        return dg.MaterializeResult(
            metadata={"read": "nothing: RUL_BACKUP_OFFSITE is not set"},
            check_results=[_whether(name, ())],
        )
    last, since = _last(context)
    found = backups.read_again(
        min(since, CAUGHT_UP) / ROUND, last.get("until", ""), last.get("unsound", ())
    )
    return dg.MaterializeResult(
        metadata={
            "objects": found.objects,
            "bytes": found.bytes,
            "until": found.until,
            "unsound": [one.object for one in found.findings],
        },
        check_results=[_whether(name, found.findings)],
    )


def _last(context: dg.AssetExecutionContext) -> tuple[dict[str, Any], timedelta]:
    """What the asset said of itself last, and how long ago; an hour where it never did."""
    event = context.instance.get_latest_materialization_event(context.asset_key)
    if event is None or event.asset_materialization is None:
        return {}, timedelta(hours=1)
    told = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    return told, datetime.now(UTC) - datetime.fromtimestamp(event.timestamp, UTC)


def _whether(name: str, findings: Sequence[Finding]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=not findings,
        metadata={"findings": [f"{one.object}: {one.problem}" for one in findings]},
    )


@dg.asset(
    deps=["backup_manifest", "offsite_copy"],
    kinds={"postgres", "redis"},
    freshness_policy=EVERY_DAY,
    check_specs=[
        dg.AssetCheckSpec(
            "what_is_restored_is_what_was_kept",
            asset="restore_drill",
            description="Every table of the restored database has the rows and sum, every sequence "
            "the place, that it had when it was kept; every fleet's champion computes its last "
            "prognoses again, bit for bit; a Redis starts from its copy; the log leads on to a "
            "server that has lost nothing.",
        ),
        dg.AssetCheckSpec(
            "what_champions_said_could_be_computed_again",
            asset="restore_drill",
            description="Of each fleet's champion that has said anything at least one prognosis "
            "was computed again. Those of readings that came in files cannot be: files are in no "
            "backup.",
        ),
    ],
    **_COMMON,
)
@explained
def restore_drill(context: dg.AssetExecutionContext, backups: dg.ResourceParam[Backups]):
    """The newest run, restored where nothing is lost by it, and compared with what was kept.

    From beyond the machine alone, where there is such a store: that is what a loss would leave.
    """
    steps: list[dict[str, object]] = []

    def tell(what: str, seconds: float | None) -> None:
        took = "" if seconds is None else f"{seconds:.1f}"
        context.log.info("%s%s", what, took and f": {took} s")
        steps.append({"step": what, "seconds": took})

    store = OFF_SITE if backups.goes_off_site else LOCAL
    sealed, proof, champions, log_reaches_at = backups.prove(None, datetime.now(UTC), store, tell)
    began = sealed.manifest.started_at
    silent = [one.fleet for one in champions if one.looked_at and not one.compared]
    return dg.MaterializeResult(
        metadata={
            "run": sealed.manifest.run,
            "store": store,
            "seconds": proof.seconds,
            "proven_at": proof.proven_at.isoformat(),
            "recovery_point": max(began, log_reaches_at or began).isoformat(),
            "recovery_point_seconds": proof.recovery_point_seconds,
            **({"log_reaches_at": log_reaches_at.isoformat()} if log_reaches_at else {}),
            "tables": sum(len(one.facts.get("tables", ())) for one in sealed.manifest.artefacts),
            "prognoses_compared": sum(one.compared for one in champions),
            "champions": reports.markdown_table(one._asdict() for one in champions),
            "steps": reports.markdown_table(steps),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="what_is_restored_is_what_was_kept",
                passed=not proof.differences,
                metadata={"differences": list(proof.differences)},
            ),
            dg.AssetCheckResult(
                check_name="what_champions_said_could_be_computed_again",
                passed=not silent,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"fleets": silent},
            ),
        ],
    )


prove_backups = dg.define_asset_job(
    "prove_backups",
    selection=dg.AssetSelection.assets(restore_drill),
    description="Restore the newest backup into servers of its own, and compare.",
)


look_into_backups = dg.define_asset_job(
    "look_into_backups",
    selection=dg.AssetSelection.assets(new_runs, offsite_reread),
    description="Open what new runs kept, and read again a part of what is beyond the machine.",
)


@dg.schedule(
    job=look_into_backups,
    cron_schedule="52 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def look_into_backups_every_hour(
    backups: dg.ResourceParam[Backups],
) -> dg.RunRequest | dg.SkipReason:
    """Where there is a backup."""
    return _where_there_is_one(backups)


@dg.schedule(
    job=prove_backups,
    cron_schedule="43 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def prove_backups_every_night(backups: dg.ResourceParam[Backups]) -> dg.RunRequest | dg.SkipReason:
    """Where there is a backup."""
    return _where_there_is_one(backups)


def _where_there_is_one(backups: Backups) -> dg.RunRequest | dg.SkipReason:
    if not backups.there():
        return dg.SkipReason("there is no backup yet")
    return dg.RunRequest()


@dg.definitions
def defs() -> dg.Definitions:
    """The drill and what else opens backups, and when."""
    return dg.Definitions(
        assets=[new_runs, offsite_reread, restore_drill],
        jobs=[look_into_backups, prove_backups],
        schedules=[look_into_backups_every_hour, prove_backups_every_night],
        resources={"backups": resources.backups},
        executor=dg.in_process_executor,
    )
