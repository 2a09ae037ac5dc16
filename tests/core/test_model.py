"""Training and prediction: the same for everybody, on fleets of every kind."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core import evaluation, intervals, projections
from rul_core.errors import ModelError, NotEnoughData
from rul_core.features import Feature
from rul_core.labels import RUL, label
from rul_core.model import (
    Prepared,
    Recipe,
    Training,
    assign_folds,
    feature_rows,
    fit_pipeline,
    fit_point,
    importance,
    sensor_shares,
    shards,
    train,
)
from rul_core.prognose import prognose
from rul_core.readers import conform
from rul_core.schema import KEY, UNIT, Columns, Fleet, Learning
from rul_core.simulator import Simulated, Simulation, simulate, simulated_fleet

QUICK = Recipe(iterations=20, learning_rate=0.15, depth=4, folds=3, threads=1)
SMALL = Simulation(units=15, running_units=3, sensors=3, settings=0, mean_life_cycles=40)


def same(a: Training, b: Training, readings: pl.DataFrame) -> bool:
    """Whether two trainings agree to the last bit."""
    return (
        a.out_of_fold.equals(b.out_of_fold)
        and a.model.predict(readings).equals(b.model.predict(readings))
        and a.model.bands == b.model.bands
        and a.model.support == b.model.support
        and a.model.pipeline.hash == b.model.pipeline.hash
    )


def with_learning(fleet: Fleet, **options) -> Fleet:
    return msgspec.structs.replace(
        fleet, learning=msgspec.structs.replace(fleet.learning, **options)
    )


def test_the_same_seed_gives_the_same_model_whatever_the_number_of_threads(pumps):
    recipe = msgspec.structs.replace(pumps.recipe, threads=2)
    again = train(pumps.readings, pumps.lives, pumps.fleet, recipe)
    assert same(pumps.training, again, pumps.readings)


def test_another_seed_gives_other_folds_and_another_model(pumps):
    other = train(pumps.readings, pumps.lives, pumps.fleet, pumps.recipe, seed=1)
    assert not other.out_of_fold["fold"].equals(pumps.training.out_of_fold["fold"])
    assert not other.model.predict(pumps.readings).equals(pumps.model.predict(pumps.readings))


def test_lives_that_have_not_failed_teach_nothing(pumps):
    failed = pumps.lives.filter(pl.col("outcome") == "failed")
    alone = train(
        pumps.readings.join(failed, on=["unit", "life"], how="semi", maintain_order="left"),
        failed,
        pumps.fleet,
        pumps.recipe,
    )
    assert same(pumps.training, alone, pumps.readings)
    units = set(pumps.training.out_of_fold[UNIT])
    assert units == set(failed[UNIT])


@pytest.mark.parametrize("outcome", ["replaced", "removed", "running"])
def test_no_other_end_than_failure_counts_as_one(pumps, outcome):
    others = pumps.lives.with_columns(
        outcome=pl.when(pl.col("outcome") == "failed")
        .then(pl.lit(outcome))
        .otherwise(pl.col("outcome"))
    )
    with pytest.raises(NotEnoughData, match="0 units have a failed life"):
        train(pumps.readings, others, pumps.fleet, pumps.recipe)


def test_too_few_failed_units_are_counted_and_the_remedy_is_named():
    made = simulate(msgspec.structs.replace(SMALL, units=14))
    fleet = simulated_fleet(SMALL, "compressors")
    with pytest.raises(NotEnoughData) as caught:
        train(made.readings, made.lives, fleet, QUICK)
    assert str(caught.value) == (
        "fleet compressors: 14 units have a failed life, at least 15 are needed; "
        "add run-to-failure data to its landing folder"
    )


@given(folds=st.integers(2, 12))
def test_as_many_units_are_needed_as_bands_need_with_a_fold_left_out(folds):
    def left(units: int) -> int:
        return units - int(np.bincount(assign_folds(units, folds, 0)).max())

    least = Recipe(folds=folds).least_units
    assert left(least) >= intervals.LEAST_UNITS
    assert left(least - 1) < intervals.LEAST_UNITS


@given(count=st.integers(1, 60), folds=st.integers(2, 7), seed=st.integers(0, 5))
def test_folds_are_as_equal_as_they_can_be(count, folds, seed):
    sizes = np.bincount(assign_folds(count, folds, seed), minlength=folds)
    assert sizes.sum() == count
    assert sizes.max() - sizes.min() <= 1


def test_all_lives_of_a_unit_are_left_out_together():
    simulation = msgspec.structs.replace(SMALL, lives_per_unit=3, mean_life_cycles=20)
    made = simulate(simulation)
    found = train(made.readings, made.lives, simulated_fleet(simulation, "pumps"), QUICK)
    by_unit = found.out_of_fold.group_by("unit").agg(
        pl.col("fold").n_unique().alias("folds"), pl.col("life").n_unique().alias("lives")
    )
    assert by_unit["folds"].to_list() == [1] * by_unit.height
    assert by_unit["lives"].max() == 3


def test_a_unit_is_never_predicted_by_a_model_that_learnt_from_it(pumps):
    """Another truth of one fold's units moves the others' predictions, not its own."""
    evidence = pumps.training.out_of_fold
    out = evidence.filter(pl.col("fold") == 0)["unit"].unique().implode()
    longer = pl.when(pl.col("unit").is_in(out)).then(pl.col("end_cycle") + 9.0)
    lives = pumps.lives.with_columns(end_cycle=longer.otherwise(pl.col("end_cycle")))
    changed = train(pumps.readings, lives, pumps.fleet, pumps.recipe).out_of_fold
    own = evidence["fold"] == 0
    assert changed.filter(own)["predicted"].equals(evidence.filter(own)["predicted"])
    assert not changed.filter(~own)["predicted"].equals(evidence.filter(~own)["predicted"])


def prepared(pumps, keep: pl.Expr | None = None) -> Prepared:
    """What the platform keeps: features of every reading, in no particular order."""
    labelled = label(pumps.readings, pumps.lives)
    pipeline = fit_pipeline(labelled, pumps.fleet, pumps.recipe)
    kept = pipeline.compiled().frame(pumps.readings).sample(fraction=1.0, shuffle=True, seed=1)
    return Prepared(pipeline, (kept if keep is None else kept.filter(keep)).lazy())


def test_kept_features_give_the_same_model_to_the_last_bit(pumps):
    again = train(pumps.readings, pumps.lives, pumps.fleet, pumps.recipe, prepared=prepared(pumps))
    assert same(pumps.training, again, pumps.readings)


def test_a_reading_without_kept_features_is_named(pumps):
    unit = pumps.lives["unit"][2]
    lacking = prepared(pumps, ~((pl.col("unit") == unit) & pl.col("cycle").is_in([7.0, 8.0])))
    with pytest.raises(ModelError) as caught:
        train(pumps.readings, pumps.lives, pumps.fleet, pumps.recipe, prepared=lacking)
    rows = label(pumps.readings, pumps.lives).height
    assert str(caught.value) == (
        f"{rows} labelled readings have {rows - 2} rows of features; cycle 7 of life 1 of unit "
        f"{unit!r} has none; materialise features again, then the model"
    )


def test_readings_that_were_kept_twice_are_refused(pumps):
    once = prepared(pumps)
    twice = Prepared(once.pipeline, pl.concat([once.features, once.features.head(1)]))
    with pytest.raises(ModelError, match="rows of features; materialise features again"):
        train(pumps.readings, pumps.lives, pumps.fleet, pumps.recipe, prepared=twice)


def test_a_long_history_is_thinned_evenly_over_its_lives(pumps):
    labelled = label(pumps.readings, pumps.lives)
    recipe = msgspec.structs.replace(pumps.recipe, most_rows=400)
    thin = train(pumps.readings, pumps.lives, pumps.fleet, recipe)
    step = -(-labelled.height // 400)
    assert thin.out_of_fold.select(KEY).equals(labelled.select(KEY).gather_every(step))
    assert thin.out_of_fold[UNIT].n_unique() == labelled[UNIT].n_unique()
    weights = thin.out_of_fold.group_by(UNIT).agg(pl.col("weight").sum())["weight"].to_numpy()
    np.testing.assert_allclose(weights, 1.0)
    assert thin.model.support.lowest == pumps.model.support.lowest


def test_a_thinned_history_takes_its_kept_features(pumps):
    recipe = msgspec.structs.replace(pumps.recipe, most_rows=400)
    data = pumps.readings, pumps.lives, pumps.fleet, recipe
    assert same(train(*data), train(*data, prepared=prepared(pumps)), pumps.readings)


@given(shard=st.integers(1, 400), step=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_windows_see_every_reading_of_a_life_however_few_rows_are_kept(pumps, shard, step):
    compiled = pumps.model.compiled
    kept = np.arange(0, pumps.readings.height, step)
    rows = feature_rows(pumps.model.pipeline, pumps.readings, kept, shard=shard)
    np.testing.assert_array_equal(rows, compiled.matrix(pumps.readings)[kept])


@given(size=st.integers(1, 400))
@settings(max_examples=15, deadline=None)
def test_shards_are_whole_lives(pumps, size):
    ranges = shards(pumps.readings, size)
    assert [first for first, _ in ranges] == [0, *(last for _, last in ranges[:-1])]
    assert ranges[-1][1] == pumps.readings.height
    assert all(last - first >= size for first, last in ranges[:-1])
    lives = [set(pumps.readings[first:last][UNIT]) for first, last in ranges]
    assert sum(map(len, lives)) == pumps.lives.height


def test_no_readings_have_no_shards(pumps):
    assert shards(pumps.readings.clear(), 10) == []


def test_a_prediction_lies_within_the_cap_and_its_bands_nest(pumps):
    said = pumps.model.predict(pumps.readings)
    assert said.select(KEY).equals(pumps.readings.select(KEY))
    assert said[RUL].is_between(0.0, pumps.cap).all()
    nested = said.select(
        pl.all_horizontal(
            pl.col("lower_90") <= pl.col("lower_50"),
            pl.col("lower_50") <= pl.col(RUL),
            pl.col(RUL) <= pl.col("upper_50"),
            pl.col("upper_50") <= pl.col("upper_90"),
            pl.col("upper_90") <= pumps.cap,
            pl.col("safe") == pl.col("lower_90"),
            pl.col("failure_probability").is_between(0.0, 1.0),
        ).all()
    )
    assert nested.item()


def test_the_figures_of_a_row_are_the_same_alone_and_among_many(pumps):
    model = pumps.training.model
    rows = model.compiled.matrix(pumps.readings)[:200]
    together = model.figures(rows)
    for i, row in enumerate(rows):
        alone = model.figures(row[None])
        assert {name: found[0] for name, found in alone.items()} == {
            name: found[i] for name, found in together.items()
        }
    assert model.predict_rows(rows).equals(pl.DataFrame(together))


def test_a_prediction_knows_nothing_of_later_readings(pumps):
    whole = pumps.model.predict(pumps.running)
    soon = pumps.running.filter(pl.col("cycle") <= 15)
    assert pumps.model.predict(soon).equals(whole.filter(pl.col("cycle") <= 15))


def test_a_trained_model_is_better_than_the_typical_life(pumps):
    evidence = pumps.training.out_of_fold
    truth = np.minimum(evidence[RUL].to_numpy(), pumps.cap)
    error = evidence["predicted"].to_numpy() - truth
    assert np.sqrt((error**2).mean()) < 0.7 * truth.std()


def test_progress_tells_of_every_fit_and_ends_at_one(pumps):
    told: list[tuple[str, float]] = []
    train(
        pumps.readings,
        pumps.lives,
        pumps.fleet,
        pumps.recipe,
        progress=lambda what, share: told.append((what, share)),
    )
    shares = [share for _, share in told]
    assert [what for what, _ in told] == [
        "fit without fold 1 of 3",
        "fit without fold 2 of 3",
        "fit without fold 3 of 3",
        "fit on all units",
        "fitted",
    ]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_cycles_since_new_are_a_feature_unless_the_fleet_or_the_recipe_says_otherwise(pumps):
    labelled = label(pumps.readings, pumps.lives)

    def knows_age(fleet: Fleet, recipe: Recipe) -> bool:
        return Feature("age", "age").name in fit_pipeline(labelled, fleet, recipe).names

    ageless = with_learning(pumps.fleet, uses_age=False)
    assert knows_age(pumps.fleet, QUICK)
    assert not knows_age(ageless, QUICK)
    assert not knows_age(pumps.fleet, msgspec.structs.replace(QUICK, uses_age=False))
    assert knows_age(ageless, msgspec.structs.replace(QUICK, uses_age=True))


def test_windows_grow_with_the_cap_and_shrink_with_the_step(pumps):
    labelled = label(pumps.readings, pumps.lives)

    def longest(**learning) -> int:
        pipeline = fit_pipeline(labelled, with_learning(pumps.fleet, **learning), QUICK)
        return max(Feature.parse(name).window for name in pipeline.names)

    usual = longest(label_cap_cycles=125.0)
    assert longest(label_cap_cycles=250.0) == 2 * usual
    assert longest(label_cap_cycles=250.0, cycles_per_reading=2.0) == usual


def test_a_pipeline_knows_the_span_that_its_directions_were_fitted_on(pumps):
    labelled = label(pumps.readings, pumps.lives)
    fleet = with_learning(pumps.fleet, label_cap_cycles=250.0)
    pipeline = fit_pipeline(labelled, fleet, QUICK)
    assert pipeline.smoothing == 20
    assert pipeline.projections == projections.fit(labelled, pipeline.conditions, 250.0, 20)
    assert pipeline.projections != projections.fit(labelled, pipeline.conditions, 250.0, 10)


def test_importance_adds_up_to_one_and_sensors_share_that_of_directions(pumps):
    by_channel = importance(pumps.model.booster, pumps.model.pipeline.names)
    assert sum(by_channel.values()) == pytest.approx(1.0)
    assert list(by_channel.values()) == sorted(by_channel.values(), reverse=True)
    shares = sensor_shares(pumps.model.booster, pumps.model.pipeline)
    directions = {projection.name for projection in pumps.model.pipeline.projections}
    of_directions = sum(share for name, share in by_channel.items() if name in directions)
    assert sum(shares.values()) == pytest.approx(of_directions)
    assert pumps.model.support.drivers[0] == max(shares, key=lambda name: shares[name])


def test_what_catboost_cannot_fit_is_said_with_its_shape():
    with pytest.raises(ModelError, match=r"CatBoost could not fit \(20, 2\) rows"):
        fit_point(np.zeros((20, 2), np.float32), np.arange(20.0), 125.0, QUICK, 0)


def test_lives_whose_readings_stop_long_before_the_end_cannot_be_learnt_from(pumps):
    lives = pumps.lives.with_columns(pl.col("end_cycle") + 2 * pumps.cap)
    with pytest.raises(ModelError, match="targets are equal"):
        train(pumps.readings, lives, pumps.fleet, QUICK)


def hours(made: Simulated) -> Simulated:
    """A reading every two and a half hours."""
    return Simulated(
        readings=made.readings.with_columns(pl.col("cycle") * 2.5 - 1.25),
        lives=made.lives.with_columns(pl.col("end_cycle") * 2.5 - 1.25),
        true_end_cycles=made.true_end_cycles,
    )


def dead_sensor(made: Simulated) -> Simulated:
    """One sensor never moves, another was never read."""
    return Simulated(
        readings=made.readings.with_columns(sensor_3=7.0, sensor_4=pl.lit(None, pl.Float64)),
        lives=made.lives,
        true_end_cycles=made.true_end_cycles,
    )


KINDS = {
    "no_settings": (SMALL, {}, None),
    "one_sensor": (msgspec.structs.replace(SMALL, sensors=1), {}, None),
    "two_sensors": (msgspec.structs.replace(SMALL, sensors=2), {}, None),
    "hours": (SMALL, {"cycles_per_reading": 2.5, "label_cap_cycles": 60.0}, hours),
    "lives_of_30_readings": (msgspec.structs.replace(SMALL, mean_life_cycles=30), {}, None),
    "lives_far_shorter_than_the_cap": (SMALL, {"label_cap_cycles": 125.0}, None),
    "a_cap_of_two_readings": (SMALL, {"label_cap_cycles": 2.0}, None),
    "lives_of_3000_readings": (
        msgspec.structs.replace(SMALL, running_units=1, sensors=2, mean_life_cycles=3000),
        {},
        None,
    ),
    "missing_values": (msgspec.structs.replace(SMALL, missing_share=0.3), {}, None),
    "hardly_any_values": (msgspec.structs.replace(SMALL, missing_share=0.9), {}, None),
    "constant_and_absent_sensors": (msgspec.structs.replace(SMALL, sensors=5), {}, dead_sensor),
    "six_conditions": (
        msgspec.structs.replace(SMALL, sensors=6, settings=3, conditions=6),
        {},
        None,
    ),
    "no_noise": (msgspec.structs.replace(SMALL, noise=0.0), {}, None),
    "two_ways_to_fail": (msgspec.structs.replace(SMALL, sensors=6, fault_modes=2), {}, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fleet_can_be_learnt_judged_and_prognosed(kind):
    simulation, learning, change = KINDS[kind]
    made = simulate(simulation)
    made = change(made) if change else made
    fleet = with_learning(simulated_fleet(simulation, kind), **learning)
    cap = fleet.learning.label_cap_cycles
    training = train(made.readings, made.lives, fleet, QUICK)
    figures = evaluation.score(training.out_of_fold, cap, repeats=5)
    assert 0.0 < (figures.clipped.rmse_cycles.value or 0.0) < cap
    now = datetime(2026, 11, 23, tzinfo=UTC)
    said = prognose(training.model, made.readings, version="1", now=now, explained=True)
    assert [one.unit for one in said] == made.readings["unit"].unique().sort().to_list()
    assert {str(one.state) for one in said} <= {"estimated", "beyond_horizon"}
    for one in said:
        total = sum(part.cycles for part in one.contributions)
        assert total == pytest.approx(one.rul_cycles, abs=1e-6)


def test_sensors_that_never_move_or_were_never_read_carry_nothing():
    simulation = msgspec.structs.replace(SMALL, sensors=5)
    made, fleet = dead_sensor(simulate(simulation)), simulated_fleet(simulation, "pumps")
    pipeline = fit_pipeline(label(made.readings, made.lives), fleet, QUICK)
    assert pipeline.conditions.sensors == ("sensor_1", "sensor_2", "sensor_5")


def test_a_fleet_of_which_no_sensor_moves_is_refused_with_a_remedy():
    made, fleet = simulate(SMALL), simulated_fleet(SMALL, "pumps")
    still = made.readings.with_columns(pl.lit(1.0).alias(name) for name in fleet.columns.sensors)
    with pytest.raises(NotEnoughData, match="fleet pumps: none of its 3 sensors varies"):
        train(still, made.lives, fleet, QUICK)


@pytest.mark.parametrize("name", ["wear", "age", "all_sensors", "a__b", "a__ewm__w_5", "temp (°C)"])
def test_what_a_sensor_is_called_changes_no_figure(name):
    made, fleet = simulate(SMALL), simulated_fleet(SMALL, "pumps")
    sensors = (name, *fleet.columns.sensors[1:])
    columns = msgspec.structs.replace(fleet.columns, sensors=sensors)
    renamed = msgspec.structs.replace(fleet, columns=columns)
    readings = made.readings.rename({"sensor_1": name})
    plain = train(made.readings, made.lives, fleet, QUICK)
    other = train(readings, made.lives, renamed, QUICK)
    assert other.out_of_fold.equals(plain.out_of_fold)
    assert other.model.predict(readings).equals(plain.model.predict(made.readings))
    assert other.model.support.drivers == tuple(
        name if sensor == "sensor_1" else sensor for sensor in plain.model.support.drivers
    )


def test_a_pandas_frame_gives_the_same_model_as_a_polars_frame():
    made = simulate(SMALL)
    fleet = msgspec.structs.replace(
        simulated_fleet(SMALL, "pumps"),
        columns=Columns(
            unit="unit",
            cycle="cycle",
            life="life",
            outcome="outcome",
            sensors=("sensor_1", "sensor_2", "sensor_3"),
        ),
        learning=Learning(label_cap_cycles=24.0),
    )
    models = []
    for table in (made.table, made.table.to_pandas()):
        found = conform(table, fleet, source="table")
        models.append(train(found.readings.sort(KEY), found.lives, fleet, QUICK))
    assert same(*models, made.readings)
