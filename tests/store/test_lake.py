"""Tables of many files appear, grow and are replaced as one."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core.errors import StoreError
from rul_store.files import locked
from rul_store.lake import Lake


def numbers(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"x": values}, schema={"x": pl.Int64})


def content(lake: Lake) -> list[int]:
    return lake.scan("core", "f").collect()["x"].to_list()


def folders(root: Path) -> list[str]:
    return sorted(p.name.rsplit("-", 1)[0] for p in (root / "lake" / "core" / "f").glob("[!.]*/"))


def age(root: Path) -> None:
    """Make everything look two days old."""
    past = time.time() - 2 * 86_400
    for path in [root, *root.rglob("*")]:
        os.utime(path, (past, past))


def test_shards_are_read_back_in_order_as_one_table(tmp_path: Path):
    lake = Lake(tmp_path)
    written = lake.write("core", "f", "run1", (numbers(n, n + 1) for n in (1, 5, 3)))
    assert content(lake) == [1, 2, 5, 6, 3, 4]
    assert (written.rows, written.files, written.new) == (6, 3, True)
    assert sorted(p.name for p in written.path.iterdir()) == [
        f"part-0000{n}.parquet" for n in range(3)
    ]
    assert written.bytes == sum(p.stat().st_size for p in written.path.iterdir())
    table = lake.current("core", "f")
    assert table is not None
    assert (table.rows, table.bytes, table.columns) == (6, written.bytes, {"x": "Int64"})


@pytest.mark.parametrize(
    "shards", [numbers(1, 2), numbers(1, 2).lazy(), [numbers(1).lazy(), numbers(2)]]
)
def test_a_frame_may_be_lazy_or_many(tmp_path: Path, shards: pl.DataFrame):
    lake = Lake(tmp_path)
    lake.write("core", "f", "run1", shards)
    assert content(lake) == [1, 2]


def test_an_empty_table_keeps_its_columns(tmp_path: Path):
    lake = Lake(tmp_path)
    schema = pl.Schema({"t": pl.Datetime("us", "UTC"), "e": pl.Enum(["a", "b"]), "f": pl.Float32})
    lake.write("core", "f", "run1", pl.DataFrame(schema=schema))
    assert lake.scan("core", "f").collect().schema == schema
    assert lake.scan("core", "f").collect().is_empty()


def test_odd_characters_in_the_root_are_no_pattern(tmp_path: Path):
    lake = Lake(tmp_path / "a[1]*" / "x=1 é")
    lake.write("core", "f", "run1", numbers(1))
    assert lake.scan("core", "f").collect().columns == ["x"]


def test_a_write_replaces_the_table_and_keeps_the_files_of_two_states(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.write("core", "f", "run1", numbers(1))
    early_reader = lake.scan("core", "f")
    for run in (2, 3):
        lake.write("core", "f", f"run{run}", numbers(run))
    assert content(lake) == [3]
    assert early_reader.collect()["x"].to_list() == [1]
    lake.write("core", "f", "run4", numbers(4))
    assert folders(tmp_path) == ["run2", "run3", "run4"]
    lake.write("core", "f", "run5", numbers(5), keep=0)
    assert folders(tmp_path) == ["run5"]


def test_the_same_run_may_write_twice(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.write("core", "f", "run1", numbers(1))
    lake.write("core", "f", "run1", numbers(2))
    assert content(lake) == [2]


def test_appends_add_rows_once_a_run(tmp_path: Path):
    lake = Lake(tmp_path)
    for _ in range(2):
        first = lake.append("core", "f", "file-a", numbers(1, 2))
        lake.append("core", "f", "file-b", [numbers(3), numbers(4)])
    assert (first.rows, first.new) == (2, False)
    assert content(lake) == [1, 2, 3, 4]
    assert folders(tmp_path) == ["file-a", "file-b"]


def test_an_append_may_bring_new_columns(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.append("core", "f", "a", numbers(1))
    lake.append("core", "f", "b", pl.DataFrame({"y": ["new"], "x": [2]}))
    lake.append("core", "f", "c", numbers(3))
    table = lake.scan("core", "f").collect()
    assert table.rows() == [(1, None), (2, "new"), (3, None)]
    assert table.columns == ["x", "y"]


def test_an_append_of_another_dtype_is_refused_and_leaves_nothing(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.append("core", "f", "a", numbers(1))
    with pytest.raises(StoreError, match=r"column 'x' of core of fleet 'f' is Int64, and String"):
        lake.append("core", "f", "b", pl.DataFrame({"x": ["2"]}))
    assert content(lake) == [1]
    assert folders(tmp_path) == ["a"]


def test_notes_stay_until_they_are_replaced(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.append("core", "f", "a", numbers(1), notes={"watermark": "7", "other": "x"})
    lake.append("core", "f", "b", numbers(2), notes={"watermark": "9"})
    lake.write("core", "f", "compact", lake.scan("core", "f"))
    table = lake.current("core", "f")
    assert table is not None
    assert table.notes == {"watermark": "9", "other": "x"}
    assert content(lake) == [1, 2]


def test_a_writer_that_began_earlier_and_woke_up_later_is_refused(tmp_path: Path):
    lake = Lake(tmp_path)
    zombie = lake.ticket("core", "f")
    lake.write("core", "f", "successor", numbers(2))
    with pytest.raises(StoreError, match="run zombie was overtaken by run successor"):
        lake.write("core", "f", "zombie", numbers(1), ticket=zombie)
    assert content(lake) == [2]
    assert folders(tmp_path) == ["successor"]


def test_a_write_that_did_not_see_an_append_is_refused(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.append("core", "f", "a", numbers(1))
    compaction = lake.ticket("core", "f")
    rows = lake.scan("core", "f").collect()
    lake.append("core", "f", "b", numbers(2))
    with pytest.raises(StoreError, match="overtaken by run b"):
        lake.write("core", "f", "compact", rows, ticket=compaction)
    assert content(lake) == [1, 2]


def test_tickets_grow_even_when_their_file_is_lost(tmp_path: Path):
    lake = Lake(tmp_path)
    for run in range(3):
        lake.write("core", "f", f"run{run}", numbers(run))
    (tmp_path / "lake" / "core" / "f" / ".ticket").unlink()
    lake.write("core", "f", "later", numbers(9))
    assert content(lake) == [9]


def test_appends_at_once_lose_nothing(tmp_path: Path):
    def append(writer: int) -> None:
        for number in range(5):
            Lake(tmp_path).append("core", "f", f"r{number}-{writer}", numbers(writer * 5 + number))

    threads = [threading.Thread(target=append, args=(writer,)) for writer in (0, 0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(content(Lake(tmp_path))) == list(range(15))
    assert len(folders(tmp_path)) == 15


def test_a_lock_that_is_never_given_back_is_named(tmp_path: Path):
    lake = Lake(tmp_path, lock_timeout_seconds=0.05)
    with (
        locked(tmp_path / "lake" / "core" / "f" / ".lock"),
        pytest.raises(StoreError, match=r"core/f/\.lock has been locked"),
    ):
        lake.append("core", "f", "a", numbers(1))


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "append", "stale write"]),
        st.integers(0, 3),
        st.lists(st.lists(st.integers(-5, 5), max_size=2), min_size=1, max_size=2),
    ),
    max_size=7,
)


@given(operations=OPERATIONS)
@settings(max_examples=25, deadline=None)
def test_any_sequence_of_writes_and_appends_gives_what_a_list_would(
    operations: list[tuple[str, int, list[list[int]]]],
    tmp_path_factory: pytest.TempPathFactory,
):
    root = tmp_path_factory.mktemp("lake")
    lake, expected, appended = Lake(root), list[int](), set[str]()
    for step, (operation, name, shards) in enumerate(operations):
        frames = [numbers(*shard) for shard in shards]
        values = [value for shard in shards for value in shard]
        if operation == "write":
            lake.write("core", "f", f"w{step}", frames)
            expected, appended = values, {f"w{step}"}
        elif operation == "append":
            written = lake.append("core", "f", f"a{name}", frames)
            assert written.new == (f"a{name}" not in appended)
            expected += values if written.new else []
            appended.add(f"a{name}")
        else:
            stale = lake.ticket("core", "f")
            lake.append("core", "f", f"s{step}", numbers(step))
            expected, appended = [*expected, step], appended | {f"s{step}"}
            with pytest.raises(StoreError, match="overtaken"):
                lake.write("core", "f", "stale", frames, ticket=stale)
    if operations:
        table = lake.verify("core", "f")
        assert content(lake) == expected
        assert table.rows == len(expected)


def test_what_killed_runs_left_is_swept_after_a_day(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.append("core", "f", "a", numbers(1))
    folder = tmp_path / "lake" / "core" / "f"
    (folder / "killed-12345678").mkdir()
    (folder / ".killed.1.tmp").mkdir()
    lake.append("core", "f", "b", numbers(2))
    assert (folder / "killed-12345678").is_dir()
    age(folder)
    lake.append("core", "f", "c", numbers(3))
    assert folders(tmp_path) == ["a", "b", "c"]
    assert not (folder / ".killed.1.tmp").exists()
    assert content(lake) == [1, 2, 3]


def test_a_writer_whose_folder_was_swept_names_nothing_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lake = Lake(tmp_path)
    lake.write("core", "f", "a", numbers(1))
    current = lake._table

    def sleep_for_a_day(asset: str, fleet: str) -> object:
        for path in (tmp_path / "lake" / "core" / "f").glob("b-*"):
            path.rename(path.with_name(".swept"))
        return current(asset, fleet)

    monkeypatch.setattr(lake, "_table", sleep_for_a_day)
    with pytest.raises(StoreError, match="was swept before it was named; run again"):
        lake.write("core", "f", "b", numbers(2))
    assert content(lake) == [1]


def test_a_missing_or_truncated_file_is_named_before_anything_is_read(tmp_path: Path):
    lake = Lake(tmp_path)
    written = lake.write("core", "f", "run1", [numbers(1), numbers(2)])
    part = written.path / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"part-00001\.parquet is \d+ bytes long"):
        lake.scan("core", "f")
    part.unlink()
    with pytest.raises(StoreError, match=r"part-00001\.parquet is missing"):
        lake.scan("core", "f")
    with pytest.raises(StoreError, match=r"part-00001\.parquet missing or damaged"):
        lake.verify("core", "f")


def test_a_flipped_byte_in_a_shard_is_found_by_verify(tmp_path: Path):
    lake = Lake(tmp_path)
    written = lake.write("core", "f", "run1", [numbers(1), numbers(2)])
    assert lake.verify("core", "f").rows == 2
    part = written.path / "part-00000.parquet"
    damaged = bytearray(part.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    part.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"part-00000\.parquet missing or damaged; make the asset"):
        lake.verify("core", "f")


def test_what_stands_beside_a_table_is_replaced_with_it(tmp_path: Path):
    lake = Lake(tmp_path)
    lost: list[int] = []

    def shards() -> Iterator[pl.DataFrame]:
        for number in (1, 2):
            lost.append(-number)  # known only once the shards were walked through
            yield numbers(number)

    lake.write("core", "f", "run1", shards(), beside=lambda: {"lost": numbers(*lost)})
    assert content(lake) == [1, 2]
    assert lake.scan_beside("core", "f", "lost").collect()["x"].to_list() == [-1, -2]
    lake.write("core", "f", "run2", numbers(3), beside=lambda: {"lost": numbers(-3).lazy()})
    assert content(lake) == [3]
    assert lake.scan_beside("core", "f", "lost").collect()["x"].to_list() == [-3]


def test_what_is_missing_or_damaged_beside_a_table_is_named(tmp_path: Path):
    lake = Lake(tmp_path)
    written = lake.write("core", "f", "run1", numbers(1), beside=lambda: {"lost": numbers(2)})
    with pytest.raises(StoreError, match="holds no other beside core; make the asset again"):
        lake.scan_beside("core", "f", "other")
    beside = written.path / "beside-lost.parquet"
    whole = beside.read_bytes()
    beside.write_bytes(whole[:-1])
    with pytest.raises(StoreError, match=r"beside-lost\.parquet is \d+ bytes long"):
        lake.scan_beside("core", "f", "lost")
    with pytest.raises(StoreError, match=r"beside-lost\.parquet missing or damaged"):
        lake.verify("core", "f")
    with pytest.raises(StoreError, match=r"frame '\.\./x' cannot be a file name"):
        lake.write("core", "f", "run2", numbers(2), beside=lambda: {"../x": numbers(2)})
    assert content(lake) == [1]


def test_a_damaged_description_is_named(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.write("core", "f", "run1", numbers(1))
    (tmp_path / "lake" / "core" / "f" / "current.json").write_text('{"asset": 3')
    with pytest.raises(StoreError, match=r"current\.json is damaged: .*make the asset again"):
        lake.scan("core", "f")


def test_a_table_that_was_never_made_says_so(tmp_path: Path):
    assert Lake(tmp_path).current("core", "f") is None
    with pytest.raises(StoreError, match="holds no core yet; materialise it first"):
        Lake(tmp_path).scan("core", "f")


def test_shards_must_be_given_and_have_the_same_columns(tmp_path: Path):
    lake = Lake(tmp_path)
    with pytest.raises(StoreError, match="gave no shard"):
        lake.write("core", "f", "run1", [])
    with pytest.raises(StoreError, match=r"shard 1 of run run1 has columns \{'y'"):
        lake.write("core", "f", "run1", [numbers(1), pl.DataFrame({"y": [1]})])
    assert lake.current("core", "f") is None
    assert folders(tmp_path) == []


def test_an_error_while_a_shard_is_computed_leaves_the_old_table(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.write("core", "f", "run1", numbers(1))
    bad = pl.DataFrame({"x": ["a"]}).lazy().select(pl.col("x").cast(pl.Int64))
    with pytest.raises(pl.exceptions.InvalidOperationError):
        lake.write("core", "f", "run2", [numbers(2), bad])
    assert content(lake) == [1]
    assert folders(tmp_path) == ["run1"]


@pytest.mark.parametrize(
    ("asset", "fleet", "run"), [("..", "f", "r"), ("core", "a/b", "r"), ("core", "f", "../r")]
)
def test_unsafe_names_are_refused(tmp_path: Path, asset: str, fleet: str, run: str):
    with pytest.raises(StoreError, match="cannot be a file name"):
        Lake(tmp_path).write(asset, fleet, run, numbers(1))
    assert not (tmp_path / "lake" / "core" / "f" / "current.json").exists()
