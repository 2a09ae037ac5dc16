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
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from rul_core import metrics
from rul_core.errors import NotEnoughData
from rul_core.metrics import Coverage
from rul_core.resampling import REPEATS, Figure, FloatArray, figure, resampled_sums


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
    bounds = {
        level: tuple(np.asarray(bound, dtype=np.float64)[kept] for bound in pair)
        for level, pair in sorted((bands or {}).items())
    }
    d = said - truth
    terms = {
        "rmse_cycles": _Term(d**2, root=True),
        "mae_cycles": _Term(np.abs(d)),
        "bias_cycles": _Term(d),
        "phm08_score": _Term(metrics.phm08_rows(d), total=True),
        "phm08_mean": _Term(metrics.phm08_rows(d)),
        "late_share": _Term(d > metrics.LATE_CYCLES),
        "early_share": _Term(d < -metrics.EARLY_CYCLES),
        "alpha_lambda": _Term(np.abs(d) <= metrics.ALPHA * truth),
        "rmse_near_end_cycles": _Term(d**2, among=truth <= near_end_cycles, root=True),
    }
    if quantiles is not None:
        values = np.asarray(quantiles, dtype=np.float64)[kept]
        terms["crps_cycles"] = _Term(metrics.crps_rows(truth, values, levels))
    figures = _figures(terms, w, names, repeats, seed)
    widths = _figures(
        {level: _Term(upper - lower) for level, (lower, upper) in bounds.items()},
        w,
        names,
        repeats,
        seed,
    )
    covered = partial(metrics.coverage, truth, units=names, open_above_cycles=open_above_cycles)
    return Evaluation(
        regime="unclipped" if clip_at_cycles is None else "clipped",
        clip_at_cycles=clip_at_cycles,
        units=len(np.unique(names)),
        rows=len(truth),
        near_end_cycles=near_end_cycles,
        crps_levels=tuple(np.asarray(levels, dtype=np.float64).tolist()),
        bands=tuple(
            _band_report(
                level,
                truth,
                w,
                partial(covered, *bounds[level]),
                widths[level],
                near_end_cycles,
                open_above_cycles,
            )
            for level in bounds
        ),
        **figures,
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


class _Term(NamedTuple):
    """A figure as the weighted mean of a loss over rows."""

    loss: np.ndarray
    among: np.ndarray | bool = True
    """The rows that count."""
    root: bool = False
    total: bool = False
    """The sum, not the mean."""


def _figures(
    terms: Mapping[Any, _Term], weights: FloatArray, units: np.ndarray, repeats: int, seed: int
) -> dict[Any, Figure]:
    """All terms with their intervals, from the same draws."""
    if not terms:
        return {}
    counted = [weights * term.among for term in terms.values()]
    above = [w * term.loss for w, term in zip(counted, terms.values(), strict=True)]
    sums, drawn = resampled_sums(
        np.column_stack([*above, *counted]), units, repeats=repeats, seed=seed
    )
    every = np.vstack([sums, drawn])
    found = {}
    for column, (name, term) in enumerate(terms.items()):
        values, total = every[:, column], every[:, len(terms) + column]
        if not term.total:
            # A draw without a single row that counts gives no number.
            values = np.divide(values, total, out=np.full(len(values), np.nan), where=total > 0)
        values = np.sqrt(values) if term.root else values
        found[name] = figure(float(values[0]), values[1:])
    return found


def _band_report(
    level: float,
    true: FloatArray,
    weights: FloatArray,
    covered: partial[Coverage],
    width: Figure,
    near_end_cycles: float,
    cap_cycles: float | None,
) -> BandReport:
    def among(rows: np.ndarray) -> Coverage | None:
        return covered(weights=weights * rows) if rows.any() else None

    by_true_rul = []
    for low, high in pairwise((*_edges(near_end_cycles, cap_cycles), np.inf)):
        found = among((true >= low) & (true < high))
        if found:
            to = high if np.isfinite(high) else None
            by_true_rul.append(CoverageAt(from_cycles=low, to_cycles=to, coverage=found))
    return BandReport(
        level=level,
        overall=covered(weights=weights),
        near_end=among(true <= near_end_cycles),
        by_true_rul=tuple(by_true_rul),
        mean_width_cycles=width,
    )


def _edges(near_end_cycles: float, cap_cycles: float | None) -> tuple[float, ...]:
    """From 0: the near end, then half, three quarters and all of the cap."""
    cap = 4 * near_end_cycles if cap_cycles is None else cap_cycles
    return (0.0, near_end_cycles, *(s * cap for s in (0.5, 0.75, 1.0) if s * cap > near_end_cycles))
