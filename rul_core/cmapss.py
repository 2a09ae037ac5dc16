"""The C-MAPSS benchmark: its protocol, so that figures can be compared with the literature.

What belongs here: how the four subsets become fleets, and what is predicted for the test engines.
What does not: reading files (``readers``), the figures (``scoring``), a choice of any kind.

One prediction a test engine, at its last cycle; one recipe for all subsets; the mean over seeds.
A. Saxena, K. Goebel, D. Simon, N. Eklund, "Damage Propagation Modeling for Aircraft Engine
Run-to-Failure Simulation", PHM 2008.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl

from rul_core import evaluation
from rul_core.intervals import LEVELS
from rul_core.labels import RUL
from rul_core.model import Progress, Recipe, silent, train
from rul_core.schema import UNIT, Columns, FileRule, Fleet, Learning, Maintenance, Outcome
from rul_core.scoring import Regimes

SUBSETS = ("FD001", "FD002", "FD003", "FD004")
CAP = 125.0


def fleet(subset: str) -> Fleet:
    """A subset as a fleet; engines of the training and the test file are different machines."""
    return Fleet(
        name=subset,
        description=f"NASA C-MAPSS turbofan engines, subset {subset}",
        columns=Columns(
            unit="unit",
            cycle="cycle",
            settings=tuple(f"setting_{i}" for i in range(1, 4)),
            sensors=tuple(f"sensor_{i}" for i in range(1, 22)),
        ),
        files=(
            FileRule(glob="train_*", outcome=Outcome.FAILED, unit_prefix="train-"),
            FileRule(glob="test_*", outcome=Outcome.RUNNING, unit_prefix="test-"),
        ),
        learning=Learning(label_cap_cycles=CAP),
        maintenance=Maintenance(lead_time_cycles=30.0),
    )


@dataclass(frozen=True)
class Result:
    """What one subset and variant gave."""

    predictions: pl.DataFrame
    """One row a test engine in the file's order: unit (Int64), rul_cycles, lower_90, upper_90,
    lower_50, upper_50, safe."""
    cross_validation: tuple[Regimes, ...]
    """One a seed: training engines left out in groups, at one random cut each."""
    test: Regimes | None
    """The mean over seeds against the truth; None where there is no truth."""
    test_by_seed: tuple[Regimes, ...]


def predict(
    training: tuple[pl.DataFrame, pl.DataFrame],
    test: pl.DataFrame,
    truth: np.ndarray | None,
    recipe: Recipe,
    seeds: Iterable[int],
    described: Fleet,
    progress: Progress = silent,
) -> Result:
    """Train on the training engines, predict the test engines, score where the truth is known.

    Args:
        training: Readings and lives of the training file.
        test: Readings of the test file, sorted by unit in the file's order of engines.
        truth: (engines,) RUL in cycles in the file's order.
        recipe: One for all subsets.
        seeds: One model each.
        described: The fleet.
        progress: Told of every fit.
    """
    ends = test.with_row_index("at").group_by(UNIT, maintain_order=True).agg(pl.col("at").last())
    rows = ends["at"].to_numpy()
    points, quantiles, validated, scored = [], [], [], []
    for seed in seeds:
        trained = train(*training, described, recipe, seed=seed, progress=progress)
        model = trained.model
        point = model.predict_rows(model.compiled.matrix(test)[rows])[RUL].to_numpy()
        points.append(point)
        quantiles.append(model.bands.at(point))
        validated.append(evaluation.score(trained.out_of_fold, CAP))
        if truth is not None:
            scored.append(evaluation.score_predictions(truth, point, quantiles[-1], CAP))
    point, quantile = np.mean(points, axis=0), np.mean(quantiles, axis=0)
    columns = {
        "lower_90": 0.05,
        "upper_90": 0.95,
        "lower_50": 0.25,
        "upper_50": 0.75,
        "safe": 0.05,
    }
    return Result(
        predictions=pl.DataFrame(
            {
                "unit": ends[UNIT].str.extract(r"(\d+)$").cast(pl.Int64),
                RUL: point,
                **{name: quantile[:, LEVELS.index(level)] for name, level in columns.items()},
            }
        ),
        cross_validation=tuple(validated),
        test=None if truth is None else evaluation.score_predictions(truth, point, quantile, CAP),
        test_by_seed=tuple(scored),
    )


def without_age(recipe: Recipe) -> Recipe:
    """The variant that does not know cycles since new."""
    return msgspec.structs.replace(recipe, uses_age=False)
