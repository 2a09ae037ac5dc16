"""From readings to a prognosis: each of the eight states, and the words for a person."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core import explain, projections
from rul_core.labels import RUL
from rul_core.model import Recipe, RulModel, train
from rul_core.prognose import (
    MISSING_LEAST,
    STUCK_LEAST,
    aged,
    not_configured,
    prognose,
    unread,
)
from rul_core.prognosis import VALID_STATES, Contribution, Prognosis, Provenance, Seen, State
from rul_core.readers import conform
from rul_core.schema import TIME, UNIT, Fleet
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_core.trees import ENGINE

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
FIGURES = (
    "rul_cycles",
    "lower_50_cycles",
    "upper_50_cycles",
    "lower_90_cycles",
    "upper_90_cycles",
    "safe_cycles",
    "failure_probability",
    "horizon_cycles",
)


def said_of(model: RulModel, readings: pl.DataFrame, **options) -> list[Prognosis]:
    return prognose(model, readings, version="v1", now=NOW, **options)


def described(model: RulModel, **options) -> RulModel:
    """The model under another description of its fleet."""
    return replace(model, fleet=msgspec.structs.replace(model.fleet, **options))


@pytest.fixture(scope="module")
def worn(pumps) -> pl.DataFrame:
    """A long life up to four cycles before its end."""
    life = pumps.lives.filter(pl.col("end_cycle") > 50).row(0, named=True)
    return pumps.readings.filter(
        pl.col(UNIT) == life["unit"], pl.col("cycle") <= life["end_cycle"] - 4
    )


def at_the_end(readings: pl.DataFrame, count: int, **values: pl.Expr) -> pl.DataFrame:
    """The readings with other values in the last ones."""
    last = pl.int_range(pl.len()) >= pl.len() - count
    return readings.with_columns(
        pl.when(last).then(value).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )


def only(said: list[Prognosis]) -> Prognosis:
    assert len(said) == 1
    return said[0]


def without_figures(said: Prognosis) -> bool:
    return said.contributions == () and all(getattr(said, name) is None for name in FIGURES)


def test_an_estimate_has_the_figures_of_the_model_at_the_last_reading(pumps, worn):
    said = only(said_of(pumps.model, worn))
    figure = pumps.model.predict(worn).row(-1, named=True)
    assert (said.state, said.detail) == (State.ESTIMATED, "")
    assert (said.fleet, said.unit, said.life) == ("pumps", worn[UNIT][0], 1)
    assert said.cycle == worn["cycle"][-1]
    assert said.rul_cycles == figure[RUL]
    assert (said.lower_50_cycles, said.upper_50_cycles) == (figure["lower_50"], figure["upper_50"])
    assert (said.lower_90_cycles, said.upper_90_cycles) == (figure["lower_90"], figure["upper_90"])
    assert said.safe_cycles == figure["safe"]
    assert said.failure_probability == figure["failure_probability"]
    assert said.horizon_cycles == pumps.fleet.maintenance.lead_time_cycles
    assert said.computed_at == NOW
    assert said.state in VALID_STATES


def test_provenance_says_what_a_prognosis_was_computed_from(pumps, worn):
    said = only(said_of(pumps.model, worn, trace_id="abc"))
    assert said.provenance == Provenance(
        model_version="v1",
        feature_spec=pumps.model.pipeline.hash,
        engine=ENGINE,
        first_cycle=1.0,
        last_cycle=worn["cycle"][-1],
        readings=worn.height,
        trace_id="abc",
    )


def test_beyond_the_horizon_an_upper_bound_is_none(pumps):
    """The state is ``beyond_horizon`` exactly where the 90 % upper bound is the cap."""
    seen = set()
    for cycles in (8, 14, 20, 30):
        readings = pumps.readings.filter(pl.col("cycle") <= cycles)
        figures = pumps.model.predict(readings).group_by(UNIT, maintain_order=True).last()
        for said, figure in zip(
            said_of(pumps.model, readings), figures.iter_rows(named=True), strict=True
        ):
            if said.state not in VALID_STATES:
                continue
            beyond = figure["upper_90"] >= pumps.cap
            seen.add(beyond)
            assert (said.state is State.BEYOND_HORIZON) == beyond
            assert (said.upper_90_cycles is None) == beyond
            assert (said.upper_50_cycles is None) == (figure["upper_50"] >= pumps.cap)
            assert said.lower_90_cycles == figure["lower_90"]
            lower = f"at least {figure['lower_90']:.0f} cycles"
            assert said.detail == (lower if beyond else "")
    assert seen == {True, False}


def test_the_detail_speaks_in_the_fleets_unit_of_life(pumps):
    model = described(pumps.model, unit_of_life="hours")
    details = {said.detail for said in said_of(model, pumps.running) if said.detail}
    assert details
    assert all(detail.endswith(" hours") for detail in details)


def test_too_short_a_life_has_no_estimate_and_says_how_much_is_lacking(pumps, worn):
    said = only(said_of(pumps.model, worn.head(3)))
    assert said.state is State.INSUFFICIENT_HISTORY
    assert said.detail == "3 of 5 readings collected"
    assert without_figures(said)
    assert said.provenance.readings == 3
    assert only(said_of(pumps.model, worn.head(5))).state is not State.INSUFFICIENT_HISTORY


def test_a_driving_sensor_that_no_longer_moves_is_a_fault(pumps, worn):
    name, count = pumps.model.support.drivers[0], STUCK_LEAST + 1
    value = pl.lit(worn[name][-1])
    said = only(said_of(pumps.model, at_the_end(worn, count, **{name: value})))
    assert said.state is State.SENSOR_FAULT
    assert said.detail == f"{name} has not moved for {count} readings"
    assert without_figures(said)
    just_before = at_the_end(worn, STUCK_LEAST, **{name: value})
    assert only(said_of(pumps.model, just_before)).state in VALID_STATES


def test_a_sensor_is_no_less_stuck_for_readings_that_lack_it(pumps, worn):
    name, count = pumps.model.support.drivers[0], STUCK_LEAST + 8
    gaps = pl.when(pl.int_range(pl.len()) % 4 != 0).then(pl.lit(worn[name][-1]))
    readings = at_the_end(worn, count, **{name: gaps})
    read = readings[name].tail(count).count()
    said = only(said_of(pumps.model, readings))
    assert read > STUCK_LEAST
    assert said.detail == f"{name} has not moved for {read} readings"


def test_a_sensor_that_stands_still_by_nature_is_not_stuck():
    simulation = Simulation(units=15, running_units=1, sensors=2, settings=0, mean_life_cycles=60)
    made, fleet = simulate(simulation), simulated_fleet(simulation, "valves")
    coarse = made.readings.with_columns(
        pl.col("sensor_1").gather(pl.int_range(pl.len()) // 15 * 15)
    )
    model = train(coarse, made.lives, fleet, Recipe(iterations=10, folds=3, threads=1)).model
    assert "sensor_1" in model.support.drivers
    assert model.support.longest_run[0] == 15
    last = coarse.filter(pl.col(UNIT) == coarse[UNIT][-1])
    still = pl.lit(last["sensor_1"][-1])
    assert only(said_of(model, at_the_end(last, 25, sensor_1=still))).state in VALID_STATES
    said = only(said_of(model, at_the_end(last, 31, sensor_1=still)))
    assert said.detail.startswith("sensor_1 has not moved for 3")


def test_a_driving_sensor_that_is_no_longer_read_is_a_fault(pumps, worn):
    name, missing = pumps.model.support.drivers[0], pl.lit(None, pl.Float64)
    said = only(said_of(pumps.model, at_the_end(worn, MISSING_LEAST, **{name: missing})))
    assert said.state is State.SENSOR_FAULT
    assert said.detail == f"{name} is missing from the last {MISSING_LEAST} readings"
    assert without_figures(said)
    just_before = at_the_end(worn, MISSING_LEAST - 1, **{name: missing})
    assert only(said_of(pumps.model, just_before)).state in VALID_STATES


def test_a_sensor_that_is_read_now_and_then_is_lost_when_it_misses_its_turn():
    simulation = Simulation(units=15, running_units=1, sensors=2, settings=0, mean_life_cycles=60)
    made, fleet = simulate(simulation), simulated_fleet(simulation, "valves")
    rare = pl.when((pl.col("cycle") - 1) % 10 == 0).then(pl.col("sensor_1")).alias("sensor_1")
    readings = made.readings.with_columns(rare)
    model = train(readings, made.lives, fleet, Recipe(iterations=10, folds=3, threads=1)).model
    assert "sensor_1" in model.support.drivers
    assert model.support.longest_gap == (9, 0)
    last = readings.filter(pl.col(UNIT) == readings[UNIT][-1])
    assert only(said_of(model, last.head(20))).state in VALID_STATES
    late = last.head(22).with_columns(
        sensor_1=pl.when(pl.col("cycle") < 20).then(pl.col("sensor_1"))
    )
    assert only(said_of(model, late)).detail == "sensor_1 is missing from the last 11 readings"


def test_a_driving_sensor_out_of_its_physical_range_is_a_fault(pumps, worn):
    name = pumps.model.support.drivers[0]
    last = worn[name][-1]
    model = described(pumps.model, ranges={name: (-50.0, last - 1.0)})
    said = only(said_of(model, worn))
    assert said.state is State.SENSOR_FAULT
    assert said.detail == f"{name} reads {last:g}, outside -50 to {last - 1.0:g}"
    assert without_figures(said)
    wide = described(pumps.model, ranges={name: (-50.0, last + 1.0)})
    assert only(said_of(wide, worn)).state is State.ESTIMATED


def test_a_value_that_cannot_be_is_as_good_as_not_read(pumps, worn):
    driver = pumps.model.support.drivers[0]
    ranged = described(pumps.model, ranges={driver: (0.0, 1e6)})
    middle = pl.int_range(pl.len()) == pl.len() - 10
    absurd = worn.with_columns(pl.when(middle).then(1e9).otherwise(driver).alias(driver))
    unread = worn.with_columns(pl.when(~middle).then(driver).alias(driver))
    assert only(said_of(ranged, absurd)).rul_cycles == only(said_of(ranged, unread)).rul_cycles
    unranged = only(said_of(pumps.model, absurd))
    assert unranged.rul_cycles != only(said_of(ranged, absurd)).rul_cycles


def test_a_value_outside_its_physical_range_moves_no_later_prognosis(pumps, worn):
    name = pumps.model.support.drivers[0]
    model = described(pumps.model, ranges={name: (worn[name].min(), worn[name].max())})

    def once(value: float | None) -> pl.DataFrame:
        spike = pl.when(pl.col("cycle") == worn["cycle"][-2]).then(pl.lit(value, pl.Float64))
        return worn.with_columns(spike.otherwise(pl.col(name)).alias(name))

    assert said_of(model, once(1e6)) == said_of(model, once(None))
    assert said_of(pumps.model, once(1e6)) != said_of(pumps.model, once(None))


def test_every_faulty_sensor_is_named(pumps, worn):
    first, second = pumps.model.support.drivers[:2]
    readings = at_the_end(
        worn, 25, **{first: pl.lit(worn[first][-1]), second: pl.lit(None, pl.Float64)}
    )
    assert only(said_of(pumps.model, readings)).detail == (
        f"{first} has not moved for 25 readings; {second} is missing from the last 25 readings"
    )


def test_a_sensor_that_does_not_drive_the_point_may_fail(pumps, worn):
    support = msgspec.structs.replace(pumps.model.support, drivers=())
    name = pumps.model.support.drivers[0]
    said = said_of(
        replace(pumps.model, support=support), at_the_end(worn, 9, **{name: pl.lit(None)})
    )
    assert only(said).state in VALID_STATES


def test_an_operating_condition_that_training_never_saw_is_out_of_domain(pumps, worn):
    said = only(said_of(pumps.model, at_the_end(worn, 1, setting_1=pl.lit(99.0))))
    setting_2 = worn["setting_2"][-1]
    assert said.state is State.OUT_OF_DOMAIN
    assert said.detail == (
        f"an operating condition that training never saw: setting_1 99, setting_2 {setting_2:g}"
    )
    assert without_figures(said)


def test_a_setting_that_was_not_read_is_out_of_domain(pumps, worn):
    said = only(said_of(pumps.model, at_the_end(worn, 1, setting_2=pl.lit(None, pl.Float64))))
    assert said.state is State.OUT_OF_DOMAIN
    assert said.detail == "not read, though the operating condition needs it: setting_2"


def test_values_beyond_what_training_saw_are_named(pumps, worn):
    readings = at_the_end(worn, 1, sensor_2=pl.lit(1e6), sensor_4=pl.lit(-1e6))
    said = only(said_of(pumps.model, readings))
    assert said.state is State.OUT_OF_DOMAIN
    assert said.detail == "beyond what training saw: sensor_2 1e+06, sensor_4 -1e+06"
    assert without_figures(said)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_numbers_of_any_size_are_out_of_domain_and_nothing_overflows_aloud(pumps, worn, data):
    """Warnings are errors here."""
    huge = st.one_of(st.floats(1e150, allow_infinity=False), st.floats(max_value=-1e150, width=64))
    name = data.draw(st.sampled_from(pumps.fleet.channels))
    value = data.draw(huge.filter(np.isfinite))
    others = {other: pl.lit(-value) for other in pumps.fleet.columns.sensors if other != name}
    for readings in (
        at_the_end(worn, 1, **{name: pl.lit(value)}),
        at_the_end(worn, 3, **{name: pl.lit(value)}, **others),
    ):
        said = only(said_of(pumps.model, readings, explained=True))
        assert said.state is State.OUT_OF_DOMAIN
        assert "not read" not in said.detail


def test_only_the_last_reading_decides_whether_a_unit_is_out_of_domain(pumps, worn):
    early = pl.when(pl.col("cycle") == 2).then(pl.lit(99.0)).otherwise(pl.col("setting_1"))
    said = only(said_of(pumps.model, worn.with_columns(setting_1=early)))
    assert said.state is not State.OUT_OF_DOMAIN


def timed(readings: pl.DataFrame, last: datetime) -> pl.DataFrame:
    """Readings an hour apart, the last at that time."""
    before = pl.int_range(pl.len()).reverse() * timedelta(hours=1)
    return readings.with_columns((pl.lit(last) - before).cast(pl.Datetime("us", "UTC")).alias(TIME))


def test_stale_data_keep_their_figures_and_say_how_old_they_are(pumps, worn):
    model = described(pumps.model, freshness_limit_seconds=3600.0)
    fresh = only(said_of(model, timed(worn, NOW - timedelta(seconds=3600)), explained=True))
    stale = only(said_of(model, timed(worn, NOW - timedelta(seconds=3601)), explained=True))
    assert fresh.state is State.ESTIMATED
    assert stale.state is State.STALE_DATA
    assert stale.detail == "the last reading is 3601 s old, the limit is 3600 s"
    assert stale == aged(stale, 3600.0, NOW)
    provenance = msgspec.structs.replace(
        fresh.provenance, last_read_at=NOW - timedelta(seconds=3601)
    )
    assert stale == msgspec.structs.replace(
        fresh, state=stale.state, detail=stale.detail, provenance=provenance
    )


def test_what_was_said_grows_stale_by_itself_with_its_figures(pumps, worn):
    read_at = NOW - timedelta(seconds=100)
    said = only(said_of(pumps.model, timed(worn, read_at)))
    assert said.provenance.last_read_at == read_at
    for limit_seconds, seconds in ((None, 1e6), (100.0, 0.0), (101.0, 1.0), (100.0, -3600.0)):
        assert aged(said, limit_seconds, NOW + timedelta(seconds=seconds)) == said
    for seconds in (1, 500):
        later = aged(said, 100.0, NOW + timedelta(seconds=seconds))
        assert later.state is State.STALE_DATA
        assert later.detail == f"the last reading is {100 + seconds} s old, the limit is 100 s"
        assert later.rul_cycles == said.rul_cycles
        again = aged(later, 100.0, NOW + timedelta(seconds=900))
        assert again.detail == "the last reading is 1000 s old, the limit is 100 s"


def test_what_has_no_figures_or_no_time_never_grows_stale(pumps, worn):
    later = NOW + timedelta(days=9)
    few = only(said_of(pumps.model, timed(worn[:2], NOW)))
    assert few.state is State.INSUFFICIENT_HISTORY
    timeless = only(said_of(pumps.model, worn))
    for said in (few, timeless, not_configured(pumps.fleet, ["x"], NOW)[0]):
        assert aged(said, 1.0, later) == said


def test_a_life_without_a_reading_has_collected_none(pumps):
    said = unread(pumps.fleet, "x", 2, version="v", now=NOW, seen=Seen(raw_rows=7))
    assert (said.state, said.detail) == (State.INSUFFICIENT_HISTORY, "0 of 5 readings collected")
    assert (said.unit, said.life, said.cycle, said.provenance.seen.raw_rows) == ("x", 2, None, 7)


def test_no_data_are_stale_without_a_limit_or_without_a_clock(pumps, worn):
    old = timed(worn, NOW - timedelta(days=400))
    assert only(said_of(pumps.model, old)).state is State.ESTIMATED
    limited = described(pumps.model, freshness_limit_seconds=60.0)
    assert worn[TIME].null_count() == worn.height
    assert only(said_of(limited, worn)).state is State.ESTIMATED


def test_a_reading_from_the_future_is_not_stale(pumps, worn):
    limited = described(pumps.model, freshness_limit_seconds=60.0)
    said = only(said_of(limited, timed(worn, NOW + timedelta(days=1))))
    assert said.state is State.ESTIMATED


@pytest.mark.parametrize("written", ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S+00:00"])
def test_times_without_a_zone_are_taken_as_utc(pumps, worn, written):
    columns = msgspec.structs.replace(pumps.fleet.columns, time="time", outcome=None)
    model = described(pumps.model, columns=columns, freshness_limit_seconds=3600.0)
    table = timed(worn, NOW - timedelta(hours=2)).with_columns(pl.col(TIME).dt.strftime(written))
    readings = conform(table, model.fleet, source="table").readings
    assert only(said_of(model, readings)).detail == (
        "the last reading is 7200 s old, the limit is 3600 s"
    )


def test_a_fault_is_told_before_age_and_a_short_life_before_a_fault(pumps, worn):
    name, missing = pumps.model.support.drivers[0], pl.lit(None, pl.Float64)
    model = described(pumps.model, freshness_limit_seconds=60.0)
    old = at_the_end(timed(worn, NOW - timedelta(days=1)), 9, **{name: missing})
    assert only(said_of(model, old)).state is State.SENSOR_FAULT
    foreign = at_the_end(old, 1, setting_1=pl.lit(99.0))
    assert only(said_of(model, foreign)).state is State.SENSOR_FAULT
    assert only(said_of(model, foreign.tail(4))).state is State.INSUFFICIENT_HISTORY


def test_a_fleet_without_a_model_says_so_of_every_unit():
    fleet = Fleet(name="mills", columns=simulated_fleet(Simulation(), "x").columns)
    said = not_configured(fleet, ["b", "a"], NOW)
    assert [(one.unit, one.state, one.computed_at) for one in said] == [
        ("b", State.NOT_CONFIGURED, NOW),
        ("a", State.NOT_CONFIGURED, NOW),
    ]
    assert said[0].detail == (
        "fleet mills has no released model; land run-to-failure data and materialise rul_model "
        "and released_model"
    )
    assert all(map(without_figures, said))


def test_a_failed_inference_is_raised_for_the_caller_to_turn_into_model_error(pumps, worn):
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="sensor_1"):
        said_of(pumps.model, worn.drop("sensor_1"))


def test_units_come_in_order_and_each_speaks_of_its_last_life_only():
    simulation = Simulation(
        units=15, running_units=3, sensors=2, settings=0, mean_life_cycles=30, lives_per_unit=2
    )
    made, fleet = simulate(simulation), simulated_fleet(simulation, "valves")
    recipe = Recipe(iterations=10, folds=3, threads=1)
    model = train(made.readings, made.lives, fleet, recipe).model
    said = said_of(model, made.readings, explained=True)
    second = made.readings.filter(pl.col("life") == 2)
    assert [one.unit for one in said] == second[UNIT].unique().sort().to_list()
    assert {one.life for one in said} == {2}
    assert said == said_of(model, second, explained=True)
    lengths = second.group_by(UNIT, maintain_order=True).len()["len"].to_list()
    assert [one.provenance.readings for one in said] == lengths


def test_no_readings_give_no_prognoses(pumps):
    assert said_of(pumps.model, pumps.readings.clear()) == []


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_what_is_said_of_a_unit_does_not_depend_on_the_others(pumps, data):
    everyone = {said.unit: said for said in said_of(pumps.model, faulty(pumps), explained=True)}
    assert {State.SENSOR_FAULT, State.OUT_OF_DOMAIN, *VALID_STATES} <= {
        said.state for said in everyone.values()
    }
    some = data.draw(st.sets(st.sampled_from(sorted(everyone)), min_size=1))
    alone = said_of(
        pumps.model, faulty(pumps).filter(pl.col(UNIT).is_in(list(some))), explained=True
    )
    assert alone == [everyone[unit] for unit in sorted(some)]


def faulty(pumps) -> pl.DataFrame:
    """The fleet in mid-life; a unit has a lost sensor, another was never seen so."""
    first, second, third = pumps.lives[UNIT][:3]
    name = pumps.model.support.drivers[0]
    return pumps.readings.filter(pl.col("cycle") <= 25).with_columns(
        pl.when(pl.col(UNIT) != first).then(pl.col(name)).alias(name),
        setting_1=pl.when(pl.col(UNIT) == second).then(99.0).otherwise(pl.col("setting_1")),
        sensor_2=pl.when(pl.col(UNIT) == third).then(-1e6).otherwise(pl.col("sensor_2")),
    )


def test_reasons_are_given_when_asked_for(pumps, worn):
    assert only(said_of(pumps.model, worn)).contributions == ()
    said = only(said_of(pumps.model, worn, explained=True))
    assert all(isinstance(part, Contribution) for part in said.contributions)
    total = sum(part.cycles for part in said.contributions)
    assert total == pytest.approx(said.rul_cycles, abs=1e-6)


def test_reasons_are_shared_among_sensors_by_the_span_that_the_directions_were_fitted_on(
    pumps, worn
):
    pipeline = pumps.model.pipeline
    other = replace(pumps.model, pipeline=msgspec.structs.replace(pipeline, smoothing=1))
    for model in (pumps.model, other):
        row = model.compiled.matrix(worn)[-1:]
        smoothed = projections.smooth(worn, pipeline.conditions, model.pipeline.smoothing)[-1:]
        said = only(said_of(model, worn, explained=True))
        expected = explain.contributions(
            model.booster, pipeline, row, smoothed, np.array([said.rul_cycles])
        )
        assert said.contributions == expected[0]
    assert only(said_of(other, worn, explained=True)).contributions != (
        only(said_of(pumps.model, worn, explained=True)).contributions
    )
