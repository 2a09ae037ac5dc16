"""The point model's trees, evaluated by ourselves: a row costs microseconds, alone or among many.

What belongs here: CatBoost's oblivious trees as arrays, and the loop over them. What does not:
fitting them (``model``), features.

CatBoost's own ``predict`` takes hundreds of microseconds before the first row. An oblivious tree
asks the same question of every row at each level, so a leaf's number is made of comparisons alone.
Each row is summed over the trees in their order, so an answer does not depend on the rows that were
asked about beside it: a few rows go through all trees one after another, many go through each tree
together, and both add up the same numbers in the same order.
"""

import tempfile
from pathlib import Path

import msgspec
import numpy as np
from catboost import CatBoostRegressor
from numba import njit

from rul_core.errors import ModelError

ENGINE = "oblivious-trees-1"
"""Names this evaluation where a prognosis says what it was computed by; a change of any digit of
its answers needs another name."""
ROWS_AT_ONCE = 64
"""Few enough that their features stay in the cache while all trees pass."""
FEW_ROWS = 4
"""Up to so many are quicker one after another."""


class _Split(msgspec.Struct):
    border: float
    float_feature_index: int


class _Tree(msgspec.Struct):
    leaf_values: list[float]
    splits: list[_Split] | None = None


class _Feature(msgspec.Struct):
    nan_value_treatment: str


class _Features(msgspec.Struct):
    float_features: list[_Feature]


class _Model(msgspec.Struct):
    """What is read of CatBoost's JSON; that of a model of another kind does not fit."""

    oblivious_trees: list[_Tree]
    features_info: _Features
    scale_and_bias: tuple[float, list[float]]


class Trees(msgspec.Struct, frozen=True, kw_only=True):
    """Trees (T) with splits (S) and leaves (L) one after another. Safe to share between threads."""

    unknown: np.ndarray
    """(features,) float32, what stands for a feature that is not known: infinite, either way."""
    features: np.ndarray
    """(S,) int64, the column that a split asks about."""
    borders: np.ndarray
    """(S,) float32: the answer is yes above it."""
    splits: np.ndarray
    """(T + 1,) int64, where each tree's splits begin, and the end."""
    leaves: np.ndarray
    """(T + 1,) int64, where each tree's leaves begin, and the end."""
    values: np.ndarray
    """(L,) float64, by the number that the answers make, the first split's the lowest bit."""
    scale: float
    bias: float

    @classmethod
    def of(cls, booster: CatBoostRegressor) -> "Trees":
        """The trees of a fitted model; raises as ``read``."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.json")
            booster.save_model(str(path), format="json")
            return cls.read(path.read_bytes())

    @classmethod
    def read(cls, content: bytes) -> "Trees":
        """The trees in CatBoost's JSON.

        Raises:
            ModelError: They are of a kind that is not evaluated here.
        """
        try:
            model = msgspec.json.decode(content, type=_Model)
        except msgspec.ValidationError as error:
            raise ModelError(
                f"the model has no plain oblivious trees over numbers: {error}; train it with "
                "grow_policy SymmetricTree and without categorical features"
            ) from error
        above = [f.nan_value_treatment == "AsTrue" for f in model.features_info.float_features]
        trees = [(tree.splits or [], tree.leaf_values) for tree in model.oblivious_trees]
        splits = [split for tree, _ in trees for split in tree]
        scale, (bias,) = model.scale_and_bias
        return cls(
            unknown=np.where(above, np.inf, -np.inf).astype(np.float32),
            features=np.array([s.float_feature_index for s in splits], dtype=np.int64),
            borders=np.array([s.border for s in splits], dtype=np.float32),
            splits=np.cumsum([0, *(len(tree) for tree, _ in trees)]),
            leaves=np.cumsum([0, *(len(leaves) for _, leaves in trees)]),
            values=np.array([value for _, leaves in trees for value in leaves]),
            scale=scale,
            bias=bias,
        )

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """(n,) float64 for feature rows (n, features) float32, NaN where not known."""
        sums = np.zeros(len(rows))
        _sum_leaves(
            np.ascontiguousarray(rows, dtype=np.float32),
            self.unknown,
            self.features,
            self.borders,
            self.splits,
            self.leaves,
            self.values,
            sums,
        )
        return self.scale * sums + self.bias


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_leaves(rows, unknown, features, borders, splits, leaves, values, sums):
    """Adds to ``sums`` (n,) the leaf of every tree that each row (n, features) falls into."""
    if rows.shape[0] <= FEW_ROWS:
        _sum_one_by_one(rows, unknown, features, borders, splits, leaves, values, sums)
    else:
        _sum_together(rows, unknown, features, borders, splits, leaves, values, sums)


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_one_by_one(rows, unknown, features, borders, splits, leaves, values, sums):
    row = np.empty(unknown.shape[0], dtype=np.float32)
    for i in range(rows.shape[0]):
        for f in range(unknown.shape[0]):
            value = rows[i, f]
            row[f] = unknown[f] if np.isnan(value) else value
        for tree in range(splits.shape[0] - 1):
            begin, leaf = splits[tree], leaves[tree]
            for s in range(begin, splits[tree + 1]):
                leaf += (row[features[s]] > borders[s]) << (s - begin)
            sums[i] += values[leaf]


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_together(rows, unknown, features, borders, splits, leaves, values, sums):
    columns = np.empty((unknown.shape[0], ROWS_AT_ONCE), dtype=np.float32)
    leaf = np.empty(ROWS_AT_ONCE, dtype=np.int32)
    for first in range(0, rows.shape[0], ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows.shape[0] - first)
        for i in range(count):
            for f in range(unknown.shape[0]):
                value = rows[first + i, f]
                columns[f, i] = unknown[f] if np.isnan(value) else value
        for tree in range(splits.shape[0] - 1):
            begin, base = splits[tree], leaves[tree]
            leaf[:count] = 0
            for s in range(begin, splits[tree + 1]):
                column, border, bit = columns[features[s]], borders[s], np.int32(1 << (s - begin))
                for i in range(count):
                    leaf[i] += bit if column[i] > border else np.int32(0)
            for i in range(count):
                sums[first + i] += values[base + leaf[i]]
