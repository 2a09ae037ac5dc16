"""No damage of a store goes unnoticed, and each is named."""

import errno
import io
import os
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from rul_backup import runs, wal
from rul_backup.manifest import Kind
from rul_backup.runs import Run, Sealed
from rul_backup.sealing import SUFFIX
from rul_backup.stores import FolderStore
from rul_backup.verification import Finding, Level, Verification, read_again, verify
from rul_core.errors import StoreError

from .conftest import Keys, keys_in

START = datetime(2026, 11, 1, tzinfo=UTC)
NOW = START + timedelta(days=3)


class House(NamedTuple):
    """A store with some runs, and the keys to it."""

    root: Path
    store: FolderStore
    plant: Keys
    sealed: list[Sealed]

    def look(self, level: Level = Level.CONTENT, *, witnessed: bool = True) -> Verification:
        return verify(
            self.store,
            self.plant.verify,
            level,
            now=NOW,
            known=[one.known for one in self.sealed] if witnessed else (),
            identities=self.plant.identities,
        )


CLUSTER, SEGMENT_BYTES = "7713513085704746064", 4096
SEGMENTS = [
    *(f"000000010000000000000{number:03X}" for number in range(0xFD, 0x105)),
    "00000002.history",
    *(f"000000020000000000000{number:03X}" for number in range(0x105, 0x109)),
]
BASES = {0: SEGMENTS[3], 4: SEGMENTS[10]}
"""The segments with which they begin, by the run that keeps them."""


def archive_log(store: FolderStore, plant: Keys, spool: Path, chance: random.Random) -> None:
    """The log of a cluster that took a new timeline once."""
    history = f"1\t0/{0x105 * SEGMENT_BYTES + 80:X}\tno recovery target specified\n"
    archive = wal.ClusterLog(store, plant.maker, plant.verify, CLUSTER, SEGMENT_BYTES)
    spool.mkdir()
    for name in SEGMENTS:
        is_history = name.endswith(".history")
        content = history.encode() if is_history else chance.randbytes(SEGMENT_BYTES)
        (spool / name).write_bytes(content)
        archive.take(spool / name, now=START, reaches_at=START, history=history)


def house_in(root: Path, plant: Keys, count: int = 5, *, has_log: bool = True) -> House:
    store = FolderStore(root)
    sealed = []
    chance = random.Random(7)
    if has_log:
        archive_log(store, plant, root.with_name(f"{root.name}-spool"), chance)
    for number in range(count):
        at = START + timedelta(hours=number)
        run = Run(store, plant.maker, at)
        kinds = {"platform": Kind.POSTGRES, "dagster": Kind.DAGSTER, "models": Kind.MODELS}
        for name, kind in kinds.items():
            if number == 2 and kind is Kind.MODELS:  # of a run that goes
                run.take_over(sealed[1].manifest.artefacts[2], sealed[1])
                continue
            content = chance.randbytes(chance.randint(10, 3000))
            run.keep(f"{name}.data", kind, io.BytesIO(content), {})
        if has_log and number in BASES:
            facts = {"cluster": CLUSTER, "segment_bytes": SEGMENT_BYTES, "ended_at": f"{at}"}
            facts["start_segment"] = BASES[number]
            run.keep("base.tar", Kind.BASE, io.BytesIO(chance.randbytes(500)), facts)
        sealed.append(run.seal({"rul": "0.1.0"}, plant.verify, at, wal.heads(store, plant.verify)))
    runs.let_go(store, sealed[1], plant.maker.signing_key)
    runs.sweep(store, plant.verify, START + timedelta(hours=count))
    assert [name for name in wal.sweep(store, plant.verify) if wal.NOTE in name] == (
        [wal.note_of(CLUSTER, name) for name in SEGMENTS[:3]] if has_log else []
    )
    return House(root, store, plant, sealed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, plant: Keys) -> House:
    return house_in(tmp_path_factory.mktemp("store") / "backups", plant)


@pytest.fixture
def house(whole: House, tmp_path: Path) -> House:
    root = tmp_path / "backups"
    shutil.copytree(whole.root, root)
    return whole._replace(root=root, store=FolderStore(root))


def test_what_was_written_is_whole_at_every_level_with_and_without_a_witness(whole: House):
    for level in (Level.EXISTS, Level.STORED, Level.CONTENT):  # it is no real dump
        for witnessed in (True, False):
            found = whole.look(level, witnessed=witnessed)
            assert found.findings == ()
            assert (found.runs, found.objects) == (4, 4 * 3 + 2 + 5 + 1 + 2 * len(SEGMENTS[3:]))


# --- what can befall an object
def flip(path: Path, chance: random.Random, _: Path) -> set[Path]:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return {path}


def truncate(path: Path, chance: random.Random, _: Path) -> set[Path]:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])
    return {path}


def lengthen(path: Path, chance: random.Random, _: Path) -> set[Path]:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randint(1, 9)))
    return {path}


def delete(path: Path, chance: random.Random, _: Path) -> set[Path]:
    path.unlink()
    return {path}


def swap(path: Path, chance: random.Random, other: Path) -> set[Path]:
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)
    return {path, other}


def replay(path: Path, chance: random.Random, other: Path) -> set[Path]:
    path.write_bytes(other.read_bytes())
    return {path}


def duplicate(path: Path, chance: random.Random, _: Path) -> set[Path]:
    copy = path.with_name(f"copy-of-{path.name}")
    shutil.copyfile(path, copy)
    return {copy}


FAULTS = (flip, truncate, lengthen, delete, swap, replay, duplicate)
EACH = 60


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault_of_an_object_is_found_and_named(
    whole: House, tmp_path: Path, fault: Callable[[Path, random.Random, Path], set[Path]]
):
    chance = random.Random(FAULTS.index(fault))
    missed = []
    for number in range(EACH):
        root = tmp_path / str(number)
        shutil.copytree(whole.root, root)
        house = whole._replace(root=root, store=FolderStore(root))
        objects = sorted(house.store.sizes())
        # Every kind in turn: artefacts, manifests, words that a run went, PostgreSQL's log.
        kind = ("runs/", "manifests/", "gone/", "wal/")[number % 4]
        path = root / chance.choice([name for name in objects if name.startswith(kind)])
        others = [
            root / name for name in objects if (root / name).read_bytes() != path.read_bytes()
        ]
        same = [other for other in others if other.parts[-3:-1] == path.parts[-3:-1]] or others
        touched = fault(path, chance, chance.choice(same))
        if fault is delete and kind == "gone/":  # what it had let go is missing then
            touched = {root / name for name in house.sealed[1].objects.keys() - {*objects}}
        # A segment is judged by its note; where both are spoilt, it is the note that is named.
        notes = {one: one.with_name(one.name.replace(SUFFIX, wal.NOTE)) for one in touched}
        touched = {one for one, note in notes.items() if note == one or note not in touched}
        found = {root / finding.object for finding in house.look(Level.STORED).findings}
        if not touched or not touched <= found:
            missed.append((path.relative_to(root), touched, found))
    assert missed == []


def test_a_run_s_folder_under_another_s_name_is_found(house: House):
    first, second = (house.root / "runs" / house.sealed[n].manifest.run for n in (2, 3))
    first.rename(house.root / "aside")
    second.rename(first)
    (house.root / "aside").rename(second)
    found = {finding.object for finding in house.look(Level.STORED).findings}
    assert len(found) == 6


@pytest.mark.parametrize("kept", [0, 1, 3, 4])
def test_a_store_as_it_once_was_is_whole_in_itself_and_found_out_by_who_knows_more(
    tmp_path: Path, plant: Keys, kept: int
):
    house = house_in(tmp_path / "now", plant)
    for sealed in house.sealed[kept:]:
        shutil.rmtree(house.root / "runs" / sealed.manifest.run, ignore_errors=True)
        (house.root / sealed.object).unlink()
        (house.root / "gone" / f"{sealed.manifest.number:08d}").unlink(missing_ok=True)
    assert house.look(witnessed=False).findings == ()
    missing = {finding.object for finding in house.look().findings}
    assert missing == {sealed.object for sealed in house.sealed[kept:]}


@pytest.mark.parametrize("name", ["gone/2", "gone/000000002", "gone/two"])
def test_a_word_under_another_name_is_none(house: House, name: str):
    word = house.root / "gone" / "00000002"
    assert word.exists()
    (house.root / name).write_bytes(word.read_bytes())
    (finding,) = house.look().findings
    assert finding == (name, "is of another manifest than the one of that number")
    word.unlink()
    assert len(house.look().findings) > 1


def test_two_manifests_in_each_other_s_place_are_found(house: House):
    first, second = (house.root / house.sealed[n].object for n in (2, 4))
    swap(first, random.Random(0), second)
    found = house.look(Level.EXISTS).findings
    assert (house.sealed[2].object, "is the manifest of number 5") in found
    assert (house.sealed[4].object, "is the manifest of number 3") in found


def test_a_manifest_by_another_key_is_none_of_ours(house: House, tmp_path: Path):
    stranger = keys_in(tmp_path)
    found = verify(house.store, stranger.verify, Level.EXISTS, now=NOW).findings
    told = [f for f in found if f.object.startswith("manifests/")]
    assert len(told) == 5
    assert {f.problem for f in told} == {
        "it is not signed by this platform's key, or was changed afterwards"
    }


def test_a_run_that_is_at_work_is_no_damage_and_one_that_was_killed_is(house: House, plant: Keys):
    for age in (timedelta(hours=1), timedelta(hours=25)):
        run = Run(house.store, plant.maker, NOW - age)
        run.keep("postgres.data", Kind.POSTGRES, io.BytesIO(b"half"), {})
    (finding,) = house.look().findings
    assert finding.object.startswith("runs/20261102T230000Z")
    assert "never finished" in finding.problem
    (left,) = runs.left_behind(house.store, plant.verify, NOW)
    assert finding.object == left
    assert runs.sweep(house.store, plant.verify, NOW) == [left]
    assert house.look().findings == ()


def test_a_run_whose_going_was_cut_short_is_cleared_away_later(house: House, plant: Keys):
    last = house.sealed[3]
    runs.let_go(house.store, last, plant.maker.signing_key)
    assert house.look().findings == ()
    assert set(runs.left_behind(house.store, plant.verify, NOW)) == set(last.objects)
    assert set(runs.sweep(house.store, plant.verify, NOW)) == set(last.objects)
    assert house.store.sizes(f"runs/{last.manifest.run}/") == {}
    assert house.look().findings == ()


def test_while_a_manifest_is_missing_nothing_is_removed(house: House, plant: Keys):
    later, names = NOW + timedelta(days=9), runs.names(house.store)
    known = [sealed.known for sealed in house.sealed]
    for missing in [[name] for name in names] + [names]:
        contents = {name: (house.root / name).read_bytes() for name in missing}
        for name in missing:
            house.store.remove(name)
        there = house.store.sizes()
        with pytest.raises(StoreError, match=r"nothing is removed; `rul backup mend` says"):
            runs.sweep(house.store, plant.verify, later, known)
        if missing not in ([names[-1]], names):
            with pytest.raises(StoreError, match=missing[0]):
                wal.sweep(house.store, plant.verify)
        assert house.store.sizes() == there
        for name, content in contents.items():
            (house.root / name).parent.mkdir(exist_ok=True)
            (house.root / name).write_bytes(content)
    assert runs.left_behind(house.store, plant.verify, NOW, known) == []


def test_while_a_manifest_is_in_the_place_of_another_nothing_is_removed(
    house: House, plant: Keys, tmp_path: Path
):
    other = FolderStore(tmp_path / "other")
    for content in (b"a", b"b"):
        run = Run(other, plant.maker, NOW)
        run.keep("postgres.data", Kind.POSTGRES, io.BytesIO(content), {})
        second_elsewhere = run.seal({}, plant.verify, NOW)
    second = house.root / house.sealed[1].object
    for found, problem in (
        (house.root / house.sealed[0].object, "is the manifest of number 1"),
        (other.root / second_elsewhere.object, "does not follow the manifest before it"),
    ):
        second.write_bytes(found.read_bytes())
        there = house.store.sizes()
        with pytest.raises(
            StoreError, match=rf"manifests/00000002:? {problem}; .*`rul backup mend`"
        ):
            runs.sweep(house.store, plant.verify, NOW + timedelta(days=9))
        assert house.store.sizes() == there


def test_what_the_disk_does_not_give_is_not_promised_again_and_hinders_no_run(
    house: House, plant: Keys, monkeypatch: pytest.MonkeyPatch
):
    class BadSector(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    run, earlier = Run(house.store, plant.maker, START + timedelta(hours=80)), house.sealed[4]
    (artefact, *_) = earlier.manifest.artefacts
    assert run.may_take_over(artefact, earlier)
    monkeypatch.setattr(house.store, "reading", lambda _: io.BufferedReader(BadSector()))
    assert not run.may_take_over(artefact, earlier)


def test_what_a_run_took_over_stays_until_the_last_that_promises_it_goes(house: House, plant: Keys):
    shared = house.sealed[2].object_of(house.sealed[2].manifest.artefacts[2])
    assert shared in house.sealed[1].objects  # which was let go
    assert shared in house.store.sizes()
    later = Run(house.store, plant.maker, NOW)
    later.take_over(house.sealed[2].manifest.artefacts[2], house.sealed[2])
    newest = later.seal({}, plant.verify, NOW)
    for sealed in (house.sealed[0], *house.sealed[2:]):
        runs.let_go(house.store, sealed, plant.maker.signing_key)
    runs.sweep(house.store, plant.verify, NOW)
    assert house.store.sizes("runs/").keys() == {shared}
    assert house.look(Level.CONTENT).findings == ()
    runs.let_go(house.store, newest, plant.maker.signing_key)
    runs.sweep(house.store, plant.verify, NOW)
    assert house.store.sizes("runs/") == {}


def test_a_run_whose_part_went_meanwhile_is_not_sealed(house: House, plant: Keys):
    run = Run(house.store, plant.maker, NOW)
    run.take_over(house.sealed[3].manifest.artefacts[2], house.sealed[3])
    runs.let_go(house.store, house.sealed[3], plant.maker.signing_key)
    runs.sweep(house.store, plant.verify, NOW)
    with pytest.raises(StoreError, match=r"models\.data\.zst\.age is not there as it was written"):
        run.seal({}, plant.verify, NOW)


@pytest.mark.parametrize("name", ["runs/copy/a", "runs/20990101T000000Z-aaaaaa/a", "stray"])
def test_what_nobody_of_us_put_there_is_told_and_never_removed(house: House, name: str):
    (house.root / name).parent.mkdir(exist_ok=True)
    (house.root / name).write_bytes(b"x")
    (finding,) = house.look().findings
    assert finding == (name, "belongs to no run; nobody of us put it there")
    assert runs.left_behind(house.store, house.plant.verify, NOW) == []


def test_a_dump_that_decrypts_to_something_else_is_found_where_only_its_content_shows_it(
    house: House, plant: Keys
):
    # The same size and checksum cannot be made; a manifest that says another plain sum can.
    run = Run(house.store, plant.maker, NOW)
    kept = run.keep("postgres.data", Kind.POSTGRES, io.BytesIO(b"true"), {})
    run._artefacts[0] = msgspec.structs.replace(
        kept, sums=msgspec.structs.replace(kept.sums, plain_sha256="0" * 64)
    )
    run.seal({}, plant.verify, NOW)
    assert house.look(Level.STORED).findings == ()
    (finding,) = house.look(Level.CONTENT).findings
    assert finding.problem == "is not what was kept: its checksum differs"


@pytest.mark.parametrize("level", [Level.EXISTS, Level.STORED, Level.CONTENT])
def test_segments_that_are_missing_are_named_at_every_level(house: House, level: Level):
    gone = [SEGMENTS[at] for at in (5, 6, 11)]
    for name in gone:
        (house.root / wal.note_of(CLUSTER, name)).unlink()
        (house.root / wal.object_of(CLUSTER, name)).unlink()
    found = {finding.object for finding in house.look(level).findings}
    assert {wal.note_of(CLUSTER, name) for name in gone} <= found


@pytest.mark.parametrize("level", [Level.EXISTS, Level.STORED])
def test_a_damaged_note_beside_a_hole_is_named_itself(house: House, level: Level):
    for name in (wal.note_of(CLUSTER, SEGMENTS[5]), wal.object_of(CLUSTER, SEGMENTS[5])):
        (house.root / name).unlink()
    damaged = wal.note_of(CLUSTER, SEGMENTS[4])
    (house.root / damaged).write_bytes(b"x" + (house.root / damaged).read_bytes()[1:])
    told = "it is not signed by this platform's key, or was changed afterwards"
    assert (damaged, told) in house.look(level).findings


def test_the_newest_run_is_found_also_where_an_older_manifest_is_damaged(house: House):
    (house.root / house.sealed[0].object).write_bytes(b"x")
    assert runs.newest_there(house.store, house.plant.verify) == house.sealed[4]
    runs.let_go(house.store, house.sealed[4], house.plant.maker.signing_key)
    assert runs.newest_there(house.store, house.plant.verify) == house.sealed[3]


def test_what_is_removed_while_it_is_listed_is_not_there(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    gone = next(iter(house.sealed[3].objects))
    there = house.store.sizes("runs/")
    true = os.walk

    def walk(top, **how):
        for found in true(top, **how):
            (house.root / gone).unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(os, "walk", walk)
    assert house.store.sizes("runs/").keys() == there.keys() - {gone}


@pytest.mark.parametrize("level", [Level.EXISTS, Level.STORED, Level.CONTENT])
def test_the_end_of_the_log_is_missed_by_whoever_has_the_manifests(house: House, level: Level):
    for name in SEGMENTS[-2:]:
        (house.root / wal.note_of(CLUSTER, name)).unlink()
        (house.root / wal.object_of(CLUSTER, name)).unlink()
    (finding,) = house.look(level).findings
    assert finding == (wal.note_of(CLUSTER, SEGMENTS[-1]), "is missing; a manifest knows of it")


def test_the_segment_with_which_a_base_begins_is_missed(house: House):
    for name in (wal.note_of(CLUSTER, SEGMENTS[3]), wal.object_of(CLUSTER, SEGMENTS[3])):
        (house.root / name).unlink()
    (finding,) = house.look().findings
    assert finding.object == wal.note_of(CLUSTER, SEGMENTS[3])
    assert "with it begins the base of" in finding.problem


def test_the_segment_in_which_a_base_ended_is_missed_once_it_is_late(house: House, plant: Keys):
    run = Run(house.store, plant.maker, NOW)
    end = str(wal.Segment.named(SEGMENTS[-1], SEGMENT_BYTES).next)
    facts = {
        "cluster": CLUSTER, "segment_bytes": SEGMENT_BYTES, "ended_at": NOW.isoformat(),
        "start_segment": SEGMENTS[-1], "end_segment": end,
    }  # fmt: skip
    run.keep("base.tar", Kind.BASE, io.BytesIO(b"base"), facts)
    kept = run.seal({}, plant.verify, NOW).manifest.run

    def look(minutes: float) -> tuple[Finding, ...]:
        now = NOW + timedelta(minutes=minutes)
        return verify(house.store, plant.verify, Level.STORED, now=now).findings

    assert look(59) == ()
    missing = f"is missing; in it ended the base of {kept}"
    assert look(61) == (Finding(wal.note_of(CLUSTER, end), missing),)
    path = house.root.parent / end
    path.write_bytes(bytes(SEGMENT_BYTES))
    wal.ClusterLog(house.store, plant.maker, plant.verify, CLUSTER, SEGMENT_BYTES).take(
        path, now=NOW
    )
    assert look(61) == ()


@pytest.mark.parametrize("level", [Level.EXISTS, Level.STORED, Level.CONTENT])
def test_a_base_from_before_the_log_began_is_no_damage_once_there_is_another(
    house: House, plant: Keys, level: Level
):
    last = wal.Segment.named(SEGMENTS[-1], SEGMENT_BYTES)
    first, lost, later = (str(last._replace(number=last.number + n)) for n in (4, 7, 9))
    archive = wal.ClusterLog(house.store, plant.maker, plant.verify, CLUSTER, SEGMENT_BYTES)
    for name in (first, later):
        path = house.root.parent / name
        path.write_bytes(bytes(SEGMENT_BYTES))
        archive.take(path, now=NOW)
    told = []
    for start in (first, lost, later):
        run = Run(house.store, plant.maker, NOW)
        facts = {"cluster": CLUSTER, "segment_bytes": SEGMENT_BYTES, "ended_at": f"{NOW}"}
        run.keep("base.tar", Kind.BASE, io.BytesIO(b"base"), facts | {"start_segment": start})
        run.seal({}, plant.verify, NOW)
        told.append([finding.object for finding in house.look(level).findings])
    assert told[1:] == [[wal.note_of(CLUSTER, lost)], []]


def test_a_segment_that_is_being_sealed_is_no_damage_and_two_are(house: House):
    last = wal.Segment.named(SEGMENTS[-1], SEGMENT_BYTES)
    first, second = last.next, last.next.next
    (house.root / wal.object_of(CLUSTER, str(first))).write_bytes(b"half")
    assert house.look().findings == ()
    (house.root / wal.object_of(CLUSTER, str(second))).write_bytes(b"half")
    (finding,) = house.look().findings
    assert finding.object == wal.note_of(CLUSTER, str(second))


def test_a_log_that_begins_anew_is_told_until_there_is_a_base_since(house: House, plant: Keys):
    archive = wal.ClusterLog(house.store, plant.maker, plant.verify, CLUSTER, SEGMENT_BYTES)
    last = wal.Segment.named(SEGMENTS[-1], SEGMENT_BYTES)
    for number in (4, 5):
        path = house.root.parent / str(last._replace(number=last.number + number))
        path.write_bytes(bytes(SEGMENT_BYTES))
        archive.take(path, now=NOW, history="")
    (finding,) = house.look().findings
    assert "3 segments after" in finding.problem
    assert "no base has been kept since" in finding.problem
    run = Run(house.store, plant.maker, NOW)
    facts = {"cluster": CLUSTER, "segment_bytes": SEGMENT_BYTES, "ended_at": f"{NOW}"}
    facts["start_segment"] = path.name
    run.keep("base.tar", Kind.BASE, io.BytesIO(b"base"), facts)
    run.seal({}, plant.verify, NOW)
    assert house.look().findings == ()


def test_what_no_base_needs_goes_with_the_last_run_that_promised_one(house: House, plant: Keys):
    runs.let_go(house.store, house.sealed[0], plant.maker.signing_key)
    runs.sweep(house.store, plant.verify, NOW)
    assert house.look().findings == ()
    went = wal.sweep(house.store, plant.verify)
    assert len(went) == 2 * (len(SEGMENTS[3:10]) - 1)  # the history stays
    assert house.look().findings == ()
    assert min(wal.names(house.store)) == wal.note_of(CLUSTER, "00000002.history")
    found = list(wal.following(house.store, plant.verify, CLUSTER, since=SEGMENTS[10]))
    assert [noted.note.segment for noted in found] == SEGMENTS[10:]


# --- reading again, a part at a time
def test_in_parts_everything_is_read_again_before_anything_is_read_twice(
    whole: House, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []
    reading = FolderStore.reading

    def noted(store: FolderStore, name: str):
        if name.endswith(".age"):
            read.append(name)
        return reading(store, name)

    monkeypatch.setattr(FolderStore, "reading", noted)
    every = {name for name in whole.store.sizes() if name.endswith(".age")}
    until, parts = "", 0
    while len(read) < len(every):
        found = read_again(whole.store, whole.plant.verify, 1 / 7, after=until)
        assert found.findings == ()
        assert found.bytes >= sum(whole.store.sizes()[name] for name in every) / 7
        until, parts = found.until, parts + 1
    assert set(read[: len(every)]) == every
    assert 1 < parts <= 7
    assert len(every) > 7
    assert read_again(whole.store, whole.plant.verify, 0).objects == 1  # at least


@pytest.mark.parametrize("folder", ["runs", "wal"])
def test_what_was_found_damaged_is_read_every_time_until_it_is_mended(house: House, folder: str):
    first = min(name for name in house.store.sizes(f"{folder}/") if name.endswith(".age"))
    whole, path = house.store.sizes(), house.root / first
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    keys = house.plant.verify
    found = read_again(house.store, keys, 1)
    assert [one.object for one in found.findings] == [first]
    assert found.objects == len([name for name in whole if name.endswith(".age")])
    for _ in range(2):
        later = read_again(house.store, keys, 0, after=first, again=[first])
        assert later.findings == found.findings
        assert (later.objects, later.until > first) == (1, True)
    path.write_bytes(content)
    assert read_again(house.store, keys, 0, after=first, again=[first, "gone"]).findings == ()


def test_an_object_of_the_log_whose_note_is_damaged_is_told(house: House):
    name = wal.object_of(CLUSTER, SEGMENTS[-1])
    (house.root / wal.note_of(CLUSTER, SEGMENTS[-1])).write_bytes(b"x")
    (found,) = read_again(house.store, house.plant.verify, 1).findings
    assert found.object == name
    assert found.problem.startswith("has a note that cannot be read: ")


def test_an_object_of_a_run_that_is_missing_is_told(house: House):
    name = next(iter(house.sealed[0].objects))
    (house.root / name).unlink()
    assert read_again(house.store, house.plant.verify, 1).findings == ((name, "is missing"),)
