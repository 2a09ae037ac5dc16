"""Our evaluation of CatBoost's trees, held to CatBoost's own."""

import numpy as np
import pytest
from catboost import CatBoostRegressor, Pool
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core.errors import ModelError
from rul_core.trees import ROWS_AT_ONCE, Trees


def fitted(nan_mode: str = "Min", **options) -> tuple[CatBoostRegressor, np.ndarray]:
    random = np.random.default_rng(5)
    rows = random.normal(size=(300, 6)).astype(np.float32)
    rows[random.random(rows.shape) < 0.1] = np.nan
    target = 40.0 + 3.0 * np.nan_to_num(rows[:, 0], nan=5.0) + np.nan_to_num(rows[:, 1]) ** 2
    booster = CatBoostRegressor(
        iterations=30, depth=5, nan_mode=nan_mode, thread_count=1, allow_writing_files=False,
        verbose=False, **options,
    )  # fmt: skip
    return booster.fit(Pool(rows, target)), rows


@pytest.mark.parametrize("nan_mode", ["Min", "Max"])
def test_answers_are_catboosts_to_the_last_bit_also_where_a_feature_is_not_known(nan_mode):
    booster, rows = fitted(nan_mode)
    assert np.isnan(rows).any()
    np.testing.assert_array_equal(Trees.of(booster).predict(rows), booster.predict(rows))


def test_values_on_a_border_fall_where_catboost_puts_them():
    booster, rows = fitted()
    trees = Trees.of(booster)
    at_borders = rows[: len(trees.borders) % 300].copy()
    for i, (feature, border) in enumerate(zip(trees.features, trees.borders, strict=True)):
        at_borders[i % len(at_borders), feature] = border
    np.testing.assert_array_equal(trees.predict(at_borders), booster.predict(at_borders))


@settings(max_examples=25, deadline=None)
@given(
    picked=st.lists(st.integers(0, 299), min_size=1, max_size=2 * ROWS_AT_ONCE + 3),
    infinite=st.sampled_from([np.inf, -np.inf]),
)
def test_an_answer_does_not_depend_on_the_rows_beside_it(trees_and_rows, picked, infinite):
    trees, rows = trees_and_rows
    asked = rows[picked].copy()
    asked[0, 0] = infinite
    together = trees.predict(asked)
    alone = [trees.predict(row[None])[0] for row in asked]
    np.testing.assert_array_equal(together, alone)


def test_no_rows_have_no_answers():
    assert Trees.of(fitted()[0]).predict(np.empty((0, 6), dtype=np.float32)).shape == (0,)


def test_a_tree_without_a_split_adds_its_only_leaf_to_every_row():
    trees = Trees.read(
        b"""{
            "features_info": {"float_features": [{"nan_value_treatment": "AsIs"}]},
            "oblivious_trees": [
                {"leaf_values": [3.0], "splits": null},
                {"leaf_values": [0.0, 1.0], "splits": [{"border": 0.5, "float_feature_index": 0}]}
            ],
            "scale_and_bias": [2.0, [10.0]]
        }"""
    )
    rows = np.array([[0.0], [1.0], [np.nan]], dtype=np.float32)
    assert trees.predict(rows).tolist() == [16.0, 18.0, 16.0]


def test_trees_of_another_kind_are_refused_with_the_remedy():
    booster, _ = fitted(grow_policy="Depthwise")
    with pytest.raises(ModelError, match="grow_policy SymmetricTree"):
        Trees.of(booster)


@pytest.fixture(scope="module")
def trees_and_rows() -> tuple[Trees, np.ndarray]:
    booster, rows = fitted()
    return Trees.of(booster), rows
