from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core import intervals
from rul_core.errors import NotEnoughData
from rul_core.intervals import LEVELS, Bands, failure_probability
from rul_core.labels import cut_weights

CAP = 125.0

NOISES = {
    "even": lambda rng, true: rng.normal(0, 10, true.shape),
    "growing": lambda rng, true: rng.normal(0, 1, true.shape) * (2 + 0.15 * true),
    "skewed": lambda rng, true: rng.exponential(12, true.shape) - 12,
    "heavy": lambda rng, true: 6 * rng.standard_t(3, true.shape),
    "biased by unit": lambda rng, true: (
        rng.normal(0, 8, (len(true), 1)) + rng.normal(0, 4, true.shape)
    ),
    "always late": lambda rng, true: 15 + rng.normal(0, 5, true.shape),
}
"""What a model may be wrong by: (units, cycles) errors in cycles, given the true RUL."""


def predictions(noise: str, units: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted and true RUL (n,) of units over their last 200 cycles, and the units."""
    rng = np.random.default_rng(seed)
    true = np.broadcast_to(np.arange(200.0)[::-1], (units, 200))
    predicted = np.clip(np.minimum(true, CAP) + NOISES[noise](rng, true), 0.0, CAP)
    return predicted.ravel(), true.ravel(), np.repeat(np.arange(units), 200)


def fitted(noise: str, units: int, seed: int) -> Bands:
    predicted, true, codes = predictions(noise, units, seed)
    weights = cut_weights(codes, true <= intervals.HORIZON * CAP)
    return intervals.fit(predicted, true, weights, codes, codes % 5, CAP)


@pytest.mark.parametrize("noise", NOISES)
def test_bands_cover_fresh_units_as_promised_whatever_the_shape_of_the_errors(noise):
    covered: dict[tuple[float, float], list[float]] = {(0.05, 0.95): [], (0.25, 0.75): []}
    below = []
    for seed in range(4):
        bands = fitted(noise, units=60, seed=seed)
        predicted, true, _ = predictions(noise, units=400, seed=1000 + seed)
        counted = true <= CAP
        quantiles, seen = bands.at(predicted[counted]), true[counted]
        for (low, high), shares in covered.items():
            inside = (quantiles[:, bands.column(low)] <= seen) & (
                seen <= quantiles[:, bands.column(high)]
            )
            shares.append(inside.mean())
        below.append((seen < quantiles[:, bands.column(0.05)]).mean())
    assert 0.9 <= np.mean(covered[0.05, 0.95]) <= 0.96
    assert 0.47 <= np.mean(covered[0.25, 0.75]) <= 0.58
    assert np.mean(below) <= 0.05


def test_a_better_model_has_narrower_bands():
    def width(bands: Bands) -> float:
        quantiles = bands.at(np.array([60.0]))[0]
        return quantiles[bands.column(0.95)] - quantiles[bands.column(0.05)]

    assert width(fitted("always late", 60, 0)) < width(fitted("even", 60, 0))


def test_a_model_that_is_always_late_is_put_right():
    bands = fitted("always late", 60, 0)
    assert bands.at(np.array([75.0]))[0, bands.column(0.5)] == pytest.approx(60.0, abs=4.0)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(sorted(NOISES)),
    st.integers(intervals.LEAST_UNITS, 30),
    st.integers(0, 2**32),
    st.lists(st.floats(0.0, CAP), min_size=1, max_size=20),
)
def test_quantiles_never_cross_nor_leave_the_range_of_labels(noise, units, seed, predicted):
    quantiles = fitted(noise, units, seed).at(np.array(predicted))
    assert quantiles.shape == (len(predicted), len(LEVELS))
    assert (np.diff(quantiles, axis=1) >= 0.0).all()
    assert (quantiles >= 0.0).all()
    assert (quantiles <= CAP).all()


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(sorted(NOISES)),
    st.integers(0, 2**32),
    st.lists(st.floats(0.0, CAP), min_size=1, max_size=20),
)
def test_a_point_given_out_lies_in_its_50_percent_band_and_moves_only_to_get_there(
    noise, seed, predicted
):
    points = np.array(predicted)
    bands = fitted(noise, 12, seed)
    quantiles = bands.at(points)
    given_out = intervals.into_band(points, quantiles)
    low, high = quantiles[:, bands.column(0.25)], quantiles[:, bands.column(0.75)]
    assert ((low <= given_out) & (given_out <= high)).all()
    moved = given_out != points
    assert ((points[moved] < low[moved]) | (points[moved] > high[moved])).all()


def test_a_point_that_is_always_late_is_given_out_nearer_to_the_truth():
    predicted, true, _ = predictions("always late", 40, seed=1)
    seen = true <= CAP
    given_out = intervals.into_band(predicted, fitted("always late", 60, 0).at(predicted))
    errors = [np.abs(points[seen] - true[seen]).mean() for points in (predicted, given_out)]
    assert errors[1] < 0.7 * errors[0]


def test_levels_are_symmetric_and_hold_both_bands():
    assert len(LEVELS) == 19
    assert {0.05, 0.25, 0.5, 0.75, 0.95} <= set(LEVELS)
    np.testing.assert_allclose(np.array(LEVELS) + np.array(LEVELS)[::-1], 1.0)


def test_the_same_evidence_in_another_order_gives_the_same_bands():
    predicted, true, codes = predictions("growing", 20, 0)
    weights = cut_weights(codes, true <= intervals.HORIZON * CAP)
    order = np.random.default_rng(0).permutation(len(codes))
    one = intervals.fit(predicted, true, weights, codes, codes % 5, CAP)
    other = intervals.fit(
        predicted[order], true[order], weights[order], codes[order], codes[order] % 5, CAP
    )
    np.testing.assert_allclose(one.quantiles, other.quantiles, atol=0.5)


def test_bands_come_back_from_json():
    bands = fitted("even", 12, 0)
    assert msgspec.json.decode(msgspec.json.encode(bands), type=Bands) == bands


def test_too_few_units_are_refused_and_counted():
    with pytest.raises(NotEnoughData, match="at least 10 units with ended lives, there are 9"):
        fitted("even", units=9, seed=0)


def test_units_without_a_cut_do_not_count_as_units():
    predicted, true, codes = predictions("even", 12, 0)
    weights = cut_weights(codes, (true <= CAP) & (codes >= 3))
    with pytest.raises(NotEnoughData, match="there are 9"):
        intervals.fit(predicted, true, weights, codes, codes % 5, CAP)


@given(st.lists(st.floats(0.0, CAP), min_size=1, max_size=5))
def test_between_knots_each_quantile_is_a_straight_line(predicted):
    random = np.random.default_rng(3)
    knots = tuple(np.linspace(0.0, CAP, 26).tolist())
    table = np.sort(random.uniform(0.0, CAP, (26, len(LEVELS))), axis=1)
    bands = Bands(levels=LEVELS, knots=knots, quantiles=tuple(tuple(row) for row in table.tolist()))
    asked = np.array([*predicted, *knots])
    lines = np.column_stack([np.interp(asked, knots, table[:, k]) for k in range(len(LEVELS))])
    np.testing.assert_array_equal(bands.at(asked), lines)


quantile_rows = st.lists(st.floats(0.0, 300.0), min_size=len(LEVELS), max_size=len(LEVELS)).map(
    lambda row: np.array([sorted(row)])
)


@given(quantile_rows, st.lists(st.floats(0.0, 1000.0), min_size=2, max_size=10))
def test_the_risk_of_failure_grows_with_the_horizon_and_is_never_certain(row, horizons):
    risks = [failure_probability(row, LEVELS, horizon)[0] for horizon in sorted(horizons)]
    assert all(0.0 < risk < 1.0 for risk in risks)
    assert all(early <= late for early, late in pairwise(risks))


@given(st.lists(st.floats(0.1, 20.0), min_size=len(LEVELS), max_size=len(LEVELS)))
def test_at_a_tabled_quantile_the_risk_is_its_level(steps):
    row = np.cumsum(steps)
    risks = [failure_probability(row[None], LEVELS, horizon)[0] for horizon in row]
    np.testing.assert_allclose(risks, LEVELS, rtol=1e-9)


def test_machines_far_from_the_horizon_still_rank_by_how_far():
    near, far = np.linspace(60, 90, 19), np.linspace(95, 125, 19)
    soon, later = failure_probability(np.vstack([near, far]), LEVELS, 30.0)
    assert 0.0 < later < soon < 0.05


def test_a_band_of_no_width_still_gives_a_risk():
    row = np.full((1, 19), 40.0)
    assert failure_probability(row, LEVELS, 39.0)[0] < 0.05
    assert failure_probability(row, LEVELS, 41.0)[0] > 0.95
