"""Readings of a life as they were known at a moment, wherever they came from."""

import msgspec
import polars as pl
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from rul_core.errors import StoreError, Unavailable
from rul_core.prognosis import Seen
from rul_core.schema import Columns, Fleet
from rul_store import files, histories, readings
from rul_store.database import begin, pipelined
from rul_store.histories import FILE_RUN, RAW, SENT_RUN
from rul_store.lake import Lake
from rul_store.tables import landed_files

FLEET = Fleet(
    name="f", columns=Columns(unit="unit", cycle="cycle", sensors=("a", "b")), ranges={"a": (0, 9)}
)
LIVES = [("u", 1)]


def rows(*given: tuple[str, int, float, float | None]) -> pl.DataFrame:
    """unit, life, cycle, a."""
    frame = pl.DataFrame(given, schema=["unit", "life", "cycle", "a"], orient="row")
    return frame.select(
        pl.col("unit"), pl.col("life"), pl.col("cycle").cast(pl.Float64),
        pl.lit(None, pl.Datetime("us", "UTC")).alias("time"),
        pl.col("a").cast(pl.Float64), pl.lit(0.0).alias("b"),
    )  # fmt: skip


def file(lake: Lake, name: str, frame: pl.DataFrame) -> None:
    landed = histories.with_source(frame).with_columns(pl.lit(name).alias("source"))
    lake.append(RAW, "f", f"{FILE_RUN}{name}", landed)


def send(engine: sa.Engine, frame: pl.DataFrame) -> int:
    with begin(engine) as connection:
        readings.insert_many(connection, FLEET, frame)
        return pipelined(connection, readings.LAST_SEQ_AND_TIME)[0][0][0]


def read(engine: sa.Engine, lake: Lake, seen: Seen, lives=LIVES) -> list[tuple[float, float]]:
    with begin(engine) as connection:
        found = histories.read(connection, lake, FLEET, lives, seen)
    assert found.schema == FLEET.readings_schema
    return found.select("cycle", "a").rows()


def landed_rows(engine: sa.Engine, lake: Lake) -> int:
    with begin(engine) as connection:
        return histories.Landed(lake).rows(connection, "f")


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(tmp_path)


def test_files_and_what_was_sent_are_one_history_as_it_was_known(engine, lake):
    file(lake, "x", rows(("u", 1, 1, 1), ("v", 1, 1, 7), ("u", 2, 1, 8)))
    first = send(engine, rows(("u", 1, 3, 3), ("u", 1, 2, 2)))
    assert landed_rows(engine, lake) == 3
    file(lake, "y", rows(("u", 1, 5, 5)))
    last = send(engine, rows(("u", 1, 4, 4)))
    known = {
        (0, 0): [],
        (3, 0): [(1, 1)],
        (0, first): [(2, 2), (3, 3)],
        (3, first): [(1, 1), (2, 2), (3, 3)],
        (4, first): [(1, 1), (2, 2), (3, 3), (5, 5)],
        (4, last): [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)],
    }
    for (landed, sent), expected in known.items():
        assert read(engine, lake, Seen(landed_rows=landed, sent_seq=sent)) == expected
    assert read(engine, lake, Seen()) == read(engine, lake, Seen(landed_rows=4), []) == []


def test_what_a_lake_lost_is_missed_until_it_is_back_or_written_off(engine, lake, tmp_path):
    def mark(name: str, count: int) -> None:
        key = {"fleet": "f", "sha256": name, "path": name, "size": 1, "modified_ns": 1}
        values = key | {"status": "taken", "rows": count}
        with begin(engine) as connection:
            query = insert(landed_files).values(values)
            connection.execute(
                query.on_conflict_do_update(constraint="pk_landed_files", set_=values)
            )

    def counted(process: histories.Landed) -> int:
        with begin(engine) as connection:
            return process.rows(connection, "f")

    file(lake, "x", rows(("u", 1, 1, 1)))
    file(lake, "y", rows(("u", 1, 2, 2), ("u", 1, 3, 3)))
    mark("x", 1)
    mark("y", 2)
    old = histories.Landed(lake)
    assert counted(old) == counted(histories.Landed(lake)) == 3
    (description,) = tmp_path.glob("lake/*/f/current.json")
    whole = lake.current(RAW, "f")
    files.write_json(description, msgspec.structs.replace(whole, runs=whole.runs[:1]))
    for process in (old, histories.Landed(lake)):
        with pytest.raises(Unavailable, match=r"3 readings of fleet 'f' came in files, .* has 1 "):
            counted(process)
    files.write_json(description, whole)
    assert counted(old) == 3
    files.write_json(description, msgspec.structs.replace(whole, runs=whole.runs[:1]))
    mark("y", 0)
    assert counted(old) == counted(histories.Landed(lake)) == 1


def test_a_file_counts_against_what_was_sent_whichever_came_first(engine, lake):
    seq = send(engine, rows(("u", 1, 1, 2)))
    lake.append(RAW, "f", f"{SENT_RUN}1", histories.with_source(rows(("u", 1, 1, 2))))
    file(lake, "x", rows(("u", 1, 1, 3)))
    assert read(engine, lake, Seen(landed_rows=1, sent_seq=seq)) == [(1, 3)]
    assert read(engine, lake, Seen(raw_rows=2)) == [(1, 3)]
    assert read(engine, lake, Seen(raw_rows=1)) == [(1, 2)]


def test_values_outside_their_limits_stay_and_units_named_alike_do_not_mix(engine, lake):
    file(lake, "x", rows(("u", 1, 1, 99), ("u", 2, 1, 1), ("v", 2, 1, 2), ("v", 1, 1, 3)))
    assert read(engine, lake, Seen(raw_rows=4)) == [(1, 99)]
    assert read(engine, lake, Seen(raw_rows=4), [("u", 1), ("v", 2)]) == [(1, 99), (1, 2)]


def test_a_channel_that_came_later_is_null_before(engine, lake):
    old = rows(("u", 1, 1, 1)).drop("a")
    lake.append(RAW, "f", f"{FILE_RUN}old", histories.with_source(old))
    assert read(engine, lake, Seen(landed_rows=1)) == [(1, None)]


def test_readings_of_lives_are_counted(lake):
    file(lake, "x", rows(("u", 1, 1, 1), ("u", 1, 2, 1), ("v", 1, 1, 1)))
    file(lake, "y", rows(("u", 1, 2, 1)))
    lives = pl.DataFrame({"unit": ["u", "w"], "life": [1, 1]})
    assert histories.count_raw(lake, FLEET, lives, 3).rows() == [("u", 1, 2)]
    assert histories.count_raw(lake, FLEET, lives, 4).rows() == [("u", 1, 3)]


@pytest.mark.parametrize("count", [1, 4])
def test_rows_that_the_lake_has_lost_are_told(engine, lake, count):
    file(lake, "x", rows(("u", 1, 1, 1), ("u", 1, 2, 1), ("v", 1, 1, 1)))
    with pytest.raises(StoreError, match=f"{count} raw readings of fleet 'f' had been seen.* 3;"):
        read(engine, lake, Seen(raw_rows=count))
