"""Data manipulation: readings that can be used, and what was wrong with the others.

What belongs here: the asset and its blocking checks. What does not: the rules
(``rul_core.quality``), walking through a fleet (``inspection``).
"""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import msgspec
import polars as pl
import sqlalchemy as sa

from rul_assets import intake, reports
from rul_assets.automation import when_inputs_are_sound
from rul_assets.defs.acquisition import raw_readings
from rul_assets.failures import explained
from rul_assets.inspection import MOST_SET_ASIDE, Inspection
from rul_assets.partitions import FLEETS
from rul_assets.tables import BEGUN_AT, CORE, CORE_ISSUES, CORE_SET_ASIDE, RAW_ROWS, WATERMARK
from rul_core.conditions import Conditions
from rul_core.errors import BundleError
from rul_store import champions, fleets
from rul_store.histories import RAW
from rul_store.lake import Lake
from rul_store.models import load_model
from rul_store.registry import BundleStore

CHECKS = {
    "some_readings_are_usable": "At least one reading can be used.",
    "no_column_is_missing": "Every setting and sensor of the description has a value somewhere.",
    "keys_are_unique": "No unit, life and cycle occurs twice.",
    "few_rows_are_set_aside": (
        f"At most {MOST_SET_ASIDE:.0%} of the readings are lost. Repeated rows do not count: "
        "exports overlap."
    ),
}


@dg.asset(
    deps=[raw_readings],
    partitions_def=FLEETS,
    group_name=reports.Group.MANIPULATION,
    kinds={"polars"},
    owners=reports.OWNERS,
    automation_condition=when_inputs_are_sound(),
    check_specs=[
        dg.AssetCheckSpec(
            name, asset=CORE, blocking=True, description=description, partitions_def=FLEETS
        )
        for name, description in CHECKS.items()
    ],
)
@explained
def core_readings(
    context: dg.AssetExecutionContext,
    root: dg.ResourceParam[Path],
    engine: dg.ResourceParam[sa.Engine],
    lake: dg.ResourceParam[Lake],
    bundles: dg.ResourceParam[BundleStore],
):
    """Readings that can be used: sorted, each unit, life and cycle once, values that are numbers.

    What cannot be used is kept beside them (``set_aside``) with the reason, and so is what is
    suspicious (``issues``), each naming unit, cycle and column. Nothing is dropped in silence.
    """
    fleet = fleets.load(root, context.partition_key)
    begun_at, ticket = datetime.now(UTC), lake.ticket(CORE, fleet.name)
    # Before the rows are read: it may say less than they have, never more.
    watermark = intake.watermark(lake, fleet.name)
    raw = lake.scan(RAW, fleet.name)
    found = Inspection(
        fleet,
        raw,
        intake.set_aside(lake, fleet.name),
        _conditions_of_the_champion(context, engine, bundles),
    )
    notes = {
        RAW_ROWS: str(raw.select(pl.len()).collect().item()),
        WATERMARK: watermark,
        BEGUN_AT: msgspec.json.encode(begun_at).decode(),
    }
    lake.write(
        CORE,
        fleet.name,
        context.run.run_id,
        found.shards(),
        beside=lambda: {CORE_SET_ASIDE: found.set_aside, CORE_ISSUES: found.issues},
        ticket=ticket,
        notes=notes,
    )
    return dg.MaterializeResult(
        metadata=reports.table(
            lake,
            CORE,
            fleet.name,
            units=found.units,
            lives=found.lives,
            issues=reports.counts(found.issues, "kind"),
            set_aside=reports.counts(found.set_aside, "reason"),
        ),
        check_results=_checks(found),
    )


def _conditions_of_the_champion(
    context: dg.AssetExecutionContext, engine: sa.Engine, bundles: BundleStore
) -> Conditions | None:
    champion = champions.current(engine, context.partition_key)
    if champion is None:
        return None
    try:
        loaded = load_model(bundles, champion.fleet, champion.version)
    except BundleError as error:
        # Readings are good without it, and a new model, which needs them, may be the remedy.
        context.log.warning("unseen operating conditions cannot be told: %s", error)
        return None
    return loaded.model.pipeline.conditions


def _checks(found: Inspection) -> list[dg.AssetCheckResult]:
    """The figures are told also when all is well: they make a curve."""
    share = found.unusable_share
    return [
        dg.AssetCheckResult(
            check_name="some_readings_are_usable",
            passed=found.usable > 0,
            metadata={"usable": found.usable},
        ),
        dg.AssetCheckResult(
            check_name="no_column_is_missing",
            passed=not found.never_read,
            metadata={"missing": list(found.never_read)},
        ),
        dg.AssetCheckResult(
            check_name="keys_are_unique",
            passed=not found.repeated_keys,
            metadata={"repeated": found.repeated_keys},
        ),
        dg.AssetCheckResult(
            check_name="few_rows_are_set_aside",
            passed=share <= MOST_SET_ASIDE,
            metadata={"share": share, "limit": MOST_SET_ASIDE},
        ),
    ]
