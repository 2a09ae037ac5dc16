from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core.discovery import Guess, describe
from rul_core.errors import FleetError, ReadingsError
from rul_core.formats import CMAPSS_COLUMNS
from rul_core.readers import conform, parse_file
from rul_core.schema import FileRule, Outcome, read_fleet, write_fleet
from rul_core.simulator import Simulation, simulate, simulated_fleet


def run_to_failure(
    unit: str = "unit",
    cycle: str = "cycle",
    lives: tuple[int, ...] = (30, 40, 50),
    step: float = 1.0,
    **columns: pl.Expr,
) -> pl.DataFrame:
    """Units 1, 2, …, each read ``lives`` times, with a rising, a falling and a flat sensor."""
    rng = np.random.default_rng(1)
    parts = [
        pl.DataFrame(
            {
                unit: [number] * count,
                cycle: [step * (row + 1) for row in range(count)],
                "heat": np.linspace(0, 3, count) + rng.normal(size=count),
                "flow": np.linspace(9, 5, count) + rng.normal(size=count),
                "weight": 7.5,
            }
        )
        for number, count in enumerate(lives, start=1)
    ]
    return pl.concat(parts).with_columns(**columns)


def remark(guess: Guess, start: str) -> str:
    return next(text for text in guess.remarks if text.startswith(start))


def test_cmapss_text_is_described_as_the_field_does():
    simulation = Simulation(units=30, running_units=0, sensors=21, conditions=3)
    readings = simulate(simulation).readings.drop("life", "time")
    lines = readings.with_columns(
        pl.col("unit").rank("dense"), pl.col("cycle").cast(pl.Int64)
    ).write_csv(include_header=False, separator=" ")
    table = parse_file(lines.encode(), "train_FD009.txt")
    assert table.columns == list(CMAPSS_COLUMNS)
    guess = describe(table, "turbofans", "train_FD009.txt")
    columns = guess.fleet.columns
    assert (columns.unit, columns.cycle, columns.life) == ("unit", "cycle", None)
    assert columns.settings == ("setting_1", "setting_2", "setting_3")
    assert columns.sensors == tuple(f"sensor_{number}" for number in range(1, 19))
    assert guess.fleet.learning.label_cap_cycles == 125
    assert guess.fleet.learning.cycles_per_reading == 1
    assert 25 <= guess.fleet.maintenance.lead_time_cycles <= 35
    assert guess.fleet.files == (
        FileRule(glob="train_*", outcome=Outcome.FAILED, unit_prefix="train-"),
        FileRule(glob="test_*", outcome=Outcome.RUNNING, unit_prefix="test-"),
    )
    assert remark(guess, "left out") == ("left out: sensor_19, sensor_20, sensor_21: never varies")
    assert "different machines" in remark(guess, "files")
    conformed = conform(table, guess.fleet, source="train_FD009.txt")
    assert conformed.readings.height == table.height
    assert set(conformed.lives["outcome"]) == {"failed"}


def test_pumps_whose_hours_are_fractions_are_described():
    table = run_to_failure("id", "operating_hours", (300, 400, 500), 0.25).with_columns(
        pl.col("id").replace_strict({1: "north", 2: "south", 3: "west"}, return_dtype=pl.String)
    )
    guess = describe(table, "pumps", "landing/history[1].csv")
    fleet = guess.fleet
    assert (fleet.columns.unit, fleet.columns.cycle) == ("id", "operating_hours")
    assert fleet.columns.settings == ()
    assert fleet.columns.sensors == ("heat", "flow")
    assert fleet.unit_of_life == "hours"
    assert fleet.learning.cycles_per_reading == 0.25
    assert fleet.learning.label_cap_cycles == 60
    assert fleet.maintenance.lead_time_cycles == 15
    assert fleet.learning.uses_age
    assert remark(guess, "settings") == "settings: none found"
    assert remark(guess, "left out") == "left out: weight: never varies"
    assert fleet.rule_for("history[1].csv").outcome == Outcome.FAILED
    assert fleet.rule_for("other.csv").outcome == Outcome.RUNNING
    assert "every life in history[1].csv is taken to have ended" in remark(guess, "files")


@pytest.mark.parametrize(
    ("count", "cap", "lead_time", "least"),
    [(10, 6, 1.5, 2), (30, 18, 4.5, 5), (3000, 1800, 450, 5)],
)
def test_short_and_long_lives_give_their_own_lengths(count, cap, lead_time, least):
    fleet = describe(run_to_failure(lives=(count,) * 3), "any", "a.csv").fleet
    assert fleet.learning.label_cap_cycles == cap
    assert fleet.maintenance.lead_time_cycles == lead_time
    assert fleet.learning.minimum_readings == least


@pytest.mark.parametrize(
    ("unit", "cycle", "unit_of_life"),
    [
        ("engine_id", "time_in_cycles", "cycles"),
        ("Machine ID", "Runtime [h]", "cycles"),
        ("UnitNumber", "timeCycles", "cycles"),
        ("asset", "hours_since_new", "hours"),
        ("vehicle_no", "mileage_km", "cycles"),
        ("truck", "km", "kilometres"),
        ("bearing", "elapsed_seconds", "seconds"),
        ("run", "t", "cycles"),
        ("serial_number", "age", "cycles"),
        ("id", "step", "cycles"),
    ],
)
def test_the_usual_names_of_unit_and_cycle_are_known(unit, cycle, unit_of_life):
    table = run_to_failure(unit, cycle).select("heat", "flow", cycle, unit)
    fleet = describe(table, "any", "a.csv").fleet
    assert (fleet.columns.unit, fleet.columns.cycle) == (unit, cycle)
    assert fleet.columns.sensors == ("heat", "flow")
    assert fleet.unit_of_life == unit_of_life


def test_where_names_say_nothing_the_values_do():
    table = run_to_failure("x1", "x2", lives=(60, 70, 80)).select("heat", "x2", "flow", "x1")
    guess = describe(table, "any", "a.csv")
    assert (guess.fleet.columns.unit, guess.fleet.columns.cycle) == ("x1", "x2")


def test_a_short_name_is_not_taken_for_seconds():
    table = run_to_failure("asset", "x", h=pl.col("heat"), s=pl.col("flow")).drop("heat", "flow")
    fleet = describe(table, "any", "a.csv").fleet
    assert fleet.columns.cycle == "x"
    assert fleet.columns.sensors == ("h", "s")


def test_rows_in_any_order_are_described_alike():
    table = run_to_failure("pump", "hours", step=2.0)
    shuffled = table.sample(fraction=1, shuffle=True, seed=3)
    assert describe(shuffled, "any", "a.csv").fleet == describe(table, "any", "a.csv").fleet


def test_text_cells_missing_values_and_some_junk_are_looked_through():
    table = run_to_failure(
        heat=pl.when(pl.int_range(pl.len()) % 10 == 3).then(None).otherwise("heat"),
        note=pl.lit("fine"),
        nothing=pl.lit(None, pl.Float64),
    ).cast(pl.String)
    table = table.with_columns(tags=pl.lit(["a", "b"]), photo=pl.lit(b"\xff"))
    table = table.with_columns(
        flow=pl.when(pl.int_range(pl.len()) == 5).then(pl.lit("bad")).otherwise("flow")
    )
    guess = describe(table, "any", "a.csv")
    assert guess.fleet.columns.sensors == ("heat", "flow")
    assert "left out: note, tags, photo: holds no numbers" in guess.remarks
    assert "left out: nothing: is empty" in guess.remarks


def test_an_answer_is_never_a_sensor():
    last = pl.col("cycle").max().over("unit")
    table = run_to_failure(
        RUL=last - pl.col("cycle"),
        is_failed=pl.col("cycle") == last,
        time_to_failure=last - pl.col("cycle") + pl.col("heat"),
        wear=(last - pl.col("cycle")).clip(0, 12),
        share=pl.col("cycle") / last,
        known_end=last,
        fault_current=pl.col("heat") * 2,
    )
    guess = describe(table, "any", "a.csv")
    assert guess.fleet.columns.sensors == ("heat", "flow", "fault_current")
    assert "left out: RUL, is_failed, time_to_failure: is named like the answer" in guess.remarks
    assert remark(guess, "left out: wear, share, known_end: runs to the same end")


def test_a_row_number_is_neither_unit_nor_cycle_nor_sensor():
    table = run_to_failure("x1", "x2", lives=(60, 70, 80)).with_row_index("id")
    guess = describe(table, "any", "a.csv")
    assert (guess.fleet.columns.unit, guess.fleet.columns.cycle) == ("x1", "x2")
    assert "left out: id: numbers the rows" in guess.remarks


def test_a_second_count_of_use_is_left_out():
    table = run_to_failure(hours=pl.col("cycle") * 2.5)
    guess = describe(table, "any", "a.csv")
    assert guess.fleet.columns.cycle == "cycle"
    assert remark(guess, "left out: hours: counts use too")


def test_settings_are_known_by_name():
    table = run_to_failure(op1=pl.col("heat") * 0, regime=pl.lit(2))
    guess = describe(table, "any", "a.csv")
    assert guess.fleet.columns.settings == ("op1", "regime")
    assert remark(guess, "settings") == "settings: op1, regime (by name)"


def test_a_setting_without_a_name_is_known_by_its_few_values():
    rng = np.random.default_rng(5)
    table = run_to_failure(lives=(80, 100, 120, 150))
    table = table.with_columns(
        valve=pl.Series(rng.integers(0, 3, len(table))),
        stage=(pl.col("cycle") / 30).floor(),
        site=pl.col("unit") % 4,
    )
    guess = describe(table, "any", "a.csv")
    assert guess.fleet.columns.settings == ("valve",)
    assert guess.fleet.columns.sensors == ("heat", "flow", "stage", "site")
    assert "few values" in remark(guess, "settings")


def test_a_life_column_and_an_outcome_column_are_found():
    simulation = Simulation(units=6, running_units=2, lives_per_unit=2, mean_life_cycles=30)
    table = simulate(simulation).table
    guess = describe(table, "made", "made.csv")
    expected = simulated_fleet(simulation, "made").columns
    assert guess.fleet.columns.life == "life"
    assert guess.fleet.columns.outcome == "outcome"
    assert guess.fleet.columns.settings == expected.settings
    assert guess.fleet.columns.sensors == expected.sensors[:7]
    assert guess.fleet.files == ()
    assert "16" in remark(guess, "lives")
    assert "'outcome' says how each life ended" in remark(guess, "files")


@pytest.mark.parametrize("form", ["typed", "text", "epoch"])
def test_a_clock_is_found(form):
    start = datetime(2024, 5, 1, tzinfo=UTC)
    table = run_to_failure()
    clock = pl.Series("read_time", [start + timedelta(hours=row) for row in range(len(table))])
    clocks = {
        "typed": clock,
        "text": clock.dt.to_string("%Y-%m-%d %H:%M:%S"),
        "epoch": clock.dt.epoch("s"),
    }
    guess = describe(table.with_columns(read_time=clocks[form], date=clock.dt.date()), "any", "a")
    assert guess.fleet.columns.time == "read_time"
    assert guess.fleet.columns.sensors == ("heat", "flow")
    assert "left out: date: is a second clock" in guess.remarks


def test_a_count_that_does_not_begin_at_new_is_no_age():
    table = run_to_failure("truck", "odometer", odometer=pl.col("odometer") * 10 + 90_000)
    guess = describe(table, "any", "a.csv")
    assert not guess.fleet.learning.uses_age
    assert guess.fleet.learning.label_cap_cycles == 240
    assert "begins at 90010" in remark(guess, "age is no feature")


def test_a_sensor_with_a_reserved_name_is_left_out_with_a_remedy():
    guess = describe(run_to_failure(end_cycle=pl.col("heat") * 3), "any", "a.csv")
    assert remark(guess, "left out: end_cycle: has a name with a fixed meaning; rename it")


def test_a_single_life_in_a_table_with_a_unit_column_is_enough():
    fleet = describe(run_to_failure(lives=(40,)), "any", "a.csv").fleet
    assert fleet.learning.label_cap_cycles == 24


def test_a_table_without_units_is_refused_with_a_remedy():
    table = run_to_failure(lives=(40,)).drop("unit")
    with pytest.raises(
        FleetError, match=r"a.csv: no column names the unit; .*'heat'.*called 'unit'"
    ):
        describe(table, "any", "a.csv")


def test_a_table_without_a_count_of_use_is_refused_with_a_remedy():
    table = run_to_failure("engine").drop("cycle")
    with pytest.raises(
        FleetError, match=r"a.csv: no column .* counts up within each 'engine'; .*add"
    ):
        describe(table, "any", "a.csv")


def test_a_table_without_a_sensor_is_refused_with_a_remedy():
    table = run_to_failure().drop("heat", "flow")
    with pytest.raises(
        FleetError, match=r"a.csv: no column of numbers that vary .*add the sensors"
    ):
        describe(table, "any", "a.csv")


def test_an_empty_table_and_a_bad_name_are_refused():
    with pytest.raises(ReadingsError, match=r"a.csv: there are no rows to look at"):
        describe(run_to_failure().clear(), "any", "a.csv")
    with pytest.raises(FleetError, match=r"guessed from a.csv: .*matching regex"):
        describe(run_to_failure(), "not/a name", "a.csv")


@settings(max_examples=15, deadline=None)
@given(
    sensors=st.integers(1, 6),
    conditions=st.integers(1, 4),
    mean_life=st.integers(20, 60),
    missing_share=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 2**20),
)
def test_every_simulated_fleet_is_described_so_that_its_file_can_be_read(
    sensors, conditions, mean_life, missing_share, seed
):
    simulation = Simulation(
        units=8,
        running_units=0,
        sensors=sensors,
        conditions=conditions,
        mean_life_cycles=mean_life,
        missing_share=missing_share,
        seed=seed,
    )
    data = simulate(simulation).table.drop("outcome").write_csv().encode()
    table = parse_file(data, "x.csv")
    guess = describe(table, "made", "x.csv")
    fleet = read_fleet(write_fleet(guess.fleet))
    assert set(fleet.columns.sensors) <= set(simulation.sensor_names)
    assert "sensor_1" in fleet.columns.sensors
    assert fleet.columns.settings == simulation.setting_names
    conformed = conform(table, fleet, source="x.csv")
    assert conformed.set_aside.is_empty()
    assert set(conformed.lives["outcome"]) == {"failed"}
