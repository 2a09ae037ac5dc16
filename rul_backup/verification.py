"""Whether backups are what was written: every object, the chain of manifests, what is within.

What belongs here: finding damage and naming it. What does not: proving that a backup restores
(``drill``), mending anything.

No level reads what the one before it did not find whole:

    exists      every object is there, with its size, and none that belongs to nobody; of
                PostgreSQL's log by the names alone
    stored      every object's checksum, every signature, the chain from the first manifest to the
                newest that anybody knows of
    content     every artefact decrypts to the bytes that were kept
    structure   these are a dump, a copy of Redis or a tar, whole to the end

The chain shows what was taken out, put in, turned round or put back in an older state, but for its
newest part: a store as it was last week is whole in itself. So it is held against what is known
elsewhere, in PostgreSQL and in the other store.
"""

import bisect
import errno
import itertools
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from enum import IntEnum
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any, NamedTuple, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pyrage import x25519

from rul_backup import scratch, structure, wal
from rul_backup.manifest import Artefact, Kind, Lost
from rul_backup.runs import (
    GONE,
    LOST,
    MANIFESTS,
    RUNS,
    Sealed,
    is_unfinished,
    lost_of,
    manifest_of,
    names_there,
    number_of,
    read,
    read_gone,
    readable,
    started_at,
    words_or_why,
)
from rul_backup.sealing import Sums, unseal
from rul_backup.stores import Shelf, each_or_why
from rul_backup.streams import sha256_of
from rul_backup.wal import Noted, Start
from rul_core.errors import StoreError, Unavailable
from rul_store.backup_rows import BackupRun

LATE = timedelta(hours=1)
"""A base whose first segment is not archived for so long will not be one."""


MISSING_TOLD = 1000
"""So many manifests that are missing one after another are named each."""
_TAKE_BACK = (
    "`rul backup mend` takes the word back; beyond the machine, remove it with a key that may"
)


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
    since: str | None = None,
    folder: Path | None = None,
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
        since: A run whose base it promises as well, with which its log begins.
        folder: Where what is opened lies meanwhile; the system's for temporary files unless given.

    Returns:
        Every finding names its object; none is the good case.

    Raises:
        Unavailable: The store does not answer; that is no finding.
        StoreError: The folder is not there, or too small.
    """
    scratch.place(folder)
    sizes = store.sizes()
    words, findings = _given_up(store, keys)
    chain, more = _chain(store, keys, sizes, words)
    findings += more
    findings += _held_against(known, chain, words)
    gone, more = _gone(store, keys, sizes, chain, words)
    findings += more
    promised = [
        sealed
        for sealed in chain
        if sealed.manifest.number not in gone and only in (None, sealed.manifest.run)
    ]
    earlier = [sealed for sealed in chain if since == sealed.manifest.run]
    for run, named in ((only, promised), (since, earlier)):
        if run and not named:
            findings.append(Finding(f"{RUNS}/{run}", "is promised by no manifest that can be read"))
    wanted = {name: artefact for sealed in promised for name, artefact in sealed.objects.items()}
    for sealed in earlier:
        wanted |= sealed.of_kind(Kind.BASE)
    sealed_once = {one.run for one in known if one.number not in words}
    findings += _belonging_to_nobody(sizes, chain, gone, wanted, now, sealed_once)
    for name, artefact in wanted.items():
        sums = artefact.sums
        findings += _looked_at(store, name, sums, sizes, level, identities, artefact, folder)
    if only is None or any(map(wal.is_name, sizes)):  # an archive may have no log
        based = [*earlier, *promised]
        findings += _log(store, keys, sizes, chain, based, level, now, identities)
    return Verification(len(promised), len(sizes), tuple(findings))


class Reread(NamedTuple):
    """What was read again of a store, a part at a time."""

    objects: int
    bytes: int
    until: str
    """The object that was read last; the next part begins after it."""
    findings: tuple[Finding, ...]


def look_into(
    store: Shelf, run: Sealed, identities: Sequence[x25519.Identity], folder: Path | None = None
) -> list[Finding]:
    """Decrypt what a run itself kept, and read it to its end; what it took over it does not have.

    Args:
        store: Has the run.
        run: Which.
        identities: By which it is decrypted.
        folder: Where it lies meanwhile; the system's for temporary files unless given.

    Returns:
        What is not as it was kept; none of a run that was let go meanwhile.

    Raises:
        Unavailable: The store does not answer.
        StoreError: The folder is not there, or too small.
    """
    scratch.place(folder)
    sizes = store.sizes(f"{RUNS}/{run.manifest.run}/")
    findings = [
        finding
        for name, artefact in run.objects.items()
        if not artefact.run
        for finding in _looked_at(
            store, name, artefact.sums, sizes, Level.STRUCTURE, identities, artefact, folder
        )
    ]
    return findings if run.object in names_there(store) else []


def read_again(
    store: Shelf,
    keys: Sequence[Ed25519PublicKey],
    share: float,
    *,
    after: str = "",
    again: Collection[str] = (),
) -> Reread:
    """Read a part of all that a store has, and hold it against the checksums of what was written.

    Parts follow one another by the objects' names, and after the last comes the first: what was
    read longest ago is read next.

    Args:
        store: Which.
        keys: Of our signatures.
        share: Of all bytes; so many are read, and the object with which they are reached.
        after: The object that was read last before.
        again: Objects that were not what was written, which are looked at every time.

    Raises:
        Unavailable: The store does not answer; that is no finding.
    """
    sizes = store.sizes()
    promised = {
        name: artefact.sums
        for sealed in readable(store, names_there(store), keys)
        for name, artefact in sealed.objects.items()
    }
    notes = {
        content: name
        for name in sizes
        if wal.is_name(name)
        and name.endswith(wal.NOTE)
        and (content := wal.object_of(wal.cluster_of(name), wal.plain_name(name))) in sizes
    }
    names = sorted({*promised, *notes})
    wanted = share * sum(sizes.get(name, 0) for name in names)
    begin = bisect.bisect_right(names, after)
    count, read_bytes, findings = 0, 0, []
    for name in names[begin:] + names[:begin]:
        if count and read_bytes >= wanted:
            break
        findings += _still_written(store, keys, name, promised.get(name), notes.get(name), sizes)
        count, read_bytes, after = count + 1, read_bytes + sizes.get(name, 0), name
    told = {finding.object for finding in findings}
    for name in sorted({*again} & {*names} - told):
        findings += _still_written(store, keys, name, promised.get(name), notes.get(name), sizes)
    return Reread(count, read_bytes, after, tuple(dict.fromkeys(findings)))


def _still_written(
    store: Shelf,
    keys: Sequence[Ed25519PublicKey],
    name: str,
    sums: Sums | None,
    note: str | None,
    sizes: dict[str, int],
) -> Iterator[Finding]:
    """An object of a run, by its manifest, or of the log, by its note."""
    if sums is None and note is not None:
        try:
            sums = wal.read(store, note, keys).note.sums
        except Unavailable:
            raise
        except StoreError as error:
            yield Finding(name, f"has a note that cannot be read: {error}")
    if sums is not None:
        yield from _looked_at(store, name, sums, sizes, Level.STORED, ())


def _given_up(
    store: Shelf, keys: Sequence[Ed25519PublicKey]
) -> tuple[dict[int, Lost], list[Finding]]:
    """Manifests that are given up by our word, by their numbers."""
    words: dict[int, Lost] = {}
    findings = []
    for name, word in words_or_why(store, keys).items():
        if isinstance(word, StoreError):
            findings.append(_damaged(name, word))
        else:
            words[word.number] = word
    return words, findings


def _chain(
    store: Shelf,
    keys: Sequence[Ed25519PublicKey],
    sizes: Collection[str],
    words: dict[int, Lost],
) -> tuple[list[Sealed], list[Finding]]:
    """Every manifest that can be read, in order, and what is wrong with their order."""
    found: list[Sealed] = []
    findings: list[Finding] = []
    names = sorted(name for name in sizes if name.startswith(f"{MANIFESTS}/"))
    expected, before = 1, None  # the number, and object and checksum of the one before it
    read_each = each_or_why(lambda name: read(store, name, keys), names)
    for name, sealed in zip(names, read_each, strict=True):
        if isinstance(sealed, StoreError):
            findings.append(_damaged(name, sealed))
            number = number_of(name) or expected
            findings += _missing(expected, number, words)
            expected, before = number + 1, None
            continue
        told = sealed.manifest
        findings += _missing(expected, told.number, words)
        if expected < told.number:
            word = words.get(told.number - 1)
            before = (lost_of(word.number), word.sha256) if word else None
        if told.number == 1 and told.previous_sha256 is not None:
            findings.append(Finding(name, "is the first, and names one before it"))
        if before is not None and told.previous_sha256 != before[1]:
            findings.append(Finding(name, f"does not follow {before[0]}, which was changed"))
        if before is not None and found and told.system != found[-1].manifest.system:
            findings.append(Finding(name, f"is of another platform, {told.system}"))
        if told.number in words:
            findings.append(
                Finding(lost_of(told.number), f"gives up {name}, which is there: {_TAKE_BACK}")
            )
        found.append(sealed)
        expected, before = told.number + 1, (sealed.object, sealed.sha256)
    return found, findings


def _missing(begin: int, end: int, words: Collection[int]) -> Iterator[Finding]:
    """Those before one that is there; after very many the rest at once, for names cost nothing."""
    numbers = (number for number in range(begin, end) if number not in words)
    for number in itertools.islice(numbers, MISSING_TOLD):
        yield Finding(manifest_of(number), "is missing")
    if (number := next(numbers, None)) is not None:
        yield Finding(manifest_of(number), f"is missing, and more before {manifest_of(end)}")


def _damaged(name: str, error: StoreError) -> Finding:
    """What is wrong with it, without where it lies."""
    return Finding(name, str(error).partition(": ")[2] or str(error))


def _held_against(
    known: Collection[BackupRun], chain: Sequence[Sealed], words: dict[int, Lost]
) -> Iterator[Finding]:
    there = {sealed.manifest.number: sealed for sealed in chain}
    for one in sorted(known, key=lambda each: each.number):
        name, word = manifest_of(one.number), words.get(one.number)
        if one.number not in there and word is not None:
            if word.sha256 != one.sha256:
                yield Finding(lost_of(one.number), f"is not of the manifest of {one.run}")
        elif one.number not in there:
            yield Finding(
                name, f"is known elsewhere, of the run {one.run}, and cannot be read here"
            )
        elif there[one.number].sha256 != one.sha256:
            yield Finding(name, f"is another than the one that is known elsewhere, of {one.run}")


def _gone(
    store: Shelf,
    keys: Sequence[Ed25519PublicKey],
    sizes: Collection[str],
    chain: Sequence[Sealed],
    words: dict[int, Lost],
) -> tuple[set[int], list[Finding]]:
    """The numbers of runs that were let go, by our word."""
    sha256_of = {number: word.sha256 for number, word in words.items()}
    sha256_of |= {sealed.manifest.number: sealed.sha256 for sealed in chain}
    gone: set[int] = set()
    findings = []
    for name in sorted(name for name in sizes if name.startswith(f"{GONE}/")):
        number = number_of(name)
        try:
            sha256 = read_gone(store, name, keys)
        except Unavailable:
            raise
        except StoreError as error:
            findings.append(Finding(name, str(error)))
            continue
        if sha256_of.get(number) != sha256:
            findings.append(Finding(name, "is of another manifest than the one of that number"))
        else:
            gone.add(number)
    return gone, findings


def _belonging_to_nobody(
    sizes: Collection[str],
    chain: Sequence[Sealed],
    gone: Collection[int],
    wanted: Collection[str],
    now: datetime,
    sealed_once: Collection[str],
) -> Iterator[Finding]:
    finished = {sealed.manifest.run for sealed in chain}
    going = {name for sealed in chain if sealed.manifest.number in gone for name in sealed.objects}
    for name in sorted(sizes):
        folder, _, rest = name.partition("/")
        run = rest.partition("/")[0]
        if (
            folder in {MANIFESTS, GONE, LOST}
            or name in wanted
            or name in going
            or wal.is_name(name)
        ):
            continue
        begun = started_at(run) if folder == RUNS and run not in finished else None
        if begun is None or begun > now:
            yield Finding(name, "belongs to no run; nobody of us put it there")
        elif run in sealed_once:
            yield Finding(name, "is of a run whose manifest cannot be read here")
        elif is_unfinished(run, now):
            yield Finding(
                name, "is of a run that was never finished; `rul backup prune` removes it"
            )


def _log(
    store: Shelf,
    keys: Sequence[Ed25519PublicKey],
    sizes: dict[str, int],
    chain: Sequence[Sealed],
    promised: Sequence[Sealed],
    level: Level,
    now: datetime,
    identities: Sequence[x25519.Identity],
) -> Iterator[Finding]:
    """PostgreSQL's log, from the earliest base that any run promises on."""
    starts = wal.starts(promised)
    known = {head.cluster: head for sealed in chain for head in sealed.manifest.log}
    objects = [name for name in sorted(sizes) if wal.is_name(name)]
    clusters = {wal.cluster_of(name) for name in objects} | known.keys()
    for cluster in sorted(clusters | {start.cluster for start in starts}):
        of_it = [start for start in starts if start.cluster == cluster]
        first = str(of_it[0].segment) if of_it else ""
        there = [
            name
            for name in objects
            if wal.cluster_of(name) == cluster
            and (wal.is_history(wal.plain_name(name)) or wal.plain_name(name) >= first)
        ]
        notes, findings = _notes(store, keys, there, first, level)
        yield from findings
        for noted in notes:
            if chain and noted.note.system != chain[-1].manifest.system:
                yield Finding(noted.object, f"is of another platform, {noted.note.system}")
            sums = noted.note.sums
            if noted.content in sizes:
                yield from _looked_at(store, noted.content, sums, sizes, level, identities)
        yield from _in_pairs(there)
        # Without a base nothing leads along the log, and it may be gone.
        if of_it and (head := known.get(cluster)) and head.segment >= first:
            name = wal.note_of(cluster, head.segment)
            found = next((noted for noted in notes if noted.object == name), None)
            if name not in sizes:
                yield Finding(name, "is missing; a manifest knows of it")
            elif found is not None and found.sha256 != head.sha256:
                yield Finding(name, "is another than the one that a manifest knows of")
        yield from _led_by(store, keys, of_it, notes, there, now)


def _notes(
    store: Shelf, keys: Sequence[Ed25519PublicKey], there: Sequence[str], first: str, level: Level
) -> tuple[list[Noted], list[Finding]]:
    """Every note that can be read, in order, and what is wrong with their order.

    There may be tens of thousands, and beyond the machine each takes its time. So whoever asks
    what exists is told by their names alone.
    """
    names = [name for name in there if name.endswith(wal.NOTE)]
    if level is Level.EXISTS:
        return [], list(_holes(store, keys, names))
    found: list[Noted] = []
    findings: list[Finding] = []
    before: Noted | None = None
    read_each = each_or_why(lambda name: wal.read(store, name, keys), names)
    for name, noted in zip(names, read_each, strict=True):
        if isinstance(noted, StoreError):
            findings.append(_damaged(name, noted))
            before = None
            continue
        # Of what was before the earliest base, histories alone stay.
        if before is not None and before.note.segment >= first:
            findings += _between(before, noted)
        found.append(noted)
        before = noted
    return found, findings


def _between(before: Noted, after: Noted) -> Iterator[Finding]:
    yield from _lost(before, after)
    if (problem := wal.does_not_follow(before, after)) is not None:
        yield Finding(after.object, problem)


def _lost(before: Noted, after: Noted) -> Iterator[Finding]:
    """Segments that were there, since what comes after them does not begin anew."""
    one, other = before.segment, after.segment
    if one and other and not after.note.begins and one.timeline == other.timeline:
        for number in range(one.number + 1, other.number):
            lost = wal.note_of(before.note.cluster, str(one._replace(number=number)))
            yield Finding(lost, "is missing")


def _holes(
    store: Shelf, keys: Sequence[Ed25519PublicKey], names: Sequence[str]
) -> Iterator[Finding]:
    """Segments that are missing by the names of notes; those around a hole are read."""
    places = [at for at, name in enumerate(names) if wal.is_segment(wal.plain_name(name))]
    for one, other in itertools.pairwise(places):
        digits = [int(wal.plain_name(names[at]), 16) for at in (one, other)]
        if digits[1] == digits[0] + 1:
            continue
        around = names[one], names[other]
        before, after = each_or_why(lambda name: wal.read(store, name, keys), around)
        if isinstance(before, StoreError) or isinstance(after, StoreError):
            for name, found in zip(around, (before, after), strict=True):
                if isinstance(found, StoreError):
                    yield _damaged(name, found)
            continue
        if after.note.number - before.note.number != other - one:
            yield from _lost(before, after)
            yield Finding(after.object, f"is not the next one after {before.object}")


def _in_pairs(there: Sequence[str]) -> Iterator[Finding]:
    """Whatever is there without its other half, but for the segment that is being sealed."""
    noted = {wal.plain_name(name): name for name in there if name.endswith(wal.NOTE)}
    kept = {wal.plain_name(name): name for name in there if not name.endswith(wal.NOTE)}
    newest = max(noted, default="")
    for number, plain in enumerate(sorted(kept.keys() - noted.keys())):
        if plain < newest or number:
            cluster = wal.cluster_of(kept[plain])
            yield Finding(wal.note_of(cluster, plain), f"is missing, and {kept[plain]} is there")
    for plain in sorted(noted.keys() - kept.keys()):
        yield Finding(wal.object_of(wal.cluster_of(noted[plain]), plain), "is missing")


def _led_by(
    store: Shelf,
    keys: Sequence[Ed25519PublicKey],
    starts: Sequence[Start],
    notes: Sequence[Noted],
    there: Collection[str],
    now: datetime,
) -> Iterator[Finding]:
    """Whether every base has its first segment, and the newest leads on from its own end."""
    segments = [
        name for name in there if name.endswith(wal.NOTE) and wal.is_segment(wal.plain_name(name))
    ]
    for start in starts:
        name = wal.note_of(start.cluster, str(start.segment))
        if name in segments:
            continue
        following = next((one for one in segments if one > name), None)
        # Nobody archived it, where the log began after it; that is told of the newest base alone.
        if following and _begins(store, keys, following) and start is not starts[-1]:
            continue
        if following or now - start.ended_at > LATE:
            yield Finding(name, f"is missing; with it begins the base of {start.run}")
    newest = starts[-1] if starts else None
    if not newest or wal.note_of(newest.cluster, str(newest.segment)) not in segments:
        return
    name = wal.note_of(newest.cluster, str(newest.end))
    if all(one < name for one in segments) and now - newest.ended_at > LATE:
        yield Finding(name, f"is missing; in it ended the base of {newest.run}")
    found, problem = wal.way(notes, newest.segment, None)
    if problem and found:
        after = [one for one in notes if one.note.number > found[-1].note.number and one.segment]
        yield Finding(after[0].object, f"{problem}; no base has been kept since")


def _begins(store: Shelf, keys: Sequence[Ed25519PublicKey], name: str) -> bool:
    try:
        return bool(wal.read(store, name, keys).note.begins)
    except Unavailable:
        raise
    except StoreError:
        return False


def _looked_at(
    store: Shelf,
    name: str,
    sums: Sums,
    sizes: dict[str, int],
    level: Level,
    identities: Sequence[x25519.Identity],
    artefact: Artefact | None = None,
    folder: Path | None = None,
) -> Iterator[Finding]:
    """An object, as closely as is asked for."""
    if name not in sizes:
        yield Finding(name, "is missing")
    elif sizes[name] != sums.stored_bytes:
        yield Finding(name, f"has {sizes[name]:,} bytes where {sums.stored_bytes:,} were written")
    elif level > Level.EXISTS:
        yield from _read(store, name, sums, level, identities, artefact, folder)


def _read(
    store: Shelf,
    name: str,
    sums: Sums,
    level: Level,
    identities: Sequence[x25519.Identity],
    artefact: Artefact | None,
    folder: Path | None,
) -> Iterator[Finding]:
    try:
        with store.reading(name) as file:
            if level is Level.STORED:
                if sha256_of(file) != sums.stored_sha256:
                    yield Finding(name, "is not what was written: its checksum differs")
                return
            with ExitStack() as stack:
                looked_into = artefact if level >= Level.STRUCTURE else None
                plain = (
                    stack.enter_context(TemporaryFile(dir=folder)) if looked_into else _Nowhere()
                )
                if unseal(file, plain, identities) != sums:
                    yield Finding(name, "is not what was kept: its checksum differs")
                elif looked_into and (told := structure.problem(looked_into, cast("Any", plain))):
                    yield Finding(name, told)
    except Unavailable:
        raise
    except (StoreError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # here, not in the store
            raise StoreError(
                f"{folder or gettempdir()} is too small to look into {name}, which has "
                f"{sums.plain_bytes:,} bytes; name a larger folder by "
                f"{'RUL_BACKUP_SCRATCH' if folder else 'TMPDIR'}"
            ) from error
        yield Finding(name, str(error))


class _Nowhere:
    """Takes what is only to be looked at."""

    def write(self, data: bytes) -> int:
        return len(data)
