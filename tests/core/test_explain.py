"""Contributions in cycles: they add up to the point, and sensors share what directions add."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import polars as pl
import pytest
from catboost import Pool
from hypothesis import given
from hypothesis import strategies as st

from rul_core import explain, lookalikes, projections
from rul_core.features import Feature
from rul_core.labels import RUL
from rul_core.prognose import prognose
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


CYCLES = st.floats(-100, 100).map(lambda cycles: round(cycles, 3))
REASONS = st.lists(CYCLES, min_size=3, max_size=3)
"""What three sensors contribute."""


def parts(cycles: list[float], typical: float = 90.0) -> tuple[Contribution, ...]:
    named = [Contribution(group=f"s{i}", cycles=c) for i, c in enumerate(cycles)]
    typically = Contribution(group="typical", cycles=typical)
    return (typically, *named, Contribution(group="limits", cycles=-typical))


def stability(now: list[float], *before: list[float]) -> float:
    found = explain.stability(parts(now), [parts(one) for one in before])
    assert found is not None
    return found


@given(now=REASONS, before=st.lists(REASONS, min_size=1, max_size=4), factor=st.floats(0.1, 10))
def test_stability_is_a_share_that_knows_no_order_no_unit_and_no_side(now, before, factor):
    found = stability(now, *before)
    assert 0.0 <= found <= 1.0
    assert stability(now, *reversed(before)) == pytest.approx(found)
    assert stability(now[::-1], *(one[::-1] for one in before)) == pytest.approx(found)
    for scale in (factor, -factor):
        scaled = [[scale * c for c in one] for one in (now, *before)]
        assert stability(*scaled) == pytest.approx(found)


@given(now=REASONS, count=st.integers(1, 4))
def test_readings_that_all_say_the_same_are_stable_and_only_they(now, count):
    assert stability(now, *[now] * count) == 1.0
    other = [now[0] + 1.0, *now[1:]]
    assert stability(now, *[now] * count, other) < 1.0


@given(now=REASONS, before=REASONS, share=st.floats(0.1, 0.9))
def test_contributions_that_come_nearer_are_more_stable(now, before, share):
    between = [share * a + (1 - share) * b for a, b in zip(now, before, strict=True)]
    assert stability(now, between) >= stability(now, before) - 1e-9


def test_the_stability_of_known_contributions():
    assert stability([10.0, -5.0, 0.0], [10.0, 5.0, 0.0]) == pytest.approx(10 / 20)
    assert stability([4.0, 0.0, 0.0], [-4.0, 0.0, 0.0]) == 0.0
    assert stability([4.0, 0.0, 0.0], [2.0, 0.0, 0.0], [8.0, 0.0, 0.0]) == 0.5
    assert stability([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]) == 1.0
    one = parts([4.0, 0.0, 0.0])
    assert explain.stability(one, [parts([4.0, 0.0, 0.0], typical=7.0)]) == 1.0
    assert explain.stability(one, []) is None


def test_an_explanation_holds_contributions_stability_and_lookalikes(pumps):
    model, now = pumps.model, datetime(2026, 11, 23, tzinfo=UTC)
    trajectories = lookalikes.learn(pumps.readings, pumps.lives, pumps.fleet, model.pipeline)
    for unit in pumps.running["unit"].unique(maintain_order=True):
        readings = pumps.readings.filter(pl.col("unit") == unit)
        (said,) = prognose(model, readings, version="v", now=now)
        (plainly,) = prognose(model, readings, version="v", now=now, explained=True)
        whole = explain.explained(said, model, readings, trajectories)
        assert msgspec.structs.replace(whole, explanation=None) == plainly
        explanation = whole.explanation
        assert explanation is not None
        assert explanation.readings == explain.COMPARED
        assert explanation.lookalikes == lookalikes.find(
            trajectories, readings, pumps.fleet, model.pipeline
        )
        earlier = [
            prognose(model, readings[:-back], version="v", now=now, explained=True)[0]
            for back in range(1, explain.COMPARED + 1)
        ]
        expected = explain.stability(whole.contributions, [one.contributions for one in earlier])
        assert explanation.stability == pytest.approx(expected)


def test_the_first_prognosis_of_a_life_has_nothing_to_agree_with(pumps):
    model, now = pumps.model, datetime(2026, 11, 23, tzinfo=UTC)
    trajectories = lookalikes.learn(pumps.readings, pumps.lives, pumps.fleet, model.pipeline)
    readings = pumps.readings[: pumps.fleet.learning.minimum_readings]
    (said,) = prognose(model, readings, version="v", now=now)
    whole = explain.explained(said, model, readings, trajectories)
    assert whole.explanation is not None
    assert (whole.explanation.stability, whole.explanation.readings) == (None, 0)
