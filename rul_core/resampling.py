"""How sure a figure is: the bootstrap over units.

What belongs here: drawing units with replacement, intervals, and the paired test of two models.
What does not: the figures themselves (``metrics``).

A fleet is a sample of units; the rows of one unit are not independent, so whole units are drawn.
A draw is expressed as row weights (how often the row's unit was drawn), so that a statistic needs
nothing but a ``weights`` argument to be bootstrapped. Efron & Tibshirani, "An Introduction to the
Bootstrap", 1993, chapters 13 (percentile interval) and 16.
"""

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rul_core.errors import ModelError, NotEnoughData

FloatArray = NDArray[np.float64]
REPEATS = 1000
CONFIDENCE = 0.95


class Figure(msgspec.Struct, frozen=True):
    """A figure and its bootstrap interval; null where the data cannot give one."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """Two models on the same units: RMSE of a less RMSE of b, in cycles; negative favours a."""

    difference_cycles: float
    low_cycles: float
    high_cycles: float
    probability_a_is_better: float
    """Share of the draws in which a's RMSE is the lower; a tie counts half."""
    units: int

    @property
    def a_is_worse_beyond_noise(self) -> bool:
        """Whether the whole interval says that a is worse."""
        return self.low_cycles > 0


def draws(
    units: ArrayLike, *, repeats: int = REPEATS, seed: int = 0
) -> Iterator[NDArray[np.float64]]:
    """How often each row's unit was drawn, draw after draw.

    Args:
        units: (n,) the unit of each row, of any kind that sorts.
        repeats: How many draws.
        seed: The same seed gives the same draws.

    Yields:
        (n,) float64.

    Raises:
        NotEnoughData: There are no rows.
    """
    names, codes = np.unique(np.asarray(units), return_inverse=True)
    if not len(names):
        raise NotEnoughData("nothing to draw from: there are no units; give at least one")
    generator = np.random.default_rng(seed)
    even = np.full(len(names), 1.0 / len(names))
    for _ in range(repeats):
        yield generator.multinomial(len(names), even)[codes].astype(np.float64)


def bootstrap_interval(
    statistic: Callable[..., float],
    *columns: ArrayLike,
    weights: ArrayLike | None = None,
    units: ArrayLike | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Figure:
    """A statistic and its percentile interval over units.

    Args:
        statistic: Called as ``statistic(*columns, weights=…)``; every metric of ``metrics`` fits.
        columns: (n,) each.
        weights: (n,) of the rows; all 1 unless given.
        units: (n,) the unit of each row; every row is a unit of its own unless given.
        repeats: How many draws.
        seed: Of the draws.
        confidence: The interval's level.

    Returns:
        Null bounds where no draw gives a number.
    """
    rows = len(np.asarray(columns[0]))
    base = np.ones(rows) if weights is None else np.asarray(weights, dtype=np.float64)
    names = np.arange(rows) if units is None else np.asarray(units)
    drawn = np.array(
        [
            statistic(*columns, weights=base * counts)
            for counts in draws(names, repeats=repeats, seed=seed)
        ]
    )
    drawn = drawn[np.isfinite(drawn)]
    value = statistic(*columns, weights=base)
    if not len(drawn) or not np.isfinite(value):
        return Figure(float(value) if np.isfinite(value) else None)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Figure(float(value), float(low), float(high))


def paired_bootstrap(
    errors_a: ArrayLike,
    errors_b: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    units: ArrayLike | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Paired:
    """Whether model a is better than b on the same rows: each draw takes the same units of both.

    Args:
        errors_a: (n,) predicted less true, in cycles.
        errors_b: (n,) of the other model, row by row of the same readings.
        weights: (n,) of the rows; all 1 unless given.
        units: (n,) the unit of each row; every row is a unit of its own unless given.
        repeats: How many draws.
        seed: Of the draws.
        confidence: The interval's level.

    Raises:
        ModelError: The two have different lengths.
        NotEnoughData: There are no rows.
    """
    a, b = np.asarray(errors_a, dtype=np.float64), np.asarray(errors_b, dtype=np.float64)
    if a.shape != b.shape:
        raise ModelError(
            f"{a.size} errors of one model and {b.size} of the other cannot be paired; "
            "score both on the same rows"
        )
    base = np.ones(a.size) if weights is None else np.asarray(weights, dtype=np.float64)
    names = np.arange(a.size) if units is None else np.asarray(units)

    def difference(row_weights: FloatArray) -> float:
        total = row_weights.sum()
        root_a, root_b = np.sqrt(row_weights @ a**2 / total), np.sqrt(row_weights @ b**2 / total)
        return float(root_a - root_b)

    drawn = np.array(
        [difference(base * counts) for counts in draws(names, repeats=repeats, seed=seed)]
    )
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Paired(
        difference_cycles=difference(base),
        low_cycles=float(low),
        high_cycles=float(high),
        probability_a_is_better=float(np.mean(drawn < 0) + np.mean(drawn == 0) / 2),
        units=len(np.unique(names)),
    )
