"""How good a model is, on units it did not see.

What belongs here: the protocol, that is who is judged at which moment by which model. A unit is
judged at one random cut of its life; expectations over all cuts are taken by weights
(``labels.cut_weights``). What does not: the figures themselves (``metrics``, ``scoring``).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from rul_core import intervals
from rul_core.errors import NotEnoughData
from rul_core.labels import RUL, cut_weights, label, unit_codes
from rul_core.model import RulModel
from rul_core.resampling import Paired, paired_bootstrap
from rul_core.schema import KEY, UNIT, Fleet
from rul_core.scoring import Regimes, both_regimes

BANDS = {0.9: (0.05, 0.95), 0.5: (0.25, 0.75)}
"""The bands that are given out: level, and the quantile levels of their bounds."""
EARLIEST_RUL_CYCLES = 6.0 / 125.0
"""Cuts nearer to the end than this share of the cap are not judged: nobody acts on them…"""
LATEST_RUL_CYCLES = 145.0 / 125.0
"""… nor much farther from it than the model can see. The range of the C-MAPSS test sets."""


@dataclass(frozen=True)
class Judged:
    """Rows of units with the truth and what was said of them by a model that had not seen them."""

    frame: pl.DataFrame
    """unit, life, cycle, rul_cycles (true), weight, predicted (as it would have been given out)."""
    quantiles: np.ndarray
    """(rows, levels) in cycles."""


def judged(evidence: pl.DataFrame, cap: float) -> Judged:
    """Out-of-fold evidence with bands that were calibrated without the row's fold.

    Args:
        evidence: ``Training.out_of_fold``.
        cap: The label cap in cycles.

    Raises:
        NotEnoughData: Too few units for bands once a fold is left out, or no reading lies at a
            remaining life that is judged.
    """
    frame, quantiles = _given_out(evidence, cap)
    true = frame[RUL].to_numpy()
    eligible = _eligible(true, cap)
    if not eligible.any():
        raise NotEnoughData(
            f"no reading lies {EARLIEST_RUL_CYCLES * cap:g} to {LATEST_RUL_CYCLES * cap:g} cycles "
            f"before the end of its life; raise learning.label_cap_cycles, which is {cap:g}"
        )
    weights = pl.Series("weight", cut_weights(unit_codes(frame), eligible))
    return Judged(frame.with_columns(weights), quantiles)


def score(evidence: pl.DataFrame, cap: float, *, repeats: int = 1000, seed: int = 0) -> Regimes:
    """Every figure of a training's evidence, expected over random cuts, in both regimes."""
    found = judged(evidence, cap)
    return score_predictions(
        found.frame[RUL].to_numpy(),
        found.frame["predicted"].to_numpy(),
        found.quantiles,
        cap,
        weights=found.frame["weight"].to_numpy(),
        units=unit_codes(found.frame),
        repeats=repeats,
        seed=seed,
    )


def score_predictions(
    true: np.ndarray,
    predicted: np.ndarray,
    quantiles: np.ndarray,
    cap: float,
    *,
    weights: np.ndarray | None = None,
    units: np.ndarray | None = None,
    repeats: int = 1000,
    seed: int = 0,
) -> Regimes:
    """Every figure of predictions with their quantiles (n, ``intervals.LEVELS``)."""
    column = intervals.LEVELS.index
    return both_regimes(
        true,
        predicted,
        cap,
        bands={
            level: (quantiles[:, column(low)], quantiles[:, column(high)])
            for level, (low, high) in BANDS.items()
        },
        quantiles=quantiles,
        levels=intervals.LEVELS,
        weights=weights,
        units=units,
        near_end_cycles=0.24 * cap,
        repeats=repeats,
        seed=seed,
    )


def errors_at_cuts(
    model: RulModel, evidence: pl.DataFrame, readings: pl.DataFrame, lives: pl.DataFrame
) -> pl.DataFrame:
    """A model's errors on ended lives, each from a model that had not seen the unit.

    For units it learnt from the out-of-fold predictions speak, for all others the model itself.

    Args:
        model: The model.
        evidence: Its ``Training.out_of_fold``.
        readings: Of the lives to be judged on, sorted.
        lives: Which of them ended in failure.

    Returns:
        unit, life, cycle, weight, ``error`` (clipped prediction less clipped truth, cycles).
    """
    cap = model.fleet.learning.label_cap_cycles
    labelled = label(readings, lives)
    fresh = labelled.join(evidence, on=UNIT, how="anti", maintain_order="left")
    parts = [_given_out(evidence, cap)[0].join(labelled, on=KEY, how="semi")]
    if fresh.height:
        said = model.predict(fresh)[RUL]
        parts.append(fresh.select(*KEY, RUL).with_columns(said.alias("predicted")))
    known = pl.concat(parts).sort(KEY)
    true = known[RUL].to_numpy()
    eligible = _eligible(true, cap)
    error = known["predicted"].to_numpy() - np.minimum(true, cap)
    return known.select(KEY).with_columns(
        pl.Series("weight", cut_weights(unit_codes(known), eligible)), pl.Series("error", error)
    )


def compare(champion: pl.DataFrame, challenger: pl.DataFrame, *, seed: int = 0) -> Paired:
    """Challenger (a) against champion (b) on the rows that both have errors for.

    Args:
        champion: From ``errors_at_cuts``.
        challenger: From ``errors_at_cuts`` on the same lives.
        seed: Of the bootstrap over units.

    Returns:
        The paired difference in RMSE; ``release.rule`` says what it means.
    """
    judged_rows = challenger.filter(pl.col("weight") > 0.0)
    both = judged_rows.join(champion, on=KEY, how="inner", suffix="_champion").sort(KEY)
    return paired_bootstrap(
        both["error"].to_numpy(),
        both["error_champion"].to_numpy(),
        weights=both["weight"].to_numpy(),
        units=unit_codes(both),
        seed=seed,
    )


def fleet_is_comparable(a: Fleet, b: Fleet) -> bool:
    """Whether errors of models of two descriptions may be compared: the same cap and unit."""
    return (
        a.learning.label_cap_cycles == b.learning.label_cap_cycles
        and a.unit_of_life == b.unit_of_life
    )


def _given_out(evidence: pl.DataFrame, cap: float) -> tuple[pl.DataFrame, np.ndarray]:
    """Evidence as a model would have given it out, with bands calibrated without the row's fold.

    Returns:
        unit, life, cycle, rul_cycles, predicted; and the quantiles (rows, levels).
    """
    predicted, true = evidence["predicted"].to_numpy(), evidence[RUL].to_numpy()
    units, folds = unit_codes(evidence), evidence["fold"].to_numpy()
    weights = evidence["weight"].to_numpy()
    quantiles = np.empty((len(true), len(intervals.LEVELS)))
    for fold in np.unique(folds):
        out = folds == fold
        kept = ~out
        bands = intervals.fit(
            predicted[kept], true[kept], weights[kept], units[kept], folds[kept], cap
        )
        quantiles[out] = bands.at(predicted[out])
    points = pl.Series("predicted", intervals.into_band(predicted, quantiles))
    return evidence.select(*KEY, RUL).with_columns(points), quantiles


def _eligible(true: np.ndarray, cap: float) -> np.ndarray:
    """(n,) bool: the readings that a cut may fall on, by their remaining life."""
    return (true >= EARLIEST_RUL_CYCLES * cap) & (true <= LATEST_RUL_CYCLES * cap)
