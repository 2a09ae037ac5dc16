"""Housekeeping: Dagster's history is kept for a while, and not for ever.

What belongs here: the job that forgets old runs and their events. What does not: ticks (the
instance's ``retention``), log files and containers (``rul_assets.janitor``), tables that nobody
reads any more (``rul_store.lake`` removes those as it writes).

A run is kept, however old, while it is the last that made a partition of an asset or judged one of
its checks: Dagster would else take the partition for missing, and make it anew.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

KEEP_DAYS = 30
PAGE = 500
DAILY = "17 3 * * *"
ENDED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]


class Keeping(dg.Config):
    """How long history is kept."""

    days: int = KEEP_DAYS


@dg.op
def forget_old_runs(context: dg.OpExecutionContext, config: Keeping) -> None:
    """Remove runs that ended long ago, with all their events, but those that are still the last."""
    until = datetime.now(UTC) - timedelta(days=config.days)
    needed = set(runs_that_are_the_last(context.instance))
    forgotten = kept = 0
    for run_id in list(_old(context.instance, until)):
        if run_id in needed:
            kept += 1
        else:
            context.instance.delete_run(run_id)
            forgotten += 1
    context.log.info(
        "%d runs that ended before %s are forgotten, %d are kept as the last of a partition",
        forgotten, f"{until:%Y-%m-%d}", kept,
    )  # fmt: skip
    context.add_output_metadata({"forgotten": forgotten, "kept": kept})


def runs_that_are_the_last(instance: dg.DagsterInstance) -> Iterator[str]:
    """The ids of runs that last made a partition of an asset, or last judged one.

    Args:
        instance: Dagster's.
    """
    for key in instance.get_asset_keys():
        last = instance.get_latest_materialization_event(key)
        if last is not None:  # of an asset without partitions it is the only one
            yield last.run_id
        newest = [
            *instance.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION
            ).values()
        ]
        for start in range(0, len(newest), PAGE):
            some = dg.AssetRecordsFilter(key, storage_ids=newest[start : start + PAGE])
            for record in instance.fetch_materializations(some, limit=PAGE).records:
                yield record.run_id
    judged: dict[tuple[str, ...], str] = {}
    for record in _evaluations(instance):
        event = record.event_log_entry.get_dagster_event()
        said = event.asset_check_evaluation_data
        judged[said.asset_key.to_user_string(), said.check_name, said.partition or ""] = (
            record.run_id
        )
    yield from judged.values()


def _evaluations(instance: dg.DagsterInstance) -> Iterator[dg.EventLogRecord]:
    """Every judgement, the oldest first."""
    after = 0
    while True:
        records = instance.event_log_storage.get_event_records(
            dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=after),
            limit=PAGE,
            ascending=True,
        )
        yield from records
        if len(records) < PAGE:
            return
        after = records[-1].storage_id


def _old(instance: dg.DagsterInstance, until: datetime) -> Iterator[str]:
    cursor = None
    while True:
        page = instance.get_run_records(
            dg.RunsFilter(statuses=ENDED, updated_before=until), limit=PAGE, cursor=cursor
        )
        yield from (record.dagster_run.run_id for record in page)
        if len(page) < PAGE:
            return
        cursor = page[-1].dagster_run.run_id


@dg.job(description="Forget runs and events that are older than thirty days.")
def housekeeping() -> None:
    """Forget what is old."""
    forget_old_runs()


every_night = dg.ScheduleDefinition(
    job=housekeeping,
    cron_schedule=DAILY,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


@dg.definitions
def kept_for_a_while() -> dg.Definitions:
    """The job and its schedule."""
    return dg.Definitions(jobs=[housekeeping], schedules=[every_night])
