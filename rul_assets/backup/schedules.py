"""When backups are made, looked at, proved, and let go. All times are UTC.

What belongs here: jobs and their schedules. What does not: what they do (``assets``).

Each is a little away from the full hour, where everybody else begins.
"""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from rul_assets.backup import assets
from rul_assets.failures import explained
from rul_backup.keeping import Backups
from rul_backup.mending import Fate
from rul_core.errors import StoreError

back_up = dg.define_asset_job(
    "back_up",
    selection=dg.AssetSelection.assets(
        assets.postgres_snapshot,
        assets.redis_snapshot,
        assets.model_snapshot,
        assets.base_snapshot,
        assets.stack_snapshot,
        assets.backup_manifest,
        assets.offsite_copy,
    ).without_checks()
    | dg.AssetSelection.checks(
        dg.AssetCheckKey(assets.backup_manifest.key, "nothing_has_shrunk"),
        dg.AssetCheckKey(assets.stack_snapshot.key, "what_the_stack_has_is_kept"),
    ),
    description="Keep what the platform has.",
    # What a process that died had kept is in no run of backups: the next one begins at the dump.
    tags={"dagster/retry_strategy": "ALL_STEPS"},
)
look_at_backups = dg.define_asset_job(
    "look_at_backups",
    selection=dg.AssetSelection.checks(
        assets.every_object_is_what_was_written, assets.every_object_is_there
    ),
    description="See that every object of every backup is what was written.",
)


@dg.op
@explained
def let_go(context: dg.OpExecutionContext, backups: dg.ResourceParam[Backups]) -> None:
    """Let runs go that need not stay, and remove what no run promises.

    What would go is written into the log before any does: here, and then beyond the machine, which
    may not answer.
    """
    now = datetime.now(UTC)
    try:
        plan = backups.plan(backups.policy(), now)
    except StoreError:  # of the clock, which has no say in what no run promises
        backups.let_go((), now)
        raise
    frees = backups.frees_bytes(plan)
    for number, reason in plan.keep.items():
        context.log.debug("%d stays: %s", number, reason)
    context.log.info(
        "planned: %d runs go and %d stay, which frees %d bytes: %s",
        len(plan.drop), len(plan.keep), frees, list(plan.drop),
    )  # fmt: skip
    went = backups.let_go(plan.drop, now)
    context.log.info("%d runs went, with %d objects", len(plan.drop), len(went))
    beyond = backups.plan_beyond(now)
    context.log.info(
        "planned: %d runs may be gone from beyond the machine: %s",
        len(beyond.drop), list(beyond.drop),
    )  # fmt: skip
    backups.let_expire(beyond.drop)
    context.add_output_metadata(
        {
            "went": list(plan.drop),
            "stay": len(plan.keep),
            "bytes": frees,
            "objects": len(went),
            "expired": list(beyond.drop),
        }
    )


class Mending(dg.Config):
    """What somebody decided who launches it."""

    give_up: bool = Field(
        default=False, description="also give up what is nowhere, and what its runs kept"
    )
    lost_beyond: bool = Field(
        default=False, description="what is not beyond the machine any more is lost there"
    )


@dg.op
@explained
def mend(
    context: dg.OpExecutionContext, config: Mending, backups: dg.ResourceParam[Backups]
) -> None:
    """Bring manifests that are damaged or missing back; what is nowhere is given up if asked."""
    found = backups.to_mend(lost_beyond=config.lost_beyond)
    lost = [one for one in found if one.fate is Fate.GIVEN_UP]
    asked = [one for one in found if config.give_up or one not in lost]
    for one in asked:
        context.log.info("%s", one)
    backups.mend(asked)
    context.add_output_metadata(
        {fate.name.lower(): [one.object for one in found if one.fate is fate] for fate in Fate}
    )
    if lost and not config.give_up:
        raise StoreError(
            f"{', '.join(one.object for one in lost)}: nowhere any more; launch this again with "
            "`give_up: true` to give them up, and what their runs kept"
        )
    if stay := [str(one) for one in found if one.fate is Fate.STAYS]:
        raise StoreError("; ".join(stay))


@dg.job(description="Bring manifests of backups back, or give them up; nobody does but you.")
def mend_backups() -> None:
    """Make the line of manifests whole."""
    mend()


@dg.job(description="Let backups go that are older than they need to be.")
def let_backups_go() -> None:
    """Let go what is old."""
    let_go()


def _when(job: object, cron: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        job=job,  # ty: ignore[invalid-argument-type]
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


SCHEDULES = [
    _when(back_up, "7,37 * * * *"),
    _when(look_at_backups, "22 * * * *"),
    _when(let_backups_go, "12 4 * * *"),
]
