"""Lives of the training that once stood where a unit stands now, and how they really ended.

What belongs here: the small table of training lives that travels with a model, and finding the
nearest in it. What does not: where the table is kept, contributions (``explain``).

A life stands, at each of its readings, at a point: its smoothed channels, in which wear shows
(``projections``), each with a standard deviation of 1 over the training readings.
"""

import numpy as np
import polars as pl

from rul_core import projections
from rul_core.features import Pipeline
from rul_core.labels import RUL, label
from rul_core.prognosis import Lookalike
from rul_core.quality import within_limits
from rul_core.schema import CYCLE, LIFE, UNIT, Fleet

LOOKALIKES = 3
MOST_LIVES, MOST_POINTS = 300, 50
"""Of the table, and of a life in it: a megabyte at most, however much was learnt from."""
POSITION = "position"


def learn(
    readings: pl.DataFrame, lives: pl.DataFrame, fleet: Fleet, pipeline: Pipeline
) -> pl.DataFrame:
    """Where failed lives stood on their way.

    Of more than ``MOST_LIVES`` lives, those evenly spread over all lengths of life are kept; of
    each, at most ``MOST_POINTS`` readings evenly spread and the last.

    Args:
        readings: A readings frame, sorted; lives that did not fail are left alone.
        lives: A lives frame.
        fleet: Its physical limits.
        pipeline: Of the model that learnt from them.

    Returns:
        unit, life, cycle, ``rul_cycles`` (what was left, not capped) and ``position``, an array of
        Float32, one number a channel.
    """
    labelled = label(readings, lives)
    ends = labelled.group_by(UNIT, LIFE).agg(pl.max(CYCLE)).sort(CYCLE, UNIT, LIFE)
    some = ends.gather_every(max(1, -(-ends.height // MOST_LIVES)))
    chosen = labelled.join(some, on=[UNIT, LIFE], how="semi", maintain_order="left")
    points = _positions(chosen, fleet, pipeline).astype(np.float32)
    from_end = pl.int_range(pl.len(), 0, -1).over(UNIT, LIFE) - 1
    step = (pl.len().over(UNIT, LIFE) + MOST_POINTS - 1) // MOST_POINTS
    return (
        chosen.select(UNIT, LIFE, CYCLE, RUL)
        .with_columns(pl.Series(POSITION, points, dtype=pl.Array(pl.Float32, points.shape[1])))
        .filter(from_end % step == 0)
    )


def find(
    trajectories: pl.DataFrame, readings: pl.DataFrame, fleet: Fleet, pipeline: Pipeline
) -> tuple[Lookalike, ...]:
    """The lives that stood nearest to where a life stands at its last reading.

    Args:
        trajectories: From ``learn``, with the same pipeline.
        readings: Of one life, sorted, from its start.
        fleet: Its physical limits.
        pipeline: As above.

    Returns:
        ``LOOKALIKES`` at most, the nearest first, each of another life and none of this one.
    """
    unit, life = readings.row(-1, named=True)[UNIT], readings[LIFE][-1]
    here = _positions(readings, fleet, pipeline)[-1]
    apart = trajectories[POSITION].to_numpy().reshape(-1, len(here)) - here
    nearest = (
        trajectories.with_columns(distance=pl.Series(np.sqrt(np.mean(apart**2, axis=1))))
        .filter((pl.col(UNIT) != unit) | (pl.col(LIFE) != life))
        .sort("distance", UNIT, LIFE, CYCLE)
        .unique([UNIT, LIFE], keep="first", maintain_order=True)
    )
    return tuple(
        Lookalike(
            unit=row[UNIT],
            life=row[LIFE],
            cycle=row[CYCLE],
            end_cycle=row[CYCLE] + row[RUL],
            rul_cycles=row[RUL],
            distance=row["distance"],
        )
        for row in nearest.head(LOOKALIKES).iter_rows(named=True)
    )


def _positions(readings: pl.DataFrame, fleet: Fleet, pipeline: Pipeline) -> np.ndarray:
    """(n, channels) float64; what was never read yet counts as that of the average machine."""
    possible = within_limits(readings, fleet)
    smoothed = projections.smooth(possible, pipeline.conditions, pipeline.smoothing)
    known = np.nan_to_num(smoothed.astype(np.float64))
    weights = [projection.weights for projection in pipeline.projections]
    return known @ np.array(weights).T if weights else known
