"""A new machine's store goes on with the line of manifests of the one that was lost.

What belongs here: that. What does not: restoring what a run kept (``live``), bringing backups
beyond the machine (``offsite``).

After a loss the new machine's store is empty, and a line that began anew would be another's to
whoever knows the old one.
"""

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rul_backup import runs, wal
from rul_backup.runs import Sealed
from rul_backup.stores import FolderStore, Shelf, Store
from rul_backup.streams import copied
from rul_core.errors import StoreError
from rul_store import files


class AnotherLine(StoreError):
    """A store has runs of a line of its own."""


def adopt(
    store: FolderStore,
    shelf: Shelf,
    run: Sealed,
    keys: Sequence[Ed25519PublicKey],
    key: Ed25519PrivateKey,
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

    Returns:
        How many manifests it has more; none where it has the newest of the line.

    Raises:
        AnotherLine: It has.
        StoreError: There is too little room, or a manifest or an artefact is damaged, or cannot be
            written. Asked again it goes on where it broke off.
    """
    line, words = runs.every(shelf, keys), runs.given_up(shelf, keys)
    here = {one.manifest.number: one for one in runs.every(store, keys)}
    known = {number: word.sha256 for number, word in words.items()}
    known |= {one.manifest.number: one.sha256 for one in line}
    for number, one in here.items():
        if known.get(number, one.sha256) != one.sha256:
            raise AnotherLine(
                f"{store}/{one.object}, of {one.manifest.run}, is another than {shelf} has"
            )
    last = max([*here, *runs.given_up(store, keys)], default=0)
    newer = [one for one in line if one.manifest.number > last]
    if not newer:
        return 0
    log, problem = wal.from_base(shelf, keys, [run])
    if problem:
        raise StoreError(problem)
    stays = wal.leads_on(run, log)
    if stays:
        wanted = {*run.objects, *(name for one in log for name in (one.content, one.object))}
        lacks = [size for name, size in shelf.sizes().items() if name in wanted - {*store.sizes()}]
        files.require_room(store.root, sum(lacks), "going on with that line of backups")
        for noted in log:
            _bring(store, shelf, noted.content, noted.note.sums.stored_sha256)
            _bring(store, shelf, noted.object, noted.sha256)
        for name, artefact in run.objects.items():
            _bring(store, shelf, name, artefact.sums.stored_sha256)
    for word in words.values():
        is_said = runs.lost_of(word.number) in store.sizes(f"{runs.LOST}/")
        if not is_said and word.number not in here:
            runs.give_up(store, word, key)
    for one in newer:
        if one.sha256 != run.sha256 or not stays:
            runs.let_go(store, one, key)
        with store.alone():
            _bring(store, shelf, one.object, one.sha256)
    return len(newer)


def _bring(store: Store, shelf: Shelf, name: str, sha256: str) -> None:
    if name in store.sizes(name):
        return
    try:
        with shelf.reading(name) as content, store.putting(name) as stored:
            if copied(content, stored) != sha256:
                raise StoreError(
                    f"{shelf}/{name} is not what was written: its checksum differs; choose another "
                    "run"
                )
    except OSError as error:
        raise StoreError(f"{store}/{name} cannot be written: {error}") from error
