"""The features in pandas: ``groupby().rolling()`` and ``groupby().ewm()``, on whole tables at once.

What belongs here: the same channels and declarations as ``rul_core.features``, written as one
writes them in pandas when speed matters. Conditions and projections are NumPy matrices; what
several declarations share is computed once; lives are grouped by one integer column.
"""

import numpy as np
import pandas as pd

from rul_core.features import WHOLE_MACHINE, Feature, Pipeline
from rul_core.kernel import LIMIT


def channels(readings: pd.DataFrame, pipeline: Pipeline) -> pd.DataFrame:
    """Normalised sensors, then projections; NaN where not read.

    Args:
        readings: Sorted by unit, life, cycle, NaN where not read.
        pipeline: What was fitted.
    """
    found = pipeline.conditions
    names = list(found.sensors)
    settings = readings[list(found.settings)].to_numpy()
    place = (settings - np.array(found.setting_mean)) / np.array(found.setting_scale)
    squared = np.column_stack([((place - at) ** 2).sum(axis=1) for at in found.centroids])
    condition = squared.argmin(axis=1)
    mean, scale = np.array(found.sensor_mean)[condition], np.array(found.sensor_scale)[condition]
    normalised = ((readings[names].to_numpy() - mean) / scale).clip(-LIMIT, LIMIT)
    normalised[np.isnan(squared).any(axis=1)] = np.nan
    table = pd.DataFrame(normalised, columns=names)
    if pipeline.projections:
        weights = np.array([p.weights for p in pipeline.projections]).T
        projected = np.nan_to_num(normalised) @ weights
        projected[np.isnan(normalised).all(axis=1)] = np.nan
        table[[p.name for p in pipeline.projections]] = projected
    return table


def features(table: pd.DataFrame, readings: pd.DataFrame, pipeline: Pipeline) -> pd.DataFrame:
    """One column a feature, in the order of the pipeline's names.

    Args:
        table: From ``channels``.
        readings: The same rows; unit, life and cycle are used.
        pipeline: Its names and baseline.
    """
    declared = [Feature.parse(name) for name in pipeline.names]
    sensors = list(pipeline.conditions.sensors)
    life = readings.groupby(["unit", "life"], sort=False).ngroup().to_numpy()

    def of(kinds: set[str], window: int) -> list[str]:
        """The channels that features of these kinds and this window are made of."""
        asking = [f for f in declared if f.kind in kinds and f.window == window]
        names = {f.channel for f in asking if f.kind not in WHOLE_MACHINE}
        if any(f.kind == "spread" for f in asking):
            names |= set(sensors)
        return [name for name in table.columns if name in names]

    def windows(*kinds: str) -> list[int]:
        return sorted({f.window for f in declared if f.kind in kinds})

    def rolling(names: list[str], window: int, least: int):
        return table[names].groupby(life, sort=False).rolling(window, min_periods=least)

    def flat(grouped: pd.DataFrame) -> pd.DataFrame:
        return grouped.reset_index(drop=True)

    done: dict[str, pd.Series | np.ndarray] = {}

    def keep(found: pd.DataFrame, kind: str, window: int) -> None:
        done.update((Feature(name, kind, window).name, found[name]) for name in found.columns)

    for w in windows("mean", "trend"):
        means = flat(rolling(of({"mean", "trend"}, w), w, 1).mean())
        keep(means, "mean", w)
        keep(means - means.groupby(life, sort=False).shift(w), "trend", w)
    for w in windows("std"):
        keep(flat(rolling(of({"std"}, w), w, 2).std()), "std", w)
    moving = [
        name for w in windows("deviation", "spread") for name in of({"deviation", "spread"}, w)
    ]
    early = (readings.groupby(life, sort=False).cumcount() < pipeline.baseline).to_numpy()
    first = table[sorted(set(moving))].mask(pd.Series(~early), np.nan)
    start = first.fillna(0.0).groupby(life, sort=False).cumsum() / (
        first.notna().astype(np.float64).groupby(life, sort=False).cumsum()
    )
    for w in windows("ewm", "deviation", "spread"):
        smoothed = of({"ewm", "deviation", "spread"}, w)
        grouped = table[smoothed].groupby(life, sort=False)
        smooth = flat(grouped.ewm(span=w, adjust=True, ignore_na=True).mean())
        keep(smooth, "ewm", w)
        moved = smooth[of({"deviation", "spread"}, w)]
        moved = moved - start[moved.columns]
        keep(moved, "deviation", w)
        if w in windows("spread"):
            done[Feature("all_sensors", "spread", w).name] = moved[sensors].abs().mean(axis=1)
    keep(table, "value", 0)
    done["age__age"] = readings["cycle"].to_numpy()
    return pd.DataFrame({name: done[name] for name in pipeline.names})
