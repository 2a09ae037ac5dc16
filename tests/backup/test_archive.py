"""One file has all that a run needs to come back, and what is wrong with it is seen."""

import errno
import filecmp
import io
import random
import shutil
import tarfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from rul_backup import adoption, archive, runs, wal
from rul_backup.adoption import AnotherLine, adopt, adopt_or_stage, aside, exchange, unstage
from rul_backup.archive import Archive
from rul_backup.manifest import Kind, Lost
from rul_backup.mending import mend, plan
from rul_backup.reading import ReadingKeys, StoreReader
from rul_backup.remote import RemoteStore
from rul_backup.runs import Run, Sealed
from rul_backup.stores import LEAVING, LEFT, FolderStore, Shelf, Store
from rul_backup.streams import sha256_of
from rul_backup.verification import Finding, Level, verify
from rul_core.errors import StoreError

from .conftest import Keys
from .s3 import S3, s3, s3_server
from .test_verification import (
    BASES,
    CLUSTER,
    NOW,
    SEGMENT_BYTES,
    SEGMENTS,
    START,
    House,
    archive_log,
    house_in,
)

__all__ = ["s3", "s3_server"]


@pytest.fixture
def house(tmp_path: Path, plant: Keys) -> House:
    return house_in(tmp_path / "backups", plant)


def exported(house: House, target: Path, number: int = 3) -> Archive:
    archive.export(house.store, house.sealed[number], house.plant.verify, target)
    return Archive(target)


def look(found: Archive, plant: Keys, level: Level = Level.CONTENT) -> tuple[Finding, ...]:
    return verify(
        found, plant.verify, level, now=NOW, identities=plant.identities, only=found.run,
        since=found.since,
    ).findings  # fmt: skip


def test_it_has_the_run_the_chain_and_no_other_s_content(house: House, tmp_path: Path):
    found = exported(house, tmp_path / "a.tar")
    wanted = {*house.sealed[3].objects, *(each.object for each in house.sealed), "gone/00000002"}
    assert found.sizes().keys() == wanted
    assert found.sizes("gone/").keys() == {"gone/00000002"}
    assert found.run == house.sealed[3].manifest.run
    for level in (Level.EXISTS, Level.STORED, Level.CONTENT):
        assert look(found, house.plant, level) == ()
    with tarfile.open(tmp_path / "a.tar") as opened:
        assert opened.getnames()[0] == "README.txt"
        readme = opened.extractfile("README.txt")
        assert readme is not None
        assert house.sealed[3].manifest.run in readme.read().decode()
    assert b"AGE-SECRET-KEY" not in (tmp_path / "a.tar").read_bytes()


def test_what_an_earlier_run_kept_for_it_is_in_it(house: House, tmp_path: Path):
    found = exported(house, tmp_path / "a.tar", 2)
    assert house.sealed[1].manifest.run in " ".join(found.sizes("runs/"))
    assert look(found, house.plant) == ()


def test_the_same_run_gives_the_same_bytes(house: House, tmp_path: Path):
    exported(house, tmp_path / "a.tar")
    for path in house.root.rglob("*"):
        path.touch()
    exported(house, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_what_is_read_before_its_turn_is_written_in_its_turn(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    exported(house, tmp_path / "a.tar")
    met, reading = threading.Barrier(2, timeout=60), FolderStore.reading

    @contextmanager
    def meets(self: FolderStore, name: str) -> Generator[BinaryIO]:
        """Reads the first and the second at once, or never."""
        if name in (house.sealed[0].object, house.sealed[1].object) and not met.broken:
            met.wait()
        with reading(self, name) as content:
            yield content

    monkeypatch.setattr(FolderStore, "reading", meets)
    exported(house, tmp_path / "b.tar")
    monkeypatch.undo()
    sizes = sorted(house.store.sizes().values())
    monkeypatch.setattr(archive, "_SMALL_BYTES", sizes[len(sizes) // 2])
    exported(house, tmp_path / "c.tar")
    for name in ("b.tar", "c.tar"):
        assert filecmp.cmp(tmp_path / "a.tar", tmp_path / name, shallow=False)


def test_an_archive_gives_an_archive(house: House, tmp_path: Path):
    first = exported(house, tmp_path / "a.tar")
    archive.export(first, house.sealed[3], house.plant.verify, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_from_beyond_the_machine_where_a_stream_comes_in_pieces(
    tmp_path: Path, plant: Keys, s3: S3, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rul_backup.remote.PART_BYTES", 1000)
    local = FolderStore(tmp_path / "backups")
    run = Run(local, plant.maker, NOW - timedelta(hours=1))
    content = random.Random(1).randbytes(5000)
    run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(content), {"server": 15})
    sealed = run.seal({}, plant.verify, NOW)
    far: RemoteStore = s3.store("archive")
    for name, size in local.sizes().items():
        with local.reading(name) as stored:
            far.bring(name, stored, size)
    archive.export(far, sealed, plant.verify, tmp_path / "a.tar")
    assert look(Archive(tmp_path / "a.tar"), plant) == ()


def test_nothing_is_written_over(house: House, tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"mine")
    with pytest.raises(StoreError, match=r"a\.tar is there already"):
        exported(house, tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_bytes() == b"mine"


def test_too_little_room_is_found_before_anything_is_written(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    exported(house, tmp_path / "a.tar")
    size = (tmp_path / "a.tar").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size - 1))
    monkeypatch.setattr("rul_store.files.replacing", None)
    with pytest.raises(StoreError, match="MB free, and the archive needs"):
        exported(house, tmp_path / "b.tar")


@pytest.mark.parametrize("damage", ["changed", "shorter", "missing"])
def test_what_is_damaged_in_the_store_gives_no_archive(house: House, tmp_path: Path, damage: str):
    path = house.root / next(iter(house.sealed[3].objects))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if damage == "missing":
        path.unlink()
    if damage == "shorter":
        path.write_bytes(content[:-1])
    with pytest.raises(StoreError, match=r"\.age is (not what was written|missing)"):
        exported(house, tmp_path / "out" / "a.tar")
    assert [*(tmp_path / "out").glob("*")] == []


def test_every_flipped_byte_of_an_object_is_found(house: House, tmp_path: Path):
    path = tmp_path / "a.tar"
    exported(house, path)
    with tarfile.open(path) as opened:
        members = [each for each in opened if each.name not in {"README.txt", "run"}]
    whole, chance = path.read_bytes(), random.Random(3)
    for member in members:
        content = bytearray(whole)
        content[member.offset_data + chance.randrange(member.size)] ^= 1
        path.write_bytes(content)
        assert member.name in {each.object for each in look(Archive(path), house.plant)}


def test_an_archive_that_broke_off_is_none_or_lacks_what_is_named(house: House, tmp_path: Path):
    path = tmp_path / "a.tar"
    exported(house, path)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1024, 512):
        path.write_bytes(whole[:end])
        try:
            found = Archive(path)
        except StoreError as error:
            assert "a.tar" in str(error)  # noqa: PT017
        else:
            assert look(found, house.plant, Level.EXISTS)


def test_a_run_that_no_manifest_promises_is_told(house: House, tmp_path: Path):
    found = exported(house, tmp_path / "a.tar")
    found.run = "another"
    assert ("runs/another", "is promised by no manifest that can be read") in look(
        found, house.plant
    )


@pytest.mark.parametrize("how", ["no tar", "no run", "twice", "a link", "a folder"])
def test_what_is_no_archive_is_told(tmp_path: Path, how: str):
    path = tmp_path / "a.tar"
    if how == "no tar":
        path.write_bytes(b"x" * 2000)
    else:
        with tarfile.open(path, "w") as made:
            names = {"no run": ["a"], "twice": ["run", "run"]}.get(how, ["run", "a"])
            for name in names:
                entry = tarfile.TarInfo(name)
                if name == "a" and how in {"a link", "a folder"}:
                    entry.type = tarfile.SYMTYPE if how == "a link" else tarfile.DIRTYPE
                made.addfile(entry)
    with pytest.raises(StoreError, match=r"a\.tar"):
        Archive(path)


def test_an_archive_lists_its_run_alone_and_knows_no_other_object(
    house: House, tmp_path: Path, plant: Keys
):
    found = exported(house, tmp_path / "a.tar")
    reader = StoreReader(found, ReadingKeys(tmp_path / "key", tmp_path / "none"))
    (tmp_path / "key").write_bytes(pem_of(plant))
    assert [each.manifest.number for each in reader.there()] == [4]
    with pytest.raises(StoreError, match="has no run"):
        reader.find(house.sealed[4].manifest.run)
    with (
        pytest.raises(StoreError, match="is not there"),
        found.reading(next(iter(house.sealed[4].objects))),
    ):
        pass
    with found.reading(house.sealed[3].object) as file:
        assert sha256_of(file) == house.sealed[3].sha256
    assert runs.newest(found, plant.verify) == house.sealed[4]


# --- a new machine goes on with the old one's line
@pytest.fixture
def line(tmp_path: Path, plant: Keys) -> House:
    return house_in(tmp_path / "line", plant, has_log=False)


def adopted(house: House, shelf: Shelf, store: FolderStore, number: int = 4) -> int:
    key = house.plant.maker.signing_key
    return adopt(store, shelf, house.sealed[number], house.plant.verify, key)


def test_a_new_store_goes_on_with_the_line_and_lets_go_what_it_was_not_given(
    line: House, tmp_path: Path
):
    found = exported(line, tmp_path / "a.tar", 4)
    store = FolderStore(tmp_path / "new")
    assert adopted(line, found, store) == len(line.sealed)
    keys = line.plant.verify
    known = [one.known for one in line.sealed]
    told = verify(store, keys, Level.CONTENT, now=NOW, known=known,
                  identities=line.plant.identities)  # fmt: skip
    assert told.findings == ()
    assert [one.sha256 for one in runs.there(store, keys)] == [line.sealed[4].sha256]
    run = Run(store, line.plant.maker, NOW)
    run.take_over(line.sealed[4].manifest.artefacts[0], line.sealed[4])
    following = run.seal({}, keys, NOW)
    assert following.manifest.number == len(line.sealed) + 1
    assert following.manifest.previous_sha256 == line.sealed[4].sha256
    assert adopted(line, found, store) == 0


class Listed(FolderStore):
    """A folder that counts how often it is listed."""

    times = 0

    def sizes(self, below: str = "") -> dict[str, int]:
        self.times += 1
        return super().sizes(below)


@pytest.mark.parametrize("how", ["adopted", "mended"])
def test_a_store_is_listed_as_often_for_a_short_line_that_comes_there_as_for_a_long_one(
    tmp_path: Path, plant: Keys, how: str
):
    source, times = FolderStore(tmp_path / "line"), []
    for number in range(8):
        run = Run(source, plant.maker, START + timedelta(hours=number))
        run.keep("models.tar", Kind.MODELS, io.BytesIO(b"models"), {})
        sealed = run.seal({}, plant.verify, run.started_at)
        if number % 4 != 3:
            continue
        store, key = Listed(tmp_path / f"{number}"), plant.maker.signing_key
        if how == "adopted":
            assert adopt(store, source, sealed, plant.verify, key) == number + 1
        else:
            mend(store, plant.verify, plan(store, plant.verify, [], source), key)
        times.append(store.times)
        assert len(runs.names(store)) == number + 1
    assert times[0] == times[1]


def test_of_a_run_that_is_not_the_newest_the_line_is_whole_too(line: House, tmp_path: Path):
    store = FolderStore(tmp_path / "new")
    assert adopted(line, exported(line, tmp_path / "a.tar", 3), store, 3) == len(line.sealed)
    newest = runs.newest_there(store, line.plant.verify)
    assert newest is not None
    assert newest.sha256 == line.sealed[3].sha256


def test_a_store_with_a_line_of_its_own_or_a_longer_one_stays_as_it_is(line: House, tmp_path: Path):
    found = exported(line, tmp_path / "a.tar", 4)
    other = house_in(tmp_path / "other", line.plant, 2, has_log=False)
    before = [one.store.sizes() for one in (line, other)]
    assert adopted(line, found, line.store) == 0
    with pytest.raises(AnotherLine, match=r"number 1 of .*other is another than that of .*tar"):
        adopted(line, found, other.store)
    assert [one.store.sizes() for one in (line, other)] == before


def test_killed_at_any_move_the_exchange_of_two_lines_goes_on_and_nothing_is_lost(
    line: House, tmp_path: Path
):
    found, keys, key = exported(line, tmp_path / "a.tar", 4), line.plant.verify, line.plant.maker
    house_in(tmp_path / "own", line.plant, 6)
    own = FolderStore(tmp_path / "own")
    before = {name: (own.root / name).read_bytes() for name in own.sizes()}
    names = sorted({f"manifests/{number:08d}" for number in range(1, 6)})

    class Killed(BaseException):
        pass

    def mortal(step: Callable[..., Any]) -> Callable[..., Any]:
        def done(*arguments: Any, **named: Any) -> Any:
            if not steps[0]:
                raise Killed
            steps[0] -= 1
            return step(*arguments, **named)

        return done

    steps = [0]
    for left in range(400):
        store = FolderStore(tmp_path / f"killed-{left}")
        shutil.copytree(own.root, store.root)
        run = line.sealed[4]
        assert adopt_or_stage(store, found, run, keys, key.signing_key) == 5
        steps[0] = left
        with pytest.MonkeyPatch.context() as patched:
            for step in ("rename", "mkdir", "unlink", "rmdir"):
                patched.setattr(Path, step, mortal(getattr(Path, step)))
            patched.setattr(shutil, "rmtree", mortal(shutil.rmtree))
            try:
                exchange(store, "a")
                is_killed = False
            except Killed:
                is_killed = True
        if (store.root / LEAVING).exists() or (store.root / LEFT).exists():
            told = "is being exchanged, and .* has what was there"
            with pytest.raises(StoreError, match=told), store.alone():
                pass
            with pytest.raises(StoreError, match="is being exchanged"):
                adopt_or_stage(store, found, run, keys, key.signing_key)
        exchange(store, "a")
        assert [*store.sizes("manifests/")] == names
        assert (
            verify(store, keys, Level.STORED, now=NOW, known=[one.known for one in line.sealed])
        ).findings == ()
        (folder,) = aside(store)
        assert {
            name: (folder / name).read_bytes() for name in FolderStore(folder).sizes()
        } == before
        assert exchange(store, "b") is None
        assert {path.name for path in store.root.iterdir() if path.name.startswith(".")} == {
            ".lock", ".rul_before_a",
        }  # fmt: skip
        if not is_killed:
            break
    assert left > len(before)


def test_what_was_made_ready_for_a_restore_that_was_given_up_takes_no_place(
    line: House, tmp_path: Path
):
    found, keys, key = exported(line, tmp_path / "a.tar", 4), line.plant.verify, line.plant.maker
    own = house_in(tmp_path / "own", line.plant, 2, has_log=False)
    there = own.store.sizes()
    assert adopt_or_stage(own.store, found, line.sealed[4], keys, key.signing_key) == 5
    unstage(own.store)
    assert adopt_or_stage(own.store, own.store, own.sealed[1], keys, key.signing_key) == 0
    assert exchange(own.store, "a") is None
    assert own.store.sizes() == there


def test_what_was_put_aside_halfway_is_removed_by_nobody(line: House, tmp_path: Path):
    found, keys, key = exported(line, tmp_path / "a.tar", 4), line.plant.verify, line.plant.maker
    own = house_in(tmp_path / "own", line.plant, 2, has_log=False).store
    before, moved = own.sizes(), []
    assert adopt_or_stage(own, found, line.sealed[4], keys, key.signing_key) == 5

    def broken(self: FolderStore, name: str, target: FolderStore) -> None:
        if len(moved) == 3:
            raise OSError(errno.EIO, "Input/output error")
        moved.append(name)
        move(self, name, target)

    move = FolderStore.move
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FolderStore, "move", broken)
        with pytest.raises(StoreError, match=r"own has cannot be exchanged for .*output error"):
            exchange(own, "a")
    unstage(own)
    assert own.sizes() | FolderStore(own.root / LEAVING).sizes() == before
    assert exchange(own, "a") is None
    with pytest.raises(StoreError, match="move the backups that shall be here back by hand"):
        adopt_or_stage(own, found, line.sealed[4], keys, key.signing_key)


def test_what_is_beside_and_cannot_be_removed_is_named(
    line: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found, keys, key = exported(line, tmp_path / "a.tar", 4), line.plant.verify, line.plant.maker
    store = FolderStore(tmp_path / "new")
    assert adopt_or_stage(store, found, line.sealed[4], keys, key.signing_key) == 5

    def refused(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refused)
    with pytest.raises(StoreError, match=r"\.rul_restoring cannot be removed: .* by hand"):
        unstage(store)


def test_what_is_sealed_in_an_empty_store_meanwhile_is_none_of_the_line_that_comes(
    line: House, tmp_path: Path
):
    found, keys, key = exported(line, tmp_path / "a.tar", 4), line.plant.verify, line.plant.maker
    store = FolderStore(tmp_path / "new")
    assert adopt_or_stage(store, found, line.sealed[4], keys, key.signing_key) == 5
    assert store.sizes() == {}
    run = Run(store, key, NOW)
    run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"what lives"), {})
    run.seal({}, keys, NOW)
    folder = exchange(store, "a")
    assert folder == store.root / ".rul_before_a"
    assert [*FolderStore(folder).sizes("manifests/")] == ["manifests/00000001"]
    assert [one.sha256 for one in runs.every(store, keys)] == [one.sha256 for one in line.sealed]


def test_what_is_sealed_by_a_database_that_knows_more_is_none_of_the_line_that_comes(
    line: House, tmp_path: Path
):
    """A folder was lost, its database lives, and what is restored ends long before."""
    keys, key = line.plant.verify, line.plant.maker
    known = [one.known for one in line.sealed]
    for one in line.sealed[3:]:
        (line.root / one.object).unlink()
    store = FolderStore(tmp_path / "new")
    assert adopt_or_stage(store, line.store, line.sealed[2], keys, key.signing_key) == 3
    run = Run(store, key, NOW)
    run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"what lives"), {})
    assert run.seal({}, keys, NOW, (), known).manifest.number == 6
    folder = exchange(store, "a")
    assert folder is not None
    assert [*FolderStore(folder).sizes("manifests/")] == ["manifests/00000006"]
    assert [one.sha256 for one in runs.every(store, keys)] == [
        one.sha256 for one in line.sealed[:3]
    ]
    known = [one.known for one in line.sealed[:2]]  # to the restored database
    assert verify(store, keys, Level.STORED, now=NOW, known=known).findings == ()
    runs.sweep(store, keys, NOW, known)


def test_a_segment_that_the_archiver_sealed_again_makes_way_for_the_line_that_comes(
    house: House, tmp_path: Path
):
    keys, key = house.plant.verify, house.plant.maker
    spool, store = house.root.with_name(f"{house.root.name}-spool"), FolderStore(tmp_path / "new")
    log = wal.ClusterLog(store, key, keys, CLUSTER, SEGMENT_BYTES)
    history = (spool / "00000002.history").read_text()
    log.take(spool / SEGMENTS[-1], now=NOW, reaches_at=NOW, history=history)
    run = house.sealed[4]
    assert adopt_or_stage(store, house.store, run, keys, key.signing_key) == 5
    folder = exchange(store, "a")
    assert folder is not None
    assert [*FolderStore(folder).sizes(wal.WAL)] == [
        wal.note_of(CLUSTER, SEGMENTS[-1]), wal.object_of(CLUSTER, SEGMENTS[-1]),
    ]  # fmt: skip
    known = [one.known for one in house.sealed]
    assert verify(store, keys, Level.STORED, now=NOW, known=known).findings == ()


def seal_own(store: FolderStore, plant: Keys) -> None:
    run = Run(store, plant.maker, NOW)
    run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"what lives"), {})
    run.seal({}, plant.verify, NOW)


def sweep(store: FolderStore, plant: Keys) -> None:
    assert runs.sweep(store, plant.verify, NOW + timedelta(days=9), ())


@pytest.mark.parametrize(("meanwhile", "own"), [(seal_own, 3), (sweep, 4)])
def test_where_somebody_is_at_work_in_a_store_that_goes_on_with_a_line_that_is_made_ready_beside(
    line: House,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[FolderStore, Keys], None],
    own: int,
):
    run, keys, key = line.sealed[4], line.plant.verify, line.plant.maker.signing_key
    runs.give_up(line.store, Lost(number=6, sha256="0" * 64), key)
    store = FolderStore(tmp_path / "new")
    (store.root / "manifests").mkdir(parents=True)
    for one in line.sealed[:2]:
        shutil.copy(line.root / one.object, store.root / one.object)
    found, bring, last = exported(line, tmp_path / "a.tar", 4), adoption._bring, [*run.objects][-1]
    done: list[str] = []

    def once(target: FolderStore, shelf: Shelf, name: str, sha256: str) -> None:
        bring(target, shelf, name, sha256)
        if name == last and not done:
            done.append(name)
            meanwhile(store, line.plant)

    monkeypatch.setattr(adoption, "_bring", once)
    assert adopt_or_stage(store, found, run, keys, key) == 5
    assert done == [last]
    folder = exchange(store, "a")
    assert folder is not None
    assert len(FolderStore(folder).sizes("manifests/")) == own
    assert bool(FolderStore(folder).sizes("lost/")) == (meanwhile is sweep)  # none beside own runs
    assert [*store.sizes("lost/")] == ["lost/00000006"]
    assert [one.sha256 for one in runs.every(store, keys)] == [one.sha256 for one in line.sealed]
    known = [one.known for one in line.sealed]
    assert verify(store, keys, Level.STORED, now=NOW, known=known).findings == ()


def test_who_let_a_run_go_as_another_line_took_its_place_lets_none_of_that_go(
    line: House, tmp_path: Path
):
    found, keys, key = exported(line, tmp_path / "a.tar", 4), line.plant.verify, line.plant.maker
    own = house_in(tmp_path / "own", line.plant, has_log=False)
    going = own.sealed[4]
    assert adopt_or_stage(own.store, found, line.sealed[4], keys, key.signing_key) == 5
    exchange(own.store, "a")
    with pytest.raises(StoreError, match="manifests/00000005 is another than that of 2"):
        runs.let_go(own.store, going, key.signing_key)
    longer = house_in(tmp_path / "longer", line.plant, 6, has_log=False)
    with pytest.raises(StoreError, match="manifests/00000006 cannot be read: No such file"):
        runs.let_go(own.store, longer.sealed[5], key.signing_key)
    assert [one.sha256 for one in runs.there(own.store, keys)] == [line.sealed[4].sha256]


def test_a_second_line_that_is_put_aside_by_the_same_name_stands_beside_the_first(
    line: House, tmp_path: Path
):
    found, keys, key = exported(line, tmp_path / "a.tar", 4), line.plant.verify, line.plant.maker
    own = house_in(tmp_path / "own", line.plant, 2, has_log=False).store
    for name in (".rul_before_a", ".rul_before_a.2"):
        assert adopt_or_stage(own, found, line.sealed[4], keys, key.signing_key) == 5
        assert exchange(own, "a") == own.root / name
        shutil.rmtree(own.root / "manifests")
        house = house_in(tmp_path / name / "own", line.plant, 2, has_log=False)
        shutil.copytree(house.root / "manifests", own.root / "manifests")
    assert len(aside(own)) == 2


def test_a_line_is_another_by_what_can_be_read_of_it(line: House, tmp_path: Path):
    found, keys, key = exported(line, tmp_path / "a.tar", 4), line.plant.verify, line.plant.maker
    own = house_in(tmp_path / "own", line.plant, 2, has_log=False).store
    (own.root / "manifests/00000002").write_bytes(b"spoilt")
    assert adopt_or_stage(own, found, line.sealed[4], keys, key.signing_key) == 5
    assert exchange(own, "a") == own.root / ".rul_before_a"
    assert [one.sha256 for one in runs.every(own, keys)] == [one.sha256 for one in line.sealed]


def test_what_cannot_be_made_ready_beside_a_line_leaves_nothing(line: House, tmp_path: Path):
    found, keys = exported(line, tmp_path / "a.tar", 4), line.plant.verify
    own = house_in(tmp_path / "own", line.plant, 2, has_log=False).store
    there = own.sizes()
    with pytest.MonkeyPatch.context() as full:
        full.setattr("rul_store.files.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
        with pytest.raises(StoreError, match="going on with that line of backups"):
            adopt_or_stage(own, found, line.sealed[4], keys, line.plant.maker.signing_key)
    assert own.sizes() == there
    assert exchange(own, "a") is None
    assert aside(own) == []
    assert not (own.root / ".rul_restoring").exists()


def test_who_is_killed_while_he_adopts_goes_on(line: House, tmp_path: Path):
    """At each object that is put; what is there until then is the line's beginning."""
    found = exported(line, tmp_path / "a.tar", 4)

    class Killed(BaseException):
        pass

    class Mortal(FolderStore):
        left = 0

        @contextmanager
        def putting(self, name: str) -> Generator[BinaryIO]:
            if not self.left:
                raise Killed
            self.left -= 1
            with super().putting(name) as file:
                yield file

    for left in range(len(found.sizes()) + 10):
        store = Mortal(tmp_path / f"new-{left}")
        store.left = left
        try:
            adopted(line, found, store)
        except Killed:
            there = runs.every(store, line.plant.verify)
            assert [one.sha256 for one in there] == [
                one.sha256 for one in line.sealed[: len(there)]
            ]
            adopted(line, found, FolderStore(tmp_path / f"new-{left}"))
        told = verify(store, line.plant.verify, Level.STORED, now=NOW)
        assert (told.runs, told.findings) == (1, ())
    assert store.left


def test_what_was_changed_meanwhile_is_not_adopted(line: House, tmp_path: Path):
    name = next(iter(line.sealed[4].objects))
    path = line.root / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    store = FolderStore(tmp_path / "new")
    with pytest.raises(StoreError, match=rf"{name} is not what was written"):
        adopted(line, line.store, store)
    assert runs.newest(store, line.plant.verify) is None
    assert name not in store.sizes()


BASED = 4
"""The run of the house that kept a base."""


def test_without_the_log_the_line_goes_on_and_the_run_that_needs_it_is_let_go(
    house: House, tmp_path: Path
):
    store = FolderStore(tmp_path / "new")
    found = exported(house, tmp_path / "a.tar", BASED)
    assert adopted(house, found, store, BASED) == len(house.sealed)
    assert runs.there(store, house.plant.verify) == []
    assert {name.partition("/")[0] for name in store.sizes()} == {"manifests", "gone"}
    assert verify(store, house.plant.verify, Level.STORED, now=NOW).findings == ()
    run = Run(store, house.plant.maker, NOW)
    run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"anew"), {})
    assert run.seal({}, house.plant.verify, NOW).manifest.number == len(house.sealed) + 1


def test_with_the_log_a_base_and_what_leads_on_from_it_come_along(house: House, tmp_path: Path):
    target, store = tmp_path / "a.tar", FolderStore(tmp_path / "new")
    archive.export(house.store, house.sealed[BASED], house.plant.verify, target, with_log=True)
    found = Archive(target)
    log = {name for name in house.store.sizes("wal/") if wal.plain_name(name) >= BASES[BASED]}
    assert log <= found.sizes().keys()
    assert look(found, house.plant) == ()
    assert adopted(house, found, store, BASED) == len(house.sealed)
    told = verify(store, house.plant.verify, Level.CONTENT, now=NOW,
                  identities=house.plant.identities)  # fmt: skip
    assert (told.runs, told.findings) == (1, ())
    assert log <= store.sizes().keys()


def test_a_line_that_does_not_fit_is_refused_before_anything_of_it_is_written(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target, store = tmp_path / "a.tar", FolderStore(tmp_path / "new")
    archive.export(house.store, house.sealed[BASED], house.plant.verify, target, with_log=True)
    found = Archive(target)
    free = sum(size for name, size in found.sizes().items() if name.startswith(("runs/", "wal/")))
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free - 1))
        with pytest.raises(StoreError, match="MB free, and going on with that line of backups"):
            adopted(house, found, store, BASED)
    assert store.sizes() == {}
    putting = store.putting
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

        @contextmanager
        def no_space(name: str) -> Generator[BinaryIO]:
            with putting(name) as file:
                yield file
                raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(store, "putting", no_space)
        with pytest.raises(StoreError, match=r"cannot be brought from .*No space left on device"):
            adopted(house, found, store, BASED)
    assert store.sizes() == {}
    assert adopted(house, found, store, BASED) == len(house.sealed)


def test_a_segment_that_is_spoilt_in_an_archive_with_the_log_is_found(house: House, tmp_path: Path):
    keys = house.plant.verify
    noted, _ = wal.from_base(house.store, keys, [house.sealed[BASED]])
    path = house.root / noted[-1].content
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=rf"{noted[-1].content} is not what was written"):
        archive.export(house.store, house.sealed[BASED], keys, tmp_path / "a.tar", with_log=True)
    assert not (tmp_path / "a.tar").exists()
    store = FolderStore(tmp_path / "new")
    with pytest.raises(StoreError, match=rf"{noted[-1].content} is not what was written"):
        adopted(house, house.store, store, BASED)
    assert runs.newest(store, keys) is None


# --- what is damaged elsewhere, and moments
def spoil(store: FolderStore, name: str) -> None:
    path = store.root / name
    path.write_bytes(b"x" + path.read_bytes()[1:])


def reader_of(shelf: Shelf, plant: Keys, folder: Path, told: list[str]) -> StoreReader:
    (folder / "key").write_bytes(pem_of(plant))
    keys = ReadingKeys(folder / "key", folder / "none")
    return StoreReader(shelf, keys, lambda what, _: told.append(what))


def test_a_damaged_manifest_of_another_run_is_taken_along_as_it_is_and_told(
    house: House, tmp_path: Path
):
    spoilt = house.sealed[0].object
    spoil(house.store, spoilt)
    told: list[str] = []
    reader_of(house.store, house.plant, tmp_path, told).export(None, tmp_path / "a.tar")
    (passed_over,) = told
    assert passed_over.startswith(f"passed over: {house.root}/{spoilt}: it is not signed by")
    found = Archive(tmp_path / "a.tar")
    assert [name for name, _ in look(found, house.plant)] == [spoilt]
    (listed,) = reader_of(found, house.plant, tmp_path, told).there()
    assert listed == house.sealed[4]
    with pytest.raises(StoreError, match=spoilt):
        adopted(house, found, FolderStore(tmp_path / "new"))


def keep_base(
    store: Store, plant: Keys, segment: str, at: datetime, before: str = "", end: str = ""
) -> Sealed:
    facts = {
        "cluster": CLUSTER, "segment_bytes": SEGMENT_BYTES, "ended_at": at.isoformat(),
        "start_segment": segment, "end_segment": end or segment,
    }  # fmt: skip
    run = Run(store, plant.maker, at, before_restore_of=before)
    run.keep("base.tar", Kind.BASE, io.BytesIO(b"base"), facts)
    return run.seal({}, plant.verify, at)


@pytest.fixture
def based(tmp_path: Path, plant: Keys) -> House:
    """Bases of three hours, and a log without an end that any manifest knows."""
    store = FolderStore(tmp_path / "based")
    archive_log(store, plant, tmp_path / "spool", random.Random(7))
    sealed = [
        keep_base(store, plant, SEGMENTS[2 * number], NOW + timedelta(hours=number))
        for number in range(3)
    ]
    return House(store.root, store, plant, sealed)


def test_the_log_goes_along_as_far_as_it_leads_and_what_ends_it_is_told(
    based: House, tmp_path: Path
):
    spoilt, told = wal.note_of(CLUSTER, SEGMENTS[6]), []
    spoil(based.store, spoilt)
    spoil(based.store, based.sealed[0].object)
    reader = reader_of(based.store, based.plant, tmp_path, told)
    assert reader.export(None, tmp_path / "a.tar", with_log=True) == based.sealed[2]
    archived = wal.names(Archive(tmp_path / "a.tar"))
    assert archived == [wal.note_of(CLUSTER, name) for name in SEGMENTS[4:6]]
    assert [one for one in told if spoilt in one] == [
        f"the log ends before what is damaged (it leads until {START.isoformat()}): "
        f"{based.root}/{spoilt}: it is not signed by this platform's key, or was changed afterwards"
    ]
    assert any(based.sealed[0].object in one for one in told)


def test_a_run_that_knew_of_more_log_than_leads_on_goes_along_where_it_is_named(
    house: House, tmp_path: Path
):
    spoilt, told = wal.note_of(CLUSTER, SEGMENTS[11]), []
    spoil(house.store, spoilt)
    reader = reader_of(house.store, house.plant, tmp_path, told)
    with pytest.raises(StoreError, match=rf"no log that leads on from any base; .*{spoilt}: it is"):
        reader.export(None, tmp_path / "a.tar", with_log=True)
    named = house.sealed[BASED].manifest.run
    assert reader.export(named, tmp_path / "a.tar", with_log=True) == house.sealed[BASED]
    assert wal.note_of(CLUSTER, SEGMENTS[10]) == max(wal.names(Archive(tmp_path / "a.tar")))
    assert spoilt in told[-1]
    first = wal.note_of(CLUSTER, BASES[BASED])
    spoil(house.store, first)
    with pytest.raises(StoreError, match=rf"from the base of {named}; .*{first}: it is"):
        reader.export(named, tmp_path / "b.tar", with_log=True)
    assert not (tmp_path / "b.tar").exists()


def test_to_a_moment_the_log_leads_from_the_base_before_and_the_models_are_of_the_run_after_it(
    based: House, tmp_path: Path
):
    told: list[str] = []
    reader = reader_of(based.store, based.plant, tmp_path, told)
    since = keep_base(based.store, based.plant, SEGMENTS[4], NOW + timedelta(hours=2), "another")

    def exported_before(hours: float, run: str | None = None) -> Sealed:
        target = tmp_path / f"{hours}.tar"
        moment = NOW + timedelta(hours=hours)
        return reader.export(run, target, with_log=True, before=moment)

    for hours, after, base in ((0, 0, 0), (0.5, 1, 0), (1.5, 2, 1), (2, 2, 2), (9, 2, 2)):
        assert exported_before(hours) == based.sealed[after]
        found = Archive(tmp_path / f"{hours}.tar")
        assert found.run == based.sealed[after].manifest.run
        assert found.since == (None if base == after else based.sealed[base].manifest.run)
        wanted = {*based.sealed[after].objects, *based.sealed[base].objects}
        assert found.sizes("runs/").keys() == wanted
        assert min(wal.names(found)) == wal.note_of(CLUSTER, SEGMENTS[2 * base])
        assert look(found, based.plant) == ()
    assert any(since.manifest.run in one and "passed over" in one for one in told)
    named = based.sealed[2].manifest.run
    earliest = rf"the earliest moment is {NOW.isoformat()}".replace("+", r"\+")
    with pytest.raises(StoreError, match=rf"has no base of {named} from before 2.*; {earliest}"):
        exported_before(1.6, named)
    with pytest.raises(StoreError, match=rf"has no base from before 2.*; {earliest}"):
        exported_before(-0.5)
    # Of a base whose own segment is not there no moment is one.
    spoilt = wal.note_of(CLUSTER, SEGMENTS[0])
    (based.root / spoilt).unlink()
    later = (NOW + timedelta(hours=1)).isoformat().replace("+", r"\+")
    with pytest.raises(StoreError, match=rf"the earliest moment is {later}"):
        exported_before(-0.5)


NOT_THERE = str(wal.Segment.named(SEGMENTS[-1], SEGMENT_BYTES).next)


def test_of_runs_that_share_a_base_the_first_after_the_moment_goes_along_and_no_other_base(
    based: House, tmp_path: Path
):
    plant, before = based.plant, based.sealed[2]
    for hours in (3, 4, 5):
        run = Run(based.store, plant.maker, NOW + timedelta(hours=hours))
        run.take_over(before.manifest.artefacts[0], before)
        run.keep("models.tar", Kind.MODELS, io.BytesIO(b"models %d" % hours), {})
        based.sealed.append(run.seal({}, plant.verify, run.started_at))
    reader = reader_of(based.store, plant, tmp_path, [])
    moment = NOW + timedelta(hours=3.5)
    exported = reader.export(None, tmp_path / "a.tar", with_log=True, before=moment)
    assert exported == based.sealed[4]
    found = Archive(tmp_path / "a.tar")
    assert (found.run, found.since) == (exported.manifest.run, None)
    assert look(found, plant) == ()


def test_a_base_with_which_the_log_of_an_archive_begins_is_missed_and_looked_into(
    based: House, tmp_path: Path
):
    target, plant = tmp_path / "a.tar", based.plant
    told: list[str] = []
    reader = reader_of(based.store, plant, tmp_path, told)
    reader.export(None, target, with_log=True, before=NOW + timedelta(hours=1.5))
    (base,) = based.sealed[1].objects
    content = target.read_bytes()
    with tarfile.open(target) as opened:
        at = opened.getmember(base).offset_data
    target.write_bytes(content[:at] + b"x" + content[at + 1 :])
    assert [name for name, _ in look(Archive(target), plant)] == [base]
    target.write_bytes(content)

    def found_without(name: str) -> tuple[Finding, ...]:
        with tarfile.open(target) as opened, tarfile.open(tmp_path / "less.tar", "w") as made:
            for member in opened:
                if member.name != name:
                    made.addfile(member, opened.extractfile(member))
        return look(Archive(tmp_path / "less.tar"), plant)

    assert found_without(base) == ((base, "is missing"),)
    assert found_without("base") == ((base, "belongs to no run; nobody of us put it there"),)
    found = Archive(target)
    found.since = "another"
    assert ("runs/another", "is promised by no manifest that can be read") in look(found, plant)


def test_where_the_run_after_a_moment_has_no_log_yet_the_models_are_of_the_one_before(
    based: House, tmp_path: Path
):
    at, told = NOW + timedelta(hours=3), list[str]()
    newer = keep_base(based.store, based.plant, SEGMENTS[6], at, end=NOT_THERE)
    reader = reader_of(based.store, based.plant, tmp_path, told)
    moment = NOW + timedelta(hours=2.5)
    exported = reader.export(None, tmp_path / "a.tar", with_log=True, before=moment)
    assert exported == based.sealed[2]
    (why,) = [one for one in told if newer.manifest.run in one]
    assert why.startswith(f"models and fleets come from {exported.manifest.run}, number 3")
    assert look(Archive(tmp_path / "a.tar"), based.plant) == ()


def test_of_a_base_whose_end_is_not_archived_nothing_goes_along_with_the_log(
    based: House, tmp_path: Path
):
    newer = keep_base(
        based.store, based.plant, SEGMENTS[6], NOW + timedelta(hours=3), end=NOT_THERE
    )
    reader = reader_of(based.store, based.plant, tmp_path, [])
    assert reader.export(None, tmp_path / "a.tar", with_log=True) == based.sealed[2]
    later = NOW + timedelta(hours=9)
    assert reader.export(None, tmp_path / "b.tar", with_log=True, before=later) == based.sealed[2]
    named = newer.manifest.run
    with pytest.raises(StoreError, match=rf"has no log that leads on from the base of {named}"):
        reader.export(named, tmp_path / "c.tar", with_log=True)
    spoil(based.store, wal.note_of(CLUSTER, SEGMENTS[7]))
    with pytest.raises(StoreError, match=rf"has no log that leads on from the base of {named}"):
        reader.export(named, tmp_path / "c.tar", with_log=True)


def test_to_the_end_of_a_base_whose_end_is_not_archived_nothing_leads(based: House, tmp_path: Path):
    earlier = NOW - timedelta(hours=1)
    keep_base(based.store, based.plant, SEGMENTS[0], earlier, end=NOT_THERE)
    reader = reader_of(based.store, based.plant, tmp_path, [])
    told = rf"the earliest moment is {NOW.isoformat()}".replace("+", r"\+")
    with pytest.raises(StoreError, match=told):
        reader.export(None, tmp_path / "a.tar", with_log=True, before=earlier)


def test_a_line_goes_on_without_the_base_whose_end_is_not_archived(based: House, tmp_path: Path):
    at = NOW + timedelta(hours=3)
    newer = keep_base(based.store, based.plant, SEGMENTS[6], at, end=NOT_THERE)
    store = FolderStore(tmp_path / "new")
    keys = based.plant.verify
    adopt(store, based.store, newer, keys, based.plant.maker.signing_key)
    assert runs.there(store, keys) == []
    assert len(runs.every(store, keys)) == 4


def pem_of(plant: Keys) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return plant.verify[0].public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
