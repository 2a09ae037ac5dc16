"""Who is judged at which moment, by a model that had not seen the unit."""

import msgspec
import numpy as np
import polars as pl
import pytest

from rul_core import evaluation, metrics
from rul_core.errors import NotEnoughData
from rul_core.intervals import LEVELS
from rul_core.labels import RUL, cut_weights, label, unit_codes
from rul_core.metrics import coverage
from rul_core.model import Recipe, train
from rul_core.schema import KEY, UNIT, Columns, Fleet, Learning
from rul_core.simulator import Simulation, simulate, simulated_fleet


def others_end(evidence: pl.DataFrame, fold: int) -> pl.DataFrame:
    """The evidence with another truth for one fold's units."""
    moved = pl.when(pl.col("fold") == fold).then(pl.col(RUL) + 3.0).otherwise(pl.col(RUL))
    return evidence.with_columns(moved.alias(RUL))


def test_bands_of_a_row_are_calibrated_without_its_fold(pumps):
    evidence = pumps.training.out_of_fold
    own = (evidence["fold"] == 1).to_numpy()
    before = evaluation.judged(evidence, pumps.cap).quantiles
    after = evaluation.judged(others_end(evidence, 1), pumps.cap).quantiles
    np.testing.assert_array_equal(after[own], before[own])
    assert (after[~own] != before[~own]).any()


def test_a_unit_is_judged_at_one_random_cut_within_reach_of_the_model(pumps):
    found = evaluation.judged(pumps.training.out_of_fold, pumps.cap).frame
    assert found.select(*KEY, RUL).equals(pumps.training.out_of_fold.select(*KEY, RUL))
    cuts = found.filter(pl.col("weight") > 0)
    earliest = evaluation.EARLIEST_RUL_CYCLES * pumps.cap
    latest = evaluation.LATEST_RUL_CYCLES * pumps.cap
    assert earliest <= cuts[RUL].min() <= 2 * earliest
    assert pumps.cap < cuts[RUL].max() <= latest
    by_unit = cuts.group_by(UNIT).agg(
        pl.col("weight").sum(), pl.col("weight").n_unique().alias("n")
    )
    np.testing.assert_allclose(by_unit["weight"].to_numpy(), 1.0)
    assert by_unit["n"].to_list() == [1] * 24


def test_points_are_judged_as_they_would_be_given_out_within_their_50_percent_band(pumps):
    evidence = pumps.training.out_of_fold
    found = evaluation.judged(evidence, pumps.cap)
    low, high = (found.quantiles[:, LEVELS.index(level)] for level in (0.25, 0.75))
    learnt, given = evidence["predicted"].to_numpy(), found.frame["predicted"].to_numpy()
    inside = (low <= learnt) & (learnt <= high)
    assert ((low <= given) & (given <= high)).all()
    np.testing.assert_array_equal(given[inside], learnt[inside])
    assert not inside.all()


def test_keeping_points_in_their_band_helps_a_model_that_learnt_too_little():
    simulation = Simulation(units=30, running_units=0, sensors=5, settings=0, mean_life_cycles=50)
    made, fleet = simulate(simulation), simulated_fleet(simulation, "pumps")
    recipe = Recipe(iterations=40, learning_rate=0.03, depth=4, folds=3, threads=1)
    training = train(made.readings, made.lives, fleet, recipe)
    found = evaluation.judged(training.out_of_fold, fleet.learning.label_cap_cycles).frame
    weights = found["weight"].to_numpy()
    true = np.minimum(found[RUL].to_numpy(), fleet.learning.label_cap_cycles)

    def rmse(points: pl.Series) -> float:
        return metrics.rmse(true, points.to_numpy(), weights=weights)

    assert rmse(found["predicted"]) < 0.95 * rmse(training.out_of_fold["predicted"])
    said = training.model.predict(made.readings)
    assert said[RUL].is_between(said["lower_50"], said["upper_50"]).all()


def test_bands_cover_as_often_as_they_promise_also_on_machines_made_later():
    simulation = Simulation(units=60, running_units=0, sensors=5, settings=0, mean_life_cycles=50)
    made, fleet = simulate(simulation), simulated_fleet(simulation, "pumps")
    recipe = Recipe(iterations=40, learning_rate=0.15, depth=4, folds=5, threads=1)
    training = train(made.readings, made.lives, fleet, recipe)
    cap = fleet.learning.label_cap_cycles
    figures = evaluation.score(training.out_of_fold, cap, repeats=5)
    for regime in (figures.clipped, figures.unclipped):
        assert regime.units == 60
        for band in regime.bands:
            assert band.overall.low <= band.level <= band.overall.high

    later = simulate(msgspec.structs.replace(simulation, first_unit=1000))
    labelled = label(later.readings, later.lives).filter(pl.col(RUL).is_between(0.05 * cap, cap))
    said = training.model.predict(later.readings).join(
        labelled, on=KEY, how="semi", maintain_order="left"
    )
    units = unit_codes(labelled)
    weights = cut_weights(units, np.ones(len(units), dtype=bool))
    for level, low, high in ((0.9, "lower_90", "upper_90"), (0.5, "lower_50", "upper_50")):
        held = coverage(
            labelled[RUL],
            said[low],
            said[high],
            weights=weights,
            units=units,
            open_above_cycles=cap,
        )
        assert held.low <= level <= held.high


def test_figures_are_the_expectation_over_random_cuts(pumps):
    evidence = pumps.training.out_of_fold
    figures = evaluation.score(evidence, pumps.cap, repeats=5)
    cuts = evaluation.judged(evidence, pumps.cap).frame
    weights = cuts["weight"].to_numpy()
    for regime, truth in (
        (figures.clipped, np.minimum(cuts[RUL].to_numpy(), pumps.cap)),
        (figures.unclipped, cuts[RUL].to_numpy()),
    ):
        d = cuts["predicted"].to_numpy() - truth
        expected = np.sqrt((weights * d**2).sum() / weights.sum())
        assert regime.rmse_cycles.value == pytest.approx(expected)
        assert regime.bias_cycles.value == pytest.approx((weights * d).sum() / weights.sum())


def test_both_bands_are_read_from_their_quantiles():
    levels = np.asarray(LEVELS)
    quantiles = np.tile(levels * 100.0, (4, 1))
    truth = np.array([1.0, 26.0, 60.0, 94.0])
    figures = evaluation.score_predictions(truth, truth, quantiles, 120.0, repeats=5).clipped
    assert {band.level: band.overall.share for band in figures.bands} == {0.5: 0.5, 0.9: 0.75}
    widths = {band.level: band.mean_width_cycles.value for band in figures.bands}
    assert widths == {0.5: pytest.approx(50.0), 0.9: pytest.approx(90.0)}
    assert figures.rmse_cycles.value == 0.0


def test_an_upper_bound_at_the_cap_is_open_in_both_regimes():
    quantiles = np.tile(np.append(np.linspace(10, 90, 18), 100.0), (2, 1))
    truth = np.array([50.0, 400.0])
    figures = evaluation.score_predictions(truth, np.array([50, 90]), quantiles, 100.0, repeats=5)
    shares = [
        {band.level: band.overall.share for band in regime.bands}
        for regime in (figures.clipped, figures.unclipped)
    ]
    assert shares == [{0.5: 0.5, 0.9: 1.0}, {0.5: 0.5, 0.9: 1.0}]


def test_too_few_units_for_bands_without_a_fold_are_counted(pumps):
    units = pumps.training.out_of_fold[UNIT].unique().sort().head(12).implode()
    few = pumps.training.out_of_fold.filter(pl.col(UNIT).is_in(units))
    with pytest.raises(NotEnoughData, match="bands need at least 10 units"):
        evaluation.judged(few, pumps.cap)


def test_a_cap_under_the_step_of_the_readings_is_named_as_what_to_change(pumps):
    steps = pumps.training.out_of_fold.with_columns(pl.col(RUL) * 50.0)
    with pytest.raises(NotEnoughData) as caught:
        evaluation.judged(steps, pumps.cap)
    assert str(caught.value) == (
        "no reading lies 1.44 to 34.8 cycles before the end of its life; raise "
        "learning.label_cap_cycles, which is 30"
    )


def test_learnt_units_are_judged_by_models_that_had_not_seen_them(pumps):
    evidence = pumps.training.out_of_fold
    errors = evaluation.errors_at_cuts(pumps.model, evidence, pumps.readings, pumps.lives)
    assert errors.select(KEY).equals(evidence.select(KEY))
    judged = evaluation.judged(evidence, pumps.cap).frame
    expected = judged["predicted"] - evidence[RUL].clip(upper_bound=pumps.cap)
    np.testing.assert_allclose(errors["error"], expected)
    assert errors["weight"].equals(judged["weight"])


def test_units_that_a_model_never_saw_are_judged_by_the_model_itself(pumps):
    evidence = pumps.training.out_of_fold
    known = evidence[UNIT].unique().sort()
    unseen = known.head(3)
    errors = evaluation.errors_at_cuts(
        pumps.model,
        evidence.filter(~pl.col(UNIT).is_in(unseen.implode())),
        pumps.readings,
        pumps.lives,
    )
    fresh = errors.filter(pl.col(UNIT).is_in(unseen.implode()))
    labelled = label(pumps.readings, pumps.lives).filter(pl.col(UNIT).is_in(unseen.implode()))
    said = pumps.model.predict(labelled)
    assert fresh.select(KEY).equals(labelled.select(KEY))
    np.testing.assert_allclose(
        fresh["error"], said[RUL] - labelled[RUL].clip(upper_bound=pumps.cap)
    )
    assert errors[UNIT].n_unique() == len(known)
    assert errors.select(KEY).equals(errors.select(KEY).sort(KEY))


def test_a_new_life_of_a_learnt_unit_is_judged_by_nobody(pumps):
    """The model has seen the unit, and there is no other model that had not."""
    unit = pumps.lives[UNIT][0]
    again = pumps.readings.filter(pl.col(UNIT) == unit).with_columns(life=pl.lit(2, pl.Int64))
    second = pumps.lives.head(1).with_columns(life=pl.lit(2, pl.Int64))
    data = pl.concat([pumps.readings, again]).sort(KEY), pl.concat([pumps.lives, second])
    errors = evaluation.errors_at_cuts(pumps.model, pumps.training.out_of_fold, *data)
    assert errors["life"].unique().to_list() == [1]


@pytest.fixture
def errors(pumps) -> pl.DataFrame:
    return evaluation.errors_at_cuts(
        pumps.model, pumps.training.out_of_fold, pumps.readings, pumps.lives
    )


def test_a_challenger_worse_beyond_noise_is_refused(errors):
    worse = errors.with_columns(pl.col("error") * 1.5)
    paired = evaluation.compare(errors, worse)
    assert paired.difference_cycles > 0
    assert paired.a_is_worse()
    assert paired.units == 24


def test_an_equal_challenger_is_accepted(errors):
    paired = evaluation.compare(errors, errors)
    assert (paired.low_cycles, paired.difference_cycles, paired.high_cycles) == (0.0, 0.0, 0.0)
    assert not paired.a_is_worse()


def test_a_better_challenger_is_accepted(errors):
    paired = evaluation.compare(errors, errors.with_columns(pl.col("error") * 0.8))
    assert paired.high_cycles < 0
    assert not paired.a_is_worse()


def test_models_are_compared_where_both_have_errors_and_nowhere_else(errors):
    units = errors[UNIT].unique().sort()
    common = errors.filter(pl.col(UNIT).is_in(units.head(15).implode()))
    only_worse = pl.when(pl.col(UNIT).is_in(units.tail(9).implode())).then(90.0)
    challenger = errors.with_columns(error=only_worse.otherwise(pl.col("error")))
    paired = evaluation.compare(common, challenger)
    assert (paired.difference_cycles, paired.units) == (0.0, 15)


def test_rows_that_no_cut_falls_on_do_not_count(errors):
    unit = errors[UNIT][0]
    unreachable = errors.with_columns(
        weight=pl.when(pl.col(UNIT) == unit).then(0.0).otherwise(pl.col("weight"))
    )
    paired = evaluation.compare(errors, unreachable)
    assert (paired.difference_cycles, paired.units) == (0.0, 23)


def test_models_without_a_common_reading_cannot_be_compared(errors):
    elsewhere = errors.with_columns(pl.lit("another").alias(UNIT))
    with pytest.raises(NotEnoughData, match="nothing to draw from"):
        evaluation.compare(errors, elsewhere)


def test_errors_under_another_cap_or_unit_of_life_cannot_be_compared():
    fleet = Fleet(name="pumps", columns=Columns(unit="unit", cycle="cycle", sensors=("a",)))
    replace = msgspec.structs.replace
    assert evaluation.fleet_is_comparable(fleet, replace(fleet, description="anything else"))
    assert not evaluation.fleet_is_comparable(fleet, replace(fleet, unit_of_life="hours"))
    other = Learning(label_cap_cycles=126.0)
    assert not evaluation.fleet_is_comparable(fleet, replace(fleet, learning=other))
