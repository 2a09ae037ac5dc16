"""Data acquisition: readings come in as they are.

What belongs here: the asset that takes them in. What does not: judging them (``manipulation``).
"""

from pathlib import Path

import dagster as dg
import sqlalchemy as sa

from rul_assets import intake, reports
from rul_assets.failures import explained
from rul_assets.partitions import FLEETS
from rul_store import fleets
from rul_store.histories import RAW
from rul_store.lake import Lake


@dg.asset(
    partitions_def=FLEETS,
    group_name=reports.Group.ACQUISITION,
    kinds={"polars", "postgres", "file"},
    owners=reports.OWNERS,
    check_specs=[
        dg.AssetCheckSpec(
            "files_are_readable",
            asset="raw_readings",
            partitions_def=FLEETS,
            description="No file had to be set aside. The others are taken in all the same.",
        )
    ],
)
@explained
def raw_readings(
    context: dg.AssetExecutionContext,
    root: dg.ResourceParam[Path],
    engine: dg.ResourceParam[sa.Engine],
    lake: dg.ResourceParam[Lake],
):
    """Every reading that ever came, as its source had it, with source and row.

    Files from the fleet's landing folder (C-MAPSS text, CSV, Parquet) and rows that were sent over
    HTTP. The same content is taken once; a broken file is set aside with its error. Also keeps
    ``units`` and ``lives`` in PostgreSQL.
    """
    fleet = fleets.load(root, context.partition_key)
    taken = intake.take(engine, root, lake, fleet)
    return dg.MaterializeResult(
        metadata=reports.table(
            lake,
            RAW,
            fleet.name,
            new_files=taken.files,
            new_rows=sum(taken.files.values()) + taken.sent_rows,
            repeated_files=list(taken.repeated),
            files_left_for_later=taken.changing,
        ),
        check_results=[
            dg.AssetCheckResult(
                check_name="files_are_readable",
                passed=not taken.broken,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"set_aside": len(taken.broken), "errors": taken.broken},
            )
        ],
    )
