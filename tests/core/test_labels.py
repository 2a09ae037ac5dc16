import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rul_core.labels import cut_weights, label, unit_codes
from rul_core.schema import LIVES_SCHEMA


def lives(*rows: tuple[str, int, str, float | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=LIVES_SCHEMA, orient="row")


def readings(unit: str, life: int, cycles: list[float]) -> pl.DataFrame:
    return pl.DataFrame(
        {"unit": unit, "life": life, "cycle": cycles, "vibration": 1.0},
        schema_overrides={"life": pl.Int64, "cycle": pl.Float64},
    )


def test_a_failed_life_counts_down_to_zero():
    labelled = label(readings("a", 1, [1, 2.5, 4]), lives(("a", 1, "failed", 4)))
    assert labelled["rul_cycles"].to_list() == [3.0, 1.5, 0.0]
    assert labelled.columns == ["unit", "life", "cycle", "vibration", "rul_cycles"]


@pytest.mark.parametrize("outcome", ["running", "replaced", "removed"])
def test_a_life_whose_end_was_not_a_failure_has_no_label(outcome):
    end = None if outcome == "running" else 2.0
    labelled = label(readings("a", 1, [1, 2]), lives(("a", 1, outcome, end)))
    assert labelled.is_empty()


def test_each_life_of_a_unit_has_its_own_end():
    table = pl.concat([readings("a", 1, [1, 2]), readings("a", 2, [1, 2])])
    labelled = label(table, lives(("a", 1, "failed", 2), ("a", 2, "running", None)))
    assert labelled["life"].to_list() == [1, 1]


def test_readings_after_the_end_and_of_unknown_lives_have_no_label():
    table = pl.concat([readings("a", 1, [1, 2, 3]), readings("b", 1, [1])])
    labelled = label(table, lives(("a", 1, "failed", 2)))
    assert labelled["rul_cycles"].to_list() == [1.0, 0.0]


def test_labels_keep_the_order_of_the_readings():
    table = pl.concat([readings(unit, 1, [1, 2]) for unit in "cab"])
    ends = lives(*((unit, 1, "failed", 2) for unit in "abc"))
    assert label(table, ends)["unit"].to_list() == list("ccaabb")


def test_units_are_numbered_as_they_come():
    frame = pl.DataFrame({"unit": ["x", "x", "a", "m", "m"]})
    assert unit_codes(frame).tolist() == [0, 0, 1, 2, 2]
    assert unit_codes(frame.clear()).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_the_cuts_of_each_unit_weigh_one_in_all_and_the_same_each(rows):
    units = np.array(sorted(unit for unit, _ in rows), dtype=np.int64)
    eligible = np.array([allowed for _, allowed in rows], dtype=bool)
    weights = cut_weights(units, eligible)
    assert weights.shape == units.shape
    assert (weights[~eligible] == 0.0).all()
    for unit in np.unique(units):
        own = weights[(units == unit) & eligible]
        assert len(own) == 0 or own.sum() == pytest.approx(1.0)
        assert len(set(own)) <= 1
