"""How good prognoses are, in cycles and shares.

What belongs here: figures of true against predicted remaining life. What does not: all of them at
once in both regimes (``scoring``), who is judged at which moment (``evaluation``), how sure a
figure is (``resampling``), money (``costs``), pictures.

``d`` is always predicted less true: positive is late, the dangerous side. Every figure takes row
``weights`` (all 1 unless given), so that one random cut a unit can be judged in expectation (see
``labels.cut_weights``) and any figure can be bootstrapped. NaN means that no row qualifies.
"""

import msgspec
import numpy as np
from numpy.typing import ArrayLike
from scipy import special  # not ``stats``, which takes serving a second to load

from rul_core.costs import maintenance_cost_rate
from rul_core.errors import ModelError, NotEnoughData
from rul_core.resampling import CONFIDENCE, FloatArray, bootstrap_interval, paired_bootstrap

__all__ = [
    "Coverage",
    "aligned",
    "alpha_lambda",
    "bias",
    "bootstrap_interval",
    "coverage",
    "crps",
    "crps_rows",
    "early_share",
    "late_share",
    "mae",
    "maintenance_cost_rate",
    "mean_width",
    "paired_bootstrap",
    "phm08_mean",
    "phm08_rows",
    "phm08_score",
    "prognostic_horizon",
    "rmse",
    "rmse_near_end",
]

NEAR_END_CYCLES = 30.0
ALPHA = 0.2
LATE_CYCLES, EARLY_CYCLES = 10.0, 13.0
"""The time constants of the PHM08 score, which punishes late more than early."""


def rmse(true: ArrayLike, predicted: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Root mean squared error, in cycles."""
    d, _, w = _errors(true, predicted, weights)
    return float(np.sqrt(_mean(d**2, w)))


def mae(true: ArrayLike, predicted: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Mean absolute error, in cycles."""
    d, _, w = _errors(true, predicted, weights)
    return _mean(np.abs(d), w)


def bias(true: ArrayLike, predicted: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Mean of predicted less true, in cycles; positive is late."""
    d, _, w = _errors(true, predicted, weights)
    return _mean(d, w)


def phm08_score(
    true: ArrayLike, predicted: ArrayLike, *, weights: ArrayLike | None = None
) -> float:
    """Sum of exp(-d/13) - 1 where early, exp(d/10) - 1 where late.

    The score of the PHM 2008 challenge (Saxena et al. 2008). One engine can make most of it; the
    exponents end at 690, so that it stays a number for fleets that count in seconds.
    """
    d, _, w = _errors(true, predicted, weights)
    return float(w @ phm08_rows(d))


def phm08_mean(true: ArrayLike, predicted: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """The PHM08 score per unit: comparable between test sets of different size."""
    d, _, w = _errors(true, predicted, weights)
    return _mean(phm08_rows(d), w)


def late_share(
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    limit_cycles: float = LATE_CYCLES,
) -> float:
    """Share with d above the limit."""
    d, _, w = _errors(true, predicted, weights)
    return _mean(d > limit_cycles, w)


def early_share(
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    limit_cycles: float = EARLY_CYCLES,
) -> float:
    """Share with d below minus the limit."""
    d, _, w = _errors(true, predicted, weights)
    return _mean(d < -limit_cycles, w)


def rmse_near_end(
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    limit_cycles: float = NEAR_END_CYCLES,
) -> float:
    """RMSE where the true remaining life is at most the limit, in cycles."""
    d, truth, w = _errors(true, predicted, weights)
    return float(np.sqrt(_mean(d**2, w * (truth <= limit_cycles))))


def alpha_lambda(
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    alpha: float = ALPHA,
) -> float:
    """Share with |d| <= alpha * true: the alpha-lambda accuracy over all moments (Saxena 2010)."""
    d, truth, w = _errors(true, predicted, weights)
    return _mean(np.abs(d) <= alpha * truth, w)


def prognostic_horizon(
    true: ArrayLike, predicted: ArrayLike, *, alpha: float = ALPHA, margin_cycles: float = 5.0
) -> float:
    """How long before the end of one life the prognosis is good for good, in cycles.

    The largest true remaining life from which on |d| <= alpha * true + margin holds at every later
    reading; 0 where even the last reading fails. After A. Saxena, J. Celaya, B. Saha, S. Saha,
    K. Goebel, "Metrics for Offline Evaluation of Prognostic Performance", International Journal of
    Prognostics and Health Management 1(1), 2010, with two changes: theirs is first met, ours also
    keeps holding; their band is constant (``alpha=0``, ``margin_cycles`` their alpha times the
    length of the life), ours narrows towards the end, where a constant band says little.

    Args:
        true: (n,) remaining life at the readings of one life, in any order.
        predicted: (n,) what was said then.
        alpha: Share of the true remaining life.
        margin_cycles: What is forgiven at the very end.
    """
    d, truth, _ = _errors(true, predicted, None)
    late_first = np.argsort(truth, kind="stable")
    holds = (np.abs(d) <= alpha * truth + margin_cycles)[late_first]
    kept = len(holds) if holds.all() else int(np.argmin(holds))
    return float(truth[late_first][kept - 1]) if kept else 0.0


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How often a band held the truth, and how sure that is."""

    share: float
    low: float
    """Of the Clopper-Pearson interval of the share."""
    high: float
    n: int
    """Units behind it, taken as independent."""

    def reaches(self, level: float) -> bool:
        """Whether the data leave room for this level: the interval's upper end is at least that."""
        return self.high >= level


def coverage(
    true: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    units: ArrayLike | None = None,
    open_above_cycles: float | None = None,
    confidence: float = CONFIDENCE,
) -> Coverage:
    """Share of truths inside their band, with the exact binomial interval (Clopper-Pearson 1934).

    Args:
        true: (n,) cycles.
        lower: (n,) cycles.
        upper: (n,) cycles.
        weights: (n,) of the rows.
        units: (n,) Rows of one unit are not independent: with this, the interval counts units,
            not rows.
        open_above_cycles: An upper bound at or above this (the label cap) is no bound: it says
            "at least the lower".
        confidence: Of the interval.

    Raises:
        NotEnoughData: No row has weight.
    """
    truth, low, w = aligned(true, lower, weights)
    _, high, _ = aligned(true, upper, weights)
    if open_above_cycles is not None:
        high = np.where(high >= open_above_cycles, np.inf, high)
    counted = w > 0
    n = int(counted.sum()) if units is None else len(np.unique(np.asarray(units)[counted]))
    if not n:
        raise NotEnoughData("no row to count coverage over; give at least one with weight")
    share = _mean((low <= truth) & (truth <= high), w)
    held, tail = share * n, (1 - confidence) / 2
    return Coverage(
        share=share,
        low=float(special.betaincinv(held, n - held + 1, tail)) if held > 0 else 0.0,
        high=float(special.betaincinv(held + 1, n - held, 1 - tail)) if held < n else 1.0,
        n=n,
    )


def mean_width(lower: ArrayLike, upper: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Mean of upper less lower, in cycles, as printed (a bound at the cap counts as the cap)."""
    width, _, w = _errors(lower, upper, weights)
    return _mean(width, w)


def crps(
    true: ArrayLike,
    quantiles: ArrayLike,
    levels: ArrayLike,
    *,
    weights: ArrayLike | None = None,
) -> float:
    """Continuous ranked probability score from quantiles, in cycles.

    CRPS = 2 * integral over t in (0, 1) of pinball_t(y - q_t), with pinball_t(e) = max(t e,
    (t - 1) e) (T. Gneiting, A. Raftery, "Strictly Proper Scoring Rules", JASA 102, 2007; F. Laio,
    S. Tamea 2007). The integral is a weighted sum: each level stands for the levels nearer to it
    than to another, from 0 to 1; for evenly spaced levels (i - 1/2) / m that is twice the average
    pinball loss. With the single level 0.5 it is the mean absolute error. Figures from different
    levels differ slightly, so say which levels were used.

    Args:
        true: (n,) cycles.
        quantiles: (n, m) cycles; crossing ones are sorted.
        levels: (m,) rising, inside (0, 1).
        weights: (n,) of the rows.

    Raises:
        ModelError: Levels and quantiles do not fit.
    """
    loss = crps_rows(true, quantiles, levels)
    _, _, w = aligned(true, loss, weights)
    return _mean(loss, w)


def aligned(
    true: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Truth, prediction and weights (n,) as equally long float64 columns.

    Raises:
        ModelError: They differ in length, or a number is missing.
        NotEnoughData: There are no rows.
    """
    truth, said = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    w = np.ones(truth.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != said.shape or truth.shape != w.shape:
        raise ModelError(
            f"truth has shape {truth.shape}, prediction {said.shape}, weights {w.shape}; "
            "give one of each a row, aligned by unit"
        )
    if not truth.size:
        raise NotEnoughData("nothing to judge: there are no rows")
    for name, column in (("truth", truth), ("prediction", said)):
        bad = np.flatnonzero(np.isnan(column))
        if bad.size:
            raise ModelError(
                f"{bad.size} of {column.size} rows have no {name}, the first is row {bad[0]}; "
                "leave them out or explain them, a score cannot"
            )
    return truth, said, w


def _errors(
    true: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Predicted less true, the truth, the weights."""
    truth, said, w = aligned(true, predicted, weights)
    return said - truth, truth, w


def _mean(values: np.ndarray, weights: FloatArray) -> float:
    total = weights.sum()
    return float(weights @ values / total) if total > 0 else float("nan")


def phm08_rows(d: FloatArray) -> FloatArray:
    """(n,) the PHM08 score of each row from its d."""
    return np.expm1(np.minimum(np.where(d < 0, -d / EARLY_CYCLES, d / LATE_CYCLES), 690.0))


def crps_rows(true: ArrayLike, quantiles: ArrayLike, levels: ArrayLike) -> FloatArray:
    """(n,) the CRPS of each row; arguments and errors as of ``crps``."""
    at, values = np.asarray(levels, dtype=np.float64), np.asarray(quantiles, dtype=np.float64)
    if values.ndim != 2 or at.shape != values.shape[1:]:
        raise ModelError(f"{at.size} levels do not name the columns of quantiles {values.shape}")
    if not (np.all(np.diff(at) > 0) and at[0] > 0 and at[-1] < 1):
        raise ModelError(f"levels {at.tolist()} must rise and lie between 0 and 1")
    edges = np.concatenate([[0.0], (at[1:] + at[:-1]) / 2, [1.0]])
    error = np.asarray(true, dtype=np.float64)[:, None] - np.sort(values, axis=1)
    return 2 * np.maximum(at * error, (at - 1) * error) @ np.diff(edges)
