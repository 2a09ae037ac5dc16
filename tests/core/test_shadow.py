"""Champion and challenger, held against what happened."""

import numpy as np
import polars as pl
import pytest

from rul_core import shadow

CAP = 100.0


def said(errors: dict[str, list[float | None]], *, outcome: str = "failed") -> pl.DataFrame:
    """Prognoses of units that lived 50 cycles, from cycle 40 on, so far off; None gives none."""
    rows = [
        {
            "unit": unit, "life": 1, "cycle": 40.0 + at, "model_version": "v",
            "state": "sensor_fault" if error is None else "estimated", "computed_at": None,
            "rul_cycles": None if error is None else 10.0 - at + error,
            "lower_50_cycles": 0.0, "upper_50_cycles": 1.0,
            "lower_90_cycles": 0.0, "upper_90_cycles": 20.0,
            "failure_probability": 0.9, "outcome": outcome, "end_cycle": 50.0,
        }
        for unit, of_unit in errors.items()
        for at, error in enumerate(of_unit)
    ]  # fmt: skip
    return pl.DataFrame(rows).with_columns(
        pl.col("computed_at").cast(pl.Datetime("us", "UTC")),
        pl.col("rul_cycles").cast(pl.Float64),
    )


def test_errors_are_compared_pair_by_pair_and_a_life_counts_once():
    champion = said({"a": [4.0], "b": [-2.0, -2.0, -2.0]})
    challenger = said({"a": [1.0], "b": [2.0, 2.0, 2.0]})
    found = shadow.compare(champion, challenger, cap_cycles=CAP)
    assert found.paired is not None
    assert found.paired.rmse_b_cycles == pytest.approx(np.sqrt((16 + 4) / 2))
    assert found.paired.difference_cycles == pytest.approx(np.sqrt(2.5) - np.sqrt(10))
    assert (found.pairs, found.paired.units) == (4, 2)
    assert found.champion.mean_abs_error_cycles == pytest.approx(3.0)
    assert found.challenger.mean_abs_error_cycles == pytest.approx(1.5)
    assert {held.level: held.coverage.share for held in found.challenger.coverage}[0.9] == 1.0


def test_only_readings_of_which_both_gave_a_point_are_pairs():
    champion = said({"a": [4.0, None, 4.0]})
    challenger = said({"a": [None, 1.0, 1.0]})
    found = shadow.compare(champion, challenger, cap_cycles=CAP)
    assert found.pairs == 1
    assert (found.champion.prognoses, found.challenger.prognoses) == (2, 2)


@pytest.mark.parametrize("outcome", ["replaced", "removed"])
def test_censored_lives_tell_nothing_of_errors(outcome):
    ended = said({"a": [4.0]}, outcome=outcome)
    found = shadow.compare(ended, ended, cap_cycles=CAP)
    assert (found.paired, found.pairs, found.champion.lives) == (None, 0, 0)
    assert found.challenger.censored_lives == 1


def test_a_model_beside_itself_is_neither_better_nor_worse():
    one = said({"a": [4.0, 3.0], "b": [-2.0], "c": [0.5]})
    found = shadow.compare(one, one, cap_cycles=CAP)
    assert found.paired is not None
    assert found.paired.difference_cycles == found.paired.low_cycles == 0.0
    assert found.paired.probability_a_is_better == 0.5
