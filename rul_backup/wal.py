"""PostgreSQL's write-ahead log in a store: segment by segment, each with a signed note.

What belongs here: names, notes, sealing a segment, which of them lead from a base to a moment. What
does not: receiving them (``archiving``), restoring from them (``recovery``).

    wal/<cluster>/<segment>.zst.age     a segment (16 MB of the log), or the history of a timeline
    wal/<cluster>/<segment>.sealed      our note of it, written last

``<cluster>`` is the number that PostgreSQL gives itself when it is made, since a new one begins
with the same names again. Every note has the SHA-256 of the note before it. Where segments between
two were lost, or the log forked before the newest, the chain begins anew and the note says why: no
base from before leads beyond it.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from rul_backup import manifest as manifests
from rul_backup.manifest import Kind, LogHead
from rul_backup.runs import Maker, Sealed, there, whole_line
from rul_backup.sealing import SUFFIX, Sums, seal
from rul_backup.stores import Shelf, Store, content_of, each, each_or_why
from rul_core.errors import StoreError, Unavailable
from rul_store import files

WAL, NOTE = "wal", ".sealed"
FORMAT = 1
_PURPOSE = b"rul backup wal\n"
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_HISTORY = re.compile(r"[0-9A-F]{8}\.history")
_CLUSTER = re.compile(r"[0-9]{1,20}")
_FOUR_GIB = 1 << 32
_AT_ONCE = 64
"""Notes that are read together, although the last of them may not be asked for."""
_NEVER = datetime.min.replace(tzinfo=UTC)
_AFTER_ALL = "~"
"""Sorted by name, after every segment."""


class Segment(NamedTuple):
    """A place in the log, by which it is also named."""

    timeline: int
    number: int
    """From 0; the same place has the same number on every timeline."""
    bytes: int
    """Of every segment of this cluster."""

    @classmethod
    def named(cls, name: str, size: int) -> "Segment":
        """The segment of a name.

        Raises:
            StoreError: It is none.
        """
        if not _SEGMENT.fullmatch(name):
            raise StoreError(f"{name!r} is no name of a segment; it has 24 digits of 0-9 and A-F")
        timeline, high, low = (int(name[at : at + 8], 16) for at in (0, 8, 16))
        return cls(timeline, high * (_FOUR_GIB // size) + low, size)

    @classmethod
    def at(cls, timeline: int, lsn: int, size: int) -> "Segment":
        """The segment that has a place of the log."""
        return cls(timeline, lsn // size, size)

    def __str__(self) -> str:
        high, low = divmod(self.number, _FOUR_GIB // self.bytes)
        return f"{self.timeline:08X}{high:08X}{low:08X}"

    @property
    def next(self) -> "Segment":
        """The one after it on its timeline."""
        return self._replace(number=self.number + 1)

    @property
    def end(self) -> int:
        """The place where the next one begins."""
        return (self.number + 1) * self.bytes


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a segment, or of a timeline's history."""

    format: int = FORMAT
    system: str
    """Which platform it is of."""
    cluster: str
    """PostgreSQL's own number, its system identifier."""
    segment: str
    """Its name, or that of the history."""
    segment_bytes: int
    number: int
    """From 1, without a gap."""
    sums: Sums
    sealed_at: datetime
    reaches_at: datetime | None
    """By the server's clock: what was committed until then is in it or before it."""
    previous_sha256: str | None
    """Of the note before it, as it is stored; none before the first."""
    begins: str = ""
    """Why what came before does not lead to it; empty where it does."""


class Noted(NamedTuple):
    """A note in a store."""

    object: str
    """Of the note."""
    sha256: str
    note: Note

    @property
    def content(self) -> str:
        """The object that the note is of."""
        return object_of(self.note.cluster, self.note.segment)

    @property
    def segment(self) -> Segment | None:
        """Where in the log it is; a history is nowhere."""
        if is_history(self.note.segment):
            return None
        return Segment.named(self.note.segment, self.note.segment_bytes)


def is_segment(name: str) -> bool:
    """Whether a file of PostgreSQL's is a segment that is complete."""
    return bool(_SEGMENT.fullmatch(name))


def is_history(name: str) -> bool:
    """Whether a file of PostgreSQL's is the history of a timeline."""
    return bool(_HISTORY.fullmatch(name))


def is_name(name: str) -> bool:
    """Whether an object's name may be one of the log's: of a note, or of what a note is of."""
    parts = name.split("/")
    if len(parts) != len(("wal", "cluster", "segment")) or parts[0] != WAL:
        return False
    plain = parts[2].removesuffix(NOTE if parts[2].endswith(NOTE) else SUFFIX)
    known = is_segment(plain) or is_history(plain)
    return known and plain != parts[2] and bool(_CLUSTER.fullmatch(parts[1]))


def object_of(cluster: str, name: str) -> str:
    """Where a segment lies."""
    return f"{WAL}/{cluster}/{name}{SUFFIX}"


def note_of(cluster: str, name: str) -> str:
    """Where its note lies. Sorted by name, notes are in the order in which they were written."""
    return f"{WAL}/{cluster}/{name}{NOTE}"


def lsn_of(text: str) -> int:
    """A place in the log as PostgreSQL writes it, such as ``0/1AB26F0``, in bytes."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def fork_of(history: str, timeline: int) -> int | None:
    """Where another timeline left one, by the history of the other; none where it never did."""
    for line in history.splitlines():
        told = line.split()
        if len(told) > 1 and told[0] == str(timeline):
            return lsn_of(told[1])
    return None


def read(store: Shelf, name: str, keys: Sequence[Ed25519PublicKey]) -> Noted:
    """A note.

    Raises:
        StoreError: It is damaged, or of something else than its name says; names it.
    """
    content = content_of(store, name)
    try:
        told = manifests.unsigned(content, _PURPOSE, keys)
        version = msgspec.json.decode(told, type=_Version).format
        if version > FORMAT:
            raise StoreError(f"it is of format {version}; this version knows {FORMAT}")
        note = msgspec.json.decode(told, type=Note)
    except msgspec.DecodeError as error:
        raise StoreError(f"{store}/{name}: it is no note: {error}") from error
    except Unavailable:
        raise
    except StoreError as error:
        raise StoreError(f"{store}/{name}: {error}") from error
    if note_of(note.cluster, note.segment) != name:
        raise StoreError(f"{store}/{name}: it is the note of {note.cluster}/{note.segment}")
    return Noted(name, manifests.sha256_of(content), note)


def names(store: Shelf, cluster: str | None = None) -> list[str]:
    """The names of notes in a store, in the order in which they were written."""
    found = store.sizes(f"{WAL}/{cluster}/" if cluster else f"{WAL}/")
    return sorted(name for name in found if name.endswith(NOTE) and is_name(name))


def following(
    store: Shelf, keys: Sequence[Ed25519PublicKey], cluster: str, since: str = ""
) -> Iterator[Noted]:
    """The notes of a cluster, in order, one after another: what comes later need not be whole.

    Args:
        store: Has them.
        keys: Of our signatures.
        cluster: Whose.
        since: The segment with which to begin; with the oldest unless given.

    Raises:
        StoreError: One is damaged, or does not follow the one before it; names it.
    """
    first = note_of(cluster, since)
    wanted = [name for name in names(store, cluster) if not since or name >= first]
    parts = (wanted[at : at + _AT_ONCE] for at in range(0, len(wanted), _AT_ONCE))
    attempted = (each_or_why(lambda name: read(store, name, keys), part) for part in parts)
    before = None
    for noted in itertools.chain.from_iterable(attempted):
        if isinstance(noted, StoreError):
            raise noted
        if before and (problem := does_not_follow(before, noted)) is not None:
            raise StoreError(f"{store}/{noted.object} {problem}")
        yield noted
        before = noted


def histories(
    store: Shelf, keys: Sequence[Ed25519PublicKey], cluster: str, timeline: int | None = None
) -> list[Noted]:
    """The notes of the histories of a cluster's timelines, up to one of them where it is given.

    Raises:
        StoreError: One is damaged; names it.
    """
    wanted = [
        name
        for name in names(store, cluster)
        if is_history(plain := plain_name(name))
        and (timeline is None or int(plain[:8], 16) <= timeline)
    ]
    return each(lambda name: read(store, name, keys), wanted)


def from_base(
    store: Shelf, keys: Sequence[Ed25519PublicKey], promised: Iterable[Sealed]
) -> tuple[list[Noted], str | None]:
    """The notes that lead on from the bases that runs promise, in order; none without a base.

    Returns:
        As far as they lead, and why they end there: a note is damaged, or does not follow the one
        before it; none where they lead to the newest.

    Raises:
        StoreError: The history of a timeline of before the base is damaged; names it.
        Unavailable: The store does not answer.
    """
    found: dict[str, Noted] = {}
    problem = None
    for _, of_it in itertools.groupby(starts(promised), key=lambda start: start.cluster):
        start = next(of_it)  # on from the earliest, past the others
        for noted in histories(store, keys, start.cluster, start.segment.timeline):
            found[noted.object] = noted
        try:
            for noted in following(store, keys, start.cluster, since=str(start.segment)):
                found[noted.object] = noted
        except Unavailable:
            raise
        except StoreError as error:
            problem = str(error)
    return [found[name] for name in sorted(found)], problem


def leads_on(run: Sealed, log: Iterable[Noted]) -> bool:
    """Whether a log leads from a run's base to its end, and as far as the manifest knows of it."""
    names = {noted.object for noted in log}
    heads = {head.cluster: head.segment for head in run.manifest.log}
    return all(
        {
            *start.notes,
            note_of(start.cluster, max(str(start.end), heads.get(start.cluster, ""))),
        }
        <= names
        for start in starts([run])
    )


def does_not_follow(before: Noted, after: Noted) -> str | None:
    """What is wrong with a note after the one before it; none where nothing is."""
    told = after.note
    if told.number != before.note.number + 1:
        return f"is note {told.number} of the chain, and {before.object} is {before.note.number}"
    if told.previous_sha256 != before.sha256:
        return f"does not follow {before.object}, which was changed"
    if told.system != before.note.system:
        return f"is of another platform, {told.system}"
    return None


class AnotherLog(StoreError):
    """A store has more of a log than who adds to it has read."""


class ClusterLog:
    """The log of one cluster in a store, to which segments are added.

    Args:
        store: Where.
        maker: Who seals.
        keys: Of our signatures.
        cluster: PostgreSQL's own number.
        segment_bytes: Of every segment.

    Raises:
        StoreError: The newest note is damaged, or of another platform.
    """

    def __init__(
        self,
        store: Store,
        maker: Maker,
        keys: Sequence[Ed25519PublicKey],
        cluster: str,
        segment_bytes: int,
    ) -> None:
        self._store, self._maker, self._cluster = store, maker, cluster
        self._keys, self._bytes = keys, segment_bytes
        noted = names(store, cluster)
        self.newest = read(store, noted[-1], keys) if noted else None
        """The note that was written last."""
        segments = [one for one in noted if is_segment(plain_name(one))]
        self.last = read(store, segments[-1], keys) if segments else None
        """The note of the newest segment."""
        self._noted = {plain_name(name) for name in noted}
        if self.newest and self.newest.note.system != maker.system:
            raise StoreError(
                f"{store} has the log of the platform {self.newest.note.system}, not of "
                f"{maker.system}; give this one a store of its own"
            )

    def is_as_read(self) -> bool:
        """Whether it is as it was read; another line of backups may have taken its place."""
        if self.newest is None:
            return not names(self._store, self._cluster)
        try:
            return read(self._store, self.newest.object, self._keys) == self.newest
        except StoreError:  # one that is damaged is no reason to seal nothing
            return self._store.has(self.newest.object)

    def has(self, name: str) -> bool:
        """Whether a segment or history is sealed."""
        return name in self._noted

    def refuse_another(self, path: Path) -> None:
        """See that a segment which is received once more is the one that is sealed.

        Raises:
            StoreError: It is another.
        """
        noted = read(self._store, note_of(self._cluster, path.name), self._keys)
        if files.sha256_of(path) != noted.note.sums.plain_sha256:
            raise StoreError(
                f"{path} is another than the segment of this name that is sealed: the server was "
                "put back without a new timeline; restore it by `rul backup recover`, or give its "
                "backups a store of their own"
            )

    def take(
        self, path: Path, *, now: datetime, reaches_at: datetime | None = None, history: str = ""
    ) -> Noted:
        """Seal a segment or history that PostgreSQL has completed; the note comes last.

        Args:
            path: The file, by PostgreSQL's name.
            now: Of this machine.
            reaches_at: What was committed until then is in it or before it; unknown unless given.
            history: Of its timeline, where it is not the first.

        Raises:
            AnotherLog: It came there since the log was read.
            StoreError: It has not a segment's size, or is older than the newest one.
            OSError: The store cannot be written; nothing counts as sealed then.
        """
        name, begins = path.name, ""
        if is_segment(name):
            size = path.stat().st_size
            if size != self._bytes:
                raise StoreError(f"{path} has {size:,} bytes where a segment has {self._bytes:,}")
            begins = self._begins(Segment.named(name, self._bytes), history)
        if self.newest and name < self.newest.note.segment:
            raise StoreError(
                f"{path} is older than {self.newest.note.segment}, which is sealed; the log of a "
                "timeline that was left is not taken up again"
            )
        stored_as, noted_as = object_of(self._cluster, name), note_of(self._cluster, name)
        if self._store.has(noted_as):
            raise AnotherLog(f"{self._store}/{noted_as} came there since the log was read")
        self._store.remove(stored_as)  # of an archiver that was killed before it wrote the note
        with path.open("rb") as plain, self._store.putting(stored_as) as stored:
            sums = seal(plain, stored, self._maker.recipients)
        before = self.newest
        note = Note(
            system=self._maker.system,
            cluster=self._cluster,
            segment=name,
            segment_bytes=self._bytes,
            number=before.note.number + 1 if before else 1,
            sums=sums,
            sealed_at=now,
            reaches_at=reaches_at or (before.note.reaches_at if before and not begins else None),
            previous_sha256=before.sha256 if before else None,
            begins=begins,
        )
        content = manifests.signed(
            msgspec.json.encode(note, order="sorted"), _PURPOSE, self._maker.signing_key
        )
        with self._store.putting(noted_as) as stored:
            stored.write(content)
        noted = Noted(noted_as, manifests.sha256_of(content), note)
        self.newest = noted
        self._noted.add(name)
        if noted.segment:
            self.last = noted
        return noted

    def _begins(self, segment: Segment, history: str) -> str:
        """Why the chain begins anew with a segment, where it does."""
        before = self.last.segment if self.last else None
        if before is None:
            return "nothing was received before"
        if segment.timeline == before.timeline:
            lost = segment.number - before.number - 1
            return f"{lost} segments after {before} were lost" if lost else ""
        fork = fork_of(history, before.timeline)
        if fork is None:
            return f"timeline {segment.timeline} does not come from {before.timeline}"
        if fork < before.end:
            return f"timeline {segment.timeline} left {before.timeline} before {before} ended"
        if segment.number != before.number + 1:
            return f"segments after {before} were lost as timeline {segment.timeline} began"
        return ""


class Start(NamedTuple):
    """Where a base begins."""

    run: str
    """Which kept it."""
    cluster: str
    segment: Segment
    end: Segment
    """In which it ended; where it began, of those that did not note it."""
    ended_at: datetime
    """From when on it leads to any moment."""

    @property
    def notes(self) -> set[str]:
        """Of the segments between which all are needed before it is a database."""
        return {note_of(self.cluster, str(one)) for one in (self.segment, self.end)}


def start_of(run: Sealed) -> Start | None:
    """Where the base of a run begins, if it promises one."""
    base = next((one for one in run.manifest.artefacts if one.kind is Kind.BASE), None)
    if base is None:
        return None
    facts = base.facts
    first, size = facts["start_segment"], facts["segment_bytes"]
    return Start(
        base.run or run.manifest.run,
        facts["cluster"],
        Segment.named(first, size),
        Segment.named(facts.get("end_segment", first), size),
        datetime.fromisoformat(facts["ended_at"]),
    )


def starts(promised: Iterable[Sealed]) -> list[Start]:
    """Where the bases of runs begin, the earliest first."""
    found = {start for sealed in promised if (start := start_of(sealed))}
    return sorted(found, key=lambda start: (start.cluster, str(start.segment), start.ended_at))


def heads(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> list[LogHead]:
    """The newest note of every cluster; a damaged one is left to whoever verifies."""
    found = []
    for _, group in itertools.groupby(names(store), key=cluster_of):
        *_, newest = group
        with suppress(StoreError):
            noted = read(store, newest, keys)
            found.append(
                LogHead(
                    cluster=noted.note.cluster,
                    segment=noted.note.segment,
                    number=noted.note.number,
                    sha256=noted.sha256,
                )
            )
    return found


def left_behind(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> list[str]:
    """Objects of segments that no base of any run needs that was not let go.

    The log of a cluster of which there was no base yet stays, since one may be on its way;
    histories stay, since they are small and say which timelines there were.

    Raises:
        StoreError: A manifest is damaged or missing; until it is restored, nobody knows what is
            needed.
    """
    earliest = {start.cluster: _AFTER_ALL for start in starts(whole_line(store, keys))}
    for start in reversed(starts(there(store, keys))):
        earliest[start.cluster] = str(start.segment)
    return [
        name
        for name in sorted(store.sizes(f"{WAL}/"))
        if is_name(name)
        and is_segment(plain_name(name))
        and plain_name(name) < earliest.get(cluster_of(name), "")
    ]


def sweep(store: Store, keys: Sequence[Ed25519PublicKey]) -> list[str]:
    """Remove these, the oldest first; give the objects."""
    with store.alone():
        found = left_behind(store, keys)
        for name in found:
            store.remove(name)
    return found


def way(
    notes: Iterable[Noted], start: Segment, until: datetime | None
) -> tuple[list[Noted], str | None]:
    """The segments that lead from a place in the log to a moment.

    Args:
        notes: All of a cluster, in order: what comes after the moment tells whether the server's
            clock was ahead of it before.
        start: Where a base begins.
        until: The moment; as far as they lead unless given.

    Returns:
        Their notes, and why they do not lead to the moment, such as a note that is damaged, or a
        clock that was set back to before it; none where they do.

    Raises:
        Unavailable: The store of the notes does not answer.
    """
    found: list[Noted] = []
    problem = None
    try:
        for noted in notes:
            segment = noted.segment
            if segment is None or (not found and segment != start):
                continue
            if found and noted.note.begins:
                problem = f"{noted.note.segment} begins the log anew: {noted.note.begins}"
                break
            found.append(noted)
    except Unavailable:
        raise
    except StoreError as error:
        problem = str(error)
    if not found:
        return found, problem or f"the segment {start}, with which the base begins, is not archived"
    if until is None:
        return found, problem
    reach = [one.note.reaches_at or _NEVER for one in found]
    last = next((number for number, at in enumerate(reach) if at >= until), None)
    if last is None:
        return found, problem or f"the newest archived segment is {found[-1].note.segment}"
    for one, at in zip(found[last:], reach[last:], strict=True):
        if at < reach[last]:
            return found[:last], (
                f"the server's clock was set back by {one.note.segment}, from "
                f"{reach[last].isoformat()} to {at.isoformat()}, so nobody can tell what was "
                "committed until then; recover all (latest)"
            )
    return found[: last + 1], None


def reached(notes: Iterable[Noted]) -> datetime | None:
    """Until when all that was committed is in these segments; none where nobody knows.

    By the newest that tells: an earlier one may be of a clock that was ahead.
    """
    told = [one.note.reaches_at for one in notes if one.note.reaches_at]
    return told[-1] if told else None


def plain_name(name: str) -> str:
    """PostgreSQL's name of what an object is, or is a note of."""
    return name.rpartition("/")[2].removesuffix(NOTE).removesuffix(SUFFIX)


def cluster_of(name: str) -> str:
    """Of which cluster an object is."""
    return name.split("/")[1]


class _Version(msgspec.Struct):
    format: int
