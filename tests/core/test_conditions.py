import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core import conditions
from rul_core.errors import NotEnoughData
from rul_core.schema import Columns, Fleet
from rul_core.simulator import Simulation, simulate, simulated_fleet


def fleet(settings: int, sensors: int = 2) -> Fleet:
    return Fleet(
        name="mills",
        columns=Columns(
            unit="unit",
            cycle="cycle",
            settings=tuple(f"setting_{j}" for j in range(settings)),
            sensors=tuple(f"sensor_{j}" for j in range(sensors)),
        ),
    )


def readings(
    settings: np.ndarray, sensors: np.ndarray | None = None, seed: int = 0
) -> pl.DataFrame:
    """Readings with these settings (n, S), and noise for sensors unless given."""
    if sensors is None:
        sensors = np.random.default_rng(seed).normal(size=(len(settings), 2))
    return pl.DataFrame(
        {f"setting_{j}": column for j, column in enumerate(settings.T)}
        | {f"sensor_{j}": column for j, column in enumerate(sensors.T)}
    ).fill_nan(None)


SIX = np.array([[0, 0], [10, 0.25], [20, 0.7], [25, 0.62], [35, 0.84], [42, 0.84]])
"""Altitude and Mach number of the six flight conditions of C-MAPSS."""


def six_conditions(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    which = rng.integers(6, size=count)
    return SIX[which] + rng.normal(size=(count, 2)) * [0.01, 0.0005], which


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_separate_conditions_are_each_found(seed):
    places, which = six_conditions(1500, seed)
    frame = readings(places)
    found = conditions.fit(frame, fleet(2))
    assigned, _ = found.assign(frame)
    assert len(found.centroids) == 6
    assert len(set(zip(which, assigned, strict=True))) == 6


def test_the_same_conditions_are_found_whatever_the_sample_and_the_order():
    places, _ = six_conditions(30_000, seed=1)
    shuffled = places[np.random.default_rng(2).permutation(len(places))]
    first = conditions.fit(readings(places), fleet(2))
    again = conditions.fit(readings(shuffled), fleet(2))
    np.testing.assert_allclose(first.centroids, again.centroids, atol=0.01)


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_settings_that_only_waver_are_one_condition(columns, seed):
    noise = np.random.default_rng(seed).normal(size=(3000, columns))
    assert conditions.fit(readings(noise), fleet(columns)).centroids == ((0.0,) * columns,)


def test_a_load_that_varies_continuously_is_cut_into_a_few_pieces():
    load = np.random.default_rng(0).uniform(20, 100, size=(5000, 1))
    found = conditions.fit(readings(load), fleet(1))
    assert 4 <= len(found.centroids) <= conditions.MOST_CONDITIONS
    _, distance = found.assign(readings(load))
    assert distance.max() <= 1.0


def test_the_conditions_of_a_simulated_fleet_are_those_it_was_made_with():
    for count in (1, 2, 4):
        simulation = Simulation(units=8, running_units=0, conditions=count, mean_life_cycles=60)
        found = conditions.fit(simulate(simulation).readings, simulated_fleet(simulation, "made"))
        assert len(found.centroids) == count


def test_a_setting_that_never_changes_is_left_out():
    places, _ = six_conditions(600, seed=0)
    still = np.column_stack([np.full(600, 100.0), places])
    found = conditions.fit(readings(still), fleet(3))
    assert found.settings == ("setting_1", "setting_2")
    assert len(found.centroids) == 6


@pytest.mark.parametrize("settings", [0, 2])
def test_without_settings_that_change_there_is_one_condition(settings):
    frame = readings(np.full((50, settings), 7.0))
    found = conditions.fit(frame, fleet(settings))
    assigned, distance = found.assign(frame)
    assert found.centroids == ((),)
    assert set(assigned) == {0}
    assert set(distance) == {0.0}


def test_settings_that_were_never_read_are_no_settings():
    found = conditions.fit(readings(np.full((50, 1), np.nan)), fleet(1))
    assert found.settings == ()


def test_sensors_are_normalised_within_each_condition():
    places, which = six_conditions(3000, seed=3)
    noise = np.random.default_rng(3).normal(size=(3000, 2))
    frame = readings(places, 500 + 100.0 * which[:, None] + (1 + which[:, None]) * noise)
    normalised = conditions.fit(frame, fleet(2)).normalise(frame)
    for condition in range(6):
        own = normalised[which == condition]
        np.testing.assert_allclose(own.mean(axis=0), 0.0, atol=1e-9)
        np.testing.assert_allclose(own.std(axis=0), 1.0, atol=1e-9)


def test_a_sensor_that_only_tells_the_condition_is_left_out():
    places, which = six_conditions(600, seed=0)
    sensors = np.column_stack([which.astype(float), np.random.default_rng(0).normal(size=600)])
    assert conditions.fit(readings(places, sensors), fleet(2)).sensors == ("sensor_1",)


def test_a_sensor_that_moves_in_one_condition_alone_is_kept():
    places, which = six_conditions(600, seed=0)
    noise = np.random.default_rng(0).normal(size=600)
    sensors = np.column_stack([np.where(which == 4, noise, 3.0)])
    frame = readings(places, sensors)
    found = conditions.fit(frame, fleet(2, sensors=1))
    assert found.sensors == ("sensor_0",)
    assert (found.normalise(frame)[which != 4] == 0.0).all()


def test_no_sensor_that_moves_is_refused_and_named():
    with pytest.raises(NotEnoughData, match="fleet mills: none of its 2 sensors varies over 40"):
        conditions.fit(readings(np.zeros((40, 1)), np.ones((40, 2))), fleet(1))


def test_nothing_at_all_is_refused():
    with pytest.raises(NotEnoughData, match="over 0 readings"):
        conditions.fit(readings(np.zeros((0, 1)), np.ones((0, 2))), fleet(1))


def test_nulls_in_settings_and_sensors_leave_the_rest_as_it_was():
    places, which = six_conditions(3000, seed=5)
    rng = np.random.default_rng(5)
    sensors = 100.0 * which[:, None] + rng.normal(size=(3000, 2))
    whole = conditions.fit(readings(places, sensors), fleet(2))
    places[rng.random(places.shape) < 0.1] = np.nan
    sensors[rng.random(sensors.shape) < 0.1] = np.nan
    frame = readings(places, sensors)
    found = conditions.fit(frame, fleet(2))
    np.testing.assert_allclose(found.sensor_mean, whole.sensor_mean, atol=0.2)
    np.testing.assert_allclose(found.sensor_scale, whole.sensor_scale, rtol=0.1)
    unknown = np.array([any(np.isnan(place)) for place in places])
    _, distance = found.assign(frame)
    assert (np.isinf(distance) == unknown).all()
    assert (np.isnan(found.normalise(frame)) == (np.isnan(sensors) | unknown[:, None])).all()


def test_a_condition_in_which_a_sensor_was_never_read_takes_the_figures_over_all():
    places, which = six_conditions(3000, seed=6)
    sensors = 50.0 + np.random.default_rng(6).normal(size=(3000, 2))
    sensors[which == 2, 0] = np.nan
    found = conditions.fit(readings(places, sensors), fleet(2))
    late = found.normalise(readings(SIX[2:3], np.array([[52.0, 52.0]])))
    np.testing.assert_allclose(late, 2.0, atol=0.3)


def test_training_readings_lie_within_a_radius_and_an_unseen_condition_does_not():
    places, _ = six_conditions(1500, seed=0)
    found = conditions.fit(readings(places), fleet(2))
    _, near = found.assign(readings(places))
    _, far = found.assign(readings(np.array([[30.0, 0.3]])))
    assert near.max() <= 1.0 + 1e-12
    assert far[0] > conditions.MARGIN


def test_settings_with_no_width_at_all_have_a_radius_all_the_same():
    places = np.repeat([[0.0], [10.0]], 50, axis=0)
    found = conditions.fit(readings(places), fleet(1))
    _, beside = found.assign(readings(np.array([[0.001]])))
    assert len(found.centroids) == 2
    assert beside[0] < 1.0
