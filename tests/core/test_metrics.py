"""Figures of accuracy, bands and cost mean what their definitions say."""

import math
from functools import partial

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rul_core import metrics, scoring
from rul_core.errors import ModelError, NotEnoughData
from rul_core.resampling import Figure

TRUE = [100.0, 50.0, 20.0, 5.0]
PREDICTED = [111.0, 50.0, 6.0, 6.0]  # d: 11, 0, -14, 1


def test_point_figures_of_four_units_are_as_computed_by_hand():
    assert metrics.rmse(TRUE, PREDICTED) == pytest.approx(math.sqrt((121 + 196 + 1) / 4))
    assert metrics.mae(TRUE, PREDICTED) == pytest.approx(26 / 4)
    assert metrics.bias(TRUE, PREDICTED) == pytest.approx(-2 / 4)
    assert metrics.late_share(TRUE, PREDICTED) == 0.25
    assert metrics.early_share(TRUE, PREDICTED) == 0.25
    assert metrics.rmse_near_end(TRUE, PREDICTED) == pytest.approx(math.sqrt((196 + 1) / 2))
    # |d| <= 20, 10, 4, 1
    assert metrics.alpha_lambda(TRUE, PREDICTED) == 0.75


def test_the_phm08_score_punishes_late_by_tenths_and_early_by_thirteenths():
    expected = (math.e**1.1 - 1) + 0 + (math.e ** (14 / 13) - 1) + (math.e**0.1 - 1)
    assert metrics.phm08_score(TRUE, PREDICTED) == pytest.approx(expected)
    assert metrics.phm08_mean(TRUE, PREDICTED) == pytest.approx(expected / 4)


def test_the_phm08_score_stays_a_number_for_lives_in_seconds():
    assert math.isfinite(metrics.phm08_score([0.0, 0.0], [1e7, 1e7]))


def test_limits_are_strict_for_late_and_early_and_inclusive_near_the_end():
    assert metrics.late_share([0.0], [10.0]) == 0
    assert metrics.early_share([13.0], [0.0]) == 0
    assert metrics.rmse_near_end([30.0], [33.0]) == pytest.approx(3)


def test_a_figure_without_rows_near_the_end_is_no_number():
    assert math.isnan(metrics.rmse_near_end([100.0], [90.0]))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 200), st.floats(0, 200), st.integers(1, 3)), min_size=1, max_size=12
    )
)
def test_a_weight_of_two_is_the_row_twice(rows):
    true, predicted, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    counts = weights.astype(int)
    for figure in (
        metrics.rmse,
        metrics.mae,
        metrics.bias,
        metrics.phm08_score,
        metrics.alpha_lambda,
        metrics.late_share,
        metrics.early_share,
        metrics.rmse_near_end,
        metrics.mean_width,
    ):
        weighted = figure(true, predicted, weights=weights)
        repeated = figure(np.repeat(true, counts), np.repeat(predicted, counts))
        assert weighted == pytest.approx(repeated, nan_ok=True, rel=1e-9, abs=1e-9)


def test_misaligned_truth_is_refused_with_both_shapes():
    with pytest.raises(ModelError, match=r"truth has shape \(3,\), prediction \(2,\)"):
        metrics.rmse([1.0, 2.0, 3.0], [1.0, 2.0])


def test_a_missing_prediction_is_refused_by_row():
    with pytest.raises(ModelError, match="1 of 3 rows have no prediction, the first is row 1"):
        metrics.mae([1.0, 2.0, 3.0], [1.0, float("nan"), 3.0])


def test_nothing_to_judge_is_an_error():
    with pytest.raises(NotEnoughData, match="no rows"):
        metrics.rmse([], [])


def test_the_prognostic_horizon_counts_only_what_keeps_holding():
    true = [50.0, 40.0, 30.0, 20.0, 10.0, 0.0]
    predicted = [50.0, 80.0, 30.0, 24.0, 10.0, 5.0]  # good, bad, good, ...
    assert metrics.prognostic_horizon(true, predicted) == 30.0
    backwards = (true[::-1], predicted[::-1])
    assert metrics.prognostic_horizon(*backwards) == 30.0


def test_the_prognostic_horizon_is_the_whole_life_or_nothing_at_the_ends():
    assert metrics.prognostic_horizon([9.0, 4.0, 0.0], [9.0, 4.0, 0.0]) == 9.0
    assert metrics.prognostic_horizon([9.0, 4.0, 0.0], [9.0, 4.0, 6.0]) == 0.0


def test_saxenas_constant_band_is_the_margin_alone():
    true, predicted = [100.0, 60.0, 20.0], [130.0, 78.0, 30.0]
    assert metrics.prognostic_horizon(true, predicted, alpha=0.0, margin_cycles=20.0) == 60.0


def test_coverage_has_the_exact_binomial_interval():
    true = np.arange(100.0)
    upper = np.where(true < 90, true + 1, true - 0.5)
    found = metrics.coverage(true, np.zeros(100), upper)
    reference = stats.binomtest(90, 100).proportion_ci(0.95, "exact")
    assert (found.share, found.n) == (0.9, 100)
    assert (found.low, found.high) == (pytest.approx(reference.low), pytest.approx(reference.high))
    assert found.reaches(0.9)
    assert found.reaches(0.95)
    assert not found.reaches(0.97)


def test_coverage_of_all_or_none_has_an_interval_that_ends_there():
    everything = metrics.coverage([1.0, 2.0], [0.0, 0.0], [3.0, 3.0])
    nothing = metrics.coverage([1.0, 2.0], [5.0, 5.0], [6.0, 6.0])
    assert (everything.share, everything.high) == (1.0, 1.0)
    assert (nothing.share, nothing.low) == (0.0, 0.0)
    assert everything.low == pytest.approx(stats.binomtest(2, 2).proportion_ci(0.95, "exact").low)


def test_both_bounds_belong_to_the_band():
    assert metrics.coverage([1.0, 3.0], [1.0, 1.0], [3.0, 3.0]).share == 1.0


def test_an_upper_bound_at_the_cap_is_no_bound():
    true, lower, upper = [300.0, 300.0, 60.0], [90.0, 90.0, 90.0], [125.0, 110.0, 125.0]
    assert metrics.coverage(true, lower, upper).share == 0.0
    open_above = metrics.coverage(true, lower, upper, open_above_cycles=125.0)
    assert open_above.share == pytest.approx(1 / 3)


def test_many_rows_of_few_units_count_as_few():
    true, units = np.tile([10.0, 20.0], 50), np.repeat(np.arange(10), 10)
    rows = metrics.coverage(true, np.zeros(100), np.full(100, 15.0))
    by_unit = metrics.coverage(true, np.zeros(100), np.full(100, 15.0), units=units)
    assert (rows.n, by_unit.n) == (100, 10)
    reference = stats.binomtest(5, 10).proportion_ci(0.95, "exact")
    assert (by_unit.low, by_unit.high) == (
        pytest.approx(reference.low),
        pytest.approx(reference.high),
    )


def test_coverage_of_rows_without_weight_is_an_error():
    with pytest.raises(NotEnoughData, match="weight"):
        metrics.coverage([1.0], [0.0], [2.0], weights=[0.0])


def test_mean_width_is_upper_less_lower():
    assert metrics.mean_width([10.0, 20.0], [20.0, 50.0]) == 20.0


def test_crps_of_the_median_alone_is_the_mean_absolute_error():
    true, median = np.array([3.0, 8.0]), np.array([[5.0], [7.0]])
    assert metrics.crps(true, median, [0.5]) == pytest.approx(1.5)


def test_crps_from_many_levels_is_that_of_the_normal_distribution():
    levels = (np.arange(200) + 0.5) / 200
    quantiles = stats.norm.ppf(levels, 50, 10)
    for true in (30.0, 50.0, 63.0):
        z = (true - 50) / 10
        exact = 10 * (
            z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi)
        )
        assert metrics.crps([true], quantiles[None, :], levels) == pytest.approx(exact, rel=0.01)


def test_crps_sorts_crossing_quantiles():
    levels = [0.25, 0.5, 0.75]
    assert metrics.crps([6.0], [[7.0, 5.0, 9.0]], levels) == metrics.crps(
        [6.0], [[5.0, 7.0, 9.0]], levels
    )


@pytest.mark.parametrize("levels", [[0.5, 0.25], [0.0, 0.5], [0.5, 1.0], [0.5]])
def test_crps_refuses_levels_that_do_not_fit(levels):
    with pytest.raises(ModelError, match="levels"):
        metrics.crps([1.0], [[1.0, 2.0]], levels)


# --- how sure a figure is -------------------------------------------------------------------------


def bounds(figure: Figure) -> tuple[float, float]:
    assert figure.low is not None
    assert figure.high is not None
    return figure.low, figure.high


def test_the_bootstrap_interval_of_a_mean_is_near_the_textbook_one():
    sample = np.random.default_rng(1).normal(0, 1, 400)
    found = metrics.bootstrap_interval(metrics.bias, np.zeros(400), sample, seed=3)
    half = 1.96 * sample.std() / 20
    assert found.low == pytest.approx(sample.mean() - half, abs=0.03)
    assert found.high == pytest.approx(sample.mean() + half, abs=0.03)
    assert found == metrics.bootstrap_interval(metrics.bias, np.zeros(400), sample, seed=3)


def test_copies_of_the_same_units_make_nothing_surer():
    sample = np.random.default_rng(1).normal(0, 1, 50)
    once = metrics.bootstrap_interval(metrics.bias, np.zeros(50), sample)
    copied = metrics.bootstrap_interval(
        metrics.bias, np.zeros(500), np.repeat(sample, 10), units=np.repeat(np.arange(50), 10)
    )
    assert (copied.low, copied.high) == (pytest.approx(once.low), pytest.approx(once.high))


def test_a_figure_that_no_draw_can_give_has_no_bounds():
    found = metrics.bootstrap_interval(metrics.rmse_near_end, [100.0, 90.0], [100.0, 90.0])
    assert (found.value, found.low, found.high) == (None, None, None)


def test_a_clearly_worse_model_is_worse_beyond_noise_and_the_same_is_not():
    errors = np.random.default_rng(2).normal(0, 10, 100)
    worse = metrics.paired_bootstrap(1.2 * errors, errors)
    assert worse.a_is_worse()
    assert worse.probability_a_is_better == 0.0
    assert worse.difference_cycles == pytest.approx(0.2 * math.sqrt((errors**2).mean()))
    same = metrics.paired_bootstrap(errors, errors)
    assert not same.a_is_worse()
    assert (same.difference_cycles, same.probability_a_is_better) == (0.0, 0.5)
    better = metrics.paired_bootstrap(errors, 1.2 * errors)
    assert better.probability_a_is_better == 1.0
    assert not better.a_is_worse()


def test_pairing_sees_a_difference_that_separate_intervals_hide():
    errors = np.random.default_rng(4).normal(0, 10, 60)
    alone = [
        metrics.bootstrap_interval(metrics.rmse, np.zeros(60), e) for e in (errors, 1.1 * errors)
    ]
    assert bounds(alone[0])[1] > bounds(alone[1])[0]
    assert metrics.paired_bootstrap(1.1 * errors, errors).a_is_worse()


def test_models_scored_on_different_rows_cannot_be_paired():
    with pytest.raises(ModelError, match="3 errors of one model and 2 of the other"):
        metrics.paired_bootstrap([1.0, 2.0, 3.0], [1.0, 2.0])


def test_a_bootstrap_of_nothing_is_an_error():
    with pytest.raises(NotEnoughData, match="no units"):
        metrics.paired_bootstrap([], [])


# --- money ----------------------------------------------------------------------------------------

LIVES = np.repeat(["a", "b"], 10)
CYCLES = np.tile(np.arange(1.0, 11.0), 2)
ENDS = np.repeat([10.0, 10.0], 10)


def cost(probabilities: np.ndarray, ends: np.ndarray = ENDS, delay_cycles: float = 0.0):
    return metrics.maintenance_cost_rate(
        LIVES,
        CYCLES,
        ends,
        probabilities,
        cost_planned=1.0,
        cost_failure=10.0,
        delay_cycles=delay_cycles,
    )


def test_a_policy_that_never_acts_costs_what_running_to_failure_costs():
    rates = cost(np.zeros(20))
    assert rates.predictive.value == rates.run_to_failure == pytest.approx(1.0)
    assert (rates.failed_share, rates.unused_cycles, rates.lives) == (1.0, 0.0, 2)


def test_acting_at_cycle_eight_costs_one_replacement_in_eight_cycles():
    rates = cost(np.where(CYCLES >= 8, 0.1, 0.05))
    assert rates.predictive.value == pytest.approx(1 / 8)
    assert (rates.failed_share, rates.unused_cycles) == (0.0, 2.0)
    assert rates.perfect_forecast == pytest.approx(1 / 10)


def test_a_replacement_that_comes_after_the_end_is_a_failure():
    alarms = np.where(CYCLES >= 8, 1.0, 0.0)
    assert cost(alarms, delay_cycles=1.0).failed_share == 0.0
    assert cost(alarms, delay_cycles=2.0).failed_share == 1.0


def test_the_order_of_readings_does_not_matter():
    shuffled = np.random.default_rng(0).permutation(20)
    alarms = np.where(CYCLES >= 8, 1.0, 0.0)
    found = metrics.maintenance_cost_rate(
        LIVES[shuffled],
        CYCLES[shuffled],
        ENDS[shuffled],
        alarms[shuffled],
        cost_planned=1.0,
        cost_failure=10.0,
    )
    assert found == cost(alarms)


def test_the_best_fixed_age_is_just_before_the_first_end_where_failures_are_dear():
    rates = cost(np.zeros(20), ends=np.repeat([5.0, 10.0], 10))
    assert (rates.best_age_cycles, rates.fixed_age) == (5.0, pytest.approx(1 / 5))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=8),
    st.floats(1.5, 50),
    st.floats(0.01, 0.99),
)
def test_nothing_is_cheaper_than_a_perfect_forecast_and_no_age_beats_the_best(ends, dear, risk):
    lives = np.arange(len(ends))
    rates = metrics.maintenance_cost_rate(
        lives,
        np.asarray(ends) * risk,
        ends,
        np.ones(len(ends)),
        cost_planned=1.0,
        cost_failure=dear,
        repeats=2,
    )
    assert rates.predictive.value is not None
    assert rates.perfect_forecast <= min(rates.predictive.value, rates.fixed_age) + 1e-12
    assert rates.fixed_age <= rates.run_to_failure + 1e-12
    length = np.asarray(ends, dtype=float)
    for age in np.linspace(0.5, 50, 100):
        planned = np.mean(length >= age)
        rate = (planned + dear * (1 - planned)) / np.minimum(length, age).mean()
        assert rates.fixed_age <= rate + 1e-12


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cost_planned": 10.0}, "0 < planned < failure"),
        ({"lives": []}, "no readings"),
        ({"cycles": [1.0, 2.0]}, "1 lives, 2 cycles"),
        ({"end_cycles": [0.0]}, "ended at cycle 0"),
    ],
)
def test_a_policy_that_cannot_be_replayed_says_why(changed, message):
    arguments = {
        "lives": ["a"],
        "cycles": [1.0],
        "end_cycles": [2.0],
        "failure_probabilities": [0.5],
        "cost_planned": 1.0,
        "cost_failure": 10.0,
    } | changed
    with pytest.raises((ModelError, NotEnoughData), match=message):
        metrics.maintenance_cost_rate(**arguments)


# --- everything at once ---------------------------------------------------------------------------


def made_up(units: int = 60) -> dict:
    generator = np.random.default_rng(5)
    true = generator.uniform(5, 200, units)
    predicted = np.clip(np.minimum(true, 125) + generator.normal(0, 8, units), 0, 125)
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    quantiles = np.clip(predicted[:, None] + 8 * stats.norm.ppf(levels), 0, 125)
    return {
        "true": true,
        "predicted": predicted,
        "bands": {
            0.9: (quantiles[:, 0], quantiles[:, 4]),
            0.5: (quantiles[:, 1], quantiles[:, 3]),
        },
        "quantiles": quantiles,
        "levels": levels,
        "repeats": 50,
    }


def test_both_regimes_stand_side_by_side_and_are_labelled():
    found = scoring.both_regimes(cap_cycles=125.0, **made_up())
    assert (found.clipped.regime, found.unclipped.regime) == ("clipped", "unclipped")
    assert (found.clipped.clip_at_cycles, found.unclipped.clip_at_cycles) == (125.0, None)
    true, predicted = made_up()["true"], made_up()["predicted"]
    assert found.clipped.rmse_cycles.value == pytest.approx(
        metrics.rmse(np.minimum(true, 125), predicted)
    )
    assert found.unclipped.rmse_cycles.value == pytest.approx(metrics.rmse(true, predicted))
    low, high = bounds(found.clipped.rmse_cycles)
    assert low < metrics.rmse(np.minimum(true, 125), predicted) < high


def test_a_report_says_what_the_single_figures_say():
    data = made_up()
    weights, units = np.random.default_rng(7).uniform(0.5, 2, 60), np.arange(60) // 2
    found = scoring.evaluate(**data, weights=weights, units=units)
    for name, figure in {
        "rmse_cycles": metrics.rmse,
        "mae_cycles": metrics.mae,
        "bias_cycles": metrics.bias,
        "phm08_score": metrics.phm08_score,
        "phm08_mean": metrics.phm08_mean,
        "late_share": metrics.late_share,
        "early_share": metrics.early_share,
        "alpha_lambda": metrics.alpha_lambda,
        "rmse_near_end_cycles": metrics.rmse_near_end,
    }.items():
        alone = metrics.bootstrap_interval(
            figure, data["true"], data["predicted"], weights=weights, units=units, repeats=50
        )
        whole = getattr(found, name)
        assert (whole.value, *bounds(whole)) == pytest.approx((alone.value, *bounds(alone)))
    assert found.crps_cycles is not None
    assert found.crps_cycles.value == pytest.approx(
        metrics.crps(data["true"], data["quantiles"], data["levels"], weights=weights)
    )
    assert found.bands[1].mean_width_cycles.value == pytest.approx(
        metrics.mean_width(*data["bands"][0.9], weights=weights)
    )


def test_a_report_survives_json():
    found = scoring.both_regimes(cap_cycles=125.0, **made_up())
    assert msgspec.json.decode(msgspec.json.encode(found), type=scoring.Regimes) == found


def test_bands_are_judged_overall_near_the_end_and_by_true_remaining_life():
    found = scoring.both_regimes(cap_cycles=125.0, **made_up())
    half, ninety = found.clipped.bands
    assert (half.level, ninety.level) == (0.5, 0.9)
    assert bounds(half.mean_width_cycles)[1] < bounds(ninety.mean_width_cycles)[0]
    assert [(at.from_cycles, at.to_cycles) for at in ninety.by_true_rul] == [
        (0.0, 30.0),
        (30.0, 62.5),
        (62.5, 93.75),
        (93.75, 125.0),
        (125.0, None),
    ]
    assert sum(at.coverage.n for at in ninety.by_true_rul) == ninety.overall.n == 60
    assert ninety.promise_kept
    # Truth beyond the cap is inside a band that is open there.
    assert found.unclipped.bands[1].overall.share == ninety.overall.share


def test_a_promise_is_broken_when_the_near_end_alone_breaks_it():
    true = np.concatenate([np.full(200, 100.0), np.full(20, 10.0)])
    upper = np.concatenate([np.full(200, 120.0), np.full(20, 9.0)])
    found = scoring.evaluate(true, true, bands={0.9: (np.zeros(220), upper)}, repeats=5)
    (band,) = found.bands
    assert band.overall.reaches(0.9)
    assert band.near_end is not None
    assert not band.near_end.reaches(0.9)
    assert not band.promise_kept


def test_a_report_without_bands_or_near_ends_says_so():
    found = scoring.evaluate([100.0, 90.0], [95.0, 95.0], repeats=5)
    assert (found.bands, found.crps_cycles) == ((), None)
    assert found.rmse_near_end_cycles.value is None


def test_rows_without_weight_change_nothing():
    data = made_up()
    padded = scoring.evaluate(
        np.append(data["true"], 1.0),
        np.append(data["predicted"], 99.0),
        weights=np.append(np.ones(60), 0.0),
        units=np.append(np.arange(60), 0),
        repeats=20,
    )
    plain = scoring.evaluate(data["true"], data["predicted"], repeats=20)
    assert padded == plain


def test_a_report_on_no_weight_at_all_is_an_error():
    with pytest.raises(NotEnoughData, match="weight 0"):
        scoring.evaluate([1.0], [1.0], weights=[0.0])


def test_rows_that_share_units_make_the_interval_of_a_report_wider():
    generator = np.random.default_rng(6)
    of_the_unit = np.repeat(generator.normal(0, 10, 30), 10)
    true = np.full(300, 100.0)
    judge = partial(scoring.evaluate, true, true + of_the_unit, repeats=200)
    alone, shared = judge(), judge(units=np.repeat(np.arange(30), 10))
    assert (alone.units, shared.units) == (300, 30)
    widths = [np.diff(bounds(report.bias_cycles)) for report in (alone, shared)]
    assert widths[1] > 2 * widths[0]
