"""Files and rows come in once; what is broken is set aside and the rest goes on."""

import shutil

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from rul_core.readers import parse_file
from rul_core.schema import TIME
from rul_core.simulator import Simulation, simulate
from rul_store import fleets, lives, readings
from rul_store.database import begin

TWO = Simulation(units=1, running_units=1, sensors=4, settings=1, mean_life_cycles=40, seed=5)
TABLE = simulate(TWO).table
CSV = TABLE.write_csv().encode()


def rows(house) -> int:
    return house.lake.scan("raw_readings", "pumps").select(pl.len()).collect().item()


def check_of(result, name: str):
    return next(found for found in result.get_asset_check_evaluations() if found.check_name == name)


def metadata_of(result, asset: str) -> dict:
    events = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in events[-1].metadata.items()}


def test_a_file_gives_readings_with_their_source_and_row_and_its_lives(house):
    house.drop(CSV, "june.csv")
    result = house.make("raw_readings")
    raw = house.lake.scan("raw_readings", "pumps").collect()
    assert raw.height == TABLE.height
    assert raw.select("source", "row").row(0) == ("june.csv", 1)
    assert lives.read(house.engine, "pumps").to_dicts() == [
        {"unit": "unit-000001", "life": 1, "outcome": "failed", "end_cycle": raw["cycle"].max()},
        {"unit": "unit-000002", "life": 1, "outcome": "running", "end_cycle": None},
    ]
    assert metadata_of(result, "raw_readings")["new_files"] == {"june.csv": TABLE.height}


def test_the_same_file_twice_changes_nothing_under_whatever_name(house):
    house.drop(CSV, "june.csv")
    house.make("raw_readings")
    before = house.lake.current("raw_readings", "pumps")
    house.drop(CSV, "june, again.csv")
    result = house.make("raw_readings")
    assert house.lake.current("raw_readings", "pumps") == before
    assert metadata_of(result, "raw_readings")["repeated_files"] == ["june, again.csv"]
    house.make("raw_readings")
    assert house.lake.current("raw_readings", "pumps") == before


@pytest.mark.parametrize("all_of_it", [True, False])
def test_what_a_lost_lake_had_is_taken_again_from_the_landing_folder(house, all_of_it):
    """Lost, or restored to what it was before the second file came."""
    old = TABLE.filter(pl.col("unit") == "unit-000001")
    house.drop(old, "june.parquet")
    house.make("raw_readings")
    lake, saved = house.root / "lake", house.root / "saved"
    shutil.copytree(lake, saved)
    house.drop(TABLE.filter(pl.col("unit") == "unit-000002"), "august.parquet")
    house.make("raw_readings")
    runs = [run.run_id for run in house.lake.current("raw_readings", "pumps").runs]
    heard = readings.last_heard(house.engine)
    before = house.lake.scan("raw_readings", "pumps").collect().sort("unit", "cycle")
    shutil.rmtree(lake)
    if not all_of_it:
        saved.rename(lake)
    result = house.make("raw_readings")
    after = house.lake.scan("raw_readings", "pumps").collect().sort("unit", "cycle")
    assert_frame_equal(after, before)
    # In the order in which they came, which is not that of their names.
    assert [run.run_id for run in house.lake.current("raw_readings", "pumps").runs] == runs
    assert readings.last_heard(house.engine) == heard
    again = {"june.parquet", "august.parquet"} if all_of_it else {"august.parquet"}
    assert set(metadata_of(result, "raw_readings")["new_files"]) == again
    assert metadata_of(house.make("raw_readings"), "raw_readings")["new_files"] == {}


@pytest.mark.parametrize(
    ("content", "file", "message"),
    [
        (b"", "empty.csv", "empty"),
        (b"unit,life,cycle\nunit-000001,1,1\n", "short.csv", "setting_1"),
        (b"PAR1 but no more", "cut.parquet", "cut.parquet"),
    ],
)
def test_a_broken_file_is_set_aside_with_its_error_and_the_rest_goes_on(
    house, content, file, message
):
    house.drop(content, file)
    house.drop(CSV, "june.csv")
    result = house.make("raw_readings")
    assert rows(house) == TABLE.height
    check = check_of(result, "files_are_readable")
    assert not check.passed
    assert check.metadata["set_aside"].value == 1
    assert message in check.metadata["errors"].value[file]
    aside = house.root / "landing" / "pumps" / ".set-aside"
    (error,) = aside.glob("*.error.txt")
    assert message in error.read_text()
    assert check_of(house.make("raw_readings"), "files_are_readable").passed


def test_a_row_that_cannot_be_read_is_kept_as_it_came(house):
    house.drop(CSV.replace(b"unit-000002,1,3.0", b"unit-000002,1,three"), "june.csv")
    house.make("raw_readings")
    aside = house.lake.scan("raw_set_aside", "pumps").collect().row(0, named=True)
    assert rows(house) == TABLE.height - 1
    assert (aside["source"], aside["column"], aside["value"]) == ("june.csv", "cycle", "three")
    assert '"unit-000002"' in aside["content"]


def test_a_file_that_is_mostly_no_readings_is_broken_and_none_of_it_is_taken(house):
    house.drop(TABLE.with_columns(cycle=pl.lit("?")).write_csv().encode(), "june.csv")
    check = check_of(house.make("raw_readings"), "files_are_readable")
    error = check.metadata["errors"].value["june.csv"]
    assert f"{TABLE.height} of {TABLE.height} rows cannot be read" in error
    assert "june.csv, row 1, column 'cycle'" in error
    assert rows(house) == 0
    assert house.lake.current("raw_set_aside", "pumps") is None


def test_an_ended_life_that_another_file_ends_otherwise_is_a_conflict_that_is_told(house):
    house.drop(CSV, "june.csv")
    house.make("raw_readings")
    end = TABLE.filter(pl.col("unit") == "unit-000001")["cycle"].max()
    longer = TABLE.filter(pl.col("unit") == "unit-000001").with_columns(pl.col("cycle") + 1)
    house.drop(longer, "july.parquet")
    house.make("raw_readings")
    told = house.lake.scan("raw_set_aside", "pumps").collect().row(0, named=True)
    assert (told["unit"], told["reason"], told["column"]) == ("unit-000001", "conflict", "outcome")
    assert f"kept as failed, ended at cycle {end}" in told["detail"]


def test_a_running_life_ends_when_a_later_file_says_so(house):
    running = pl.col("unit") == "unit-000002"
    house.drop(TABLE.filter(running), "june.parquet")
    house.make("raw_readings")
    house.drop(TABLE.filter(running).with_columns(outcome=pl.lit("replaced")), "july.parquet")
    house.make("raw_readings")
    assert lives.read(house.engine, "pumps")["outcome"].to_list() == ["replaced"]


def test_rows_that_were_sent_are_taken_once_by_watermark(house):
    fleet = fleets.load(house.root, "pumps")
    sent = TABLE.drop("outcome").with_columns(pl.lit(None, pl.Datetime("us", "UTC")).alias(TIME))
    with begin(house.engine) as connection:
        readings.insert_many(connection, fleet, sent.head(10))
    assert metadata_of(house.make("raw_readings"), "raw_readings")["new_rows"] == 10
    house.make("raw_readings")
    assert rows(house) == 10
    with begin(house.engine) as connection:
        readings.insert_many(connection, fleet, sent.head(12))
    house.make("raw_readings")
    assert rows(house) == 12
    assert lives.read(house.engine, "pumps")["outcome"].to_list() == ["running"]


def test_an_empty_landing_folder_is_no_error(house):
    house.make("raw_readings")
    assert rows(house) == 0


def test_what_was_killed_between_two_steps_is_completed_by_the_next_run(house, monkeypatch):
    """Killed after the rows were kept and before the file was marked: neither lost nor doubled."""
    house.drop(CSV, "june.csv")
    with monkeypatch.context() as killed:
        killed.setattr("rul_store.landing.Landing.mark_taken", _killed)
        house.make("raw_readings", fails=True)
    assert rows(house) == TABLE.height
    house.make("raw_readings")
    assert rows(house) == TABLE.height
    again = house.make("raw_readings")
    assert metadata_of(again, "raw_readings")["new_files"] == {}


def test_c_mapss_text_comes_in_as_it_is_published(house):
    line = "1 1 -0.0007 -0.0004 100.0 " + " ".join(f"{500 + n}.5" for n in range(21))
    assert parse_file(line.encode(), "train_FD001.txt").height == 1
    house.drop((line + "\n").encode(), "train_FD001.txt")
    check = check_of(house.make("raw_readings"), "files_are_readable")
    assert "['life', 'outcome']" in check.metadata["errors"].value["train_FD001.txt"]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt
