import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from rul_core.errors import FleetError, ReadingsError
from rul_core.schema import LIVES_SCHEMA, read_fleet, write_fleet
from rul_core.simulator import Simulation, simulate, simulate_shards, simulated_fleet
from rul_core.simulator_faults import (
    DriftingSensor,
    EarlyFailure,
    MissingRows,
    NewCondition,
    StuckSensor,
    end_early,
    inject,
)

SMALL = Simulation(units=3, running_units=2, sensors=4, mean_life_cycles=20)


def simulations() -> st.SearchStrategy[Simulation]:
    return st.builds(
        Simulation,
        units=st.integers(1, 4),
        running_units=st.integers(0, 3),
        sensors=st.integers(1, 7),
        settings=st.integers(1, 3),
        conditions=st.integers(1, 3),
        fault_modes=st.integers(1, 3),
        mean_life_cycles=st.floats(10, 40),
        lives_per_unit=st.integers(1, 3),
        missing_share=st.sampled_from([0.0, 0.2]),
        seed=st.integers(0, 2**40),
    )


@settings(max_examples=25, deadline=None)
@given(simulations())
def test_frames_have_the_schemas_and_the_order_of_the_contract(simulation):
    simulated = simulate(simulation)
    fleet = simulated_fleet(simulation, "made-up")
    assert simulated.readings.schema == fleet.readings_schema
    assert simulated.lives.schema == LIVES_SCHEMA
    assert_frame_equal(simulated.readings, simulated.readings.sort("unit", "life", "cycle"))
    assert read_fleet(write_fleet(fleet)) == fleet


@settings(max_examples=25, deadline=None)
@given(simulations())
def test_a_failed_life_is_read_to_its_end_and_a_running_one_is_not(simulation):
    simulated = simulate(simulation)
    last = simulated.readings.group_by("unit", "life").agg(pl.max("cycle"), pl.len())
    lives = simulated.lives.join(last, on=["unit", "life"]).join(
        simulated.true_end_cycles, on=["unit", "life"], suffix="_true"
    )
    assert lives.height == simulated.lives.height
    assert (lives["cycle"] == lives["len"]).all()
    failed = lives.filter(outcome="failed")
    running = lives.filter(outcome="running")
    assert (failed["cycle"] == failed["end_cycle"]).all()
    assert (failed["end_cycle"] == failed["end_cycle_true"]).all()
    assert running["end_cycle"].null_count() == running.height == simulation.running_units
    assert (running["cycle"] < running["end_cycle_true"]).all()


@settings(max_examples=20, deadline=None)
@given(simulations(), st.integers(1, 4))
def test_shards_of_any_size_add_up_to_the_same_fleet(simulation, units_per_shard):
    shards = list(simulate_shards(simulation, units_per_shard))
    whole = simulate(simulation)
    assert_frame_equal(pl.concat([shard.readings for shard in shards]), whole.readings)
    assert_frame_equal(pl.concat([shard.lives for shard in shards]), whole.lives)


def test_another_seed_gives_another_fleet():
    other = msgspec.structs.replace(SMALL, seed=1)
    assert not simulate(SMALL).readings.equals(simulate(other).readings)


def test_a_running_unit_goes_on_as_the_same_unit_among_the_failed_ones_does():
    complete = simulate(msgspec.structs.replace(SMALL, units=5, running_units=0))
    cut = simulate(SMALL)
    seen = complete.readings.join(
        cut.readings.select("unit", "life", "cycle"), on=["unit", "cycle"]
    )
    assert_frame_equal(seen.select(cut.readings.columns), cut.readings)


def test_a_later_first_unit_continues_the_fleet():
    later = simulate(msgspec.structs.replace(SMALL, units=1, running_units=2, first_unit=3))
    whole = simulate(SMALL)
    assert_frame_equal(later.readings, whole.readings.filter(pl.col("unit") >= "unit-000003"))


def test_lives_last_about_as_long_as_asked():
    ends = simulate(Simulation(units=300, running_units=0, sensors=1)).lives["end_cycle"].to_numpy()
    assert ends.mean() == pytest.approx(200, rel=0.05)
    assert 30 < ends.std() < 60


def test_settings_reveal_the_condition_and_conditions_shift_the_sensors():
    readings = simulate(Simulation(units=20, running_units=0, conditions=4)).readings
    by_condition = readings.group_by(condition=pl.col("setting_1").round(0)).agg(
        pl.std("setting_1"), level=pl.mean("sensor_1"), within=pl.std("sensor_1")
    )
    assert by_condition.height == 4
    assert (by_condition["setting_1"] < 0.05).all()
    assert np.ptp(by_condition["level"].to_numpy()) > 5 * by_condition["within"].to_numpy().max()


def test_a_third_of_the_sensors_do_not_tell_of_damage_and_half_of_those_are_constant():
    readings = simulate(Simulation(units=20, running_units=0, sensors=12)).readings
    sensors = pl.col(Simulation(sensors=12).sensor_names)
    age = pl.col("cycle") / pl.col("cycle").max().over("unit")
    old = readings.filter(age > 0.95).select(sensors).to_numpy()
    new = readings.filter(age < 0.05).select(sensors).to_numpy()
    assert (np.ptp(readings.select(sensors).to_numpy(), axis=0) == 0).tolist() == [False] * 10 + [
        True
    ] * 2
    shifts = np.abs(old.mean(axis=0) - new.mean(axis=0))[:10] / new.std(axis=0)[:10]
    assert (shifts[:8] > 1.5).all()
    assert (shifts[8:] < 0.3).all()


def test_fault_modes_move_other_sensors_in_other_directions():
    simulation = Simulation(units=40, running_units=0, sensors=9, fault_modes=3, noise=0.02)
    readings = simulate(simulation).readings
    moves = readings.group_by("unit").agg(
        (pl.col(f"sensor_{n}").tail(3).mean() - pl.col(f"sensor_{n}").head(10).mean())
        / pl.col(f"sensor_{n}").head(30).std()
        for n in range(1, 7)
    )
    directions = {
        tuple(0 if abs(move) < 10 else int(np.sign(move)) for move in row[1:])
        for row in moves.iter_rows()
    }
    assert len(directions) == 3
    assert len({tuple(map(abs, direction)) for direction in directions}) == 3


def test_the_share_of_missing_values_is_as_asked_and_settings_are_whole():
    simulation = Simulation(units=20, running_units=0, missing_share=0.1)
    readings = simulate(simulation).readings
    nulls = readings.select(simulation.sensor_names).null_count().row(0)
    assert sum(nulls) / (8 * readings.height) == pytest.approx(0.1, abs=0.01)
    assert readings.select(simulation.setting_names).null_count().row(0) == (0, 0, 0)


def test_a_fleet_without_settings_can_be_simulated():
    simulation = Simulation(units=2, running_units=0, settings=0)
    assert simulate(simulation).readings.columns[4] == "sensor_1"
    assert simulated_fleet(simulation, "plain").columns.settings == ()


def test_the_table_carries_each_lifes_outcome_as_a_source_would():
    simulated = simulate(msgspec.structs.replace(SMALL, lives_per_unit=2))
    table = simulated.table
    assert "time" not in table.columns
    assert table.drop("outcome").equals(simulated.readings.drop("time"))
    assert set(table.filter(outcome="running").select("unit", "life").iter_rows()) == {
        ("unit-000004", 2),
        ("unit-000005", 2),
    }


@pytest.mark.parametrize(
    ("figure", "value", "remedy"),
    [
        ("sensors", 0, "at least 1"),
        ("mean_life_cycles", 3, "at least 10"),
        ("mean_life_cycles", float("nan"), "at least 10"),
        ("missing_share", 1.0, "below 1"),
        ("first_unit", 0, "at least 1"),
        ("noise", -0.1, "at least 0"),
    ],
)
def test_an_impossible_figure_is_named(figure, value, remedy):
    with pytest.raises(FleetError, match=f"{figure} is {value}; .*{remedy}"):
        Simulation(**{figure: value})


def test_several_conditions_need_a_setting_to_show_them():
    with pytest.raises(FleetError, match="settings is 0; give at least 1"):
        Simulation(conditions=2, settings=0)


def test_a_fleet_of_no_units_is_refused():
    with pytest.raises(FleetError, match="units and running_units are both 0"):
        Simulation(units=0, running_units=0)


def faultless() -> pl.DataFrame:
    cycles = [float(cycle) for cycle in range(1, 7)]
    return pl.DataFrame(
        {
            "unit": ["a"] * 6 + ["b"] * 6,
            "life": [1] * 12,
            "cycle": cycles * 2,
            "altitude": [0.0] * 12,
            "heat": cycles * 2,
        }
    )


def values(readings: pl.DataFrame, unit: str, column: str) -> list[float]:
    return readings.filter(unit=unit)[column].to_list()


def test_a_stuck_sensor_repeats_the_first_value_of_its_stretch():
    readings = inject(faultless(), [StuckSensor(unit="a", sensor="heat", from_cycle=3, to_cycle=5)])
    assert values(readings, "a", "heat") == [1, 2, 3, 3, 3, 6]
    assert values(readings, "b", "heat") == [1, 2, 3, 4, 5, 6]


def test_a_drifting_sensor_leaves_the_truth_steadily():
    fault = DriftingSensor(unit="b", sensor="heat", from_cycle=4, per_cycle=10.0)
    readings = inject(faultless(), [fault])
    assert values(readings, "b", "heat") == [1, 2, 3, 4, 15, 26]
    assert values(readings, "a", "heat") == [1, 2, 3, 4, 5, 6]


def test_missing_rows_are_gone():
    readings = inject(faultless(), [MissingRows(unit="a", from_cycle=2, to_cycle=4)])
    assert values(readings, "a", "cycle") == [1, 5, 6]


def test_a_new_condition_moves_settings_and_sensors():
    fault = NewCondition(
        unit="a", from_cycle=5, settings={"altitude": 9.0}, sensor_shifts={"heat": -2.0}
    )
    readings = inject(faultless(), [fault])
    assert values(readings, "a", "altitude") == [0, 0, 0, 0, 9, 9]
    assert values(readings, "a", "heat") == [1, 2, 3, 4, 3, 4]


def test_an_early_failure_ends_the_readings_and_the_life():
    faults = [EarlyFailure(unit="a", cycle=4), MissingRows(unit="b", from_cycle=6)]
    lives = pl.DataFrame(
        {"unit": ["a", "b"], "life": [1, 1], "outcome": ["running"] * 2, "end_cycle": [None, None]},
        schema=LIVES_SCHEMA,
    )
    assert values(inject(faultless(), faults), "a", "cycle") == [1, 2, 3, 4]
    assert end_early(lives, faults).rows() == [("a", 1, "failed", 4.0), ("b", 1, "running", None)]


def test_a_fault_in_a_life_that_is_not_there_is_named():
    with pytest.raises(ReadingsError, match=r"unit='c'.* touches no reading"):
        inject(faultless(), [MissingRows(unit="c", from_cycle=2)])
    with pytest.raises(ReadingsError, match=r"unit='a'.* touches no reading"):
        inject(faultless(), [EarlyFailure(unit="a", cycle=6)])
    with pytest.raises(ReadingsError, match=r"unit='c'.* names a life that is not there"):
        end_early(pl.DataFrame(schema=LIVES_SCHEMA), [EarlyFailure(unit="c", cycle=6)])


@pytest.mark.parametrize(
    "fault",
    [
        StuckSensor(unit="a", sensor="noise", from_cycle=1),
        DriftingSensor(unit="a", sensor="noise", from_cycle=1, per_cycle=1.0),
        NewCondition(unit="a", from_cycle=1, settings={"noise": 1.0}),
        NewCondition(unit="a", from_cycle=1, settings={}, sensor_shifts={"noise": 1.0}),
    ],
)
def test_a_fault_in_a_column_that_is_not_there_is_named(fault):
    with pytest.raises(ReadingsError, match=r"names \['noise'\]; .*'heat'"):
        inject(faultless(), [fault])
