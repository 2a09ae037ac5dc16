"""Tests of the gate that need a model, or fit one anew.

What belongs here: what a fitted model leans on, and refits on labels that mean nothing. What does
not: features, labels and splits by themselves.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import polars as pl
from catboost import CatBoost, CatBoostError
from numpy.typing import ArrayLike

from rul_core.errors import ModelError
from rul_core.leakage_canary import LEAST_LIVES
from rul_core.leakage_report import GateTest, failed, not_run, passed
from rul_core.leakage_table import Table

PERFECT_R2 = 0.98
"""Share of the label's variance that no honest model explains: on C-MAPSS an RMSE of 5.8 where the
best credible ones have 9."""
DOMINANT_SHARE = 0.5
"""Share of a model's importance on one feature. Alone it is no leak: one good sensor may do it."""
PERMUTED_RATIO = 0.9
"""Of the RMSE on permuted labels over that of their mean: an honest protocol stays near 1 or above,
a split by rows falls far below, since neighbours of one life still have like labels."""

FitAndScore = Callable[[pl.DataFrame], tuple[ArrayLike, ArrayLike]]
"""The whole protocol, from the table with its labels to (true, predicted) of the rows that it holds
out: choose rows or units, fit, predict."""


def check_permutation(
    table: Table, label: str, fit_and_score: FitAndScore | None, seed: int
) -> GateTest:
    """Refits on labels of other lives, which nothing honest can predict.

    Every life gets the labels of another, begun at a random place and repeated to its length: so
    neighbouring rows still have like labels, as in truth, but no reading says which, nor does age.
    """
    name = "label_permutation"
    if fit_and_score is None:
        return not_run(name, "needs a refit: give fit_and_score")
    if table.lives.number < LEAST_LIVES:
        return not_run(name, f"{table.lives.number} lives are too few; give {LEAST_LIVES}")
    honest = _ratio(fit_and_score(table.frame.drop("__life")))
    generator = np.random.default_rng(seed)
    bounds = np.flatnonzero(np.diff(table.lives.life, prepend=-1, append=-1))
    ratios = []
    for _ in range(2):
        own = [table.label[a:b] for a, b in pairwise(bounds)]
        donors = generator.permutation(len(own))
        permuted = np.concatenate(
            [
                np.resize(np.roll(own[d], int(generator.integers(len(own[d])))), len(rows))
                for d, rows in zip(donors, own, strict=True)
            ]
        )
        relabelled = table.frame.drop("__life").with_columns(pl.Series(label, permuted))
        ratios.append(_ratio(fit_and_score(relabelled)))
    ratio = float(np.mean(ratios))
    figures = {"permuted_ratio": ratio, "honest_ratio": honest}
    if ratio < PERMUTED_RATIO:
        return failed(
            name,
            (
                f"labels of other lives are predicted {1 - ratio:.0%} better than by their mean; "
                "nothing is there to be found, so the score sees its own answers: split by "
                "machine, score on machines that the fit did not see"
            ),
            figures,
        )
    return passed(
        name,
        f"on labels of other lives the error is {ratio:.2f} times that of their mean "
        f"({honest:.2f} on the true labels)",
        figures,
    )


def _ratio(scored: tuple[ArrayLike, ArrayLike]) -> float:
    true, predicted = (np.asarray(column, dtype=np.float64) for column in scored)
    if true.shape != predicted.shape or true.ndim != 1 or len(true) < 2:
        raise ModelError(
            f"fit_and_score gave truth {true.shape} and predictions {predicted.shape}; give one of "
            "each for every row held out, two at least"
        )
    spread = true.std()
    if spread == 0:
        raise ModelError("fit_and_score held out rows of one label only; hold out whole lives")
    return float(np.sqrt(np.mean((predicted - true) ** 2)) / spread)


def check_dominance(
    table: Table, names: Sequence[str], split: str | None, model: CatBoost | None
) -> GateTest:
    """Whether the model predicts perfectly, and leans on one feature to do so."""
    name = "model_dominance"
    if model is None:
        return not_run(name, "needs a CatBoost model")
    frame, label = table.frame, table.label
    judged = "all"
    if split is not None and (frame[split].cast(pl.String) == "test").any():
        kept = (frame[split].cast(pl.String) == "test").fill_null(False)
        frame, label, judged = frame.filter(kept), label[kept.to_numpy()], "test"
    if len(label) < 2 or np.ptp(label) == 0:
        return not_run(name, "all labels are the same; give whole lives")
    try:
        predicted = _predict(model, frame.select(names))
        importance = np.asarray(model.get_feature_importance(), dtype=np.float64)
    except CatBoostError as error:
        raise ModelError(
            f"the model cannot be applied to features {list(names)[:5]} …: {error}; give the table "
            "that it was fitted on"
        ) from error
    r2 = 1 - float(np.mean((predicted - label) ** 2) / label.var())
    share = float(importance.max() / importance.sum()) if importance.sum() > 0 else 0.0
    top = names[int(importance.argmax())]
    figures = {"r2": r2, "top_share": share}
    said = f"{top} has {share:.0%} of the importance, R² on {judged} rows is {r2:.3f}"
    if r2 >= PERFECT_R2 and share >= DOMINANT_SHARE:
        return failed(
            name,
            f"{said}: one feature gives the answer away; find out how it is computed",
            figures,
        )
    return passed(name, said, figures)


def _predict(model: CatBoost, features: pl.DataFrame) -> np.ndarray:
    """(n,) the point: of several quantiles the middle one, else the first column."""
    predicted = np.asarray(model.predict(features.to_pandas()), dtype=np.float64)
    if predicted.ndim == 1:
        return predicted
    loss = str(model.get_all_params().get("loss_function", ""))
    return predicted[:, predicted.shape[1] // 2 if loss.startswith("MultiQuantile") else 0]
