import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core import kernel
from rul_core.kernel import Bank, Fitted


def integers(*values) -> np.ndarray:
    return np.array(values, dtype=np.int64)


NO_PROJECTIONS = Bank(
    history=0,
    windows=integers(),
    stds=integers(),
    trends=integers().reshape(-1, 2),
    spans=np.empty(0),
    baseline=1,
    deviations=integers(),
    spreads=integers(),
    picks=integers().reshape(-1, 3),
)
VALUES_ALONE = NO_PROJECTIONS._replace(picks=integers((0, 0, 0), (0, 1, 1)))
MEANS_AND_EWMS = VALUES_ALONE._replace(
    history=3,
    windows=integers(2, 3),
    spans=np.array([4.0]),
    picks=integers((2, 0, 0), (2, 1, 1), (3, 0, 2), (3, 1, 3), (4, 0, 4), (4, 1, 5)),
)
"""After the values and the cycle, blocks of means over 2, of means over 3, of the ewm."""

PLAIN = Fitted(
    setting_mean=np.zeros(0),
    setting_scale=np.zeros(0),
    centroids=np.zeros((1, 0)),
    sensor_mean=np.zeros((1, 2)),
    sensor_scale=np.ones((1, 2)),
    weights=np.zeros((2, 0)),
)
"""One condition, two sensors that are normalised to themselves, no projection."""


def run(fitted: Fitted, of_sensors: Bank, sensors: np.ndarray, settings=None) -> np.ndarray:
    count = len(sensors)
    rows = np.full((count, len(of_sensors.picks)), -1.0, dtype=np.float32)
    settings = np.zeros((count, 0)) if settings is None else settings
    kernel.sweep(
        settings,
        sensors,
        np.arange(1.0, count + 1),
        integers(0, count),
        fitted,
        (of_sensors, NO_PROJECTIONS),
        rows,
    )
    return rows


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 2**32))
def test_readings_give_the_same_in_one_call_and_in_many(portions, seed):
    count = sum(portions)
    rng = np.random.default_rng(seed)
    sensors = rng.normal(size=(count, 2))
    sensors[rng.random(sensors.shape) < 0.2] = np.nan
    whole = run(PLAIN, MEANS_AND_EWMS, sensors)
    rows = np.empty_like(whole)
    banks = (MEANS_AND_EWMS, NO_PROJECTIONS)
    state = kernel.start(PLAIN, banks)
    done = 0
    for portion in portions:
        part = slice(done, done + portion)
        kernel.advance(
            state,
            np.empty((portion, 0)),
            sensors[part].copy(),
            np.zeros(portion),
            PLAIN,
            banks,
            rows[part],
        )
        done += portion
    assert state[0] == count
    assert np.array_equal(rows, whole, equal_nan=True)


def test_lives_that_are_not_asked_for_are_not_written():
    sensors = np.arange(12.0).reshape(6, 2)
    rows = np.full((6, 2), -1.0, dtype=np.float32)
    kernel.sweep(
        np.empty((6, 0)),
        sensors,
        np.zeros(6),
        integers(2, 3, 5),
        PLAIN,
        (VALUES_ALONE, NO_PROJECTIONS),
        rows,
    )
    assert rows[:, 0].tolist() == [-1, -1, 4, 6, 8, -1]


def test_normalised_values_stay_within_the_limit():
    sensors = np.array([[1e9, -1e9], [np.inf, -np.inf], [19.0, -19.0]])
    assert run(PLAIN, VALUES_ALONE, sensors).tolist() == [[20, -20], [20, -20], [19, -19]]


def test_each_condition_has_its_own_mean_and_scale():
    fitted = PLAIN._replace(
        setting_mean=np.array([10.0]),
        setting_scale=np.array([2.0]),
        centroids=np.array([[-1.0], [1.0]]),
        sensor_mean=np.array([[0.0, 0.0], [5.0, 6.0]]),
        sensor_scale=np.array([[1.0, 1.0], [2.0, 4.0]]),
    )
    sensors = np.array([[7.0, 8.0], [7.0, 8.0]])
    rows = run(fitted, VALUES_ALONE, sensors, settings=np.array([[8.5], [11.0]]))
    assert rows.tolist() == [[7.0, 8.0], [1.0, 0.5]]


def test_a_reading_in_an_unknown_condition_says_nothing_and_harms_nothing():
    fitted = PLAIN._replace(
        setting_mean=np.zeros(1), setting_scale=np.ones(1), centroids=np.zeros((1, 1))
    )
    sensors = np.array([[1.0, 2.0], [500.0, 500.0], [3.0, 4.0]])
    rows = run(fitted, MEANS_AND_EWMS, sensors, settings=np.array([[0.0], [np.nan], [0.0]]))
    assert rows[1, :2].tolist() == [1.0, 2.0]
    assert rows[2, :2].tolist() == [3.0, 4.0]
    assert rows[2, 2:4].tolist() == [2.0, 3.0]


def test_a_projection_of_nothing_read_is_unknown_and_of_some_is_of_those():
    fitted = PLAIN._replace(weights=np.array([[2.0], [-1.0]]))
    sensors = np.array([[1.0, 3.0], [np.nan, 3.0], [np.nan, np.nan]])
    rows = np.empty((3, 1), dtype=np.float32)
    banks = (NO_PROJECTIONS, VALUES_ALONE._replace(picks=integers((0, 0, 0))))
    kernel.sweep(np.empty((3, 0)), sensors, np.zeros(3), integers(0, 3), fitted, banks, rows)
    assert np.array_equal(rows[:, 0], [-1.0, -3.0, np.nan], equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32))
def test_the_nearest_condition_is_the_nearest(conditions, count, seed):
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(20, count))
    mean, scale = rng.normal(size=count), rng.uniform(0.5, 2.0, count)
    centroids = rng.normal(size=(conditions, count))
    found, squared = kernel.nearest_of_each(places, mean, scale, centroids)
    gaps = ((places - mean) / scale)[:, None, :] - centroids[None, :, :]
    every = (gaps**2).sum(axis=2)
    assert (found == every.argmin(axis=1)).all()
    np.testing.assert_allclose(squared, every.min(axis=1))


def distances(settings: list[list[float]], centroids: list[list[float]]) -> tuple[list, list]:
    """In settings with mean 0 and scale 1."""
    places = np.array(settings, dtype=np.float64)
    count = places.shape[1]
    found, squared = kernel.nearest_of_each(
        places, np.zeros(count), np.ones(count), np.array(centroids).reshape(-1, count)
    )
    return found.tolist(), squared.tolist()


def test_of_two_conditions_as_near_the_first_counts():
    assert distances([[0.0]], [[1.0], [-1.0]]) == ([0], [1.0])


@pytest.mark.parametrize("setting", [np.nan, np.inf, 1e300])
def test_a_setting_that_says_nothing_is_infinitely_far_from_every_condition(setting):
    assert distances([[setting]], [[1.0], [-1.0]]) == ([0], [np.inf])


def test_without_settings_there_is_one_condition_and_no_distance():
    places, nothing = np.zeros((2, 0)), np.zeros(0)
    found, squared = kernel.nearest_of_each(places, nothing, nothing, np.zeros((1, 0)))
    assert (found.tolist(), squared.tolist()) == ([0, 0], [0.0, 0.0])
