"""Bringing PostgreSQL back to a moment: a base, and its log until then.

What belongs here: choosing them, a server that replays the log into a new data folder, and one that
answers from it for a moment. What does not: putting what is recovered in the place of what lives
(``live``), dumps (``drill``).
"""

import hashlib
import re
import shlex
import shutil
import tarfile
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pyrage import x25519

from rul_backup import drill, fingerprints, programs, runs, scratch, snapshots, telling, wal
from rul_backup.drill import Restored
from rul_backup.manifest import Artefact
from rul_backup.retention import FUTURE
from rul_backup.runs import Sealed
from rul_backup.stores import Shelf
from rul_backup.telling import Tell, timed
from rul_backup.wal import Noted, Segment, Start
from rul_core.errors import StoreError, Unavailable
from rul_store import files
from rul_store.embedded import PostgresServer, give_to_nobody, make_sockets_folder
from rul_store.rights import RIGHTS, Group

TIMEOUT_SECONDS = 24 * 3600
"""For replaying the log; a day of it takes minutes."""
_ENDED_BEFORE = "recovery ended before configured recovery target was reached"
_LAST = re.compile(r"last completed transaction was at log time (.+)")
_REDO_DONE = re.compile(r"redo done at ([0-9A-F]+/[0-9A-F]+)")
_READ = re.compile(r'restored log file "([0-9A-F]{24})" from archive')
_HELD = "rul_wal"
_SETTINGS = {
    # What the old server had of these may be missing here, or speak to others.
    "listen_addresses": "", "port": "5432", "ssl": "off", "shared_preload_libraries": "",
    "archive_mode": "off", "primary_conninfo": "", "logging_collector": "off",
    "log_destination": "stderr", "lc_messages": "C", "log_timezone": "UTC",
    "shared_buffers": "128MB", "huge_pages": "off",
    "hot_standby": "off",  # nobody asks it anything
    "fsync": "off",  # all is synced at once when it is complete
    "recovery_target_action": "promote",
}  # fmt: skip


class Recovered(NamedTuple):
    """A data folder that was brought back."""

    folder: Path
    run: str
    """Which kept the base."""
    reaches_at: datetime | None
    """What was committed until then is in it, and nothing from later; unknown where nobody asked
    for a moment and the newest segments do not tell."""
    last_commit_at: str
    """As PostgreSQL tells it; empty where it replayed none."""
    segments: int
    """How many were replayed."""


class Served(NamedTuple):
    """A server that answers from what was recovered."""

    recovered: Recovered
    sockets: Path
    """The folder of its socket."""
    major: int

    def url(self, database: str) -> str:
        """Of one of its databases, for whoever made it."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.sockets}"


class Way(NamedTuple):
    """What leads to a moment."""

    sealed: Sealed
    base: Artefact
    segments: list[Noted]
    histories: list[Noted]
    until: datetime | None
    """The moment; none where all is asked for."""
    reaches_at: datetime | None
    """Until when what was committed is in it; unknown where all is asked for and they do not
    tell."""

    @property
    def last(self) -> Segment:
        """The newest of its segments."""
        return next(one.segment for one in reversed(self.segments) if one.segment)


def find(
    shelf: Shelf,
    keys: Sequence[Ed25519PublicKey],
    until: datetime | None,
    tell: Tell = telling.nobody,
) -> Way:
    """The base and the segments that lead to a moment.

    The newest base is taken from whose end the log leads on: of one that was kept a moment ago the
    log is on its way.

    Args:
        shelf: Has them.
        keys: Of our signatures.
        until: The moment; as far as possible unless given.
        tell: Told of runs whose manifests are damaged: the others' bases do as well.

    Raises:
        StoreError: No base is from before it, segments are missing or damaged, or it is after what
            is archived.
    """
    objects = shelf.sizes(f"{runs.RUNS}/")
    bases = [
        (sealed, base, start)
        for sealed in runs.readable(shelf, runs.names_there(shelf), keys, tell)
        if (base := snapshots.base_of(sealed)) and (start := wal.start_of(sealed))
        if sealed.object_of(base) in objects  # an archive has those of its run alone
    ]
    if not bases:
        raise StoreError(
            f"{shelf} has no base to recover from; runs keep one once RUL_BACKUP_REPLICATION_URL "
            "is set (`rul backup restore` brings back a run's dump)"
        )
    before = [one for one in bases if until is None or one[2].ended_at <= until]
    if not before:
        first = min(start.ended_at for _, _, start in bases)
        raise StoreError(
            f"{shelf} has no base from before {until}; the earliest moment is {first.isoformat()}"
        )
    archived = {*shelf.sizes(f"{wal.WAL}/")}
    led_on = [one for one in before if one[2].notes <= archived]
    sealed, base, start = max(led_on or before, key=lambda one: one[2].ended_at)
    segments, problem = _way(shelf, keys, start, until)
    reached = wal.reached(segments)
    if segments and not led_on:
        why = f": {problem}" if problem else ""
        problem = f"the segment {start.end}, in which the base ended, is not archived{why}"
        reached = None
    if problem:
        as_far = f"; recover to {reached.isoformat()} at the latest" if reached else ""
        asked = until.isoformat() if until else "any moment"
        raise StoreError(f"the log in {shelf} does not lead to {asked}: {problem}{as_far}")
    last = Segment.named(segments[-1].note.segment, start.segment.bytes)
    histories = wal.histories(shelf, keys, start.cluster, last.timeline)
    for noted in (*histories, *segments):
        if noted.note.system != sealed.manifest.system:
            raise StoreError(
                f"{shelf}/{noted.object} is of another platform, {noted.note.system}, and "
                f"{sealed.manifest.run} of {sealed.manifest.system}; see who archives there"
            )
    return Way(sealed, base, segments, histories, until, until or reached)


def has_log(shelf: Shelf, keys: Sequence[Ed25519PublicKey]) -> bool:
    """Whether the log of any base that is promised has been archived to the base's end.

    Raises:
        Unavailable: The store does not answer.
    """
    archived = {*shelf.sizes(f"{wal.WAL}/")}
    there = runs.readable(shelf, runs.names_there(shelf), keys)
    return any(start.notes <= archived for start in wal.starts(there))


def _way(
    shelf: Shelf, keys: Sequence[Ed25519PublicKey], start: Start, until: datetime | None
) -> tuple[list[Noted], str | None]:
    """The segments from a base to a moment, and why they do not lead there (``wal.way``)."""
    every = wal.following(shelf, keys, start.cluster, since=str(start.segment))
    return wal.way(every, start.segment, until)


def is_base_of_today(
    shelf: Shelf,
    keys: Sequence[Ed25519PublicKey],
    run: Sealed,
    *,
    cluster: str,
    now: datetime,
) -> bool:
    """Whether a run's base is young enough, of this cluster, and what was archived since leads on.

    Raises:
        Unavailable: The store does not answer.
    """
    start = wal.start_of(run)
    if start is None or start.cluster != cluster:
        return False
    if not -FUTURE <= now - start.ended_at < snapshots.BASE_EVERY:
        return False
    first = wal.note_of(cluster, str(start.segment))
    if all(name < first for name in wal.names(shelf, cluster)):
        return True  # nobody archives, or not yet
    return _way(shelf, keys, start, None)[1] is None


def recover(
    shelf: Shelf,
    keys: Sequence[Ed25519PublicKey],
    identities: Sequence[x25519.Identity],
    until: datetime | None,
    into: Path,
    *,
    timeout_seconds: int = TIMEOUT_SECONDS,
    tell: Tell = telling.nobody,
) -> Recovered:
    """Bring PostgreSQL's data folder back as it was at a moment, all of it or nothing.

    A server of the same major version replays the log, takes a new timeline, and is stopped. Root
    leaves the folder to the user ``nobody``; anybody else to themselves.

    Args:
        shelf: Has the backups.
        keys: Of our signatures.
        identities: By which they are decrypted.
        until: The moment; as far as possible unless given.
        into: A folder that is not there.
        timeout_seconds: For replaying.
        tell: Told of the steps, and of damaged manifests that are passed over.

    Raises:
        StoreError: The folder is there, nothing leads to the moment, there is too little room for
            it, something is damaged, or the server does not replay it; says what its log says.
        SettingsError: There is no server of that version here.
    """
    if into.exists():
        raise StoreError(f"{into} is there already; name a folder that is not, to recover into")
    way = find(shelf, keys, until, tell)
    binaries = programs.servers_folder(way.base.facts["server"])
    files.require_room(into.absolute().parent, _needed_bytes(way), f"recovering into {into.name}")
    with files.publishing(into.absolute()) as data:
        data.chmod(0o700)
        timed(tell, "the base brought", lambda: _bring_base(shelf, way, data, identities))
        held = data / _HELD
        timed(tell, "its log brought", lambda: _bring_log(shelf, way, held, identities))
        last = timed(
            tell, "the log replayed", lambda: _replay(binaries, data, held, way, timeout_seconds)
        )
        shutil.rmtree(held)
        (data / "postmaster.opts").unlink()  # of this server; pg_ctl restart would repeat it
    return Recovered(into, way.sealed.manifest.run, way.reaches_at, last, len(way.segments))


def _needed_bytes(way: Way) -> int:
    """The base as a tar and what is in it; then that, the log, and what replaying it writes."""
    base = way.base.sums.plain_bytes
    log = sum(noted.note.sums.plain_bytes for noted in way.segments)
    return base + max(base, 2 * log)


def prove(
    shelf: Shelf,
    keys: Sequence[Ed25519PublicKey],
    identities: Sequence[x25519.Identity],
    run: Sealed,
    database: str,
    folder: Path | None = None,
    tell: Tell = telling.nobody,
) -> tuple[Restored, datetime | None]:
    """Recover all that the log leads to, read all of a database, and see that nothing was lost.

    What nobody may delete has at least the rows that a run kept before, which cannot be said where
    the log leads to before its dump. Pages have checksums, so that reading finds what recovery
    spoilt.

    Args:
        shelf: Has the backups.
        keys: Of our signatures.
        identities: By which they are decrypted.
        run: Of before, which kept the database too.
        database: Its name.
        folder: Where it is recovered; the system's folder for such unless given.
        tell: Told of the steps, and of damaged manifests that are passed over.

    Returns:
        What was found, and until when all that was committed is in it; that is unknown where it
        cannot be recovered, which is told as a difference.

    Raises:
        SettingsError: There is no server of that version here.
        Unavailable: The store does not answer.
    """
    started, reaches_at, told = time.monotonic(), None, []
    try:
        with served(shelf, keys, identities, None, folder, tell) as server:
            reaches_at, url = server.recovered.reaches_at, server.url(database)
            what = "what the log leads to read to its end"
            found = timed(tell, what, lambda: fingerprints.of_address(url))["tables"]
        dumped_at = _dumped_at(run)
        if reaches_at and reaches_at >= dumped_at:
            told = _lost(run, found)
        else:
            until = reaches_at.isoformat() if reaches_at else "nobody knows when"
            tell(
                f"the log leads until {until}, not yet to the dump of {dumped_at.isoformat()}", None
            )
    except Unavailable:
        raise
    except StoreError as error:
        told = [f"the log does not lead to a server: {error}"]
    return Restored(time.monotonic() - started, tuple(told)), reaches_at


def _dumped_at(run: Sealed) -> datetime:
    """What was committed until then may be in a run's dump, and nothing from later."""
    at = snapshots.dump_of(run).facts.get("taken_at")
    return datetime.fromisoformat(at) if at else run.manifest.finished_at


def _lost(run: Sealed, found: dict[str, Any]) -> list[str]:
    """Tables from which nobody may delete, and that have fewer rows than a run kept before."""
    kept, told = snapshots.dump_of(run), []
    for table, rights in RIGHTS.items():
        name = f"public.{table}"
        grows = not any("DELETE" in rights.of(group) for group in Group)
        if grows and name in kept.facts["tables"]:
            expected, rows = kept.facts["tables"][name]["rows"], found.get(name, {}).get("rows", 0)
            if rows < expected:
                told.append(
                    f"by the log the table {name} has {rows:,} rows where {expected:,} were kept "
                    "before"
                )
    return told


@contextmanager
def served(
    shelf: Shelf,
    keys: Sequence[Ed25519PublicKey],
    identities: Sequence[x25519.Identity],
    until: datetime | None,
    folder: Path | None = None,
    tell: Tell = telling.nobody,
) -> Generator[Served]:
    """PostgreSQL as it was at a moment, for as long as somebody looks; gone afterwards.

    Args:
        shelf: Has the backups.
        keys: Of our signatures.
        identities: By which they are decrypted.
        until: The moment; as far as possible unless given.
        folder: Where its data lie meanwhile; the system's folder for such unless given.
        tell: Told of the steps, and of damaged manifests that are passed over.

    Raises:
        StoreError: See ``recover``; or the server does not start.
        SettingsError: There is no server of that version here.
    """
    with scratch.room(folder) as home, scratch.room() as sockets:  # whose names must be short
        data, log, hba = (home / name for name in ("data", "log", "pg_hba.conf"))
        found = recover(shelf, keys, identities, until, data, tell=tell)
        hba.write_text("local all all trust\n")
        log.touch()
        give_to_nobody(home, log, hba, sockets)
        major = int((data / "PG_VERSION").read_text())
        server = PostgresServer(programs.servers_folder(major), data, log, sockets)
        server.start(_options({**_SETTINGS, "hba_file": str(hba)}))
        try:
            yield Served(found, sockets, major)
        finally:
            server.stop("immediate")


def _bring_base(shelf: Shelf, way: Way, data: Path, identities: Sequence[x25519.Identity]) -> None:
    with tempfile.TemporaryFile(dir=data.parent) as plain:
        name = way.sealed.object_of(way.base)
        drill.bring(shelf, name, way.base.sums, cast("BinaryIO", plain), identities)
        plain.seek(0)
        with tarfile.open(fileobj=plain) as archive:
            archive.extractall(data, filter="data")


def _bring_log(shelf: Shelf, way: Way, held: Path, identities: Sequence[x25519.Identity]) -> None:
    held.mkdir()
    for noted in (*way.histories, *way.segments):
        with (held / noted.note.segment).open("wb") as file:
            drill.bring(shelf, noted.content, noted.note.sums, file, identities)


def _replay(binaries: Path, data: Path, held: Path, way: Way, timeout_seconds: int) -> str:
    """Let a server replay the log; give when the last transaction ended, as it tells it."""
    log, hba = held / "log", held / "pg_hba.conf"
    (data / "recovery.signal").touch()
    log.touch()
    hba.write_text("local all all reject\n")
    copying = f"cp {shlex.quote(str(held).replace('%', '%%'))}/%f %p"
    settings = {
        **_SETTINGS,
        "hba_file": str(hba),
        "restore_command": copying,
        "recovery_target_timeline": str(way.last.timeline),
    }
    give_to_nobody(data, *data.rglob("*"))
    key = hashlib.sha256(str(data).encode()).hexdigest()[:16]
    sockets = Path(tempfile.gettempdir(), f"rul-{key}")
    make_sockets_folder(sockets, data.stat().st_uid)
    server = PostgresServer(binaries, data, log, sockets)
    try:
        moment = {}
        if way.until is not None:
            moment["recovery_target_time"] = way.until.astimezone(UTC).isoformat(sep=" ")
        try:
            _run(server, {**settings, **moment}, timeout_seconds)
        except StoreError:
            if _ENDED_BEFORE not in log.read_text(errors="replace"):
                raise
            # Nothing was committed after the moment, in all that was archived until it was over.
            moment = {}
            _run(server, settings, timeout_seconds)
        told = log.read_text(errors="replace")
        if not moment:
            _refuse_early_end(told, way.last)
        server.stop()
    except BaseException:
        if server.listens() or (data / "postmaster.pid").exists():
            server.stop("immediate")
        raise
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    last = _LAST.findall(told)
    return last[-1] if last else ""


def _refuse_early_end(told: str, last: Segment) -> None:
    """PostgreSQL takes the first record or segment that it cannot read for the end of the log."""
    done = [wal.lsn_of(found) for found in _REDO_DONE.findall(told)]
    # The last record may begin before the last segment, so it must have asked for that too.
    is_read = str(last) in _READ.findall(told)
    if not is_read or not done or done[-1] < last.end - 2 * last.bytes:
        raise StoreError(
            f"PostgreSQL did not replay the log to {last}, but ended at "
            f"{f'{done[-1]:X}' if done else 'its beginning'}; recover to an earlier moment, or "
            f"look why in what it says: {told[-2000:]}"
        )


def _run(server: PostgresServer, settings: dict[str, str], timeout_seconds: int) -> None:
    """Start it, and wait until it has replayed the log."""
    server.start(_options(settings), timeout_seconds=timeout_seconds)
    server.wait_until_ready(timeout_seconds)


def _options(settings: dict[str, str]) -> str:
    return shlex.join(
        part for name, value in settings.items() for part in ("-c", f"{name}={value}")
    )
