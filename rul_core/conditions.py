"""Operating conditions, and sensors normalised within each.

What belongs here: finding the conditions a fleet works under from its settings, and the mean and
spread of every sensor in each. Both are fitted on training lives alone. What does not: features.

A machine's sensors say first how it is being used and only then how worn it is: z-scores per
operating condition take the use out of them.
"""

import msgspec
import numpy as np
import polars as pl
from scipy.cluster.vq import ClusterError, kmeans2

from rul_core import kernel
from rul_core.errors import NotEnoughData
from rul_core.schema import Fleet

MOST_CONDITIONS = 10
TIGHT = 0.02
"""Conditions are told apart when they leave less than this share of the settings' variance."""
CLEAR = 0.1
"""One more condition is a separate one when it leaves less than this share of what was left."""
SAMPLE = 20_000
"""Readings that k-means looks at."""
MARGIN = 3.0
"""A reading farther from every condition than this many training radii is in an unseen one."""


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What was fitted: conditions (C) in the space of settings (S), and sensors (K) in each.

    Sensors that do not vary within any condition carry nothing and are left out of ``sensors``.
    """

    settings: tuple[str, ...]
    sensors: tuple[str, ...]
    setting_mean: tuple[float, ...]
    setting_scale: tuple[float, ...]
    centroids: tuple[tuple[float, ...], ...]
    """(C, S), of standardised settings; one empty row when there is a single condition."""
    radius: float
    """The largest distance of a training reading to its centroid, with a floor."""
    sensor_mean: tuple[tuple[float, ...], ...]
    """(C, K)"""
    sensor_scale: tuple[tuple[float, ...], ...]
    """(C, K), above 0"""

    def assign(self, readings: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """The condition of each reading and how far from it the settings lie.

        Returns:
            (n,) int64 indices of the nearest condition; (n,) float64 distances in training radii,
            infinite where a setting was not read.
        """
        return self.nearest(matrix(readings, self.settings))

    def nearest(self, settings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As ``assign``, for settings (n, S) float64, NaN where not read."""
        found, squared = kernel.nearest_of_each(
            settings,
            np.asarray(self.setting_mean),
            np.asarray(self.setting_scale),
            np.asarray(self.centroids).reshape(len(self.centroids), len(self.settings)),
        )
        return found, np.sqrt(squared) / self.radius

    def normalise(self, readings: pl.DataFrame) -> np.ndarray:
        """(n, sensors) float64 z-scores within the conditions.

        NaN where not read, and where a setting was not read: the condition is unknown then.
        Infinite where a value is so large that its z-score is no number: out of any support.
        """
        condition, distance = self.assign(readings)
        return self.z_scores(matrix(readings, self.sensors), condition, distance)

    def z_scores(
        self, sensors: np.ndarray, condition: np.ndarray, distance: np.ndarray
    ) -> np.ndarray:
        """As ``normalise``, for sensors (n, K) float64 and what ``nearest`` says of them."""
        with np.errstate(over="ignore"):
            values = sensors - np.asarray(self.sensor_mean)[condition]
            values /= np.asarray(self.sensor_scale)[condition]
        values[np.isinf(distance)] = np.nan
        return values


def fit(readings: pl.DataFrame, fleet: Fleet) -> Conditions:
    """Conditions of a fleet, from readings of training lives.

    Args:
        readings: A readings frame; only training lives.
        fleet: Its settings and sensors.

    Raises:
        NotEnoughData: No sensor varies.
    """
    settings = matrix(readings, fleet.columns.settings)
    settings = settings[~np.isnan(settings).any(axis=1)]
    spread = settings.std(axis=0) if len(settings) else np.zeros(settings.shape[1])
    varies = spread > 1e-9 * (1.0 + np.abs(settings.mean(axis=0) if len(settings) else spread))
    names = tuple(n for n, v in zip(fleet.columns.settings, varies, strict=True) if v)
    settings, scale = settings[:, varies], spread[varies]
    mean = settings.mean(axis=0) if len(settings) else np.zeros(0)
    scaled = (settings - mean) / scale
    centroids = _centroids(scaled)
    found = Conditions(
        settings=names,
        sensors=fleet.columns.sensors,
        setting_mean=_floats(mean),
        setting_scale=_floats(scale),
        centroids=tuple(_floats(row) for row in centroids),
        radius=1.0,
        sensor_mean=(),
        sensor_scale=(),
    )
    condition, distance = found.assign(readings)
    known = np.isfinite(distance)
    radius = max(float(distance[known].max(initial=0.0)), 0.05)
    sensor_mean, sensor_scale, useful = _sensor_statistics(
        matrix(readings, fleet.columns.sensors)[known], condition[known], len(centroids)
    )
    if not useful.any():
        raise NotEnoughData(
            f"fleet {fleet.name}: none of its {len(useful)} sensors varies over "
            f"{readings.height} readings; name sensors that do in columns.sensors"
        )
    return msgspec.structs.replace(
        found,
        radius=radius,
        sensors=tuple(n for n, u in zip(fleet.columns.sensors, useful, strict=True) if u),
        sensor_mean=tuple(_floats(row) for row in sensor_mean[:, useful]),
        sensor_scale=tuple(_floats(row) for row in sensor_scale[:, useful]),
    )


def _centroids(scaled: np.ndarray) -> np.ndarray:
    """One centroid a condition; a single one at the mean where the settings do not cluster.

    Separate conditions show as a sudden fall of what is left unexplained, and the last such fall
    counts; settings that vary continuously along one line are cut into the fewest tight pieces.
    """
    one = np.zeros((1, scaled.shape[1]))
    if scaled.shape[1] == 0:
        return one
    random = np.random.default_rng(0)
    if len(scaled) > SAMPLE:
        scaled = scaled[np.sort(random.choice(len(scaled), SAMPLE, replace=False))]
    distinct = len(np.unique(scaled, axis=0))
    left = float((scaled**2).sum())
    whole, chosen = left, one
    for count in range(2, min(MOST_CONDITIONS, distinct) + 1):
        before = left
        found, left = min(
            (_kmeans(scaled, count, seed) for seed in range(5)), key=lambda found: found[1]
        )
        if left >= TIGHT * whole:
            continue
        if left < CLEAR * before or len(chosen) == 1:
            chosen = found
    return chosen[np.lexsort(chosen.T[::-1])]


def _kmeans(points: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, float]:
    try:
        centroids, label = kmeans2(points, count, minit="++", rng=seed, missing="raise")
    except ClusterError:  # this start left a cluster empty; the other seeds count
        return points[:count], np.inf
    return centroids, float(((points - centroids[label]) ** 2).sum())


def _sensor_statistics(
    values: np.ndarray, condition: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and scale per condition and sensor, and which sensors vary in some condition.

    A condition in which a sensor was hardly ever read takes that sensor's figures over all.
    """
    mean = np.zeros((count, values.shape[1]))
    scale = np.ones((count, values.shape[1]))
    useful = np.zeros(values.shape[1], dtype=bool)
    overall_mean, overall_spread, _ = _moments(values)
    for c in range(count):
        own_mean, own_spread, read = _moments(values[condition == c])
        enough = read > 1
        mean[c] = np.where(enough, own_mean, overall_mean)
        spread = np.where(enough, own_spread, overall_spread)
        moves = spread > 1e-6 * np.abs(mean[c])
        scale[c] = np.where(moves, spread, 1.0)
        useful |= moves & enough
    return mean, scale, useful


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and count of what was read of each sensor."""
    read = (~np.isnan(values)).sum(axis=0)
    mean = np.nansum(values, axis=0) / np.maximum(read, 1)
    spread = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / np.maximum(read, 1))
    return mean, spread, read


def matrix(readings: pl.DataFrame, names: tuple[str, ...]) -> np.ndarray:
    """(n, len(names)) float64, NaN where null."""
    return table(columns(readings, names), slice(0, readings.height))


def columns(readings: pl.DataFrame, names: tuple[str, ...]) -> list[np.ndarray]:
    """(n,) float64 each, NaN where null; not to be written to."""
    return [readings[name].cast(pl.Float64).to_numpy() for name in names]


def table(columns: list[np.ndarray], rows: slice) -> np.ndarray:
    """(rows, columns) float64 of some rows."""
    values = np.empty((rows.stop - rows.start, len(columns)))
    for j, column in enumerate(columns):
        values[:, j] = column[rows]
    return values


def _floats(row: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in row)
