"""Whether backups are what was written: every object, the chain of manifests, what is within.

What belongs here: finding damage and naming it. What does not: proving that a backup restores
(``drill``), mending anything.

No level reads what the one before it did not find whole:

    exists      every object is there, with its size, and none that belongs to nobody
    stored      every object's checksum, every signature, the chain from the first manifest to the
                newest that anybody knows of
    content     every artefact decrypts to the bytes that were kept
    structure   these are a dump, a copy of Redis or a tar, whole to the end

The chain shows what was taken out, put in, turned round or put back in an older state, but for its
newest part: a store as it was last week is whole in itself. So it is held against what is known
elsewhere, in PostgreSQL and in the other store.
"""

import errno
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from enum import IntEnum
from tempfile import TemporaryFile, gettempdir
from typing import Any, NamedTuple, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pyrage import x25519

from rul_backup import manifest as manifests
from rul_backup import structure
from rul_backup.manifest import Artefact
from rul_backup.runs import (
    GONE,
    MANIFESTS,
    RUNS,
    Sealed,
    is_unfinished,
    read,
    started_at,
)
from rul_backup.sealing import unseal
from rul_backup.stores import Shelf
from rul_backup.streams import sha256_of
from rul_core.errors import StoreError, Unavailable
from rul_store.backup_rows import BackupRun


class Level(IntEnum):
    """How closely is looked."""

    EXISTS = 0
    STORED = 1
    CONTENT = 2
    STRUCTURE = 3


class Finding(NamedTuple):
    """Something that is not as it was written."""

    object: str
    problem: str


class Verification(NamedTuple):
    """What was looked at, and what was found."""

    runs: int
    objects: int
    findings: tuple[Finding, ...]


def verify(
    store: Shelf,
    keys: Sequence[Ed25519PublicKey],
    level: Level,
    *,
    now: datetime,
    known: Collection[BackupRun] = (),
    identities: Sequence[x25519.Identity] = (),
    only: str | None = None,
) -> Verification:
    """Look at every object of a store.

    Args:
        store: Which.
        keys: Of our signatures.
        level: How closely.
        now: Tells unfinished runs from those at work.
        known: What is known elsewhere of the runs of this store.
        identities: For what is within; needed from ``Level.CONTENT`` on.
        only: The run that the store promises, where it has the others' manifests and no more.

    Returns:
        Every finding names its object; none is the good case.

    Raises:
        Unavailable: The store does not answer; that is no finding.
    """
    sizes = store.sizes()
    chain, findings = _chain(store, keys, sizes)
    findings += _held_against(known, chain)
    gone, more = _gone(store, keys, sizes, chain)
    findings += more
    promised = [
        sealed
        for sealed in chain
        if sealed.manifest.number not in gone and only in (None, sealed.manifest.run)
    ]
    if only and not promised:
        findings.append(Finding(f"{RUNS}/{only}", "is promised by no manifest that can be read"))
    wanted = {name: artefact for sealed in promised for name, artefact in sealed.objects.items()}
    findings += _belonging_to_nobody(sizes, chain, gone, wanted, now)
    for name, artefact in wanted.items():
        if name not in sizes:
            findings.append(Finding(name, "is missing"))
        elif sizes[name] != artefact.sums.stored_bytes:
            findings.append(
                Finding(
                    name,
                    f"has {sizes[name]:,} bytes where {artefact.sums.stored_bytes:,} were written",
                )
            )
        elif level > Level.EXISTS:
            findings += _read(store, name, artefact, level, identities)
    return Verification(len(promised), len(sizes), tuple(findings))


def _chain(
    store: Shelf, keys: Sequence[Ed25519PublicKey], sizes: Collection[str]
) -> tuple[list[Sealed], list[Finding]]:
    """Every manifest that can be read, in order, and what is wrong with their order."""
    found: list[Sealed] = []
    findings: list[Finding] = []
    names = sorted(name for name in sizes if name.startswith(f"{MANIFESTS}/"))
    expected, before = 1, None
    for name in names:
        try:
            sealed = read(store, name, keys)
        except Unavailable:
            raise  # nobody knows whether it is damaged
        except StoreError as error:
            findings.append(Finding(name, str(error).partition(": ")[2] or str(error)))
            expected, before = expected + 1, None
            continue
        told = sealed.manifest
        if name != f"{MANIFESTS}/{told.number:08d}":
            findings.append(Finding(name, f"is the manifest of number {told.number}"))
            continue
        findings += [
            Finding(f"{MANIFESTS}/{missing:08d}", "is missing")
            for missing in range(expected, told.number)
        ]
        if told.number != expected:
            before = None
        if told.number == 1 and told.previous_sha256 is not None:
            findings.append(Finding(name, "is the first, and names one before it"))
        if before is not None and told.previous_sha256 != before.sha256:
            findings.append(Finding(name, f"does not follow {before.object}, which was changed"))
        if before is not None and told.system != before.manifest.system:
            findings.append(Finding(name, f"is of another platform, {told.system}"))
        found.append(sealed)
        expected, before = told.number + 1, sealed
    return found, findings


def _held_against(known: Collection[BackupRun], chain: Sequence[Sealed]) -> Iterator[Finding]:
    there = {sealed.manifest.number: sealed for sealed in chain}
    for one in sorted(known, key=lambda each: each.number):
        name = f"{MANIFESTS}/{one.number:08d}"
        if one.number not in there:
            yield Finding(
                name, f"is known elsewhere, of the run {one.run}, and cannot be read here"
            )
        elif there[one.number].sha256 != one.sha256:
            yield Finding(name, f"is another than the one that is known elsewhere, of {one.run}")


def _gone(
    store: Shelf, keys: Sequence[Ed25519PublicKey], sizes: Collection[str], chain: Sequence[Sealed]
) -> tuple[set[int], list[Finding]]:
    """The numbers of runs that were let go, by our word."""
    by_number = {sealed.manifest.number: sealed for sealed in chain}
    gone: set[int] = set()
    findings = []
    for name in sorted(name for name in sizes if name.startswith(f"{GONE}/")):
        number = name.rpartition("/")[2]
        sealed = by_number.get(int(number)) if number.isdigit() else None
        try:
            with store.reading(name) as file:
                sha256 = manifests.read_gone(file.read(), keys)
        except Unavailable:
            raise
        except StoreError as error:
            findings.append(Finding(name, str(error)))
            continue
        if sealed is None or sealed.sha256 != sha256:
            findings.append(Finding(name, "is of another manifest than the one of that number"))
        else:
            gone.add(sealed.manifest.number)
    return gone, findings


def _belonging_to_nobody(
    sizes: Collection[str],
    chain: Sequence[Sealed],
    gone: Collection[int],
    wanted: Collection[str],
    now: datetime,
) -> Iterator[Finding]:
    finished = {sealed.manifest.run for sealed in chain}
    going = {name for sealed in chain if sealed.manifest.number in gone for name in sealed.objects}
    for name in sorted(sizes):
        folder, _, rest = name.partition("/")
        run = rest.partition("/")[0]
        if folder in {MANIFESTS, GONE} or name in wanted or name in going:
            continue
        begun = started_at(run) if folder == RUNS and run not in finished else None
        if begun is None or begun > now:
            yield Finding(name, "belongs to no run; nobody of us put it there")
        elif is_unfinished(run, now):
            yield Finding(
                name, "is of a run that was never finished; `rul backup prune` removes it"
            )


def _read(
    store: Shelf,
    name: str,
    artefact: Artefact,
    level: Level,
    identities: Sequence[x25519.Identity],
) -> Iterator[Finding]:
    try:
        with store.reading(name) as file:
            if level is Level.STORED:
                if sha256_of(file) != artefact.sums.stored_sha256:
                    yield Finding(name, "is not what was written: its checksum differs")
                return
            with ExitStack() as stack:
                is_looked_into = level >= Level.STRUCTURE
                plain = stack.enter_context(TemporaryFile()) if is_looked_into else _Nowhere()
                if unseal(file, plain, identities) != artefact.sums:
                    yield Finding(name, "is not what was kept: its checksum differs")
                elif is_looked_into and (told := structure.problem(artefact, cast("Any", plain))):
                    yield Finding(name, told)
    except Unavailable:
        raise
    except (StoreError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # here, not in the store
            raise StoreError(
                f"{gettempdir()} is too small to look into {name}, which has "
                f"{artefact.sums.plain_bytes:,} bytes; name a larger folder by TMPDIR"
            ) from error
        yield Finding(name, str(error))


class _Nowhere:
    """Takes what is only to be looked at."""

    def write(self, data: bytes) -> int:
        return len(data)
