"""A folder of objects: what is left in it by whoever was killed as one was put."""

import errno
import io
import os
import shutil
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rul_backup import runs
from rul_backup.manifest import Kind
from rul_backup.stores import FolderStore
from rul_core.errors import StoreError

from .conftest import Keys

HEX = "0123456789abcdef" * 2


def test_what_a_killed_putting_left_goes_after_a_day_and_its_empty_folder_with_it(
    plant: Keys, tmp_path: Path
):
    store = FolderStore(tmp_path / "backups")
    names = [
        f"runs/20261101T000000Z-aaaaaa/.platform.dump.zst.age.{HEX}.tmp",
        f"wal/7/.000000010000000000000001.zst.age.{HEX}.tmp",
    ]
    day_old, now = time.time() - 24 * 3600, datetime.now(UTC)
    for name in names:
        path = store.root / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half of a dump")
        os.utime(path, (0, day_old + 60))
    others = [".lock", ".mine.tmp", f"wal/7/{HEX}.tmp"]  # nobody's half of an object
    for name in others:
        (store.root / name).write_bytes(b"")
        os.utime(store.root / name, (0, 0))
    assert runs.sweep(store, plant.verify, now) == []
    for name in names:
        os.utime(store.root / name, (0, day_old - 60))
    assert runs.left_behind(store, plant.verify, now) == names
    assert runs.sweep(store, plant.verify, now) == names
    assert not (store.root / "runs").exists()
    assert all((store.root / name).exists() for name in others)
    assert runs.left_behind(store, plant.verify, now) == []


def test_what_nobody_can_tell_of_does_not_count_as_missing(tmp_path: Path):
    store = FolderStore(tmp_path / "backups")
    for name in ("a/file", "a/ring"):
        assert not store.has(name)
    with store.putting("a/file") as file:
        file.write(b"x")
    assert store.has("a/file")
    assert not store.has("a/file/below")
    (store.root / "a" / "ring").symlink_to("ring")
    with pytest.raises(OSError, match="symbolic links"):
        store.has("a/ring")


def test_what_is_moved_into_another_store_is_there_once_and_none_is_written_over(tmp_path: Path):
    store = FolderStore(tmp_path / "backups")
    aside = FolderStore(store.root / ".aside")
    for name in ("runs/a/b", "runs/a/c"):
        with store.putting(name) as file:
            file.write(name.encode())
    store.move("runs/a/b", aside)
    assert [*store.sizes()] == ["runs/a/c"]  # what is aside counts for nothing
    assert [*aside.sizes()] == ["runs/a/b"]
    shutil.copy(store.root / "runs/a/c", aside.root / "runs/a/c")
    store.move("runs/a/c", aside)  # as after a kill
    assert not (store.root / "runs").exists()
    for another in (b"longer than the other", b"runs/a/x"):  # which has the other's size
        with store.putting("runs/a/b") as file:
            file.write(another)
        with pytest.raises(FileExistsError, match="there is another"):
            store.move("runs/a/b", aside)
        assert (store.root / "runs/a/b").read_bytes() == another
        store.remove("runs/a/b")
    assert (aside.root / "runs/a/b").read_bytes() == b"runs/a/b"


def test_a_name_that_leads_out_of_the_store_is_refused(tmp_path: Path):
    store = FolderStore(tmp_path / "backups")
    for name in ("../a", "/a", "a/../b", f"../.a.{HEX}.tmp", "a//b", ".lock"):
        with pytest.raises(StoreError, match="is no name of an object in a backup"):
            store.remove(name)


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    plant: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = FolderStore(tmp_path / "backups")
    with store.putting("runs/20261101T000000Z-aaaaaa/a") as file:
        file.write(b"a")
    with store.putting("manifests/00000001") as file:
        file.write(b"whatever")
    scandir = os.scandir

    def refuses(path: str | Path):
        if Path(path).name == "manifests":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    told = rf"{tmp_path}/backups/manifests cannot be read: Permission denied; nobody knows what"
    for look in (lambda: store.sizes("manifests/"), store.sizes):
        with pytest.raises(StoreError, match=told):
            look()
    with pytest.raises(StoreError, match=told):
        runs.sweep(store, plant.verify, datetime.now(UTC))
    assert store.sizes("runs/").keys() == {"runs/20261101T000000Z-aaaaaa/a"}
    assert store.sizes("wal/") == {}  # nobody made it yet


def test_what_a_run_kept_that_is_not_sealed_goes_and_what_may_be_promised_stays(
    plant: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, now = FolderStore(tmp_path / "backups"), datetime.now(UTC)
    run = runs.Run(store, plant.maker, now)
    run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"dump"), {})
    with monkeypatch.context() as full:
        full.setattr(store, "remove", lambda _: store.root.rmdir())  # it is not empty
        run.discard()
    assert len(store.sizes()) == 1
    run.discard()
    assert store.sizes() == {}
    run.discard()
    sealed = runs.Run(store, plant.maker, now)
    sealed.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"dump"), {})
    putting = store.putting

    @contextmanager
    def put_and_fail(name: str):
        with putting(name) as file:
            yield file
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store, "putting", put_and_fail)
    with pytest.raises(OSError, match="Input/output error"):
        sealed.seal({}, plant.verify, now)
    sealed.discard()
    monkeypatch.undo()
    (promised,) = runs.there(store, plant.verify)
    assert promised.objects.keys() <= store.sizes().keys()
