"""The code location of whoever makes backups, looks at them and lets them go.

It cannot read what it keeps; the drill (``drill``), which can, is another.
"""

import dagster as dg

from rul_assets.backup import assets, resources, schedules


@dg.definitions
def defs() -> dg.Definitions:
    """Assets, checks, jobs, schedules and resources.

    A run is one process, so that its assets make one run of backups.
    """
    return dg.Definitions(
        assets=[
            assets.postgres_snapshot,
            assets.redis_snapshot,
            assets.model_snapshot,
            assets.base_snapshot,
            assets.stack_snapshot,
            assets.backup_manifest,
            assets.offsite_copy,
        ],
        asset_checks=[assets.every_object_is_what_was_written, assets.every_object_is_there],
        jobs=[
            schedules.back_up,
            schedules.look_at_backups,
            schedules.let_backups_go,
            schedules.mend_backups,
        ],
        schedules=schedules.SCHEDULES,
        resources={"backups": resources.backups, "underway": resources.underway},
        executor=dg.in_process_executor,
    )
