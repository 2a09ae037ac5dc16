"""State detection: how far each machine is from where it began and from its usual condition.

What belongs here: the asset that computes features. What does not: the features
themselves (``rul_core.features``).
"""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import msgspec
import polars as pl
import sqlalchemy as sa

from rul_assets import reports
from rul_assets.automation import when_inputs_are_sound
from rul_assets.defs.manipulation import core_readings
from rul_assets.failures import explained
from rul_assets.inspection import batches
from rul_assets.partitions import FLEETS
from rul_assets.settings import Learning
from rul_assets.tables import CORE, CORE_GENERATION, FEATURES, PIPELINE
from rul_core.features import Pipeline
from rul_core.labels import label
from rul_core.model import fit_pipeline
from rul_core.schema import KEY, LIFE, UNIT, Fleet, Outcome
from rul_store import fleets, lives
from rul_store.lake import Lake


@dg.asset(
    deps=[core_readings],
    partitions_def=FLEETS,
    group_name=reports.Group.DETECTION,
    kinds={"polars", "numba"},
    owners=reports.OWNERS,
    automation_condition=when_inputs_are_sound(),
    output_required=False,
)
@explained
def features(
    context: dg.AssetExecutionContext,
    root: dg.ResourceParam[Path],
    engine: dg.ResourceParam[sa.Engine],
    lake: dg.ResourceParam[Lake],
    learning: dg.ResourceParam[Learning],
):
    """Features of every reading, and the pipeline that makes them, fitted on failed lives alone.

    A fleet of which no life has failed has nothing to fit on, and no features yet.
    """
    fleet = fleets.load(root, context.partition_key)
    ticket = lake.ticket(FEATURES, fleet.name)
    core = lake.current(CORE, fleet.name)
    readings = lake.scan(CORE, fleet.name)
    known = lives.read(engine, fleet.name)
    labelled = label(sample_of_failed(readings, known, learning.recipe.most_rows), known)
    if core is None or labelled.is_empty():
        context.log.info("no life of fleet %s has failed yet: there is nothing to fit", fleet.name)
        return
    pipeline = fit_pipeline(labelled, fleet, learning.recipe)
    lake.write(
        FEATURES,
        fleet.name,
        context.run.run_id,
        _shards(pipeline, readings, fleet),
        ticket=ticket,
        notes={
            PIPELINE: msgspec.json.encode(pipeline).decode(),
            CORE_GENERATION: str(core.generation),
        },
    )
    yield dg.MaterializeResult(
        metadata=reports.table(
            lake,
            FEATURES,
            fleet.name,
            features=len(pipeline.names),
            operating_conditions=len(pipeline.conditions.centroids),
            sensors=list(pipeline.conditions.sensors),
            feature_spec=pipeline.hash,
        )
    )


def sample_of_failed(readings: pl.LazyFrame, known: pl.DataFrame, most_rows: int) -> pl.DataFrame:
    """The readings of failed lives: all, or of evenly chosen ones of a very long history.

    Args:
        readings: Core readings.
        known: A lives frame.
        most_rows: About how many, at most.
    """
    failed = known.filter(pl.col("outcome") == Outcome.FAILED.value).select(UNIT, LIFE)
    of_failed = readings.join(failed.lazy(), on=[UNIT, LIFE], how="semi")
    count = of_failed.select(pl.len()).collect().item()
    if count > most_rows:
        some = failed.gather_every(-(-count // most_rows))
        of_failed = readings.join(some.lazy(), on=[UNIT, LIFE], how="semi")
    return of_failed.sort(KEY).collect()


def _shards(pipeline: Pipeline, readings: pl.LazyFrame, fleet: Fleet) -> Iterator[pl.DataFrame]:
    compiled = pipeline.compiled()
    yield compiled.frame(pl.DataFrame(schema=fleet.readings_schema))
    for batch in batches(readings):
        yield compiled.frame(batch.sort(KEY))
