"""Contributions in cycles: they add up to the point, and sensors share what directions add."""

import msgspec
import numpy as np
import pytest
from catboost import Pool

from rul_core import explain, projections
from rul_core.features import Feature
from rul_core.labels import RUL
from rul_core.prognosis import Contribution


def explained(pumps, rows: np.ndarray, smoothed: np.ndarray | None = None):
    """Contributions to some readings, and the points that they explain."""
    model = pumps.model
    features = model.compiled.matrix(pumps.readings)[rows]
    points = model.predict_rows(features)[RUL].to_numpy()
    if smoothed is None:
        smoothed = projections.smooth(
            pumps.readings, model.pipeline.conditions, model.pipeline.smoothing
        )[rows]
    return (
        explain.contributions(model.booster, model.pipeline, features, smoothed, points),
        points,
        features,
    )


def by_channel(pumps, features: np.ndarray) -> dict[str, np.ndarray]:
    """CatBoost's own SHAP values, summed over the features of a channel."""
    values = pumps.model.booster.get_feature_importance(Pool(features), type="ShapValues")
    sums: dict[str, np.ndarray] = {}
    for name, column in zip(pumps.model.pipeline.names, values.T, strict=False):
        channel = Feature.parse(name).channel
        sums[channel] = sums.get(channel, np.zeros(len(features))) + column
    return sums


def cycles_of(parts: tuple[Contribution, ...], group: str) -> float:
    return next(part.cycles for part in parts if part.group == group)


def test_contributions_add_up_to_the_point_of_every_reading(pumps):
    parts, points, _ = explained(pumps, np.arange(pumps.readings.height))
    sums = [sum(part.cycles for part in row) for row in parts]
    np.testing.assert_allclose(sums, points, atol=1e-6)


def test_every_sensor_and_the_whole_machine_have_their_part(pumps):
    parts, _, _ = explained(pumps, np.arange(0, pumps.readings.height, 50))
    expected = {"typical", *pumps.fleet.columns.sensors, "age", "all_sensors", "limits"}
    for row in parts:
        assert {part.group for part in row} == expected
        assert len(row) == len(expected)
        assert (row[0].group, row[-1].group) == ("typical", "limits")
        sizes = [abs(part.cycles) for part in row[1:-1]]
        assert sizes == sorted(sizes, reverse=True)


def test_typical_is_the_same_for_all_and_limits_is_what_the_clipping_changed(pumps):
    rows = np.arange(pumps.readings.height)
    parts, points, features = explained(pumps, rows)
    raw = pumps.model.booster.predict(features)
    assert len({row[0].cycles for row in parts}) == 1
    limits = np.array([row[-1].cycles for row in parts])
    np.testing.assert_allclose(limits, points - raw, atol=1e-6)
    assert (np.abs(limits) > 1e-3).any()


def test_sensors_share_exactly_what_the_directions_add(pumps):
    parts, _, features = explained(pumps, np.arange(0, pumps.readings.height, 20))
    sums = by_channel(pumps, features)
    directions = sum(sums[projection.name] for projection in pumps.model.pipeline.projections)
    of_sensors = [
        sum(part.cycles for part in row if part.group in pumps.fleet.columns.sensors)
        for row in parts
    ]
    np.testing.assert_allclose(of_sensors, directions, atol=1e-6)
    for group in ("age", "all_sensors"):
        np.testing.assert_allclose([cycles_of(row, group) for row in parts], sums[group])


def test_a_sensor_takes_as_much_of_a_direction_as_it_moves_it(pumps):
    sensors = pumps.model.pipeline.conditions.sensors
    moved = np.array([[0.0, 2.0, 0.0, -1.0, np.nan]])
    (row,), _, features = explained(pumps, np.array([40]), moved)
    expected = dict.fromkeys(sensors, 0.0)
    for projection in pumps.model.pipeline.projections:
        pull = np.abs(np.nan_to_num(moved[0]) * projection.weights)
        added = by_channel(pumps, features)[projection.name][0]
        for name, share in zip(sensors, pull / pull.sum(), strict=True):
            expected[name] += share * added
    for name in sensors:
        assert cycles_of(row, name) == pytest.approx(expected[name])
    assert cycles_of(row, "sensor_1") == cycles_of(row, "sensor_5") == 0.0


def test_an_average_machine_has_no_sensor_to_blame_so_all_share_evenly(pumps):
    (row,), _, _ = explained(pumps, np.array([40]), np.zeros((1, 5)))
    shares = [cycles_of(row, name) for name in pumps.fleet.columns.sensors]
    np.testing.assert_allclose(shares, shares[0])


def test_without_directions_channels_are_explained_as_they_are(pumps):
    pipeline = msgspec.structs.replace(pumps.model.pipeline, projections=())
    features = pumps.model.compiled.matrix(pumps.readings)[:3]
    smoothed = np.zeros((3, 5))
    points = pumps.model.predict_rows(features)[RUL].to_numpy()
    parts = explain.contributions(pumps.model.booster, pipeline, features, smoothed, points)
    sums = by_channel(pumps, features)
    for group, column in sums.items():
        np.testing.assert_allclose([cycles_of(row, group) for row in parts], column)
