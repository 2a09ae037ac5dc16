"""Every figure of a model at once, in both regimes, ready for a card, a table or JSON.

What belongs here: the report and how it is gathered. What does not: the figures (``metrics``), who
is judged at which moment (``evaluation``).

Two regimes must never be mixed: truth clipped at the label cap, and truth as it was. A model capped
at 125 cannot reach an unclipped RMSE below 3.74 / 18.32 / 4.71 / 19.53 on FD001 … FD004, so figures
of different regimes are not comparable; ``both_regimes`` gives them side by side, labelled.
"""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from rul_core import metrics
from rul_core.errors import NotEnoughData
from rul_core.metrics import Coverage
from rul_core.resampling import REPEATS, Figure, FloatArray, bootstrap_interval


class CoverageAt(msgspec.Struct, frozen=True, kw_only=True):
    """Coverage among the units whose true remaining life lies in [from, to) cycles."""

    from_cycles: float
    to_cycles: float | None
    """Null where there is no end."""
    coverage: Coverage


class BandReport(msgspec.Struct, frozen=True, kw_only=True):
    """One band: does it hold what it promises, and at what width."""

    level: float
    overall: Coverage
    near_end: Coverage | None
    """At a true RUL near the end; null where no unit is that near."""
    by_true_rul: tuple[CoverageAt, ...]
    mean_width_cycles: Figure

    @property
    def promise_kept(self) -> bool:
        """Whether overall and near-end coverage both reach the level, in their intervals."""
        return self.overall.reaches(self.level) and (
            self.near_end is None or self.near_end.reaches(self.level)
        )


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Every figure of one model on one set of units in one regime, each with its 95 % interval."""

    regime: str
    """``clipped`` or ``unclipped`` truth."""
    clip_at_cycles: float | None
    """Null where the truth was not clipped."""
    units: int
    rows: int
    rmse_cycles: Figure
    mae_cycles: Figure
    bias_cycles: Figure
    phm08_score: Figure
    phm08_mean: Figure
    late_share: Figure
    early_share: Figure
    alpha_lambda: Figure
    near_end_cycles: float
    """True remaining life up to which a unit is near its end."""
    rmse_near_end_cycles: Figure
    crps_cycles: Figure | None = None
    crps_levels: tuple[float, ...] = ()
    bands: tuple[BandReport, ...] = ()


class Regimes(msgspec.Struct, frozen=True, kw_only=True):
    """The same predictions against clipped and unclipped truth; never compare across."""

    clipped: Evaluation
    unclipped: Evaluation


Bands = Mapping[float, tuple[ArrayLike, ArrayLike]]
"""By level, as 0.9: the lower and the upper bound of each row, in cycles."""

_FIGURES = {
    "rmse_cycles": metrics.rmse,
    "mae_cycles": metrics.mae,
    "bias_cycles": metrics.bias,
    "phm08_score": metrics.phm08_score,
    "phm08_mean": metrics.phm08_mean,
    "late_share": metrics.late_share,
    "early_share": metrics.early_share,
    "alpha_lambda": metrics.alpha_lambda,
}


def evaluate(
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    clip_at_cycles: float | None = None,
    open_above_cycles: float | None = None,
    bands: Bands | None = None,
    quantiles: ArrayLike | None = None,
    levels: ArrayLike = (),
    weights: ArrayLike | None = None,
    units: ArrayLike | None = None,
    near_end_cycles: float = metrics.NEAR_END_CYCLES,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Evaluation:
    """Every figure in one regime.

    Args:
        true: (n,) remaining life, not clipped.
        predicted: (n,) cycles.
        clip_at_cycles: Clip the truth here; None is the unclipped regime.
        open_above_cycles: See ``metrics.coverage``: the model's cap, beyond which it does not see.
        bands: By level, lower and upper bounds.
        quantiles: (n, m) cycles, for the CRPS.
        levels: (m,) of the quantiles.
        weights: (n,) of the rows; rows of weight 0 are left out.
        units: (n,) the unit of each row; a row is a unit unless given.
        near_end_cycles: True remaining life that counts as near the end.
        repeats: Draws of the bootstrap.
        seed: Of the draws.

    Raises:
        ModelError: The columns do not fit together, or a number is missing.
        NotEnoughData: No row has weight.
    """
    truth, said, w = metrics.aligned(true, predicted, weights)
    names = np.arange(len(truth)) if units is None else np.asarray(units)
    kept = w > 0
    if not kept.any():
        raise NotEnoughData("nothing to judge: every row has weight 0")
    truth, said, w, names = truth[kept], said[kept], w[kept], names[kept]
    if clip_at_cycles is not None:
        truth = np.minimum(truth, clip_at_cycles)
    interval = partial(bootstrap_interval, weights=w, units=names, repeats=repeats, seed=seed)

    score = None
    if quantiles is not None:
        values = np.asarray(quantiles, dtype=np.float64)[kept]
        score = interval(partial(metrics.crps, levels=levels), truth, values)
    return Evaluation(
        regime="unclipped" if clip_at_cycles is None else "clipped",
        clip_at_cycles=clip_at_cycles,
        units=len(np.unique(names)),
        rows=len(truth),
        **{name: interval(figure, truth, said) for name, figure in _FIGURES.items()},
        near_end_cycles=near_end_cycles,
        rmse_near_end_cycles=interval(
            partial(metrics.rmse_near_end, limit_cycles=near_end_cycles), truth, said
        ),
        crps_cycles=score,
        crps_levels=tuple(np.asarray(levels, dtype=np.float64).tolist()),
        bands=tuple(
            _band_report(
                level,
                truth,
                np.asarray(lower, dtype=np.float64)[kept],
                np.asarray(upper, dtype=np.float64)[kept],
                partial(
                    metrics.coverage, weights=w, units=names, open_above_cycles=open_above_cycles
                ),
                interval,
                (near_end_cycles, open_above_cycles),
            )
            for level, (lower, upper) in sorted((bands or {}).items())
        ),
    )


def both_regimes(
    true: ArrayLike, predicted: ArrayLike, cap_cycles: float, **options: Any
) -> Regimes:
    """``evaluate`` against the truth clipped at the cap, and against the truth as it was.

    Args:
        true: (n,) remaining life, not clipped.
        predicted: (n,) cycles.
        cap_cycles: The label cap. Upper bounds at it count as open in both regimes.
        options: All else that ``evaluate`` takes.
    """
    in_regime = partial(evaluate, true, predicted, open_above_cycles=cap_cycles, **options)
    return Regimes(clipped=in_regime(clip_at_cycles=cap_cycles), unclipped=in_regime())


def _band_report(
    level: float,
    true: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    covered: partial[Coverage],
    interval: partial[Figure],
    limits: tuple[float, float | None],
) -> BandReport:
    near_end_cycles, cap_cycles = limits

    def among(rows: np.ndarray) -> Coverage | None:
        # Rows outside keep their place and lose their weight.
        weights = np.where(rows, covered.keywords["weights"], 0.0)
        return covered(true, lower, upper, weights=weights) if rows.any() else None

    by_true_rul = []
    edges = _edges(near_end_cycles, cap_cycles)
    for low, high in pairwise((*edges, np.inf)):
        found = among((true >= low) & (true < high))
        if found:
            to = high if np.isfinite(high) else None
            by_true_rul.append(CoverageAt(from_cycles=low, to_cycles=to, coverage=found))
    return BandReport(
        level=level,
        overall=covered(true, lower, upper),
        near_end=among(true <= near_end_cycles),
        by_true_rul=tuple(by_true_rul),
        mean_width_cycles=interval(metrics.mean_width, lower, upper),
    )


def _edges(near_end_cycles: float, cap_cycles: float | None) -> tuple[float, ...]:
    """From 0: the near end, then half, three quarters and all of the cap."""
    cap = 4 * near_end_cycles if cap_cycles is None else cap_cycles
    return (0.0, near_end_cycles, *(s * cap for s in (0.5, 0.75, 1.0) if s * cap > near_end_cycles))
