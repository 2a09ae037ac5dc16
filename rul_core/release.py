"""Whether a challenger may become the champion.

What belongs here: the gate that every training passes through, and the ruling. What does not: the
gate's tests (``leakage``), the figures (``scoring``), moving the champion (``rul_store``).

Three things hold a challenger back: its features or its protocol know the future; its 90 % band
does not hold what it promises; it is worse than the champion beyond noise and a small margin. The
first two are faults of the work and stop a run. The third is no fault: the champion stays, and that
is that.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from rul_core import evaluation, leakage
from rul_core.issues import sentence
from rul_core.labels import RUL, label
from rul_core.leakage import GateReport
from rul_core.model import Recipe, RulModel, Training, fit_point, predict_point
from rul_core.resampling import Paired
from rul_core.schema import KEY, LIFE, UNIT
from rul_core.scoring import BandReport, Regimes

GATE_LIVES = 100
"""Lives that the gate looks at: more would say the same, slower."""
GATE_TREES = 200
PROMISED_LEVEL = 0.9
"""The band whose coverage is a promise; the 50 % band is reported."""
MARGIN = 0.02
"""Of the champion's RMSE, that a challenger may be worse by for certain: 0.2 cycles of 10.

Less changes no decision, and is less than chance makes of one and the same recipe: the paired test
draws units, but another draw of folds and trees alone moves the RMSE of sixty units by a few
percent. Without a margin a large fleet would keep an old model for a hundredth of a cycle.
"""


def run_gate(
    training: Training,
    readings: pl.DataFrame,
    lives: pl.DataFrame,
    recipe: Recipe,
    *,
    seed: int = 0,
) -> GateReport:
    """The leakage gate for a training of this project.

    Features are made anew from cut, shuffled and renamed readings; refits on permuted labels hold
    out the units of one of the training's folds.

    Args:
        training: What is to be judged.
        readings: That it learnt from, sorted.
        lives: That it learnt from.
        recipe: That it was made with.
        seed: Of what is sampled and permuted.
    """
    compiled = training.model.compiled
    evidence = training.out_of_fold
    chosen = evidence.select(UNIT, LIFE).unique(maintain_order=True)
    chosen = chosen.gather_every(max(1, -(-chosen.height // GATE_LIVES)))
    sample = label(readings.join(chosen, on=[UNIT, LIFE], how="semi", maintain_order="left"), lives)
    # Fold 0 is what the refits hold out and what dominance is judged on.
    folds = evidence.select(
        *KEY,
        split=pl.when(pl.col("fold") == 0)
        .then(pl.lit("test"))
        .otherwise(sentence("training, fold {}", "fold")),
    )
    names = list(training.model.pipeline.names)
    table = (
        compiled.frame(sample)
        .with_columns(sample[RUL])
        .join(folds, on=KEY, how="inner", maintain_order="left")
    )
    small = msgspec.structs.replace(recipe, iterations=min(recipe.iterations, GATE_TREES))
    cap = training.model.fleet.learning.label_cap_cycles

    def fit(rows: pl.DataFrame):
        seen = rows.filter(pl.col("split") != "test")
        return fit_point(seen.select(names).to_numpy(), seen[RUL].to_numpy(), cap, small, seed)

    def fit_and_score(rows: pl.DataFrame) -> tuple[ArrayLike, ArrayLike]:
        held = rows.filter(pl.col("split") == "test")
        said = predict_point(fit(rows), held.select(names).to_numpy(), cap)
        return np.minimum(held[RUL].to_numpy(), cap), said

    return leakage.combine(
        leakage.check_features(lambda r: compiled.frame(r.sort(KEY)), sample.drop(RUL), seed=seed),
        leakage.check_table(
            table,
            life=LIFE,
            split="split",
            features=names,
            model=fit(table),
            fit_and_score=fit_and_score,
            seed=seed,
        ),
    )


def promised_band(metrics: Regimes) -> BandReport:
    """The band whose coverage, overall and near the end, must hold for a release."""
    return next(band for band in metrics.clipped.bands if band.level == PROMISED_LEVEL)


@dataclass(frozen=True)
class Contender:
    """A model and the out-of-fold predictions it is compared by."""

    model: RulModel
    evidence: pl.DataFrame


class Ruling(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the challenger takes the champion's place."""

    released: bool
    why: str
    paired: Paired | None = None
    """Challenger (a) against champion (b); null where there was nothing to compare with."""


def rule(
    challenger: Contender, champion: Contender | None, readings: pl.DataFrame, lives: pl.DataFrame
) -> Ruling:
    """Champion or challenger, by a paired test on the same units, none of which either had seen.

    Args:
        challenger: The new model.
        champion: The released one; none before the first release.
        readings: Of lives that have failed, sorted.
        lives: A lives frame.
    """
    if champion is None:
        return Ruling(released=True, why="the fleet had no champion")
    old = champion.model.fleet
    missing = sorted(set(old.channels) - set(readings.columns))
    if missing:
        return Ruling(released=True, why=f"the champion needs {missing}, which are read no more")
    if not evaluation.fleet_is_comparable(old, challenger.model.fleet):
        return Ruling(
            released=True,
            why="the label cap or the unit of life changed, errors cannot be compared",
        )
    paired = evaluation.compare(
        evaluation.errors_at_cuts(champion.model, champion.evidence, readings, lives),
        evaluation.errors_at_cuts(challenger.model, challenger.evidence, readings, lives),
    )
    margin = MARGIN * paired.rmse_b_cycles
    told = (
        f"RMSE {paired.difference_cycles:+.2f} (95 % interval {paired.low_cycles:+.2f} to "
        f"{paired.high_cycles:+.2f}; up to {margin:+.2f} passes) against the champion's on the "
        f"same {paired.units} units"
    )
    if paired.a_is_worse(margin):
        return Ruling(released=False, why=f"worse than the champion: {told}", paired=paired)
    return Ruling(released=True, why=f"not worse than the champion: {told}", paired=paired)
