import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from rul_core.issues import sentence
from rul_core.quality import (
    ISSUES_SCHEMA,
    SET_ASIDE_SCHEMA,
    Inspected,
    IssueKind,
    inspect,
    usual_repeats,
)
from rul_core.schema import Columns, Fleet, Learning
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_core.simulator_faults import MissingRows, StuckSensor, inject

PUMPS = Fleet(
    name="pumps",
    columns=Columns(unit="unit", cycle="cycle", settings=("load",), sensors=("heat", "flow")),
    ranges={"heat": (0.0, 100.0)},
)


def readings(
    *rows: tuple[str, float, float | None, float | None], source: str = "a.csv"
) -> pl.DataFrame:
    """Readings of (unit, cycle, heat, flow), in the order in which they came."""
    return pl.DataFrame(
        [
            (unit, 1, cycle, None, 0.5, heat, flow, source, number)
            for number, (unit, cycle, heat, flow) in enumerate(rows, start=1)
        ],
        schema={**PUMPS.readings_schema, "source": pl.String, "row": pl.Int64},
        orient="row",
    )


def told(inspected: Inspected) -> list[tuple]:
    return inspected.issues.select(
        "kind", "unit", "cycle", "column", "value", "source", "row"
    ).rows()


def test_sound_readings_pass_unchanged():
    came = readings(("p1", 1, 20, 3), ("p1", 2, 21, 4), ("p2", 1, 22, 5))
    inspected = inspect(came, PUMPS)
    assert_frame_equal(inspected.usable, came.drop("source", "row"))
    assert inspected.issues.is_empty()
    assert inspected.set_aside.is_empty()


def test_no_readings_give_no_issues():
    inspected = inspect(readings(), PUMPS)
    assert inspected.usable.schema == PUMPS.readings_schema
    assert inspected.issues.schema == ISSUES_SCHEMA
    assert inspected.set_aside.schema == SET_ASIDE_SCHEMA
    assert inspected.usable.is_empty()


def test_cycles_that_go_back_are_sorted_and_told_once_a_life():
    came = readings(("p1", 1, 20, 3), ("p1", 3, 21, 4), ("p1", 2, 22, 5), ("p1", 1.5, 23, 6))
    inspected = inspect(came, PUMPS)
    assert inspected.usable["cycle"].to_list() == [1, 1.5, 2, 3]
    assert told(inspected) == [("out_of_order", "p1", 2, "cycle", None, "a.csv", 3)]
    assert "comes after cycle 3.0" in inspected.issues["detail"][0]
    assert "in 2 places" in inspected.issues["detail"][0]


def test_units_read_in_turns_are_in_order():
    came = readings(("p1", 1, 20, 3), ("p2", 1, 21, 4), ("p1", 2, 22, 5), ("p2", 2, 23, 6))
    inspected = inspect(came, PUMPS)
    assert inspected.issues.is_empty()
    assert inspected.usable["unit"].to_list() == ["p1", "p1", "p2", "p2"]


def test_a_later_file_with_earlier_cycles_is_in_order():
    came = pl.concat([readings(("p1", 5, 20, 3)), readings(("p1", 4, 21, 3.5), source="b.csv")])
    inspected = inspect(came, PUMPS)
    assert inspected.issues.is_empty()
    assert inspected.usable["cycle"].to_list() == [4, 5]


def test_an_exact_repeat_is_set_aside_and_kept():
    came = readings(("p1", 1, 20, None), ("p1", 2, 21, 4), ("p1", 1, 20, None))
    inspected = inspect(came, PUMPS)
    assert inspected.usable.height == 2
    row = inspected.set_aside.row(0, named=True)
    assert (row["source"], row["row"], row["unit"], row["cycle"]) == ("a.csv", 3, "p1", 1)
    assert (row["reason"], row["column"], row["value"]) == ("duplicate", None, None)
    assert row["detail"] == "repeats row 1 of a.csv"
    assert json.loads(row["content"])["heat"] == "20.0"
    assert told(inspected)[0] == ("duplicate", "p1", 1, "cycle", None, "a.csv", 3)


def test_a_file_that_comes_twice_makes_one_issue_a_life():
    rows = [("p1", cycle, 20 + cycle, 3 * cycle) for cycle in range(1, 30)]
    inspected = inspect(pl.concat([readings(*rows), readings(*rows, source="b.csv")]), PUMPS)
    assert inspected.set_aside["reason"].to_list() == ["duplicate"] * 29
    assert told(inspected) == [("duplicate", "p1", 1, "cycle", None, "b.csv", 1)]
    assert "29 such readings" in inspected.issues["detail"][0]


def test_of_readings_that_differ_the_first_stays_and_the_conflict_is_told():
    came = readings(("p1", 1, 20, 3), ("p1", 1, 20, 4), ("p1", 1, 20, 4), ("p1", 1, 20, 3))
    inspected = inspect(came, PUMPS)
    assert inspected.usable.select("heat", "flow").rows() == [(20, 3)]
    assert inspected.set_aside["reason"].to_list() == ["conflict", "conflict", "duplicate"]
    assert inspected.set_aside.row(0, named=True)["value"] == "4.0"
    assert told(inspected) == [
        ("conflict", "p1", 1, "flow", 4, "a.csv", 2),
        ("duplicate", "p1", 1, "cycle", None, "a.csv", 4),
    ]
    assert inspected.issues["detail"][0].startswith("differs from row 1 of a.csv, which stays; 2")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e308])
def test_a_value_that_is_no_number_becomes_null_and_the_reading_stays(value):
    came = readings(("p1", 1, 20, 3), ("p1", 2, 21, value), ("p1", 3, 22, value), ("p1", 4, 9, 6))
    inspected = inspect(came, PUMPS)
    assert inspected.usable["flow"].to_list() == [3, None, None, 6]
    assert inspected.usable["heat"].to_list() == [20, 21, 22, 9]
    assert told(inspected) == [("not_a_number", "p1", 2, "flow", None, "a.csv", 2)]
    assert "in 2 readings in a row, to cycle 3.0" in inspected.issues["detail"][0]


def test_a_value_outside_the_physical_limits_becomes_null_and_the_limits_are_told():
    came = readings(("p1", 1, 100, 3), ("p1", 2, 101, 4), ("p2", 1, -5, 5), ("p2", 2, None, 6))
    inspected = inspect(came, PUMPS)
    assert inspected.usable["heat"].to_list() == [100, None, None, None]
    assert told(inspected) == [
        ("out_of_range", "p1", 2, "heat", 101, "a.csv", 2),
        ("out_of_range", "p2", 1, "heat", -5, "a.csv", 3),
    ]
    assert "outside 0.0 to 100.0" in inspected.issues["detail"][0]


def test_an_infinite_value_is_told_once_and_not_as_out_of_range():
    inspected = inspect(readings(("p1", 1, float("inf"), 3)), PUMPS)
    assert inspected.issues["kind"].to_list() == ["not_a_number"]


def test_a_wide_step_is_a_gap_and_a_small_one_is_not():
    came = readings(("p1", 1, 20, 3), ("p1", 4, 21, 4), ("p1", 9, 22, 5), ("p2", 70, 23, 6))
    inspected = inspect(came, PUMPS)
    assert told(inspected) == [("gap", "p1", 9, "cycle", 5, "a.csv", 3)]
    hourly = Fleet(name="hourly", columns=PUMPS.columns, learning=Learning(cycles_per_reading=10.0))
    assert inspect(came, hourly).issues.is_empty()


def noisy(units: int = 5) -> tuple[pl.DataFrame, Fleet]:
    simulation = Simulation(units=units, running_units=0, sensors=3, mean_life_cycles=80)
    return simulate(simulation).readings, simulated_fleet(simulation, "noisy")


def with_origin(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(source=pl.lit("made"), row=pl.int_range(1, pl.len() + 1))


def test_a_sensor_that_repeats_itself_for_long_is_stuck_and_one_that_never_varies_is_not():
    sound, fleet = noisy()
    fault = StuckSensor(unit="unit-000002", sensor="sensor_1", from_cycle=11, to_cycle=35)
    faulty = with_origin(inject(sound, [fault])).with_columns(sensor_3=pl.lit(7.0))
    inspected = inspect(faulty, fleet)
    issue = inspected.issues.row(0, named=True)
    assert inspected.issues.height == 1
    assert (issue["kind"], issue["unit"], issue["column"]) == ("stuck", "unit-000002", "sensor_1")
    assert issue["cycle"] == 11
    assert issue["detail"].startswith("the same in 25 readings in a row, to cycle 35.0")
    assert_frame_equal(inspected.usable["sensor_1"].to_frame(), faulty.select("sensor_1"))


def test_a_short_repeat_is_not_stuck():
    sound, fleet = noisy()
    fault = StuckSensor(unit="unit-000002", sensor="sensor_1", from_cycle=11, to_cycle=29)
    assert inspect(with_origin(inject(sound, [fault])), fleet).issues.is_empty()


def test_missing_values_do_not_hide_a_stuck_sensor():
    sound, fleet = noisy()
    fault = StuckSensor(unit="unit-000002", sensor="sensor_1", from_cycle=1, to_cycle=50)
    faulty = inject(sound, [fault]).with_columns(
        pl.when(pl.col("cycle") % 2 == 0).then("sensor_1").alias("sensor_1")
    )
    issues = inspect(with_origin(faulty), fleet).issues
    assert issues.select("kind", "cycle", "column").rows() == [("stuck", 2, "sensor_1")]
    assert issues["detail"][0].startswith("the same in 25 readings")


def test_a_coarse_sensor_that_often_repeats_itself_is_not_stuck():
    sound, fleet = noisy(units=30)
    coarse = sound.with_columns(sensor_1=(pl.col("cycle") / 25).floor())
    assert inspect(with_origin(coarse), fleet).issues.is_empty()
    flickering = sound.with_columns(sensor_1=(pl.col("sensor_1") > sound["sensor_1"].median()))
    flickering = flickering.with_columns(pl.col("sensor_1").cast(pl.Float64))
    assert inspect(with_origin(flickering), fleet).issues.is_empty()


def test_one_units_stuck_sensor_is_found_by_what_is_usual_in_the_fleet():
    sound, fleet = noisy()
    usual = usual_repeats(sound, fleet)
    assert usual == {"sensor_1": 0.0, "sensor_2": 0.0, "sensor_3": 0.0}
    fault = StuckSensor(unit="unit-000001", sensor="sensor_2", from_cycle=5)
    alone = with_origin(inject(sound, [fault]).filter(unit="unit-000001"))
    assert inspect(alone, fleet).issues.is_empty()
    assert inspect(alone, fleet, usual).issues["column"].to_list() == ["sensor_2"]


def test_a_sensor_that_was_never_read_twice_counts_as_repeating_itself():
    assert usual_repeats(inspect(readings(("p1", 1, 20, None)), PUMPS).usable, PUMPS) == {
        "heat": 1.0,
        "flow": 1.0,
    }


def test_an_injected_gap_is_found_in_its_unit_only():
    sound, fleet = noisy()
    faulty = inject(sound, [MissingRows(unit="unit-000003", from_cycle=10, to_cycle=20)])
    issues = inspect(with_origin(faulty), fleet).issues
    assert issues.select("kind", "unit", "cycle", "value").rows() == [
        ("gap", "unit-000003", 21, 12)
    ]


def test_a_sentence_keeps_its_words_and_is_null_where_a_value_is():
    frame = pl.DataFrame({"a": [1, None], "b": ["x", "y"]})
    told_rows = frame.select(sentence("{} of {}, more", "b", pl.col("a") + 1)).to_series()
    assert told_rows.to_list() == ["x of 2, more", None]


values = st.sampled_from([None, 1.0, 2.0, 150.0, float("nan"), float("inf")])
any_readings = st.lists(
    st.tuples(st.sampled_from(["p1", "p2"]), st.sampled_from([0.0, 1.0, 2.0, 9.0]), values, values),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(any_readings)
def test_every_reading_is_usable_or_set_aside_and_nothing_else(rows):
    came = readings(*rows)
    inspected = inspect(came, PUMPS)
    assert inspected.usable.height + inspected.set_aside.height == came.height
    keys = inspected.usable.select("unit", "life", "cycle")
    assert_frame_equal(keys, keys.unique().sort("unit", "life", "cycle"))
    assert set(keys.rows()) == set(came.select("unit", "life", "cycle").rows())
    assert set(inspected.issues["kind"]) <= set(IssueKind)
    origins = came.select("source", "row")
    assert inspected.issues.join(origins, on=["source", "row"], how="anti").is_empty()
    for name in ("heat", "flow"):
        kept = inspected.usable[name].drop_nulls()
        assert kept.is_finite().all()
    assert (inspected.usable["heat"].drop_nulls() <= 100).all()


@settings(max_examples=30, deadline=None)
@given(any_readings)
def test_inspecting_what_is_usable_finds_nothing_but_gaps(rows):
    usable = inspect(readings(*rows), PUMPS).usable
    again = inspect(with_origin(usable), PUMPS)
    assert_frame_equal(again.usable, usable)
    assert again.set_aside.is_empty()
    assert set(again.issues["kind"]) <= {"gap"}
