"""Files are wholly there or not at all."""

import os
import time
from pathlib import Path

import pytest

from rul_core.errors import StoreError
from rul_store import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path):
    target = tmp_path / "new" / "deep" / "a.txt"
    files.write(target, "old")
    files.write(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["a.txt"]


def test_json_is_readable_by_people_and_ends_a_line(tmp_path: Path):
    files.write_json(tmp_path / "a.json", {"b": 1.5, "a": [1]})
    text = (tmp_path / "a.json").read_text()
    assert text == '{\n  "b": 1.5,\n  "a": [\n    1\n  ]\n}\n'


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path):
    target = tmp_path / "a.txt"
    files.write(target, "old")

    def half_written() -> None:
        with files.replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        half_written()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace", "rename"])
def test_a_fault_of_the_file_system_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    files.write(tmp_path / "a.txt", "old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail) if step == "fsync" else monkeypatch.setattr(
        Path, step, fail
    )
    if step != "rename":
        with pytest.raises(OSError, match="space"):
            files.write(tmp_path / "a.txt", "new")
    if step != "replace":
        with pytest.raises(OSError, match="space"), files.publishing(tmp_path / "b") as folder:
            (folder / "x").write_text("x")
    monkeypatch.undo()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_long_name_can_be_written(tmp_path: Path):
    files.write(tmp_path / ("n" * 250), "x")
    assert (tmp_path / ("n" * 250)).read_text() == "x"


def test_a_published_folder_appears_whole(tmp_path: Path):
    with files.publishing(tmp_path / "f") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text("x")
        assert names(tmp_path) == [folder.name]
        assert folder.name.startswith(".")
    assert (tmp_path / "f" / "sub" / "x").read_text() == "x"
    assert names(tmp_path) == ["f"]


def test_a_published_folder_is_never_replaced(tmp_path: Path):
    with files.publishing(tmp_path / "f") as folder:
        (folder / "x").write_text("first")
    with (
        pytest.raises(StoreError, match=r"f exists and never changes"),
        files.publishing(tmp_path / "f"),
    ):
        pytest.fail("an existing target is refused before any work")
    assert (tmp_path / "f" / "x").read_text() == "first"


def test_the_second_of_two_publishers_of_one_name_is_refused(tmp_path: Path):
    def publish_twice() -> None:
        with files.publishing(tmp_path / "f") as second:
            (second / "x").write_text("second")
            with files.publishing(tmp_path / "f") as first:
                (first / "x").write_text("first")

    with pytest.raises(StoreError, match="exists"):
        publish_twice()
    assert (tmp_path / "f" / "x").read_text() == "first"
    assert names(tmp_path) == ["f"]


def test_checksums_hold_for_an_untouched_folder(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a b").write_text("abc")
    files.write_checksums(tmp_path)
    assert files.verify_checksums(tmp_path) == {
        "sub/a b": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }
    assert files.sha256_of(tmp_path / "sub" / "a b").startswith("ba7816bf")


def test_each_damage_to_a_folder_is_named(tmp_path: Path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"0123456789")
    files.write_checksums(tmp_path)
    (tmp_path / "a").write_bytes(b"0123456788")
    (tmp_path / "b").unlink()
    (tmp_path / "extra").write_text("x")
    with pytest.raises(StoreError) as refused:
        files.verify_checksums(tmp_path)
    assert "a differs" in str(refused.value)
    assert "b is missing" in str(refused.value)
    assert "extra is not in SHA256SUMS" in str(refused.value)
    assert "c differs" not in str(refused.value)


def test_a_folder_without_or_with_a_damaged_list_is_refused(tmp_path: Path):
    with pytest.raises(StoreError, match="SHA256SUMS is missing"):
        files.verify_checksums(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("abc  x\n")
    with pytest.raises(StoreError, match="line 1: 'abc  x'"):
        files.verify_checksums(tmp_path)
    (tmp_path / "SHA256SUMS").write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match="no text"):
        files.verify_checksums(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a\nb", "é", "x" * 64, "a "])
def test_an_unsafe_name_is_refused(name: str):
    with pytest.raises(StoreError, match=r"fleet .* cannot be a file name"):
        files.safe_name(name, "fleet")


def test_a_plain_name_is_safe():
    assert files.safe_name("FD001_v2.1-x", "fleet") == "FD001_v2.1-x"


def test_a_held_lock_is_waited_for_and_named_at_the_end(tmp_path: Path):
    lock = tmp_path / ".lock"
    with (
        files.locked(lock),
        pytest.raises(StoreError, match=r"\.lock has been locked"),
        files.locked(lock, timeout_seconds=0.05),
    ):
        pytest.fail("two held the lock")
    with files.locked(lock, timeout_seconds=0.05):
        pass


def test_sweeping_removes_only_old_temporaries(tmp_path: Path):
    old, young, other = tmp_path / ".a.1.tmp", tmp_path / ".b.2.tmp", tmp_path / "kept"
    old.mkdir()
    (old / "x").write_text("x")
    young.write_text("x")
    other.write_text("x")
    (tmp_path / ".c.3.tmp").write_text("x")
    past = time.time() - 90_000
    for path in (old, other, tmp_path / ".c.3.tmp"):
        os.utime(path, (past, past))
    files.sweep(tmp_path)
    assert names(tmp_path) == [".b.2.tmp", "kept"]


def test_sweeping_goes_on_where_a_temporary_is_gone_before_it_is_looked_at(tmp_path: Path):
    (tmp_path / ".gone.1.tmp").symlink_to("nowhere")  # is listed, and not there
    old = tmp_path / ".old.2.tmp"
    old.write_text("x")
    past = time.time() - 90_000
    os.utime(old, (past, past))
    files.sweep(tmp_path)
    assert not old.exists()
