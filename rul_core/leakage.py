"""The leakage gate: does anything in this work know what only the future can tell?

What belongs here: the gate for a table of features, made here or elsewhere, and the names that the
gate is used by. What does not: the tests themselves. Those that rerun feature code are in
``leakage_pipeline``, those of labels and splits in ``leakage_table``, of a single feature in
``leakage_canary``, of models in ``leakage_model``; what each catches is in ``leakage_report``.

Three ways in, whose reports ``combine`` joins:

    check_features(function, readings)     the code that makes features
    check_table(table, …)                  features, labels and splits, optionally a model
    check_table(…, fit_and_score=function) and a refit on permuted labels

The gate knows nothing of this project's features or models. What cannot be tested with what was
given is named as not run.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from catboost import CatBoost

from rul_core import leakage_canary as canary
from rul_core.errors import ModelError, ReadingsError
from rul_core.labels import RUL
from rul_core.leakage_canary import Lives, Suspect
from rul_core.leakage_model import FitAndScore, check_dominance, check_permutation
from rul_core.leakage_pipeline import FeatureFunction, check_features
from rul_core.leakage_report import (
    CATCHES,
    GateOutcome,
    GateReport,
    GateTest,
    combine,
    failed,
    not_run,
    passed,
)
from rul_core.leakage_table import Table, check_label, check_splits, prepare, sampled
from rul_core.readers import from_pandas
from rul_core.schema import CYCLE, LIFE, UNIT

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CATCHES",
    "FeatureFunction",
    "FitAndScore",
    "GateOutcome",
    "GateReport",
    "GateTest",
    "check_features",
    "check_table",
    "combine",
]


def check_table(
    table: "pl.DataFrame | pd.DataFrame",
    *,
    unit: str = UNIT,
    cycle: str = CYCLE,
    label: str = RUL,
    life: str | None = None,
    split: str | None = None,
    splits: Mapping[str, Collection[str]] | None = None,
    features: Sequence[str] | None = None,
    model: CatBoost | None = None,
    fit_and_score: FitAndScore | None = None,
    seed: int = 0,
) -> GateReport:
    """Every test that a table of features allows.

    Args:
        table: One row a reading, in any order. Rows without a label are looked at for splits only.
        unit: The column of machines.
        cycle: The column that counts use within a life.
        label: The column of remaining life in the same unit, capped or not.
        life: The column that tells a machine's lives apart; ``life`` if there is one.
        split: The column that says training, validation, calibration or test.
        splits: The same as sets of machines by name of the split.
        features: The columns to examine; those that the model names, else all others.
        model: A fitted CatBoost model that predicts the label from the features.
        fit_and_score: Fits and scores anew; see ``FitAndScore``. It is called thrice.
        seed: Of what is sampled and permuted.

    Raises:
        ReadingsError: A column is missing, a label or cycle is no number, a reading appears twice.
        ModelError: The model needs features that the table lacks, or cannot be applied.
    """
    if not isinstance(table, pl.DataFrame):
        table = from_pandas(table)
    if life is None and LIFE in table.columns:
        life = LIFE
    keys = [unit, cycle, label, *(name for name in (life, split) if name)]
    _refuse_missing(table, keys)
    chosen = _features(table, keys, features, model)
    checked = prepare(table, unit, cycle, label, life)
    sound, labels = check_label(checked, label)
    findings = [
        *_not_given("needs the function that makes the features: check_features"),
        labels,
        check_splits(table, unit, split, splits),
        *_canaries(sampled(checked._replace(lives=sound), seed), chosen),
        check_permutation(checked, label, fit_and_score, seed),
        check_dominance(checked, chosen, split, model),
    ]
    return combine(GateReport(findings=tuple(findings)))


def _refuse_missing(table: pl.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise ReadingsError(f"columns {missing} are missing; the table has {table.columns}")


def _features(
    table: pl.DataFrame,
    keys: Sequence[str],
    features: Sequence[str] | None,
    model: CatBoost | None,
) -> list[str]:
    if features is not None:
        _refuse_missing(table, features)
        return list(features)
    others = [name for name in table.columns if name not in keys]
    if model is None:
        return others
    named = [str(name) for name in model.feature_names_ or ()]
    if all(name.isdigit() for name in named) and len(named) == len(others):
        return others  # fitted on a bare matrix: the columns' order is all there is
    missing = [name for name in named if name not in table.columns]
    if missing:
        raise ModelError(
            f"the model needs features {missing}, which the table lacks; give the table that it "
            "was fitted on"
        )
    return named


def _canaries(table: Table, names: Sequence[str]) -> list[GateTest]:
    """The tests of single features, on lives whose end is known."""
    known = np.isfinite(table.lives.rul)
    life = np.unique(table.lives.life[known], return_inverse=True)[1]
    lives = Lives(life, table.lives.cycle[known], table.lives.rul[known])
    numeric = [
        n
        for n in names
        if table.frame.schema[n].is_numeric() or table.frame.schema[n] == pl.Boolean
    ]
    values = table.frame.filter(known).select(numeric)
    wordy = [name for name in names if name not in numeric]
    rest = f"; not examined, since they hold no numbers: {', '.join(wordy)}" if wordy else ""
    about = f"{len(numeric)} features of {lives.number} lives"
    if not numeric or lives.number < canary.LEAST_LIVES:
        detail = f"{about} with a known end are too few; give {canary.LEAST_LIVES} lives{rest}"
        return [
            not_run(name, detail)
            for name in ("single_feature_canary", "constant_per_life", "whole_life_scaling")
        ]
    same, most_same = canary.same_at_equal_rul(lives, values)
    early = canary.knows_the_length(lives, values)
    constant, most_constant = canary.constant_in_life(lives, values) or ([], 0.0)
    flat = {suspect.feature for suspect in constant}
    ranking, most_ranking = early or ([], 0.0)
    unsaid = "" if early else "; lives do not begin together, so their beginnings say nothing"
    single = {s.feature: s for s in (*ranking, *same) if s.feature not in flat}
    return [
        _suspected(
            "single_feature_canary",
            list(single.values()),
            f"none of {about} knows the end{unsaid}{rest}",
            {"most_same_at_equal_rul": most_same, "most_ranking_early": most_ranking},
        ),
        _suspected(
            "constant_per_life",
            constant,
            f"none of {about} is one figure a life that ranks the lives by their length{rest}",
            {"most_ranking": most_constant},
        ),
        _suspected(
            "whole_life_scaling",
            canary.scaled_by_whole_life(lives, values),
            f"none of {about} was scaled with a figure of the whole life{rest}",
            {},
        ),
    ]


def _suspected(
    name: str, suspects: Sequence[Suspect], clean: str, figures: dict[str, float]
) -> GateTest:
    if not suspects:
        return passed(name, clean, figures)
    worst = sorted(suspects, key=lambda suspect: -suspect.figure)
    more = f" (and {len(worst) - 3} more)" if len(worst) > 3 else ""
    return failed(
        name,
        "; ".join(suspect.why for suspect in worst[:3])
        + f"{more}; remove it, or compute it from past readings alone",
        {suspect.feature: suspect.figure for suspect in worst},
    )


def _not_given(why: str) -> list[GateTest]:
    return [not_run(name, why) for name in ("prefix_invariance", "shuffled_time", "renamed_units")]
