"""The archiver: it receives PostgreSQL's write-ahead log all the time and seals what is complete.

What belongs here: that loop, and what it tells Prometheus. What does not: what is sealed and how
(``wal``), restoring (``recovery``).

PostgreSQL's own ``pg_receivewal`` receives, into a spool folder, by a physical replication slot:
the server keeps what has not been received. So PostgreSQL needs no program of ours, and neither its
work nor its stop waits for the store. While the store is full or away the spool grows. While the
archiver is away the server's own folder grows, up to the server's ``max_slot_wal_keep_size``, which
must be set: beyond it the server drops what was not received, and says so of the slot. Then the
chain of segments begins anew, and a new base is needed.

The spool must survive a restart: what is complete in it and not sealed yet is nowhere else.

The user needs ``REPLICATION``, a line ``replication`` in ``pg_hba.conf``, and, so that a quiet hour
does not wait for 16 MB, ``GRANT EXECUTE ON FUNCTION pg_switch_wal() TO …``. (The server's
``archive_timeout`` does nothing without its ``archive_mode``.)
"""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from rul_backup import programs, wal
from rul_backup.runs import Maker
from rul_backup.stores import Store
from rul_backup.wal import AnotherLog, ClusterLog, Segment
from rul_core.errors import RulError, StoreError, Unavailable
from rul_store import files
from rul_store.database import begin, connect

SLOT = "rul_archiver"
ARCHIVE_TIMEOUT_SECONDS = 60.0
LOOK_SECONDS = 2.0
STATUS_SECONDS = 5
"""Between two words of the receiver to the server."""
STOP_SECONDS = 10.0
HEADER_BYTES = 40
"""Of a segment: with these it begins before anything is written to it."""
IN_FLIGHT = timedelta(seconds=1)
"""A commit bears a time from just before it is written; so much before a look all are written."""
PATIENCE = timedelta(seconds=5)
"""For so long at most a segment that is due waits for such a pause."""
REGISTRY = CollectorRegistry()
SEALED_AT = Gauge(
    "rul_wal_sealed_timestamp_seconds", "When the newest segment was sealed.", registry=REGISTRY
)
REACHES_AT = Gauge(
    "rul_wal_reaches_timestamp_seconds",
    "Until when all that was committed is sealed.",
    registry=REGISTRY,
)
ARCHIVED_TO = Gauge(
    "rul_wal_archived_to_bytes", "Up to which place the log is sealed.", registry=REGISTRY
)
LAG_BYTES = Gauge(
    "rul_wal_lag_bytes", "How much of the log is written and not sealed.", registry=REGISTRY
)
LAG_SECONDS = Gauge(
    "rul_wal_lag_seconds",
    "For how long something has been written and not sealed; 0 when nothing is.",
    registry=REGISTRY,
)
RECEIVING = Gauge(
    "rul_wal_receiving",
    "1 when the receiver ran at the last look and has since the one before.",
    registry=REGISTRY,
)
LOOKED_AT = Gauge(
    "rul_wal_looked_timestamp_seconds", "When the archiver last looked.", registry=REGISTRY
)
FAILURES = Counter(
    "rul_wal_failures", "Steps that failed and were tried again.", ["step"], registry=REGISTRY
)


class Sample(NamedTuple):
    """The server at a moment."""

    at: datetime
    """By its clock: what was committed until then lies before the place."""
    lsn: int
    timeline: int
    snapshot: str
    """Which transactions had ended; the same text means that none has since."""

    def is_before_end_of(self, segment: Segment) -> bool:
        """Whether a segment, once sealed, leaves nothing to be said of it."""
        return self.timeline < segment.timeline or self.lsn <= segment.end


class _Server(NamedTuple):
    cluster: str
    segment_bytes: int
    major: int


class Archiver:
    """Receives the log of one server and seals it into a store.

    Args:
        store: Where segments go.
        maker: Who seals.
        keys: Of our signatures.
        url: Of any database of the server, of a user who may replicate.
        spool: A folder that survives a restart.
        slot: The replication slot; made when missing.
        archive_timeout_seconds: What was written is sealed within so many seconds, however little.
        tell: Told what went wrong, and what was sealed.
    """

    def __init__(
        self,
        store: Store,
        maker: Maker,
        keys: tuple[Ed25519PublicKey, ...],
        url: str,
        spool: Path,
        *,
        slot: str = SLOT,
        archive_timeout_seconds: float = ARCHIVE_TIMEOUT_SECONDS,
        tell: Callable[..., None] = lambda **_: None,
    ) -> None:
        self._store, self._maker, self._keys = store, maker, keys
        self._url, self._spool, self._slot = url, spool, slot
        self._timeout, self._tell = timedelta(seconds=archive_timeout_seconds), tell
        self._engine = connect(url, pool_size=1)
        self._server: _Server | None = None
        self._archive: ClusterLog | None = None
        self._receiver: subprocess.Popen[bytes] | None = None
        self._receives = False
        """Whether it has run since an earlier look; one that cannot is begun anew at every look."""
        self._is_sealed = False
        """Whether all that the spool has complete was seen to be sealed."""
        self._ended: Segment | None = None
        """The segment that was ended last, until it cannot come any more."""
        self._compared: set[str] = set()
        self._samples: deque[Sample] = deque()
        self._settled = ""
        self._changed_at: datetime | None = None
        """When the newest transactions that had ended were seen first; all had ended by then."""
        self._pending_since: datetime | None = None
        self._sealed_snapshot = ""
        self._whole_at: datetime | None = None
        """When all that was written was seen to be sealed."""

    def run(self, stop: threading.Event, *, look_seconds: float = LOOK_SECONDS) -> None:
        """Look again and again until told to stop; what fails is told and tried again.

        Args:
            stop: Set by whoever wants it to end.
            look_seconds: Between two looks.

        Raises:
            StoreError: Another archiver uses the spool.
        """
        with files.locked(self._spool / ".lock"):
            try:
                while not stop.is_set():
                    self.look()
                    stop.wait(look_seconds)
            finally:
                self.close()

    def look(self) -> None:
        """See that the receiver runs, seal what is complete, and end a segment that waits."""
        for name, step in (
            ("receive", self._keep_receiving),
            ("sample", self._sample),
            ("seal", self._seal),
            ("switch", self._switch_where_due),
        ):
            try:
                step()
            except (RulError, OSError, ProgrammingError) as error:
                FAILURES.labels(name).inc()
                self._tell(step=name, error=str(error))
        self._measure()

    def close(self) -> None:
        """End the receiver."""
        if self._receiver is not None:
            self._receiver.terminate()  # it flushes what it has
            try:
                self._receiver.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._receiver.kill()
                self._receiver.wait()
            self._receiver = None
        self._engine.dispose()

    # --- receiving
    def _keep_receiving(self) -> None:
        self._receives = self._receiver is not None and self._receiver.poll() is None
        if self._receives:
            return
        if self._receiver is not None:
            ended = self._receiver.returncode
            self._receiver = None
            told = self._log.read_text(errors="replace").strip()[-500:]
            FAILURES.labels("receive").inc()
            self._tell(step="receive", error=f"pg_receivewal ended with {ended}: {told}")
        self._know_server()
        self._look_at_slot()
        self._start_receiver()

    def _know_server(self) -> None:
        with begin(self._engine) as connection:
            cluster, size = connection.execute(
                sa.text(
                    "SELECT system_identifier::text, "
                    "pg_size_bytes(current_setting('wal_segment_size')) FROM pg_control_system()"
                )
            ).one()
            found = _Server(cluster, size, programs.major_version(connection))
        if found != self._server:
            self._server, self._archive = found, None
            self._samples.clear()
            self._compared.clear()
            self._ended = None
        files.make_folder(self._folder)

    def _look_at_slot(self) -> None:
        """Make the slot where it is missing or lost, and see where the server can go on."""
        query = sa.text(
            "SELECT wal_status, restart_lsn - '0/0'::pg_lsn FROM pg_replication_slots "
            "WHERE slot_name = :slot"
        )
        named = {"slot": self._slot}
        with begin(self._engine) as connection:
            found = connection.execute(query, named).one_or_none()
            if found is not None and (found[0] == "lost" or found[1] is None):
                self._tell(step="receive", error=f"the slot {self._slot} has lost its place")
                self._make_slot(connection, is_there=True)
                found = None
            elif found is None:
                self._make_slot(connection, is_there=False)
            if found is None:
                found = connection.execute(query, named).one()
        position = self._position
        if position is None:
            return
        problem = self._why_not_from(position, int(found[1]))
        if problem:
            self._begin_anew(problem)

    def _make_slot(self, connection: sa.Connection, *, is_there: bool) -> None:
        named, self._ended = {"slot": self._slot}, None
        if is_there:
            connection.execute(sa.text("SELECT pg_drop_replication_slot(:slot)"), named)
        make = sa.text("SELECT pg_create_physical_replication_slot(:slot, true)")
        connection.execute(make, named)

    def _why_not_from(self, position: Segment, restart: int) -> str:
        """Why the server cannot go on after what the spool has; empty where it can."""
        timeline, history = self._line()
        if timeline < position.timeline:
            raise StoreError(
                f"the server is on timeline {timeline}, and {position} is of a later one; it is "
                "another copy of the server: give its backups a store and a spool of their own"
            )
        if timeline > position.timeline:
            fork = wal.fork_of(history, position.timeline)
            if fork is None or fork < position.end:
                return f"the server left timeline {position.timeline} before {position} ended"
        if self._asked.exists() and self._asked.read_text() == str(position):
            begun = self._folder / f"{position.next}.partial"
            # Begun since it was asked for, it came; whoever received it was stopped before its end.
            if begun.exists() and begun.stat().st_mtime_ns >= self._asked.stat().st_mtime_ns:
                return ""
            return f"the server does not have {position.next} any more"
        if restart // position.bytes > position.next.number:
            # It may have more than the slot keeps, so it is asked for that first. Asked, the slot
            # goes back to that place, whether it is there or not; so what was seen is written down.
            files.write(self._asked, str(position))
        return ""

    def _line(self) -> tuple[int, str]:
        """The server's timeline, and the history that led to it."""
        plain = make_url(self._url).set(drivername="postgresql")
        try:
            connection = psycopg.connect(
                plain.render_as_string(hide_password=False), replication="true", autocommit=True
            )
        except psycopg.OperationalError as error:
            said = " ".join(str(error).split())
            raise Unavailable(
                f"PostgreSQL does not let {plain.username} replicate: {said}; give it REPLICATION "
                "and a line `host replication` in pg_hba.conf"
            ) from error
        with closing(connection):
            told = connection.pgconn.exec_(b"IDENTIFY_SYSTEM")
            timeline = int(told.get_value(0, 1) or b"0")
            if timeline <= 1:
                return timeline, ""
            history = connection.pgconn.exec_(f"TIMELINE_HISTORY {timeline}".encode())
            return timeline, (history.get_value(0, 1) or b"").decode()

    def _begin_anew(self, problem: str) -> None:
        """Forget where the spool was, once all of it is sealed."""
        self._seal()
        self._tell(step="receive", error=f"the log begins anew: {problem}; make a new base")
        for path in self._folder.iterdir():
            if wal.is_segment(path.name.partition(".")[0]):
                path.unlink()
        with begin(self._engine) as connection:  # where it can really go on
            self._make_slot(connection, is_there=True)
        self._asked.unlink(missing_ok=True)
        self._samples.clear()

    def _start_receiver(self) -> None:
        server = self._known
        program = programs.path_of("pg_receivewal", server.major)
        # Else it would outlive a killed archiver and hold the slot against the next one. Not by a
        # function between fork and exec, in which a process with threads may hang.
        setpriv = shutil.which("setpriv")
        ending_with_us = [setpriv, "--pdeathsig=TERM", "--"] if setpriv else []
        with self._log.open("wb") as log:
            self._receiver = subprocess.Popen(  # noqa: S603 - PostgreSQL's own program
                [
                    *ending_with_us,
                    program,
                    "--no-password",
                    "--no-loop",
                    f"--status-interval={STATUS_SECONDS}",
                    f"--slot={self._slot}",
                    f"--directory={self._folder}",
                ],
                env=programs.environment(self._url),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    # --- sealing
    def _seal(self) -> None:
        """Seal what is complete; of that the spool keeps the newest, from which it goes on."""
        self._is_sealed = False
        with self._alone() as known:
            names = sorted(path.name for path in self._folder.iterdir())
        complete = [name for name in names if wal.is_segment(name)]
        for name in names:
            if wal.is_history(name):
                if not known.has(name):
                    with self._alone() as archive:
                        archive.take(self._folder / name, now=datetime.now(UTC))
            elif name in complete:
                self._seal_segment(name, stays=name == complete[-1])
        for name in names:  # of a timeline that was left
            if complete and name.endswith(".partial") and name[:8] < complete[-1][:8]:
                (self._folder / name).unlink()
        self._is_sealed = True

    @contextmanager
    def _alone(self) -> Generator[ClusterLog]:
        """The log as the store has it, which nobody else changes meanwhile.

        Another line of backups, with a log of its own, may have taken the place of what was there.
        """
        server = self._known
        with self._store.alone():
            if self._archive is None or not self._archive.is_as_read():
                self._compared.clear()
                self._archive = ClusterLog(
                    self._store, self._maker, self._keys, server.cluster, server.segment_bytes
                )
            try:
                yield self._archive
            except AnotherLog:  # it is read anew
                self._archive = None
                raise
        time.sleep(files.TURN_SECONDS)

    def _seal_segment(self, name: str, *, stays: bool) -> None:
        if stays and name in self._compared:
            return
        with self._alone() as archive:
            if name not in self._compared:
                self._seal_alone(archive, name)
                self._compared.add(name)
            if not stays:
                (self._folder / name).unlink()
                self._compared.discard(name)

    def _seal_alone(self, archive: ClusterLog, name: str) -> None:
        path = self._folder / name
        if archive.has(name):
            archive.refuse_another(path)
        else:
            segment = Segment.named(name, self._known.segment_bytes)
            reaches_at, snapshot = self._covered_by(segment)
            history = self._folder / f"{segment.timeline:08X}.history"
            noted = archive.take(
                path,
                now=datetime.now(UTC),
                reaches_at=reaches_at,
                history=history.read_text() if history.exists() else "",
            )
            # Not before it is sealed: where the store is away it is tried again with them.
            while self._samples and self._samples[0].is_before_end_of(segment):
                self._samples.popleft()
            if reaches_at:
                self._sealed_snapshot, self._whole_at = snapshot, reaches_at
            self._tell(sealed=name, number=noted.note.number, begins=noted.note.begins)

    def _covered_by(self, segment: Segment) -> tuple[datetime | None, str]:
        """Until when, and until which transactions, the log up to a segment's end has all."""
        reaches_at, snapshot = None, ""
        for sample in self._samples:
            if not sample.is_before_end_of(segment):
                break
            if sample.timeline == segment.timeline:
                reaches_at, snapshot = sample.at - IN_FLIGHT, sample.snapshot
        return reaches_at, snapshot

    # --- ending a segment that waits
    def _sample(self) -> None:
        before = self._samples[-1] if self._samples else None
        with begin(self._engine) as connection:
            at = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
            lsn, file, snapshot, seen_at = connection.execute(
                sa.text(
                    "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn, "
                    "pg_walfile_name(pg_current_wal_lsn()), pg_current_snapshot()::text, "
                    "clock_timestamp()"
                )
            ).one()
        sample = Sample(at, int(lsn), int(file[:8], 16), snapshot)
        size = self._known.segment_bytes
        if before is None or before.snapshot != snapshot:
            self._changed_at = seen_at
        if self._is_sealed_until(sample):
            self._sealed_snapshot = snapshot
        if before and before.lsn // size != sample.lsn // size:
            self._settled, self._pending_since = before.snapshot, None
        if snapshot in (self._settled, self._sealed_snapshot):
            self._pending_since = None
        elif self._pending_since is None:
            self._pending_since = at
        if (
            before
            and before.timeline == sample.timeline
            and (before.lsn // size == sample.lsn // size)
        ):
            self._samples.pop()  # of a segment the latest says all
        self._samples.append(sample)
        if self._whole_at is None or snapshot == self._sealed_snapshot:
            self._whole_at = at

    def _is_sealed_until(self, sample: Sample) -> bool:
        """Whether nothing was written since the newest segment; seen after a restart too."""
        last = self._archive.last.segment if self._archive and self._archive.last else None
        return (
            last is not None
            and last.timeline == sample.timeline
            and sample.lsn <= last.end + HEADER_BYTES
        )

    def _arrives(self) -> bool:
        """Whether what is ended is received and sealed.

        Each that is not takes a segment's size of what the server keeps for the archiver, and on a
        quiet server would be gone through in hours.
        """
        ended, last = self._ended, self._archive.last if self._archive else None
        waits = (
            ended is not None
            and ended.timeline == self._samples[-1].timeline
            and (last is None or last.segment is None or last.segment < ended)
        )
        return self._receives and self._is_sealed and not waits

    def _switch_where_due(self) -> None:
        """End the segment where something was written and has waited for long enough."""
        if self._pending_since is None or not self._samples or not self._arrives():
            return
        now = self._samples[-1].at
        waited = now - self._pending_since
        if waited < self._timeout:
            return
        # What was committed in the last second would be sealed, and its moment not be reached: if
        # nothing came afterwards, never. So a pause is waited for, where one comes soon.
        is_fresh = self._changed_at is not None and now - self._changed_at < IN_FLIGHT
        if is_fresh and waited < self._timeout + PATIENCE:
            return
        try:
            with begin(self._engine) as connection:
                end = connection.execute(
                    sa.text("SELECT pg_switch_wal() - '0/0'::pg_lsn")
                ).scalar_one()
            size, timeline = self._known.segment_bytes, self._samples[-1].timeline
            self._ended = Segment.at(timeline, int(end) - 1, size)
            self._settled, self._pending_since = self._samples[-1].snapshot, None
        except ProgrammingError as error:
            raise StoreError(
                f"a segment cannot be ended: {error.orig}; GRANT EXECUTE ON FUNCTION "
                f"pg_switch_wal() TO {make_url(self._url).username}, or 16 MB are waited for"
            ) from error

    # --- telling
    def _measure(self) -> None:
        RECEIVING.set(self._receives)
        LOOKED_AT.set_to_current_time()
        last = self._archive.last if self._archive else None
        sample = self._samples[-1] if self._samples else None
        if last is not None and last.segment is not None:
            SEALED_AT.set(last.note.sealed_at.timestamp())
            ARCHIVED_TO.set(last.segment.end)
            if last.note.reaches_at:
                REACHES_AT.set(last.note.reaches_at.timestamp())
            if sample is not None:
                LAG_BYTES.set(max(0, sample.lsn - last.segment.end))
        if sample is not None:
            whole = sample.snapshot == self._sealed_snapshot or self._whole_at is None
            LAG_SECONDS.set(0 if whole else (sample.at - self._whole_at).total_seconds())

    @property
    def _known(self) -> _Server:
        if self._server is None:
            raise Unavailable("PostgreSQL has not answered yet, so nobody knows whose log it is")
        return self._server

    @property
    def _folder(self) -> Path:
        """The spool of this cluster."""
        return self._spool / self._known.cluster

    @property
    def _log(self) -> Path:
        return self._folder / "receiver.log"

    @property
    def _asked(self) -> Path:
        """Says after which segment the server was asked to go on, though the slot keeps later."""
        return self._folder / "asked"

    @property
    def _position(self) -> Segment | None:
        """The newest segment that the spool has whole."""
        complete = [path.name for path in self._folder.iterdir() if wal.is_segment(path.name)]
        return Segment.named(max(complete), self._known.segment_bytes) if complete else None


def say(**what: Any) -> None:
    """A line of JSON on the standard output."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
