"""The code location of the drill: the one place that can read what backups hold.

What belongs here: its asset, job and schedule. What does not: making backups (``definitions``),
what a drill does (``rul_backup.drill``).
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from rul_assets import reports
from rul_assets.backup import resources
from rul_assets.failures import explained
from rul_backup.keeping import Backups
from rul_backup.reading import LOCAL, OFF_SITE

EVERY_DAY = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(hours=26), warn_window=timedelta(hours=25)
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
        )
    ],
    group_name=reports.Group.BACKUPS,
    owners=reports.OWNERS,
)
@explained
def restore_drill(_context: dg.AssetExecutionContext, backups: dg.ResourceParam[Backups]):
    """The newest run, restored where nothing is lost by it, and compared with what was kept.

    From beyond the machine alone, where there is such a store: that is what a loss would leave.
    """
    store = OFF_SITE if backups.goes_off_site else LOCAL
    sealed, proof, champions, log_reaches_at = backups.prove(None, datetime.now(UTC), store)
    began = sealed.manifest.started_at
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
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="what_is_restored_is_what_was_kept",
                passed=not proof.differences,
                metadata={"differences": list(proof.differences)},
            )
        ],
    )


prove_backups = dg.define_asset_job(
    "prove_backups",
    selection=dg.AssetSelection.assets(restore_drill),
    description="Restore the newest backup into servers of its own, and compare.",
)


@dg.schedule(
    job=prove_backups,
    cron_schedule="43 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def prove_backups_every_night(backups: dg.ResourceParam[Backups]) -> dg.RunRequest | dg.SkipReason:
    """Where there is a backup."""
    if not backups.there():
        return dg.SkipReason("there is no backup yet")
    return dg.RunRequest()


@dg.definitions
def defs() -> dg.Definitions:
    """The drill, its job and when it is."""
    return dg.Definitions(
        assets=[restore_drill],
        jobs=[prove_backups],
        schedules=[prove_backups_every_night],
        resources={"backups": resources.backups},
        executor=dg.in_process_executor,
    )
