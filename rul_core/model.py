"""The model of a fleet: fitted on ended lives, applied to readings.

What belongs here: training (features, CatBoost, cross-conformal bands) and prediction. What does
not: judging the result (``evaluation``, ``leakage``), states and words (``prognose``), files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import msgspec
import numpy as np
import polars as pl
from catboost import CatBoostError, CatBoostRegressor, Pool

from rul_core import conditions, intervals, projections
from rul_core.errors import ModelError, NotEnoughData
from rul_core.features import Compiled, Feature, Pipeline, Windows, declare, life_starts
from rul_core.following import Follower
from rul_core.intervals import Bands
from rul_core.labels import RUL, cut_weights, label, unit_codes
from rul_core.schema import KEY, LIFE, UNIT, Fleet
from rul_core.trees import Trees

REFERENCE_READINGS = 125.0
"""The label cap, in readings, that the default windows were chosen for."""
SHARD = 500_000
"""Readings whose features are computed at once."""
SUPPORT_MARGIN = 0.25
"""Of a sensor's training range, added at both ends before a reading counts as foreign."""
BOUNDS = {"lower_50": 0.25, "upper_50": 0.75, "lower_90": 0.05, "upper_90": 0.95, "safe": 0.05}
"""The quantile that each bound of a prediction is."""
DRIVES = 0.03
"""Share of the importance from which on a sensor counts as a driver."""

Progress = Callable[[str, float], None]
"""Told what is being done and which share of the whole is done."""


def silent(what: str, share: float) -> None:
    """Progress that nobody watches."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is made. One recipe serves every fleet; chosen by cross-validation alone."""

    iterations: int = 900
    depth: int = 6
    learning_rate: float = 0.03
    feature_share: float = 0.3
    """Of the features, drawn anew for every split."""
    row_share: float = 0.7
    """Of the rows, drawn anew for every tree."""
    l2: float = 5.0
    folds: int = 5
    windows: Windows = Windows()
    uses_age: bool | None = None
    """Whether cycles since new is a feature; as the fleet says unless given."""
    most_rows: int = 2_000_000
    """Rows that a fit sees at most; beyond, they are thinned evenly. Windows see every reading."""
    threads: int = -1
    """-1 is one a core. The result does not depend on it."""

    @property
    def least_units(self) -> int:
        """Units with a failed life that training needs: bands are judged with a fold left out."""
        return -(-intervals.LEAST_UNITS * self.folds // (self.folds - 1))


LEAST_LIVES = Recipe().least_units
"""Units with a failed life that the default recipe needs."""


@dataclass(frozen=True)
class RulModel:
    """All that is needed to say how long a unit will live.

    ``predict`` is the only use; the parts are public so that they can be kept and explained.
    """

    fleet: Fleet
    pipeline: Pipeline
    booster: CatBoostRegressor
    bands: Bands
    support: "Support"

    @cached_property
    def compiled(self) -> Compiled:
        """The pipeline, ready to run."""
        return self.pipeline.compiled()

    @cached_property
    def feature_spec(self) -> str:
        """The pipeline's hash."""
        return self.pipeline.hash

    @cached_property
    def follower(self) -> Follower:
        """Follows lives with the pipeline."""
        return Follower(self.compiled, self.fleet)

    @cached_property
    def trees(self) -> Trees:
        """The booster, as it is evaluated."""
        return Trees.of(self.booster)

    def predict(self, readings: pl.DataFrame) -> pl.DataFrame:
        """What the model says at every reading.

        Args:
            readings: A readings frame sorted by unit, life, cycle, each life from its start.

        Returns:
            unit, life, cycle, and in the fleet's unit of life ``rul_cycles``, ``lower_50``,
            ``upper_50``, ``lower_90``, ``upper_90``, ``safe``; and ``failure_probability``.
        """
        return readings.select(KEY).hstack(self.predict_rows(self.compiled.matrix(readings)))

    def predict_rows(self, features: np.ndarray) -> pl.DataFrame:
        """The same for feature rows (n, features) float32, without the key columns."""
        return pl.DataFrame(self.figures(features))

    def figures(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """The same as arrays (n,) float64 by name: for one row it costs microseconds."""
        cap = self.fleet.learning.label_cap_cycles
        point = np.minimum(np.maximum(self.trees.predict(features), 0.0), cap)
        quantiles = self._table.at(point)
        risk = intervals.failure_probability(
            quantiles, self.bands.levels, self.fleet.maintenance.lead_time_cycles
        )
        point = intervals.into_band(point, quantiles)
        bounds = {name: quantiles[:, column] for name, column in self._columns}
        return {RUL: point, **bounds, "failure_probability": risk}

    @cached_property
    def _table(self) -> intervals.Table:
        return self.bands.table()

    @cached_property
    def _columns(self) -> tuple[tuple[str, int], ...]:
        """Which column of the quantiles each bound is."""
        return tuple((name, self.bands.column(level)) for name, level in BOUNDS.items())


class Support(msgspec.Struct, frozen=True, kw_only=True):
    """What the training readings looked like, to tell when a unit leaves it."""

    lowest: tuple[float, ...]
    """One a sensor of the conditions: the lowest normalised value seen, less a margin."""
    highest: tuple[float, ...]
    longest_run: tuple[int, ...]
    """One a sensor: the most times in a row that the very same value was read."""
    longest_gap: tuple[int, ...]
    """One a sensor: the most readings in a row that lacked it."""
    drivers: tuple[str, ...]
    """The sensors that the point leans on, the heaviest first."""


@dataclass(frozen=True)
class Training:
    """A model and the evidence for it."""

    model: RulModel
    out_of_fold: pl.DataFrame
    """unit, life, cycle, rul_cycles (true, not capped), fold, weight (the chance of the row to be
    its unit's random cut) and ``predicted``: the point from a model that did not see the unit, as
    bands are fitted on it, that is before ``intervals.into_band``."""


@dataclass(frozen=True)
class Prepared:
    """Features kept from before: the pipeline, and rows for at least the labelled readings."""

    pipeline: Pipeline
    features: pl.LazyFrame
    """unit, life, cycle, then the pipeline's names as Float32."""


def train(
    readings: pl.DataFrame,
    lives: pl.DataFrame,
    fleet: Fleet,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    prepared: Prepared | None = None,
    progress: Progress = silent,
) -> Training:
    """A model of a fleet from its failed lives.

    Args:
        readings: A readings frame sorted by unit, life, cycle.
        lives: A lives frame; failed lives are learnt from, all others are left alone.
        fleet: The description.
        recipe: How; the default serves every fleet.
        seed: Of the folds and of CatBoost. The same seed and data give the same model.
        prepared: Features of the same readings and lives, if they are kept somewhere; the folds
            make their own, so that no unit is judged by statistics of itself.
        progress: Told of every fit.

    Raises:
        NotEnoughData: Fewer than ``recipe.least_units`` units have a failed life.
        ModelError: ``prepared`` lacks a labelled reading, or CatBoost cannot fit.
    """
    recipe = recipe or Recipe()
    labelled = label(readings, lives)
    units = unit_codes(labelled)
    count = int(units.max(initial=-1)) + 1
    if count < recipe.least_units:
        raise NotEnoughData(
            f"fleet {fleet.name}: {count} units have a failed life, at least "
            f"{recipe.least_units} are needed; add run-to-failure data to its landing folder"
        )
    cap = fleet.learning.label_cap_cycles
    kept = _thinning(labelled.height, recipe.most_rows)
    true, units = labelled[RUL].to_numpy()[kept], units[kept]
    folds = assign_folds(count, recipe.folds, seed)[units]
    weights = cut_weights(units, true <= intervals.HORIZON * cap)
    points = np.empty(len(true))
    total = recipe.folds + 1
    for fold in range(recipe.folds):
        progress(f"fit without fold {fold + 1} of {recipe.folds}", fold / total)
        out = folds == fold
        seen = np.isin(unit_codes(labelled), np.unique(units[~out]))
        pipeline = fit_pipeline(labelled.filter(pl.Series(seen)), fleet, recipe)
        features = feature_rows(pipeline, labelled, kept)
        booster = fit_point(features[~out], true[~out], cap, recipe, seed)
        points[out] = predict_point(booster, features[out], cap)
    progress("fit on all units", recipe.folds / total)
    if prepared is None:
        pipeline = fit_pipeline(labelled, fleet, recipe)
        features = feature_rows(pipeline, labelled, kept)
    else:
        pipeline = prepared.pipeline
        features = _rows_of(prepared, labelled[kept])
    booster = fit_point(features, true, cap, recipe, seed)
    model = RulModel(
        fleet=fleet,
        pipeline=pipeline,
        booster=booster,
        bands=intervals.fit(points, true, weights, units, folds, cap),
        support=_support(labelled, pipeline, booster),
    )
    progress("fitted", 1.0)
    evidence = labelled.select(*KEY, RUL)[kept].with_columns(
        pl.Series("fold", folds), pl.Series("weight", weights), pl.Series("predicted", points)
    )
    return Training(model, evidence)


def fit_pipeline(labelled: pl.DataFrame, fleet: Fleet, recipe: Recipe) -> Pipeline:
    """Conditions and directions found, features declared, on labelled readings of training lives.

    The features are those of the projected channels: see ``projections`` for why.
    """
    found = conditions.fit(labelled, fleet)
    cap = fleet.learning.label_cap_cycles
    factor = cap / fleet.learning.cycles_per_reading / REFERENCE_READINGS
    windows = recipe.windows.scaled(factor)
    smoothing = max(2, round(projections.SMOOTHING * factor))
    directions = projections.fit(labelled, found, cap, smoothing)
    age = fleet.learning.uses_age if recipe.uses_age is None else recipe.uses_age
    return Pipeline(
        conditions=found,
        projections=directions,
        smoothing=smoothing,
        names=tuple(f.name for f in declare((d.name for d in directions), windows, age=age)),
        baseline=windows.baseline,
    )


def feature_rows(
    pipeline: Pipeline, readings: pl.DataFrame, kept: np.ndarray, *, shard: int = SHARD
) -> np.ndarray:
    """(kept, features) float32: the rows that are wanted, computed a shard of lives at a time.

    Windows need every reading, a fit does not: so memory holds one shard and what is kept.
    """
    compiled = pipeline.compiled()
    rows = np.empty((len(kept), len(pipeline.names)), dtype=np.float32)
    for first, last in shards(readings, shard):
        start, stop = np.searchsorted(kept, (first, last))
        rows[start:stop] = compiled.matrix(readings[first:last])[kept[start:stop] - first]
    return rows


def shards(readings: pl.DataFrame, size: int) -> list[tuple[int, int]]:
    """Row ranges of whole lives, of at least so many readings each but the last."""
    starts = life_starts(readings)
    cuts = [0]
    for start in starts[1:]:
        if start - cuts[-1] >= size or start == starts[-1]:
            cuts.append(int(start))
    return list(pairwise(cuts))


def assign_folds(count: int, folds: int, seed: int) -> np.ndarray:
    """(count,) int64: the fold of each unit, the folds as equal as they can be."""
    return np.random.default_rng(seed).permutation(np.arange(count) % folds)


def fit_point(
    features: np.ndarray, true: np.ndarray, cap: float, recipe: Recipe, seed: int
) -> CatBoostRegressor:
    """The point model: least squares on capped labels, every row of every life."""
    booster = CatBoostRegressor(
        loss_function="RMSE",
        iterations=recipe.iterations,
        depth=recipe.depth,
        learning_rate=recipe.learning_rate,
        rsm=recipe.feature_share,
        subsample=recipe.row_share,
        bootstrap_type="Bernoulli",
        l2_leaf_reg=recipe.l2,
        random_seed=seed,
        thread_count=recipe.threads,
        allow_writing_files=False,
        verbose=False,
    )
    try:
        return booster.fit(Pool(features, np.minimum(true, cap)))
    except CatBoostError as error:
        raise ModelError(f"CatBoost could not fit {features.shape} rows: {error}") from error


def predict_point(booster: CatBoostRegressor, features: np.ndarray, cap: float) -> np.ndarray:
    """(n,) float64 RUL in cycles, within 0 and the cap."""
    return np.clip(booster.predict(features), 0.0, cap)


def _rows_of(prepared: Prepared, labelled: pl.DataFrame) -> np.ndarray:
    """(labelled, features) float32 from kept features, in the order of the labelled readings."""
    names = list(prepared.pipeline.names)
    wanted, kept = labelled.lazy().select(KEY), prepared.features.select(*KEY, *names)
    rows = wanted.join(kept, on=KEY, how="inner", maintain_order="left")
    found = rows.select(names).collect().to_numpy()
    if len(found) != labelled.height:
        missing = wanted.join(kept, on=KEY, how="anti", maintain_order="left").head(1).collect()
        first = "".join(
            f"; cycle {cycle:g} of life {life} of unit {unit!r} has none"
            for unit, life, cycle in missing.iter_rows()
        )
        raise ModelError(
            f"{labelled.height} labelled readings have {len(found)} rows of features{first}; "
            "materialise features again, then the model"
        )
    return np.ascontiguousarray(found, dtype=np.float32)


def _thinning(height: int, most: int) -> np.ndarray:
    """Indices of the rows that a fit sees: all, or evenly spaced ones of a very long history."""
    return np.arange(0, height, max(1, -(-height // most)))


def _support(labelled: pl.DataFrame, pipeline: Pipeline, booster: CatBoostRegressor) -> Support:
    """What the training readings looked like, sensor by sensor."""
    sensors = pipeline.conditions.sensors
    values = pipeline.conditions.normalise(labelled)
    lowest, highest = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    margin = SUPPORT_MARGIN * (highest - lowest)
    share = sensor_shares(booster, pipeline)
    drivers = [name for name in sensors if share.get(name, 0.0) >= DRIVES]
    return Support(
        lowest=tuple((lowest - margin).tolist()),
        highest=tuple((highest + margin).tolist()),
        longest_run=tuple(_longest_run(labelled, name) for name in sensors),
        longest_gap=tuple(_longest_run(labelled, name, missing=True) for name in sensors),
        drivers=tuple(sorted(drivers, key=lambda name: -share[name])),
    )


def _longest_run(labelled: pl.DataFrame, name: str, *, missing: bool = False) -> int:
    """How often in a row, within a life, a sensor read the same, or else was not read."""
    column = labelled.select(UNIT, LIFE, name)
    if missing:
        runs = pl.struct(UNIT, LIFE, pl.col(name).is_null()).rle_id().filter(pl.col(name).is_null())
    else:
        column = column.drop_nulls(name)
        runs = pl.struct(UNIT, LIFE, name).rle_id()
    return column.select(runs.unique_counts().max().fill_null(0)).item()


def sensor_shares(booster: CatBoostRegressor, pipeline: Pipeline) -> dict[str, float]:
    """The share of each sensor in what moves the point: a projection's is split by its weights."""
    sensors = pipeline.conditions.sensors
    shares = dict.fromkeys(sensors, 0.0)
    by_channel = importance(booster, pipeline.names)
    for projection in pipeline.projections:
        weights = np.abs(projection.weights)
        parts = by_channel.get(projection.name, 0.0) * weights / weights.sum()
        for name, part in zip(sensors, parts, strict=True):
            shares[name] += float(part)
    return shares


def importance(booster: CatBoostRegressor, names: tuple[str, ...]) -> dict[str, float]:
    """The share of each channel in what moves the point, the heaviest first; adds up to 1.

    CatBoost's PredictionValuesChange, summed over the features of a channel.
    """
    changes = booster.get_feature_importance()
    total = float(np.sum(changes)) or 1.0
    shares: dict[str, float] = {}
    for name, change in zip(names, changes, strict=True):
        channel = Feature.parse(name).channel
        shares[channel] = shares.get(channel, 0.0) + float(change) / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
