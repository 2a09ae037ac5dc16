"""How sure a figure is: the bootstrap over units.

What belongs here: drawing units with replacement, intervals, and the paired test of two models.
What does not: the figures themselves (``metrics``).

A fleet is a sample of units; the rows of one unit are not independent, so whole units are drawn.
A draw is expressed as row weights (how often the row's unit was drawn), so that a statistic needs
nothing but a ``weights`` argument to be bootstrapped, and means need no more than sums by unit.
B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 16.
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
    rmse_b_cycles: float
    low_cycles: float
    high_cycles: float
    probability_a_is_better: float
    """Share of the draws in which a's RMSE is the lower; a tie counts half."""
    units: int

    def a_is_worse(self, margin_cycles: float = 0.0) -> bool:
        """Whether the whole interval says that a is worse, by more than a margin."""
        return self.low_cycles > margin_cycles


def draws(
    units: ArrayLike, *, repeats: int = REPEATS, seed: int = 0
) -> tuple[NDArray[np.int64], Iterator[FloatArray]]:
    """Units drawn with replacement, again and again.

    Args:
        units: (n,) the unit of each row, of any kind that sorts.
        repeats: How many draws.
        seed: The same seed gives the same draws.

    Returns:
        (n,) each row's unit as a number, and for each draw (units,) how often each was drawn.

    Raises:
        NotEnoughData: There are no rows.
    """
    names, codes = np.unique(np.asarray(units), return_inverse=True)
    if not len(names):
        raise NotEnoughData("nothing to draw from: there are no units; give at least one")
    generator = np.random.default_rng(seed)
    even = np.full(len(names), 1.0 / len(names))
    return codes, (
        generator.multinomial(len(names), even).astype(np.float64) for _ in range(repeats)
    )


def resampled_sums(
    columns: FloatArray, units: ArrayLike, *, repeats: int = REPEATS, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Column sums over the rows, and the same in every draw: all that means and ratios need.

    Args:
        columns: (n, k).
        units: (n,) the unit of each row.
        repeats: How many draws.
        seed: Of the draws.

    Returns:
        (k,) and (repeats, k).

    Raises:
        NotEnoughData: There are no rows.
    """
    codes, counts = draws(units, repeats=repeats, seed=seed)
    by_unit = np.array([np.bincount(codes, column) for column in columns.T]).T
    return columns.sum(axis=0), np.array([count @ by_unit for count in counts])


def figure(value: float, drawn: FloatArray, confidence: float = CONFIDENCE) -> Figure:
    """A value with the percentile interval of its draws; null where there are no numbers."""
    if not np.isfinite(value):
        return Figure(None)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Figure(float(value))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Figure(float(value), float(low), float(high))


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
    codes, counts = draws(np.arange(rows) if units is None else units, repeats=repeats, seed=seed)
    drawn = np.array([statistic(*columns, weights=base * count[codes]) for count in counts])
    return figure(statistic(*columns, weights=base), drawn, confidence)


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
    sums, drawn_sums = resampled_sums(
        np.column_stack([base * a**2, base * b**2, base]), names, repeats=repeats, seed=seed
    )

    def difference(sums: FloatArray) -> FloatArray:
        total = sums[..., 2]
        return np.sqrt(sums[..., 0] / total) - np.sqrt(sums[..., 1] / total)

    drawn = difference(drawn_sums)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Paired(
        difference_cycles=float(difference(sums)),
        rmse_b_cycles=float(np.sqrt(sums[1] / sums[2])),
        low_cycles=float(low),
        high_cycles=float(high),
        probability_a_is_better=float(np.mean(drawn < 0) + np.mean(drawn == 0) / 2),
        units=len(np.unique(names)),
    )
