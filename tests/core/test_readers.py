import json
from datetime import UTC, date, datetime, timedelta, timezone

import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from rul_core.errors import ReadingsError
from rul_core.formats import CMAPSS_COLUMNS
from rul_core.quality import SET_ASIDE_SCHEMA, inspect
from rul_core.readers import conform, parse_file, to_pandas
from rul_core.schema import LIVES_SCHEMA, Columns, FileRule, Fleet, Outcome
from rul_core.simulator import Simulation, simulate, simulated_fleet

PUMPS = Fleet(name="pumps", columns=Columns(unit="pump", cycle="hours", sensors=("heat",)))
FULL = Fleet(
    name="full",
    columns=Columns(
        unit="pump",
        cycle="hours",
        life="overhaul",
        time="read_at",
        outcome="end",
        settings=("load",),
        sensors=("heat",),
    ),
)


def table(**columns: list) -> pl.DataFrame:
    rows = len(next(iter(columns.values())))
    return pl.DataFrame(
        {"pump": ["p1"] * rows, "hours": [float(row) for row in range(rows)], "heat": [1.0] * rows}
        | columns,
        strict=False,
    )


def full(**columns: list) -> pl.DataFrame:
    rows = len(next(iter(columns.values())))
    return table(
        **{
            "overhaul": [1] * rows,
            "read_at": [None] * rows,
            "end": [None] * rows,
            "load": [0] * rows,
        }
        | columns
    )


def test_a_csv_file_becomes_readings_that_say_where_they_are_from():
    data = b"pump,hours,heat,note\np1,0.5,20,ok\np1,1.5,21.5,\n"
    conformed = conform(parse_file(data, "a.csv"), PUMPS, source="landing/a.csv")
    assert conformed.readings.schema == {
        **PUMPS.readings_schema,
        "source": pl.String,
        "row": pl.Int64,
    }
    assert conformed.readings.rows() == [
        ("p1", 1, 0.5, None, 20.0, "landing/a.csv", 1),
        ("p1", 1, 1.5, None, 21.5, "landing/a.csv", 2),
    ]
    assert conformed.lives.rows() == [("p1", 1, "running", None)]
    assert conformed.set_aside.schema == SET_ASIDE_SCHEMA
    assert conformed.set_aside.is_empty()


def test_cmapss_text_is_conformed_by_the_rule_for_its_name():
    cells = " ".join(str(number / 2) for number in range(24))
    fleet = Fleet(
        name="turbofans",
        columns=Columns(unit="unit", cycle="cycle", sensors=CMAPSS_COLUMNS[5:]),
        files=(FileRule(glob="train_*", outcome=Outcome.FAILED, unit_prefix="train-"),),
    )
    text = f"1 1 {cells}  \n1 2 {cells}  \n2 1 {cells}  \n".encode()
    conformed = conform(parse_file(text, "train_FD001.txt"), fleet, source="drop/train_FD001.txt")
    assert conformed.readings["unit"].to_list() == ["train-1", "train-1", "train-2"]
    assert conformed.readings["sensor_21"].to_list() == [11.5] * 3
    assert conformed.lives.rows() == [("train-1", 1, "failed", 2), ("train-2", 1, "failed", 1)]


def test_a_given_rule_comes_before_the_fleets_own():
    fleet = Fleet(name="pumps", columns=PUMPS.columns, files=(FileRule(glob="*"),))
    rule = FileRule(glob="*", outcome=Outcome.REPLACED, unit_prefix="x-")
    lives = conform(table(hours=[3.0, 4.0]), fleet, source="a.csv", rule=rule).lives
    assert lives.schema == LIVES_SCHEMA
    assert lives.rows() == [("x-p1", 1, "replaced", 4)]


@pytest.mark.parametrize(
    "units",
    [
        pl.Series([1, 12, 1]),
        pl.Series([1.0, 12.0, 1.0]),
        pl.Series(["1", " 12 ", "1.0"]),
        pl.Series(["1", "12", "1"], dtype=pl.Categorical),
        pl.Series(["1", "12", "1"], dtype=pl.Enum(["1", "12"])),
        pl.Series([1, 12, 1], dtype=pl.Decimal(10, 2)),
    ],
)
def test_a_numbered_unit_is_called_by_its_whole_number(units):
    readings = conform(table(pump=units, hours=[1, 2, 3]), PUMPS, source="a").readings
    assert readings["unit"].to_list() == ["1", "12", "1"]


def test_a_unit_name_keeps_its_leading_zeros_and_its_fraction():
    readings = conform(table(pump=["007", "1.50", "-0.5"]), PUMPS, source="a").readings
    assert readings["unit"].to_list() == ["007", "1.50", "-0.5"]


def test_a_row_with_text_in_a_number_is_set_aside_whole():
    data = b"pump,hours,heat,note\np1,1,20,a\np1,2,hot,b\np1,3,22,c\n"
    conformed = conform(parse_file(data, "a.csv"), PUMPS, source="a.csv")
    assert conformed.readings["row"].to_list() == [1, 3]
    row = conformed.set_aside.row(0, named=True)
    content = row.pop("content")
    assert row == {
        "source": "a.csv",
        "row": 2,
        "unit": "p1",
        "cycle": 2.0,
        "column": "heat",
        "value": "hot",
        "reason": "not_a_number",
        "detail": "text instead of a number",
    }
    assert json.loads(content) == {"pump": "p1", "hours": "2", "heat": "hot", "note": "b"}


@pytest.mark.parametrize("value", ["12,5", "1_000", "0x1F", "3 4", "--"])
def test_what_only_looks_like_a_number_is_text(value):
    assert conform(table(heat=[value]), PUMPS, source="a").set_aside["value"].to_list() == [value]


@pytest.mark.parametrize("value", ["", " ", "NA", "n/a", "null", "None", None])
def test_an_empty_cell_is_a_missing_value(value):
    conformed = conform(table(heat=[value, " 2.5e1 "]), PUMPS, source="a")
    assert conformed.readings["heat"].to_list() == [None, 25.0]
    assert conformed.set_aside.is_empty()


def test_an_infinite_value_stays_for_quality_to_judge():
    conformed = conform(table(heat=["inf", "nan", "-inf"]), PUMPS, source="a")
    inspected = inspect(conformed.readings, PUMPS)
    assert inspected.usable["heat"].to_list() == [None, None, None]
    assert inspected.issues["kind"].unique().to_list() == ["not_a_number"]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("pump", "", "missing_column"),
        ("pump", "  ", "missing_column"),
        ("pump", None, "missing_column"),
        ("hours", "", "missing_column"),
        ("hours", None, "missing_column"),
        ("hours", "soon", "not_a_number"),
        ("hours", "nan", "not_a_number"),
        ("hours", "inf", "not_a_number"),
        ("overhaul", None, "missing_column"),
        ("overhaul", "0", "not_a_number"),
        ("overhaul", "1.5", "not_a_number"),
        ("overhaul", "second", "not_a_number"),
        ("overhaul", "inf", "not_a_number"),
        ("read_at", "noon", "not_a_number"),
        ("load", "full", "not_a_number"),
    ],
)
def test_a_row_that_cannot_be_placed_is_set_aside(column, value, reason):
    good = {"pump": "p1", "hours": "2", "overhaul": "2", "read_at": "", "load": "1"}[column]
    conformed = conform(full(**{column: [value, good]}), FULL, source="a")
    assert conformed.readings["row"].to_list() == [2]
    assert conformed.set_aside.select("row", "column", "value", "reason").rows() == [
        (1, column, value, reason)
    ]


def test_numbers_that_are_not_finite_cannot_place_a_row():
    conformed = conform(
        table(pump=[float("nan"), 1.0, 1.0], hours=[1.0, float("inf"), 2.0]), PUMPS, source="a"
    )
    assert conformed.readings["row"].to_list() == [3]
    assert conformed.set_aside.select("row", "column").rows() == [(1, "pump"), (2, "hours")]


def test_a_row_with_two_faults_is_set_aside_once_by_the_first():
    conformed = conform(table(pump=["p1", ""], hours=["x", "y"]), PUMPS, source="a")
    assert conformed.set_aside["column"].to_list() == ["hours", "pump"]


def test_lives_are_numbered_by_the_life_column():
    conformed = conform(full(overhaul=["1", "2.0", "2"]), FULL, source="a")
    assert conformed.readings["life"].to_list() == [1, 2, 2]
    assert conformed.lives.select("unit", "life").rows() == [("p1", 1), ("p1", 2)]


def test_the_outcome_of_the_last_cycle_counts():
    frame = full(
        pump=["a", "a", "b", "b", "c", "c"],
        hours=[1, 2, 2, 1, 1, 2],
        end=["", " Failed ", "replaced", "", "failed", None],
    )
    lives = conform(frame, FULL, source="a").lives
    assert lives.rows() == [
        ("a", 1, "failed", 2),
        ("b", 1, "replaced", 2),
        ("c", 1, "running", None),
    ]


def test_where_the_outcome_column_is_silent_the_files_rule_speaks():
    rule = FileRule(glob="*", outcome=Outcome.FAILED)
    frame = full(pump=["a", "b"], hours=[5, 6], end=[None, "removed"])
    lives = conform(frame, FULL, source="a", rule=rule).lives
    assert lives.rows() == [("a", 1, "failed", 5), ("b", 1, "removed", 6)]


def test_a_life_ends_at_its_last_cycle_even_where_that_row_is_set_aside():
    rule = FileRule(glob="*", outcome=Outcome.FAILED)
    frame = table(hours=["1", "2", "3", "x"], heat=["1", "2", "broken", "4"])
    conformed = conform(frame, PUMPS, source="a", rule=rule)
    assert conformed.readings["cycle"].to_list() == [1, 2]
    assert conformed.lives["end_cycle"].to_list() == [3]


def test_an_unknown_outcome_is_named_with_the_known_ones():
    with pytest.raises(
        ReadingsError, match=r"a.csv, row 2, column 'end': 'broken' is no outcome.*failed, replaced"
    ):
        conform(full(end=["failed", "broken"]), FULL, source="a.csv")


NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([datetime(2024, 5, 1, 12)]),  # noqa: DTZ001
        pl.Series([datetime(2024, 5, 1, 12)], dtype=pl.Datetime("ns")),  # noqa: DTZ001
        pl.Series([NOON.astimezone(timezone(timedelta(hours=2)))]),
        pl.Series([NOON]).dt.convert_time_zone("Asia/Tokyo"),
        pl.Series(["2024-05-01T12:00:00"]),
        pl.Series(["2024-05-01 12:00:00.000"]),
        pl.Series([" 2024-05-01T12:00Z "]),
        pl.Series(["2024-05-01T14:00:00+02:00"]),
        pl.Series(["2024-05-01 07:00-0500"]),
        pl.Series([1714564800]),
        pl.Series([1714564800.0]),
        pl.Series(["1714564800.0"]),
    ],
)
def test_times_are_read_in_many_forms_and_kept_in_utc(times):
    readings = conform(full(read_at=times), FULL, source="a").readings
    assert readings["time"].to_list() == [NOON]


@pytest.mark.parametrize("days", [pl.Series([date(2024, 5, 1)]), pl.Series(["2024-05-01"])])
def test_a_date_is_its_midnight(days):
    readings = conform(full(read_at=days), FULL, source="a").readings
    assert readings["time"].to_list() == [datetime(2024, 5, 1, tzinfo=UTC)]


def test_milliseconds_are_not_taken_for_seconds():
    conformed = conform(full(read_at=[1714564800, 1714564800000]), FULL, source="a")
    assert conformed.readings["row"].to_list() == [1]
    assert conformed.set_aside["value"].to_list() == ["1714564800000"]
    assert "seconds since 1970" in conformed.set_aside["detail"][0]


def test_times_may_be_missing():
    conformed = conform(full(read_at=["", None, "2024-05-01T12:00:00Z"]), FULL, source="a")
    assert conformed.readings["time"].to_list() == [None, None, NOON]
    assert conform(full(read_at=[None]), FULL, source="a").readings["time"].to_list() == [None]


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    frame = table(heat=[1.0]).rename({"heat": "Heat"})
    with pytest.raises(ReadingsError) as caught:
        conform(frame, PUMPS, source="a.csv")
    assert caught.value.column == "heat"
    assert str(caught.value).startswith(
        "a.csv, column 'heat': the description of fleet 'pumps' names ['heat'], which the table "
        "does not have; it has ['pump', 'hours', 'Heat']; correct the description"
    )


@pytest.mark.parametrize("column", ["hours", "heat"])
def test_a_column_of_another_kind_is_refused(column):
    frame = table(**{column: [datetime(2024, 5, 1, tzinfo=UTC)]})
    with pytest.raises(ReadingsError, match=f"column '{column}': holds Datetime.*convert it"):
        conform(frame, PUMPS, source="a")
    with pytest.raises(ReadingsError, match=f"column '{column}': holds List"):
        conform(table(**{column: [[1.0]]}), PUMPS, source="a")


def test_numbers_of_any_width_and_truth_values_are_numbers():
    for dtype in (pl.Int8, pl.UInt64, pl.Float32, pl.Decimal(8, 2), pl.Boolean):
        frame = table(heat=[1, 0]).with_columns(pl.col("heat").cast(dtype))
        assert conform(frame, PUMPS, source="a").readings["heat"].to_list() == [1.0, 0.0]
    empty = conform(table(heat=[None]), PUMPS, source="a").readings
    assert empty.schema["heat"] == pl.Float64


def test_what_is_set_aside_keeps_columns_of_every_kind():
    frame = table(
        heat=["hot"], photo=[b"\xff\x00"], tags=[["a", "b"]], at=[NOON], gain=[float("inf")]
    )
    content = json.loads(conform(frame, PUMPS, source="a").set_aside["content"][0])
    assert content["photo"] == "ff00"
    assert content["tags"] == ["a", "b"]
    assert content["at"].startswith("2024-05-01 12:00")
    assert content["gain"] == "inf"


def test_a_pandas_frame_is_read_like_the_same_polars_frame():
    frame = table(heat=[1.0, None, 3.0], pump=["a", "a", "b"])
    assert_frame_equal(
        conform(frame.to_pandas(), PUMPS, source="a").readings,
        conform(frame, PUMPS, source="a").readings,
    )


def test_the_named_index_of_a_pandas_frame_holds_columns():
    frame = table(heat=[1.0, 2.0]).to_pandas()
    indexed = frame.set_index(["pump", "hours"])
    assert_frame_equal(
        conform(indexed, PUMPS, source="a").readings, conform(frame, PUMPS, source="a").readings
    )


def test_a_pandas_column_of_mixed_objects_is_read_cell_by_cell():
    frame = pd.DataFrame(
        {"pump": [1, "b", 1], "hours": [1, 2, 3], "heat": [1.5, "hot", None]},
        dtype=object,
        index=[5, 6, 7],
    )
    conformed = conform(frame, PUMPS, source="a")
    assert conformed.readings.select("unit", "cycle", "heat").rows() == [
        ("1", 1.0, 1.5),
        ("1", 3.0, None),
    ]
    assert conformed.set_aside["value"].to_list() == ["hot"]


def test_a_pandas_frame_with_two_columns_of_one_name_is_refused():
    frame = pd.DataFrame([["a", 1, 2, 3]], columns=["pump", "hours", "heat", "heat"])
    with pytest.raises(ReadingsError, match=r"a: \['heat'\] name more than one column; rename"):
        conform(frame, PUMPS, source="a")


def test_readings_go_to_pandas_and_back():
    conformed = conform(full(read_at=[NOON, None], heat=[1.0, None]), FULL, source="a")
    frame = to_pandas(conformed.readings)
    assert isinstance(frame, pd.DataFrame)
    assert frame["heat"].isna().tolist() == [False, True]
    assert_frame_equal(pl.from_pandas(frame), conformed.readings)


def test_a_simulated_fleets_table_comes_back_as_its_readings_and_lives():
    simulation = Simulation(
        units=2, running_units=2, mean_life_cycles=15, lives_per_unit=2, missing_share=0.1
    )
    simulated, fleet = simulate(simulation), simulated_fleet(simulation, "made")
    data = simulated.table.write_csv().encode()
    conformed = conform(parse_file(data, "made.csv"), fleet, source="made.csv")
    assert_frame_equal(conformed.readings.drop("source", "row"), simulated.readings)
    assert_frame_equal(conformed.lives, simulated.lives)


cells = st.sampled_from(["", "a", "1", "2", "2.5", "-1", "x", "nan", "inf", "NA", "failed"])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(cells, cells, cells, cells, cells), min_size=1, max_size=8),
    st.sampled_from(list(Outcome)),
)
def test_every_row_becomes_a_reading_or_is_set_aside(rows, outcome):
    names = ["pump", "overhaul", "hours", "read_at", "heat"]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
    columns = Columns(
        unit="pump", life="overhaul", cycle="hours", time="read_at", sensors=("heat",)
    )
    rule = FileRule(glob="*", outcome=outcome)
    conformed = conform(frame, Fleet(name="any", columns=columns), source="a", rule=rule)
    numbers = [*conformed.readings["row"], *conformed.set_aside["row"]]
    assert sorted(numbers) == list(range(1, len(rows) + 1))
    assert conformed.readings.select("unit", "life", "cycle").null_count().row(0) == (0, 0, 0)
    assert (conformed.readings["life"] >= 1).all()
    assert conformed.readings["cycle"].is_finite().all()
    known = conformed.lives.select("unit", "life").rows()
    assert set(conformed.readings.select("unit", "life").rows()) <= set(known)
