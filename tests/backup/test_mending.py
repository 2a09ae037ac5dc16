"""A manifest that is damaged or missing comes back, or is given up by a word of ours."""

import io
import random
import shutil
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from rul_backup import mending, offsite, runs, wal
from rul_backup.adoption import AnotherLine, adopt
from rul_backup.archive import Archive, export
from rul_backup.manifest import Kind, Lost
from rul_backup.mending import Fate
from rul_backup.runs import Run, Sealed, lost_of, manifest_of
from rul_backup.stores import FolderStore, Shelf
from rul_backup.verification import Level, verify
from rul_core.errors import StoreError
from rul_store.backup_rows import BackupRun

from .conftest import keys_in
from .s3 import S3, s3, s3_server
from .test_verification import (
    FAULTS,
    NOW,
    START,
    House,
    house,
    whole,
)

__all__ = ["house", "s3", "s3_server", "whole"]
NUMBERS = range(1, 6)
SURE = "once it is sure that nobody can read it any more, move it away"


def known(house: House) -> list[BackupRun]:
    return [one.known for one in house.sealed]


def mended(house: House, *, witnessed: bool = True, other: Shelf | None = None) -> dict[str, Fate]:
    """What became of what was planned; planned again, nothing is left but what cannot be mended."""
    keys, key = house.plant.verify, house.plant.maker.signing_key
    witness = known(house) if witnessed else ()
    found = mending.plan(house.store, keys, witness, other)
    mending.mend(house.store, keys, found, key)
    stays = [one for one in found if one.fate is Fate.STAYS]
    assert mending.plan(house.store, keys, witness, other) == stays
    return {one.object: one.fate for one in found}


def spoil(house: House, number: int, how: str) -> bytes:
    path = house.root / manifest_of(number)
    content = path.read_bytes()
    path.unlink()
    if how == "damaged":
        path.write_bytes(b"x" + content[1:])
    return content


def sealed_after(house: House, at_hours: int = 80) -> Sealed:
    run = Run(house.store, house.plant.maker, START + timedelta(hours=at_hours))
    run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"anew"), {})
    try:
        return run.seal({}, house.plant.verify, run.started_at, known=known(house))
    finally:
        run.discard()


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_whole_in_another_store_comes_back_as_it_was(
    whole: House, house: House, number: int, how: str
):
    content = spoil(house, number, how)
    assert house.look().findings != ()
    assert mended(house, other=whole.store) == {manifest_of(number): Fate.BACK}
    assert (house.root / manifest_of(number)).read_bytes() == content
    assert house.look().findings == ()
    assert house.store.sizes().keys() == whole.store.sizes().keys()


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_nowhere_is_given_up_and_pruning_goes_on(house: House, number: int, how: str):
    keys = house.plant.verify
    spoil(house, number, how)
    run = house.sealed[number - 1].manifest.run
    with pytest.raises(StoreError, match=rf"{manifest_of(number)}|has what {run} kept, and not"):
        runs.sweep(house.store, keys, NOW, known(house))
    assert mended(house) == {manifest_of(number): Fate.GIVEN_UP}
    others = [one for one in house.sealed if one.manifest.number != number]
    assert runs.whole_line(house.store, keys) == others
    runs.sweep(house.store, keys, NOW, known(house))
    wal.sweep(house.store, keys)
    assert house.look().findings == ()
    there = [one for one in others if one.manifest.number != 2]
    promised = {name for one in there for name in one.objects}
    assert house.store.sizes("runs/").keys() == promised


def test_nobody_needs_to_know_of_what_the_manifest_after_it_names(house: House):
    spoil(house, 3, "missing")
    assert mended(house, witnessed=False) == {manifest_of(3): Fate.GIVEN_UP}


@pytest.mark.parametrize(("lost", "stay"), [([5], [5]), ([3, 4], [3]), ([1, 2, 5], [5, 1])])
def test_what_nobody_knows_the_checksum_of_stays_and_the_others_are_given_up(
    house: House, lost: list[int], stay: list[int]
):
    for number in lost:
        spoil(house, number, "damaged")
    found = mended(house, witnessed=False)
    assert [name for name, fate in found.items() if fate is Fate.STAYS] == [*map(manifest_of, stay)]
    assert found.keys() == {*map(manifest_of, lost)}
    for number in stay:
        assert (house.root / manifest_of(number)).exists()
    (*_, last) = mending.plan(house.store, house.plant.verify)
    assert str(last) == (
        f"{manifest_of(stay[-1])} cannot be mended: neither the manifest after it nor the database "
        "knows its checksum; if it is none of this line, move it away"
    )


def test_what_is_what_was_written_and_cannot_be_read_is_not_given_up(
    whole: House, house: House, tmp_path: Path
):
    (tmp_path / "strangers").mkdir()
    strangers = keys_in(tmp_path / "strangers")
    there = house.store.sizes()
    for other in (None, whole.store):
        found = mending.plan(house.store, strangers.verify, known(house), other)
        assert [one.fate for one in found] == [Fate.STAYS] * 5
        assert "it is what was written, and yet it is not signed by this" in str(found[0])
    spoil(house, 3, "missing")
    (found, *_) = mending.plan(house.store, strangers.verify, known(house), whole.store)[2:]
    assert (found.object, found.fate) == (manifest_of(3), Fate.STAYS)  # beyond it is so
    assert house.store.sizes().keys() == there.keys() - {manifest_of(3)}


def test_what_is_there_and_may_not_be_read_is_not_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    reading = house.store.reading

    def refusing(name: str) -> AbstractContextManager[BinaryIO]:
        if name == manifest_of(3):
            raise StoreError(f"{name} cannot be read: Permission denied")
        return reading(name)

    monkeypatch.setattr(house.store, "reading", refusing)
    (found,) = mending.plan(house.store, house.plant.verify, known(house))
    assert found.fate is Fate.STAYS
    assert found.why.endswith(f"Permission denied; {SURE}")


def test_what_is_known_to_be_beyond_is_not_given_up_where_nobody_asks_there(
    whole: House, house: House
):
    keys, brought = house.plant.verify, known(house)[:3]
    for number in (3, 4):
        spoil(house, number, "missing")
    found = mending.plan(house.store, keys, known(house), None, brought)
    assert [(one.object, one.fate) for one in found] == [
        (manifest_of(4), Fate.GIVEN_UP), (manifest_of(3), Fate.STAYS),
    ]  # fmt: skip
    assert "beyond the machine, nobody has said where: see that RUL_BACKUP_OFFSITE" in found[1].why
    # Given up all the same by an older word, it comes back once that store is asked.
    mended(house)
    assert mended(house, other=whole.store) == dict.fromkeys(map(manifest_of, (4, 3)), Fate.BACK)
    assert house.store.sizes() == whole.store.sizes()
    assert house.look().findings == ()


def test_what_is_known_to_be_beyond_and_is_not_there_is_given_up_only_once_that_is_said(
    house: House, tmp_path: Path
):
    keys, nothing = house.plant.verify, FolderStore(tmp_path / "mistyped")
    spoil(house, 3, "missing")
    for other in (nothing, None):
        (found,) = mending.plan(house.store, keys, known(house), other, known(house))
        assert found.fate is Fate.STAYS
        assert "where it is lost there too, say so by `--lost-beyond`" in found.why
        (found,) = mending.plan(
            house.store, keys, known(house), other, known(house), lost_beyond=True
        )
        assert found.fate is Fate.GIVEN_UP
    assert (
        f"where {nothing} has it not"
        in mending.plan(house.store, keys, known(house), nothing, known(house))[0].why
    )


def test_what_was_given_up_and_partly_removed_is_let_go_as_it_comes_back(
    whole: House, house: House, tmp_path: Path
):
    far = FolderStore(tmp_path / "far")
    shutil.copytree(whole.root, far.root)
    keys, plant = house.plant.verify, house.plant
    run = Run(house.store, plant.maker, START + timedelta(hours=80))
    for artefact in house.sealed[4].manifest.artefacts:
        if artefact.kind is Kind.POSTGRES:
            run.keep(artefact.name, Kind.POSTGRES, io.BytesIO(b"anew"), {})
        else:
            run.take_over(artefact, house.sealed[4])
    sixth = run.seal({}, keys, run.started_at)
    knowing = house._replace(sealed=[*house.sealed, sixth])
    spoil(house, 5, "missing")
    mended(knowing)
    assert runs.sweep(house.store, keys, NOW, known(knowing)) != []
    assert mended(knowing, other=far) == {manifest_of(5): Fate.BACK_ALONE}
    assert knowing.look(Level.STORED).findings == ()


def test_a_run_that_is_sealed_while_it_is_looked_at_stays_and_nothing_is_changed(
    whole: House, house: House
):
    keys, key = house.plant.verify, house.plant.maker.signing_key
    few = house._replace(sealed=house.sealed[:3])
    for number in (4, 5):
        spoil(house, number, "missing")
        shutil.rmtree(house.root / "runs" / house.sealed[number - 1].manifest.run)
    found = mending.plan(house.store, keys, known(few), whole.store)
    assert [one.fate for one in found] == [Fate.BACK_ALONE] * 2
    sealed_after(few)
    there = house.store.sizes()
    with pytest.raises(StoreError, match=r"manifests/00000004 came there while it was looked at"):
        mending.mend(house.store, keys, found, key)
    assert house.store.sizes() == there


def test_a_manifest_that_the_disk_does_not_give_is_named_and_stops_nothing_else(
    whole: House, house: House, s3: S3
):
    keys, far = house.plant.verify, s3.store("sectors")
    spoil(house, 3, "missing")
    (house.root / manifest_of(3)).symlink_to("/proc/self/mem")  # reads as a sector that is gone
    (found,) = mending.plan(house.store, keys, known(house))
    assert (found.object, found.fate) == (manifest_of(3), Fate.STAYS)
    assert found.why == f"{house.root / manifest_of(3)} cannot be read: Input/output error; " + SURE
    assert (manifest_of(3), "Input/output error") in house.look().findings
    with pytest.raises(StoreError, match=r"manifests/00000003 cannot be read"):
        runs.sweep(house.store, keys, NOW, known(house))
    with pytest.raises(offsite.Spoilt, match=r"manifests/00000003 cannot be read"):
        offsite.bring(house.store, far, keys)
    assert {manifest_of(number) for number in (1, 2, 4, 5)} <= far.sizes().keys()
    assert mended(house, other=whole.store) == {manifest_of(3): Fate.BACK}


def test_what_a_word_alone_knows_is_given_up_by_that(house: House):
    keys = house.plant.verify
    for number in (2, 3):  # of the second, which was let go, there is a word
        spoil(house, number, "missing")
    assert mended(house, witnessed=False) == dict.fromkeys(map(manifest_of, (3, 2)), Fate.GIVEN_UP)
    runs.sweep(house.store, keys, NOW, known(house))
    assert house.look().findings == ()
    spoil(house, 5, "missing")
    mended(house)
    (house.root / manifest_of(5)).write_bytes(b"spoilt")
    few = house._replace(sealed=house.sealed[:4])
    with pytest.raises(StoreError, match=r"manifests/00000005: .* says what becomes of it"):
        sealed_after(few)
    assert mended(few) == {manifest_of(5): Fate.GIVEN_UP}
    assert sealed_after(few).manifest.number == 6
    runs.sweep(house.store, keys, NOW, known(few))


def test_what_is_no_manifest_and_what_lies_in_the_place_of_another_is_named(
    whole: House, house: House
):
    keys = house.plant.verify
    (house.root / "manifests" / "stray").write_bytes(b"x")
    for number in (6, 300_000):
        shutil.copy(house.root / manifest_of(3), house.root / manifest_of(number))
    stay = [manifest_of(300_000), manifest_of(6), "manifests/stray"]
    assert mended(house, other=whole.store) == dict.fromkeys(stay, Fate.STAYS)
    found = house.look().findings
    assert {*stay} <= {name for name, _ in found}
    assert len(found) < 1100
    for again in (lambda: sealed_after(house), lambda: runs.sweep(house.store, keys, NOW)):
        with pytest.raises(StoreError, match="`rul backup mend` says what becomes of it"):
            again()
    for name in stay:
        (house.root / name).unlink()
    assert house.look().findings == ()
    assert sealed_after(house).manifest.number == 6


def test_no_number_is_taken_again_where_the_database_does_not_know_all_of_those_before(
    whole: House, tmp_path: Path
):
    few = [one.known for one in whole.sealed if one.manifest.number in (1, 4, 5)]
    run = Run(FolderStore(tmp_path / "new"), whole.plant.maker, START + timedelta(hours=80))
    run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"anew"), {})
    assert run.seal({}, whole.plant.verify, run.started_at, known=few).manifest.number == 6


def test_where_one_was_given_up_here_the_line_goes_on_and_is_no_other(
    whole: House, house: House, tmp_path: Path
):
    keys, key = house.plant.verify, house.plant.maker.signing_key
    spoil(house, 3, "missing")
    mended(house)
    runs.sweep(house.store, keys, NOW, known(house))
    new = FolderStore(tmp_path / "new")
    shutil.copytree(house.root, new.root)
    assert adopt(new, whole.store, whole.sealed[4], keys, key) == 0
    few = house._replace(root=new.root, store=new)
    for number in (4, 5):
        spoil(few, number, "missing")
    assert adopt(new, whole.store, whole.sealed[4], keys, key) == 2
    assert few.look(Level.STORED).findings == ()
    # The other way round: a word of the other store is not given beside what is here.
    assert adopt(whole.store, house.store, whole.sealed[4], keys, key) == 0
    assert whole.look().findings == ()


def test_no_word_goes_beyond_where_the_manifest_is(house: House, s3: S3):
    keys, far = house.plant.verify, s3.store("beside")
    offsite.bring(house.store, far, keys)
    spoil(house, 4, "missing")
    mended(house)
    offsite.bring(house.store, far, keys)
    assert verify(far, keys, Level.STORED, now=NOW).findings == ()
    assert mended(house, other=far) == {manifest_of(4): Fate.BACK}
    assert house.look().findings == ()


def test_where_the_other_store_has_more_the_line_goes_on_after_that(whole: House, house: House):
    keys, few = house.plant.verify, house._replace(sealed=house.sealed[:3])
    for number in (4, 5):
        spoil(house, number, "missing")
    assert mending.plan(house.store, keys, known(few)) == []
    assert mended(few, other=whole.store) == dict.fromkeys(map(manifest_of, (5, 4)), Fate.BACK)
    assert sealed_after(few).manifest.number == 6


def test_what_does_not_follow_what_is_here_is_none_of_this_line(whole: House, house: House):
    keys, few = house.plant.verify, house._replace(sealed=house.sealed[:3])
    for number in (4, 5):
        spoil(house, number, "missing")
    own = sealed_after(few)
    assert own.manifest.number == 4
    knowing = [*known(few), own.known]
    for each in (knowing, known(few)):
        with pytest.raises(StoreError, match=r"00000004 is another than the one here: it has the"):
            mending.plan(house.store, keys, each, whole.store)
    # Nor does it come back when its place is free: the database knows whose that is.
    (house.root / own.object).unlink()
    (found,) = mending.plan(house.store, keys, knowing, whole.store)
    assert (found.object, found.fate) == (own.object, Fate.GIVEN_UP)
    assert found.sha256 == own.sha256


def test_a_line_of_its_own_is_not_written_over_whatever_the_database_or_the_other_store_has(
    whole: House, tmp_path: Path
):
    store, keys = FolderStore(tmp_path / "own"), whole.plant.verify
    own = whole._replace(root=store.root, store=store, sealed=[])
    for number in range(3):
        sealed_after(own, 100 + number)
    with pytest.raises(AnotherLine, match=r"number 1 of .* is another than that of "):
        adopt(store, whole.store, whole.sealed[4], keys, whole.plant.maker.signing_key)
    (store.root / manifest_of(3)).write_bytes(b"spoilt")
    there = store.sizes()
    with pytest.raises(StoreError, match=r"manifests/00000001.* the one that the database knows"):
        mending.plan(store, keys, known(whole))
    with pytest.raises(
        StoreError, match=r"another than the one here.*give this one a place of its"
    ):
        mending.plan(store, keys, (), whole.store)
    assert store.sizes() == there
    # In another folder the line of the database goes on, beside what comes back.
    anew = whole._replace(root=tmp_path / "anew", store=FolderStore(tmp_path / "anew"))
    assert sealed_after(anew).manifest.number == 6
    mended(anew, other=whole.store)
    assert anew.look().findings == ()


def test_one_that_the_next_does_not_follow_is_named_and_comes_back_once_it_is_moved_away(
    whole: House, house: House
):
    run = Run(FolderStore(house.root.with_name("other")), house.plant.maker, START)
    for number in range(3):
        at = START + timedelta(hours=number)
        run = Run(run._store, house.plant.maker, at)
        run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"forked"), {})
        forked = run.seal({}, house.plant.verify, at)
    third = house.root / manifest_of(3)
    third.write_bytes((house.root.with_name("other") / forked.object).read_bytes())
    (found,) = mending.plan(house.store, house.plant.verify, known(house))
    assert str(found) == (
        f"{manifest_of(3)} (of {forked.manifest.run}) cannot be mended: {manifest_of(4)}, which is "
        "there, does not follow it, and it is signed by us; move it away, and mend again"
    )
    assert mended(house, other=whole.store) == {manifest_of(3): Fate.STAYS}
    third.unlink()
    assert mended(house, other=whole.store) == {manifest_of(3): Fate.BACK}
    assert third.read_bytes() == (whole.root / manifest_of(3)).read_bytes()


def test_a_line_of_its_own_goes_on_by_its_own_numbers_whatever_a_restored_database_knows(
    whole: House, tmp_path: Path
):
    store, plant = FolderStore(tmp_path / "new"), whole.plant
    for number in (1, 2, 3):
        run = Run(store, plant.maker, START + timedelta(days=number))
        run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"new"), {})
        witness = known(whole) if number == 3 else ()
        sealed = run.seal({}, plant.verify, run.started_at, known=witness)
        assert sealed.manifest.number == number
    assert len(runs.whole_line(store, plant.verify)) == 3


def test_a_spoilt_word_stops_no_run_but_where_it_is_the_last(house: House):
    spoil(house, 3, "missing")
    mended(house)
    word = house.root / lost_of(3)
    word.write_bytes(b"spoilt")
    assert sealed_after(house).manifest.number == 6
    word.rename(house.root / lost_of(7))
    with pytest.raises(StoreError, match=r"lost/00000007: .* `rul backup mend` says what becomes"):
        sealed_after(house, 81)
    (word.with_name("stray")).write_bytes(b"spoilt")
    gone = {lost_of(7): Fate.WORD_GOES, "lost/stray": Fate.WORD_GOES}
    assert mended(house) == {manifest_of(3): Fate.GIVEN_UP, **gone}
    assert sealed_after(house, 81).manifest.number == 7


def test_many_that_follow_one_another_are_given_up_by_what_the_database_knows(house: House):
    for number in (2, 3, 4, 5):
        spoil(house, number, "missing")
    assert mended(house) == dict.fromkeys(map(manifest_of, (5, 4, 3, 2)), Fate.GIVEN_UP)
    runs.sweep(house.store, house.plant.verify, NOW, known(house))
    assert house.look().findings == ()


def test_the_line_goes_on_after_what_is_lost_and_never_takes_its_number(house: House):
    spoil(house, 5, "missing")
    after = sealed_after(house)
    assert after.manifest.number == 6
    assert after.manifest.previous_sha256 == house.sealed[4].sha256
    assert manifest_of(5) in {one.object for one in house.look().findings}
    assert mended(house) == {manifest_of(5): Fate.GIVEN_UP}
    without = house._replace(sealed=[])  # a database that was restored knows of fewer
    assert sealed_after(without, 81).manifest.number == 7
    runs.sweep(house.store, house.plant.verify, NOW + timedelta(days=3), known(house))
    assert house.look().findings == ()


def test_after_the_newest_was_given_up_the_line_goes_on_by_the_word_alone(house: House):
    spoil(house, 5, "missing")
    mended(house)
    after = sealed_after(house._replace(sealed=[]))
    assert (after.manifest.number, after.manifest.previous_sha256) == (6, house.sealed[4].sha256)
    runs.sweep(house.store, house.plant.verify, NOW, known(house))
    assert house.look().findings == ()


def test_what_was_given_up_and_is_found_after_all_is_there_again_and_missed_if_it_goes(
    whole: House, house: House
):
    content = spoil(house, 4, "missing")
    mended(house)
    (house.root / manifest_of(4)).write_bytes(content)
    ((name, problem),) = house.look().findings
    assert name == lost_of(4)
    assert problem.startswith("gives up manifests/00000004, which is there: `rul backup mend`")
    assert runs.whole_line(house.store, house.plant.verify) == house.sealed
    assert mended(house) == {lost_of(4): Fate.WORD_GOES}
    assert house.store.sizes() == whole.store.sizes()
    assert house.look().findings == ()
    (house.root / manifest_of(4)).unlink()
    assert house.look().findings != ()
    with pytest.raises(StoreError, match=manifest_of(4)):
        runs.sweep(house.store, house.plant.verify, NOW)


@pytest.mark.parametrize("level", [Level.EXISTS, Level.STORED])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_word_that_was_damaged_is_found_and_given_anew(house: House, fault, level: Level):
    for number in (3, 4):
        spoil(house, number, "missing")
    mended(house)
    runs.sweep(house.store, house.plant.verify, NOW, known(house))
    assert house.look(level).findings == ()
    one, other = (house.root / lost_of(number) for number in (3, 4))
    whole = [path.read_bytes() for path in (one, other)]
    spoilt = fault(one, random.Random(5), other)
    found = {name for name, _ in house.look(level).findings}
    for path in spoilt:
        name = path.relative_to(house.root).as_posix()
        assert found & {name, name.replace("lost", "manifests")}
    with pytest.raises(StoreError, match=r"0000000[34]"):
        runs.sweep(house.store, house.plant.verify, NOW, known(house))
    mended(house)
    assert house.look(level).findings == ()
    assert [path.read_bytes() for path in (one, other)] == whole


def test_a_word_of_another_manifest_is_found(house: House):
    keys, key = house.plant.verify, house.plant.maker.signing_key
    spoil(house, 3, "missing")
    runs.give_up(house.store, Lost(number=3, sha256=house.sealed[0].sha256), key)
    told = dict(house.look().findings)
    assert told[lost_of(3)] == f"is not of the manifest of {house.sealed[2].manifest.run}"
    assert told[manifest_of(4)] == "does not follow lost/00000003, which was changed"
    with pytest.raises(StoreError, match=r"manifests/00000004 does not follow"):
        runs.sweep(house.store, keys, NOW)
    assert mended(house) == {manifest_of(3): Fate.GIVEN_UP}
    runs.sweep(house.store, keys, NOW, known(house))
    assert house.look().findings == ()


def test_what_came_back_between_the_plan_and_its_doing_stays(whole: House, house: House):
    keys, key = house.plant.verify, house.plant.maker.signing_key
    content = spoil(house, 3, "missing")
    found = mending.plan(house.store, keys, known(house))
    (house.root / manifest_of(3)).write_bytes(content)
    mending.mend(house.store, keys, found, key)
    assert house.store.sizes() == whole.store.sizes()


class Killed(BaseException):
    """Ends whoever changes a store once too often."""


class Short(FolderStore):
    """A store whose user is killed at a change, before or in the midst of it."""

    left = 0

    def _count(self) -> None:
        self.left -= 1
        if not self.left:
            raise Killed

    @contextmanager
    def putting(self, name: str) -> Generator[BinaryIO]:
        self._count()
        with super().putting(name) as file:
            yield file
            self._count()

    def remove(self, name: str) -> None:
        self._count()
        super().remove(name)


def test_killed_at_any_change_it_goes_on_and_nothing_that_is_promised_has_gone(
    whole: House, house: House, tmp_path: Path
):
    keys, key = house.plant.verify, house.plant.maker.signing_key
    back = FolderStore(tmp_path / "elsewhere")
    with back.putting(manifest_of(4)) as file:
        file.write((whole.root / manifest_of(4)).read_bytes())
    for number, how in ((1, "damaged"), (3, "missing"), (4, "damaged")):
        spoil(house, number, how)
    there, changes = house.store.sizes("runs/"), 0
    for changes in range(1, 100):
        root = tmp_path / f"killed-{changes}"
        shutil.copytree(house.root, root)
        store = Short(root)
        store.left = changes
        try:
            mending.mend(store, keys, mending.plan(store, keys, known(house), back), key)
        except Killed:
            again = house._replace(root=root, store=FolderStore(root))
            mended(again, other=back)
            assert again.store.sizes("runs/") == there
            runs.sweep(again.store, keys, NOW, known(house))
            assert again.look().findings == ()
        else:
            break
    assert changes > 6


def test_in_a_new_store_the_line_goes_on_and_what_is_elsewhere_is_let_go_here(
    whole: House, tmp_path: Path
):
    new = whole._replace(root=tmp_path / "new", store=FolderStore(tmp_path / "new"))
    after = sealed_after(new)
    assert after.manifest.number == 6
    assert len(new.look().findings) == 2 * 5  # they are missing, and known elsewhere
    back = dict.fromkeys(map(manifest_of, range(5, 0, -1)), Fate.BACK_ALONE)
    assert mended(new, other=whole.store) == back
    assert new.look().findings == ()
    assert runs.there(new.store, new.plant.verify) == [after]
    assert runs.whole_line(new.store, new.plant.verify) == [*whole.sealed, after]


def test_what_is_beyond_and_cannot_be_asked_is_not_given_up(
    house: House, s3: S3, monkeypatch: pytest.MonkeyPatch
):
    far = s3.store("mending")
    offsite.bring(house.store, far, house.plant.verify)
    spoil(house, 3, "missing")
    there = house.store.sizes()
    with monkeypatch.context() as refusing:
        refusing.setattr(type(far), "_content", _refuses)
        with pytest.raises(StoreError, match="refuses"):
            mended(house, other=far)
    assert house.store.sizes() == there
    assert mended(house, other=far) == {manifest_of(3): Fate.BACK}
    assert house.look().findings == ()


def _refuses(*_: object) -> Generator[bytes]:
    raise StoreError("it refuses: access denied")
    yield b""


def test_a_word_goes_beyond_the_machine_into_archives_and_to_whoever_goes_on(
    house: House, tmp_path: Path, s3: S3
):
    keys, plant, far = house.plant.verify, house.plant, s3.store("words")
    spoil(house, 3, "missing")
    mended(house)
    runs.sweep(house.store, keys, NOW, known(house))
    offsite.bring(house.store, far, keys)
    assert verify(far, keys, Level.STORED, now=NOW, known=known(house)).findings == ()
    newest = house.sealed[4]
    export(far, newest, keys, tmp_path / "a.tar")
    found = Archive(tmp_path / "a.tar")
    assert verify(found, keys, Level.STORED, now=NOW, only=found.run).findings == ()
    new = FolderStore(tmp_path / "new")
    assert adopt(new, found, newest, keys, plant.maker.signing_key) == 4
    assert verify(new, keys, Level.STORED, now=NOW, known=known(house)).findings == ()
    assert adopt(new, found, newest, keys, plant.maker.signing_key) == 0


def test_runs_that_were_lost_with_a_machine_before_they_came_beyond_it_are_given_up(
    house: House, tmp_path: Path
):
    keys, key = house.plant.verify, house.plant.maker.signing_key
    (house.root / manifest_of(5)).unlink()  # what is beyond ends with the fourth
    export(house.store, house.sealed[3], keys, tmp_path / "a.tar")
    found, new = Archive(tmp_path / "a.tar"), FolderStore(tmp_path / "new")
    assert adopt(new, found, house.sealed[3], keys, key) == 4
    knowing = House(tmp_path / "new", new, house.plant, house.sealed)
    assert {name for name, _ in knowing.look(Level.STORED).findings} == {manifest_of(5)}
    lost = mending.give_up_newer(new, keys, known(house), key)
    assert [one.run for one in lost] == [house.sealed[4].manifest.run]
    assert knowing.look(Level.STORED).findings == ()
    assert mending.give_up_newer(new, keys, known(house), key) == []
    assert (
        mending.give_up_newer(FolderStore(tmp_path / "a"), keys, known(house), key, known(house))
        == []
    )
    assert sealed_after(knowing).manifest.number == 6
    assert knowing.look(Level.STORED).findings == ()
