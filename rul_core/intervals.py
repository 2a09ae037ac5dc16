"""Calibrated bands around a predicted remaining useful life.

What belongs here: quantiles of the true RUL given the predicted one, and their unit-level
conformal correction. What does not: the point model (``model``).

The recipe is conformalised quantile regression (Romano, Patterson, Candès 2019), one-sided, by
band of predicted RUL, on cross-conformal predictions (Vovk 2015): every prediction used here comes
from a model that did not see the unit, so the final model still learns from all units. What counts
as one observation is a unit at a random cut, never a row. Quantiles are read off the out-of-fold
residuals near the same predicted RUL, which needs no second model and cannot cross.
"""

from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
from numba import njit

from rul_core.errors import NotEnoughData

LEVELS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
LEVELS += tuple(round(1 - level, 2) for level in LEVELS[-2::-1])
"""Nineteen levels from 0.05 to 0.95; a finer tail would need more lives than fleets have."""
KNOTS = 26
"""Predicted RUL at which quantiles are tabled, from 0 to the cap."""
BANDWIDTH = 0.03
"""Of the kernel that says what is near, as a share of the cap."""
EDGES = (0.25, 0.5, 0.8)
"""Between the bands of predicted RUL that are calibrated apart, as shares of the cap."""
HORIZON = 1.2
"""Cuts up to this multiple of the cap count: beyond, every machine is healthy and easy."""
LEAST_UNITS = 10
"""Fewer units cannot carry a 5 % quantile at all (the correction would be the whole range)."""
TINY, NEARLY_ONE = float(np.finfo(float).tiny), 1.0 - float(np.finfo(float).epsneg)
"""Between these lies a probability: nothing is certain."""


class Bands(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles of the true RUL by predicted RUL.

    ``quantiles[k][l]`` in cycles at predicted RUL ``knots[k]`` and level ``levels[l]``.
    """

    levels: tuple[float, ...]
    knots: tuple[float, ...]
    quantiles: tuple[tuple[float, ...], ...]

    def at(self, predicted: np.ndarray) -> np.ndarray:
        """(n, levels) float64 quantiles in cycles, increasing along each row."""
        return self.table().at(predicted)

    def table(self) -> "Table":
        """The same as arrays, for whoever asks often."""
        knots, quantiles = np.asarray(self.knots), np.asarray(self.quantiles)
        slopes = np.diff(quantiles, axis=0) / np.diff(knots)[:, None]
        return Table(knots, quantiles, np.vstack([slopes, np.zeros(len(self.levels))]))

    def column(self, level: float) -> int:
        """Which column of ``at`` holds a level."""
        return self.levels.index(level)


@dataclass(frozen=True)
class Table:
    """``Bands`` as arrays."""

    knots: np.ndarray
    """(knots,)"""
    quantiles: np.ndarray
    """(knots, levels)"""
    slopes: np.ndarray
    """(knots, levels), from each knot to the next; none after the last."""

    def at(self, predicted: np.ndarray) -> np.ndarray:
        """As ``Bands.at``; the digits are those of ``np.interp``, column by column."""
        before = np.maximum(np.searchsorted(self.knots, predicted, side="right") - 1, 0)
        beyond = np.maximum(predicted - self.knots[before], 0.0)
        return self.slopes[before] * beyond[:, None] + self.quantiles[before]


def fit(
    predicted: np.ndarray,
    true: np.ndarray,
    weights: np.ndarray,
    units: np.ndarray,
    folds: np.ndarray,
    cap: float,
) -> Bands:
    """Bands from out-of-fold predictions.

    Args:
        predicted: (n,) RUL in cycles, each from a model that did not see the unit.
        true: (n,) RUL in cycles, not capped.
        weights: (n,) the chance of each row to be its unit's cut (``labels.cut_weights``).
        units: (n,) int64 unit codes.
        folds: (n,) int64, the fold that each unit was left out in.
        cap: The label cap in cycles.

    Raises:
        NotEnoughData: Fewer than ``LEAST_UNITS`` units.
    """
    count = len(np.unique(units[weights > 0]))
    if count < LEAST_UNITS:
        raise NotEnoughData(
            f"bands need at least {LEAST_UNITS} units with ended lives, there are {count}"
        )
    true = np.minimum(true, cap)
    knots = np.linspace(0.0, cap, KNOTS)
    levels = np.asarray(LEVELS)
    base = _table(predicted, true, weights, knots, levels, cap)
    crossed = np.empty((len(predicted), len(levels)))
    for fold in np.unique(folds):
        out = folds == fold
        table = _table(predicted[~out], true[~out], weights[~out], knots, levels, cap)
        for k in range(len(levels)):
            crossed[out, k] = np.interp(predicted[out], knots, table[:, k])
    corrected = base + _corrections(crossed, predicted, true, weights, units, knots, levels, cap)
    corrected = np.clip(np.sort(corrected, axis=1), 0.0, cap)
    return Bands(
        levels=LEVELS,
        knots=tuple(knots.tolist()),
        quantiles=tuple(tuple(row) for row in corrected.tolist()),
    )


def into_band(points: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """(n,) points, those outside their own 50 % band moved to its nearer bound.

    Three in four machines with such a prediction lived shorter, or longer, than it says: the model
    has learnt too little there, and the bound is nearer to the truth. A model that has learnt
    enough gives no such point.

    Args:
        points: (n,) in cycles.
        quantiles: (n, ``LEVELS``) in cycles, of the bands at these points.
    """
    lower, upper = quantiles[:, LEVELS.index(0.25)], quantiles[:, LEVELS.index(0.75)]
    return np.minimum(np.maximum(points, lower), upper)


def failure_probability(
    quantiles: np.ndarray, levels: tuple[float, ...], horizon_cycles: float
) -> np.ndarray:
    """P(RUL ≤ horizon), from quantiles.

    Between tabled levels the distribution is taken as linear. Outside it falls off exponentially
    at the rate of the adjoining half of the distribution, so that machines far from the horizon
    still rank by how far.

    Args:
        quantiles: (n, levels) in cycles, increasing along rows.
        levels: Of the quantiles.
        horizon_cycles: In cycles.

    Returns:
        (n,) in (0, 1).
    """
    risks = np.empty(len(quantiles))
    table = np.ascontiguousarray(quantiles, dtype=np.float64)
    _risks(table, np.array(levels), levels.index(0.5), float(horizon_cycles), risks)
    return risks


@njit(cache=True, nogil=True, error_model="numpy")
def _risks(quantiles, levels, middle, horizon, risks):
    """Writes ``failure_probability`` into ``risks`` (n,)."""
    last = levels.shape[0] - 1
    for i in range(quantiles.shape[0]):
        row = quantiles[i]
        floor = max(1e-9, 1e-3 * max(row[last], 1.0))
        if horizon < row[0]:
            scale = max(row[middle] - row[0], floor) / np.log(0.5 / levels[0])
            risk = levels[0] * np.exp(-(row[0] - horizon) / scale)
        elif horizon >= row[last]:
            scale = max(row[last] - row[middle], floor) / np.log(0.5 / (1.0 - levels[last]))
            risk = 1.0 - (1.0 - levels[last]) * np.exp(-(horizon - row[last]) / scale)
        else:
            k = 0
            while row[k + 1] <= horizon:
                k += 1
            share = (horizon - row[k]) / (row[k + 1] - row[k])
            risk = levels[k] + share * (levels[k + 1] - levels[k])
        risks[i] = min(max(risk, TINY), NEARLY_ONE)


def _table(
    predicted: np.ndarray,
    true: np.ndarray,
    weights: np.ndarray,
    knots: np.ndarray,
    levels: np.ndarray,
    cap: float,
) -> np.ndarray:
    """(knots, levels): each knot plus the weighted residual quantiles near it."""
    # A capped truth is somewhere beyond the cap: no shift of the prediction brings it below.
    residual = np.where(true < cap, true - predicted, np.inf)
    order = np.argsort(residual, kind="stable")
    residual, at, weight = residual[order], predicted[order], weights[order]
    table = np.empty((len(knots), len(levels)))
    for k, knot in enumerate(knots):
        # A heavy-tailed kernel: where no prediction fell, the nearest ones still speak.
        near = weight / (1.0 + ((at - knot) / (BANDWIDTH * cap)) ** 2) ** 2
        reached = np.searchsorted(np.cumsum(near), levels * near.sum())
        table[k] = knot + residual[np.minimum(reached, len(residual) - 1)]
    return np.clip(table, 0.0, cap)


def _corrections(
    crossed: np.ndarray,
    predicted: np.ndarray,
    true: np.ndarray,
    weights: np.ndarray,
    units: np.ndarray,
    knots: np.ndarray,
    levels: np.ndarray,
    cap: float,
) -> np.ndarray:
    """(knots, levels): how far each quantile must move so that units fall beyond it as promised."""
    edges = np.array([-np.inf, *(e * cap for e in EDGES), np.inf])
    moved = np.zeros((len(knots), len(levels)))
    for low, high in pairwise(edges):
        inside = (predicted >= low) & (predicted < high) & (weights > 0)
        count = len(np.unique(units[inside]))
        at = (knots >= low) & (knots < high)
        if count < LEAST_UNITS:
            continue  # too few units ever come here to say more than the table does
        for k, level in enumerate(levels):
            lower = level < 0.5
            excess = crossed[inside, k] - true[inside]
            excess = excess if lower else -excess
            share = min(1.0, max(level, 1.0 - level) * (count + 1) / count)
            moved[at, k] = (-1 if lower else 1) * _quantile(excess, weights[inside], share)
    return moved


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The smallest value at or under which at least this share of the weight lies."""
    order = np.argsort(values, kind="stable")
    reached = np.searchsorted(np.cumsum(weights[order]), share * weights.sum() * (1 - 1e-12))
    return float(values[order][min(reached, len(values) - 1)])
