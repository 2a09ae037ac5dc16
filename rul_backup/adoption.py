"""A new machine's store goes on with the line of manifests of the one that was lost.

What belongs here: that. What does not: restoring what a run kept (``live``), bringing backups
beyond the machine (``offsite``).

After a loss the new machine's store is empty, and a line that began anew would be another's to
whoever knows the old one. Where the new machine has begun one all the same, the old one is made
ready beside it, and takes its place once all else is restored.
"""

import itertools
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rul_backup import runs, swapping, wal
from rul_backup.manifest import Lost
from rul_backup.runs import Sealed
from rul_backup.stores import LEAVING, LEFT, FolderStore, Shelf, Store
from rul_backup.streams import copied
from rul_core.errors import StoreError
from rul_store import files

_KINDS = (wal.WAL, runs.RUNS, runs.GONE, runs.LOST, runs.MANIFESTS)
"""In the order in which they move: what promises comes last."""


class AnotherLine(StoreError):
    """A store has runs of a line of its own, or whoever makes and sweeps them is at work there."""


def adopt_or_stage(
    store: FolderStore,
    shelf: Shelf,
    run: Sealed,
    keys: Sequence[Ed25519PublicKey],
    key: Ed25519PrivateKey,
    *,
    spare_bytes: float = 0,
) -> int:
    """Let a store go on with a line of manifests, or make that ready beside its own.

    Also beside an empty one: what is sealed in that until the exchange is none of the line. Beside
    is nothing before (``unstage``).

    Args:
        store: See ``adopt``; so are the others.
        shelf: See there.
        run: See there.
        keys: See there.
        key: See there.
        spare_bytes: See there.

    Returns:
        How many manifests there are more.

    Raises:
        StoreError: See ``adopt``; nothing is beside then.
    """
    store.refuse_half()
    try:
        if runs.names(store):
            with suppress(AnotherLine):
                return adopt(store, shelf, run, keys, key, spare_bytes=spare_bytes)
        return adopt(_beside(store), shelf, run, keys, key, spare_bytes=spare_bytes)
    except BaseException as error:
        unstage(store)
        if isinstance(error, OSError):
            raise StoreError(f"{store} cannot be written: {error}") from error
        raise


def exchange(store: FolderStore, run: str) -> Path | None:
    """Put all that a store has aside, for the line beside it; asked again it goes on.

    Manifests move last, of its own the newest first, of the other the oldest: those that are there
    are the beginning of one of the two at each moment.

    Args:
        store: Which. Until it is done it refuses all others who put or take anything.
        run: By which the folder is called into which its own goes.

    Returns:
        That folder; none where nothing was beside it, or it had nothing.

    Raises:
        StoreError: It cannot be moved.
    """
    beside, aside = _beside(store), None
    if not beside.root.exists():
        return None
    # Not in the folder beside, since that is removed where a restore is given up.
    leaving, left = FolderStore(store.root / LEAVING), store.root / LEFT
    try:
        with store.alone(exchanging=True):
            if runs.names(beside):
                if not left.exists():
                    files.make_folder(leaving.root)
                    for kind in _KINDS:
                        for name in reversed(store.sizes(f"{kind}/")):
                            store.move(name, leaving)
                    leaving.root.rename(left)
                for kind in _KINDS:
                    for name in beside.sizes(f"{kind}/"):
                        beside.move(name, store)
            if left.exists():
                if any(left.iterdir()):
                    aside = _free(store.root / f"{swapping.BEFORE}{run}")
                    left.rename(aside)
                else:
                    left.rmdir()
    except OSError as error:
        raise StoreError(
            f"what {store} has cannot be exchanged for the line beside it, {beside}: {error}"
        ) from error
    unstage(store)
    os.sync()  # or a power cut might keep that it is done, and not what was done
    return aside


def unstage(store: FolderStore) -> None:
    """Remove the line beside that of a store, or else it would take a place that it has not.

    Raises:
        StoreError: It cannot be removed.
    """
    beside = _beside(store).root
    try:
        if beside.exists():
            shutil.rmtree(beside)
    except OSError as error:
        raise StoreError(f"{beside} cannot be removed: {error}; remove it by hand") from error


def aside(store: FolderStore) -> list[Path]:
    """Folders of lines in whose place others are now."""
    return sorted(store.root.glob(f"{swapping.BEFORE}*"))


def _free(path: Path) -> Path:
    """A path at which nothing is; that one, or with a number after it."""
    numbered = (path.with_name(f"{path.name}.{count}") for count in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())


def _beside(store: FolderStore) -> FolderStore:
    return FolderStore(store.root / swapping.STAGED)


def adopt(
    store: FolderStore,
    shelf: Shelf,
    run: Sealed,
    keys: Sequence[Ed25519PublicKey],
    key: Ed25519PrivateKey,
    *,
    spare_bytes: float = 0,
) -> int:
    """Let a store go on with the line of manifests that a run stands in elsewhere.

    The run's artefacts are brought, and the log that leads on from its base. Where that log is not
    there, as in an archive without one, the run is let go here like all others: the next one keeps
    everything anew.

    Args:
        store: Goes on, where it has nothing or the beginning of the line.
        shelf: Has the line.
        run: Whose artefacts are brought.
        keys: Of our signatures.
        key: Signs that the others are let go here.
        spare_bytes: For which there must be room besides.

    Returns:
        How many manifests it has more; none where it has the newest of the line.

    Raises:
        AnotherLine: It has one of its own, or somebody who is at work there goes on with it.
        StoreError: There is too little room, or a manifest or an artefact is damaged, or cannot be
            written. Asked again it goes on where it broke off.
    """
    refuse_another(store, shelf, keys)
    line, words = runs.every(shelf, keys), runs.given_up(shelf, keys)
    here = [one.manifest.number for one in runs.every(store, keys)]
    # The words of that line come before its manifests, also where it broke off then.
    last = max([*here, *(runs.given_up(store, keys).keys() - words.keys())], default=0)
    newer = [one for one in line if one.manifest.number > last]
    if not newer:
        return 0
    log, problem = wal.from_base(shelf, keys, [run])
    if problem:
        raise StoreError(problem)
    stays, there, promised = wal.leads_on(run, log), {*store.sizes()}, set[str]()
    if stays:
        promised = {*run.objects, *(name for one in log for name in (one.content, one.object))}
        wanted = promised - there
        needed = spare_bytes + sum(size for name, size in shelf.sizes().items() if name in wanted)
        files.require_room(store.root, needed, "going on with that line of backups")
        sums = {name: artefact.sums.stored_sha256 for name, artefact in run.objects.items()}
        for noted in log:
            sums |= {noted.content: noted.note.sums.stored_sha256, noted.object: noted.sha256}
        for name, sha256 in sums.items():
            if name in wanted:
                _bring(store, shelf, name, sha256)
    with store.alone():
        lost = [
            word
            for word in words.values()
            if runs.lost_of(word.number) not in there and word.number not in here
        ]
        for number in [one.manifest.number for one in newer] + [word.number for word in lost]:
            _refuse_new(store, number)
        for word in lost:
            runs.give_up(store, word, key)
    for one in newer:
        with store.alone():
            _refuse_new(store, one.manifest.number)
            if one.sha256 != run.sha256 or not stays:
                runs.say_gone(store, one, key)
            elif gone := sorted(name for name in promised if not store.has(name)):
                raise AnotherLine(f"{store}/{gone[0]}, which it kept, was removed meanwhile")
            _bring(store, shelf, one.object, one.sha256)
    return len(newer)


def _refuse_new(store: FolderStore, number: int) -> None:
    if store.has(manifest := runs.manifest_of(number)):
        raise AnotherLine(f"{store}/{manifest} came there meanwhile")


def refuse_another(store: Shelf, shelf: Shelf, keys: Sequence[Ed25519PublicKey]) -> None:
    """See that what can be read of two stores, of the same numbers, is the same.

    Raises:
        AnotherLine: It is not.
        Unavailable: A store does not answer.
    """
    here, elsewhere = _checksums(store, keys), _checksums(shelf, keys)
    for number in sorted(here.keys() & elsewhere.keys()):
        if here[number] != elsewhere[number]:
            raise AnotherLine(f"number {number} of {store} is another than that of {shelf}")


def _checksums(shelf: Shelf, keys: Sequence[Ed25519PublicKey]) -> dict[int, str]:
    """Of every manifest, also of those that were given up, by their numbers."""
    words = [one for one in runs.words_or_why(shelf, keys).values() if isinstance(one, Lost)]
    whole = runs.readable(shelf, runs.names(shelf), keys)
    return {one.number: one.sha256 for one in words} | {
        one.manifest.number: one.sha256 for one in whole
    }


def _bring(store: Store, shelf: Shelf, name: str, sha256: str) -> None:
    try:
        with shelf.reading(name) as content, store.putting(name) as stored:
            if copied(content, stored) != sha256:
                raise StoreError(
                    f"{shelf}/{name} is not what was written: its checksum differs; choose another "
                    "run"
                )
    except OSError as error:
        raise StoreError(f"{name} cannot be brought from {shelf} to {store}: {error}") from error
