"""Segments of a log and their notes: what is added, what is refused, what leads to a moment."""

import inspect
import io
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from rul_backup import drill, recovery, wal
from rul_backup.archiving import IN_FLIGHT, Archiver, Sample, _Server
from rul_backup.manifest import Kind
from rul_backup.runs import Maker, Run, Sealed
from rul_backup.stores import LEAVING, FolderStore
from rul_backup.wal import AnotherLog, ClusterLog, Segment
from rul_core.errors import StoreError
from rul_store import files

from .conftest import Keys

CLUSTER, SEGMENT_BYTES = "7", 4096
NOW = datetime(2026, 11, 29, 8, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "backups")


def name_of(number: int) -> str:
    return str(Segment(1, number, SEGMENT_BYTES))


def receive(folder: Path, number: int, content: bytes = b"x") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name_of(number)
    path.write_bytes(content * SEGMENT_BYTES)
    return path


def log_of(store: FolderStore, plant: Keys, maker: Maker | None = None) -> ClusterLog:
    return ClusterLog(store, maker or plant.maker, plant.verify, CLUSTER, SEGMENT_BYTES)


def keep_base(
    store: FolderStore, plant: Keys, number: int, size: int = 500, end: int | None = None
) -> Sealed:
    facts = {
        "cluster": CLUSTER, "segment_bytes": SEGMENT_BYTES, "ended_at": NOW.isoformat(),
        "start_segment": name_of(number), "server": 16,
    }  # fmt: skip
    if end is not None:
        facts["end_segment"] = name_of(end)
    run = Run(store, plant.maker, NOW)
    run.keep("base.tar", Kind.BASE, io.BytesIO(b"b" * size), facts)
    return run.seal({}, plant.verify, NOW)


def archiver_of(store: FolderStore, plant: Keys, spool: Path) -> Archiver:
    """One that is asked to seal what is in its spool, and reaches no server."""
    archiver = Archiver(store, plant.maker, plant.verify, "postgresql:///", spool)
    archiver._server = _Server(CLUSTER, SEGMENT_BYTES, 16)
    return archiver


def test_another_platforms_log_is_not_added_to(store: FolderStore, plant: Keys, tmp_path: Path):
    log_of(store, plant).take(receive(tmp_path / "spool", 1), now=NOW)
    before = store.sizes()
    with pytest.raises(StoreError, match=r"has the log of the platform plant, not of mill; give"):
        log_of(store, plant, plant.maker._replace(system="mill"))
    assert store.sizes() == before


def test_another_platforms_log_is_not_recovered_from(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    keep_base(store, plant, 1)
    other = log_of(store, plant, plant.maker._replace(system="mill"))
    noted = other.take(receive(tmp_path / "spool", 1), now=NOW)
    with pytest.raises(StoreError, match=rf"{noted.object} is of another platform, mill"):
        recovery.find(store, plant.verify, None)


def test_a_segment_that_is_received_once_more_must_be_the_one_that_is_sealed(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    spool = tmp_path / "spool" / CLUSTER
    for number in (1, 2):
        receive(spool, number)
    archiver_of(store, plant, tmp_path / "spool")._seal()
    sealed = store.sizes()
    receive(spool, 1)  # as before: an archiver was killed before it removed it
    archiver_of(store, plant, tmp_path / "spool")._seal()
    assert [path.name for path in spool.iterdir()] == [name_of(2)]
    receive(spool, 2, b"y")
    receive(spool, 3)
    with pytest.raises(
        StoreError, match=rf"{name_of(2)} is another than the segment of this name.*new timeline"
    ):
        archiver_of(store, plant, tmp_path / "spool")._seal()
    assert store.sizes() == sealed
    assert sorted(path.name for path in spool.iterdir()) == [name_of(2), name_of(3)]


def test_what_a_segment_reaches_is_known_also_where_it_could_not_be_sealed_at_once(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    receive(tmp_path / "spool" / CLUSTER, 1)
    archiver = archiver_of(store, plant, tmp_path / "spool")
    archiver._samples.append(Sample(NOW, SEGMENT_BYTES + 100, 1, "700:700:"))
    store.root.write_text("a folder no more")
    with pytest.raises(FileExistsError, match="backups"):
        archiver._seal()
    store.root.unlink()
    archiver._seal()
    (noted,) = wal.following(store, plant.verify, CLUSTER)
    assert noted.note.reaches_at == NOW - IN_FLIGHT
    assert archiver._sealed_snapshot == "700:700:"


def test_while_another_line_takes_its_place_the_archiver_waits_and_goes_on_with_what_came(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    other, spool = FolderStore(tmp_path / "other"), tmp_path / "spool" / CLUSTER
    log = log_of(other, plant)
    for number in (1, 2, 3):
        log.take(receive(tmp_path / "received", number), now=NOW)
    archiver = archiver_of(store, plant, tmp_path / "spool")
    receive(spool, 3)
    archiver._seal()
    before, leaving = store.sizes(), store.root / LEAVING
    leaving.mkdir()
    receive(spool, 4)
    with pytest.raises(StoreError, match="is being exchanged"):
        archiver._seal()
    assert store.sizes() == before
    (store.root / "wal").rename(leaving / "wal")
    with pytest.raises(StoreError, match="is being exchanged"):
        archiver._seal()
    shutil.copytree(other.root / "wal", store.root / "wal")
    leaving.rename(tmp_path / "aside")
    archiver._seal()
    noted = list(wal.following(store, plant.verify, CLUSTER))
    assert [one.note.number for one in noted] == [1, 2, 3, 4]
    assert noted[2] == log.newest
    assert noted[3].note.begins == ""


def test_what_was_sealed_into_a_line_that_left_is_sealed_into_the_one_that_came(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    other, spool = FolderStore(tmp_path / "other"), tmp_path / "spool" / CLUSTER
    log_of(other, plant).take(receive(tmp_path / "received", 1), now=NOW)
    archiver = archiver_of(store, plant, tmp_path / "spool")
    for number in (2, 3):
        receive(spool, number)
    archiver._seal()
    assert [path.name for path in spool.iterdir()] == [name_of(3)]
    shutil.rmtree(store.root / "wal")
    shutil.copytree(other.root / "wal", store.root / "wal")
    archiver._seal()
    noted = list(wal.following(store, plant.verify, CLUSTER))
    assert [one.note.segment for one in noted] == [name_of(1), name_of(3)]
    assert noted[1].note.begins == f"1 segments after {name_of(1)} were lost"


def test_what_came_after_the_newest_that_the_archiver_knows_is_not_written_over(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    archiver, spool = archiver_of(store, plant, tmp_path / "spool"), tmp_path / "spool" / CLUSTER
    receive(spool, 1)
    archiver._seal()
    log_of(store, plant).take(receive(tmp_path / "received", 2), now=NOW)
    there = {name: (store.root / name).read_bytes() for name in store.sizes()}
    receive(spool, 2)
    with pytest.raises(AnotherLog, match="came there since the log was read"):
        archiver._seal()
    archiver._seal()
    assert {name: (store.root / name).read_bytes() for name in store.sizes()} == there
    receive(spool, 3)
    archiver._seal()
    noted = list(wal.following(store, plant.verify, CLUSTER))
    assert [one.note.number for one in noted] == [1, 2, 3]


def test_a_segment_whose_note_came_and_cannot_be_read_is_not_written_over_either(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    archiver, spool = archiver_of(store, plant, tmp_path / "spool"), tmp_path / "spool" / CLUSTER
    receive(spool, 1)
    archiver._seal()
    log_of(store, plant).take(receive(tmp_path / "received", 2), now=NOW)
    content = (store.root / wal.object_of(CLUSTER, name_of(2))).read_bytes()
    note = store.root / wal.note_of(CLUSTER, name_of(2))
    note.unlink()
    note.mkdir()  # which nobody reads, whatever he may
    receive(spool, 2)
    with pytest.raises(AnotherLog, match="came there since the log was read"):
        archiver._seal()
    assert (store.root / wal.object_of(CLUSTER, name_of(2))).read_bytes() == content


def test_while_another_holds_the_store_the_archiver_seals_nothing(
    store: FolderStore, plant: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(inspect.unwrap(files.locked), "__kwdefaults__", {"timeout_seconds": 0.05})
    receive(tmp_path / "spool" / CLUSTER, 1)
    with store.alone(), pytest.raises(StoreError, match="has been locked by another process"):
        archiver_of(store, plant, tmp_path / "spool")._seal()
    assert store.sizes() == {}


def test_a_damaged_note_of_the_newest_segment_does_not_end_the_archiving(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    archiver, spool = archiver_of(store, plant, tmp_path / "spool"), tmp_path / "spool" / CLUSTER
    receive(spool, 1)
    archiver._seal()
    (store.root / wal.note_of(CLUSTER, name_of(1))).write_bytes(b"spoilt")
    receive(spool, 2)
    archiver._seal()
    assert wal.read(store, wal.note_of(CLUSTER, name_of(2)), plant.verify).note.number == 2


def test_started_anew_with_a_damaged_newest_note_it_names_it_and_goes_on_once_that_is_away(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    spool = tmp_path / "spool" / CLUSTER
    for number in (1, 2):
        receive(spool, number)
    archiver_of(store, plant, tmp_path / "spool")._seal()
    note = store.root / wal.note_of(CLUSTER, name_of(2))
    note.write_bytes(b"spoilt")
    receive(spool, 3)
    with pytest.raises(StoreError, match=note.name):
        archiver_of(store, plant, tmp_path / "spool")._seal()
    note.rename(tmp_path / note.name)
    (store.root / wal.object_of(CLUSTER, name_of(2))).rename(tmp_path / "content")
    archiver_of(store, plant, tmp_path / "spool")._seal()
    again, following = (
        wal.read(store, wal.note_of(CLUSTER, name_of(number)), plant.verify).note
        for number in (2, 3)
    )
    assert (again.number, again.begins) == (2, "")  # it was in the spool still
    assert (following.number, following.begins) == (3, "")


def test_a_log_of_which_nothing_was_there_is_another_once_something_is(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    log = log_of(store, plant)
    assert log.is_as_read()
    log_of(store, plant).take(receive(tmp_path, 1), now=NOW)
    assert not log.is_as_read()


def test_damage_after_a_moment_does_not_stand_in_its_way(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    keep_base(store, plant, 1)
    log = log_of(store, plant)
    notes = [
        log.take(receive(tmp_path / "spool", number), now=NOW,
                 reaches_at=NOW + timedelta(minutes=number))
        for number in (1, 2, 3)
    ]  # fmt: skip
    path = store.root / notes[2].object
    path.write_bytes(b"x" + path.read_bytes()[1:])
    way = recovery.find(store, plant.verify, NOW + timedelta(minutes=2))
    assert way.segments == notes[:2]
    for until in (NOW + timedelta(minutes=3), None):
        with pytest.raises(StoreError, match=rf"{path.name}: it is not signed .*; recover to 2026"):
            recovery.find(store, plant.verify, until)


@pytest.mark.parametrize("until", [None, NOW + timedelta(minutes=1), NOW + timedelta(hours=1)])
def test_no_moment_is_named_to_which_a_base_without_the_log_of_its_end_would_lead(
    store: FolderStore, plant: Keys, tmp_path: Path, until: datetime | None
):
    keep_base(store, plant, 1, end=2)
    log = log_of(store, plant)
    log.take(receive(tmp_path / "spool", 1), now=NOW, reaches_at=NOW + timedelta(minutes=2))
    assert not recovery.has_log(store, plant.verify)
    with pytest.raises(
        StoreError, match=rf"the segment {name_of(2)}, in which the base ended, is not archived"
    ) as told:
        recovery.find(store, plant.verify, until)
    assert "at the latest" not in str(told.value)
    log.take(receive(tmp_path / "spool", 2), now=NOW)
    assert recovery.has_log(store, plant.verify)
    assert len(recovery.find(store, plant.verify, None).segments) == 2


def test_moments_that_a_clock_that_was_ahead_makes_doubtful_are_refused_and_no_others(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    keep_base(store, plant, 1)
    log = log_of(store, plant)
    minutes = [1, 2, 1000, None, 4, 5]  # the third by a clock that was a day ahead
    notes = [
        log.take(
            receive(tmp_path / "spool", number), now=NOW,
            reaches_at=NOW + timedelta(minutes=minute) if minute else None,
        )
        for number, minute in enumerate(minutes, 1)
    ]  # fmt: skip
    told = [one.note.reaches_at and (one.note.reaches_at - NOW) / timedelta(minutes=1)
            for one in notes]  # fmt: skip
    assert told == [1, 2, 1000, 1000, 4, 5]
    assert wal.reached(notes) == NOW + timedelta(minutes=5)
    for minute, segments in ((1, 1), (2, 2)):
        way = recovery.find(store, plant.verify, NOW + timedelta(minutes=minute))
        assert way.segments == notes[:segments]
    for minute in (2.5, 3, 4.5, 6):
        with pytest.raises(StoreError, match=r"the server's clock was set back by 0.*5, from 2"):
            recovery.find(store, plant.verify, NOW + timedelta(minutes=minute))
    assert recovery.find(store, plant.verify, None).segments == notes
    with pytest.raises(StoreError, match=r"the newest archived segment is"):
        recovery.find(store, plant.verify, NOW + timedelta(minutes=1001))


def test_a_damaged_manifest_of_another_run_does_not_stand_in_the_way_of_a_moment(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    for _ in range(3):
        keep_base(store, plant, 1)
    log_of(store, plant).take(receive(tmp_path / "spool", 1), now=NOW)
    path = store.root / "manifests" / "00000002"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    told = []
    way = recovery.find(store, plant.verify, None, lambda what, _: told.append(what))
    assert way.sealed.manifest.number in {1, 3}
    (passed_over,) = told
    assert passed_over.startswith(f"passed over: {path}: it is not signed by")
    assert recovery.has_log(store, plant.verify)


def test_a_new_base_is_kept_where_a_note_is_damaged(
    store: FolderStore, plant: Keys, tmp_path: Path
):
    run, log = keep_base(store, plant, 1), log_of(store, plant)
    notes = [log.take(receive(tmp_path / "spool", number), now=NOW) for number in (1, 2, 3)]

    def is_of_today() -> bool:
        return recovery.is_base_of_today(
            store, plant.verify, run, cluster=CLUSTER, now=NOW + timedelta(hours=1)
        )

    assert is_of_today()
    before = NOW - timedelta(hours=1)  # while the clock was ahead
    assert not recovery.is_base_of_today(store, plant.verify, run, cluster=CLUSTER, now=before)
    path = store.root / notes[1].object
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert not is_of_today()


def test_too_little_room_to_recover_is_found_before_anything_is_brought(
    store: FolderStore, plant: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keep_base(store, plant, 1, size=3_000_000)
    log = log_of(store, plant)
    for number in (1, 2):
        log.take(receive(tmp_path / "spool", number), now=NOW)
    into = tmp_path / "back" / "data"

    def recover(free_bytes: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))
        recovery.recover(store, plant.verify, plant.identities, None, into)

    def brought(*_: object) -> None:
        raise StoreError("it is brought")

    monkeypatch.setattr(drill, "bring", brought)
    with pytest.raises(StoreError, match="back has 6 MB free, and recovering into data needs 6; m"):
        recover(5_999_999)
    assert [*into.parent.iterdir()] == []
    with pytest.raises(StoreError, match="it is brought"):
        recover(6_000_000)
