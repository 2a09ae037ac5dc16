"""What the backup benchmark keeps beside the serving benchmark's stage, and where it goes.

What belongs here: Dagster's database and the stack's files as the container stack has them, a store
of one's own here and on an S3 server, the archiver and the bringer as processes of their own, and
the command. What does not: the fleet, its model and the service (``serving_stage``), what is
measured (``backups``).
"""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from benchmarks.serving_stage import Server, Stage
from rul_backup import recovery, snapshots, stack, wal
from rul_backup.keeping import Backups
from rul_backup.manifest import Kind
from rul_backup.reading import BackupSettings, ReadingKeys, reading_keys_of, remote_store_of
from rul_backup.remote import RemoteStore
from rul_backup.runs import Sealed
from rul_backup.streams import Pace
from rul_store.database import begin, connect, create_database
from rul_store.provisioning import DAGSTER
from tests.backup import s3

RUL = (sys.executable, "-c", "from rul_cli.main import main; main()")
LOW_PRIORITY = 3
"""Half the processor's weight, as what makes backups has it beside the API's instances in the stack
(``cpu_shares``); each step of ``nice`` is a factor of 1.25."""
WAIT_SECONDS = 300.0
_EVENTS, _BLOCK_BYTES = 2_000, 1_000_000
"""Of Dagster's events, and of Prometheus' blocks: for one time the demo's data."""
_DAGSTER = (
    "CREATE TABLE runs (id bigserial PRIMARY KEY, run_id text UNIQUE, status text)",
    "CREATE TABLE run_tags (run_id text REFERENCES runs (run_id), key text, value text)",
    "CREATE TABLE event_logs (id bigserial PRIMARY KEY, run_id text, event text)",
)


@contextmanager
def beyond(folder: Path) -> Generator[str]:
    """An S3 server with TLS, whose files lie in a folder; the options by which it is reached."""
    folder.mkdir()
    with s3.serving(folder, s3.HOST, *s3.certify(folder)) as port:
        authority = (folder / "authority.pem").read_text()
        yield s3.options(f"https://{s3.HOST}:{port}", authority=authority)


class Sources:
    """What the container stack has beside the platform.

    Args:
        stage: Has the server for Dagster's database.
    """

    def __init__(self, stage: Stage) -> None:
        self.folder = stage.folder / "stack"
        self.dagster_url = of_database(stage.servers.database_url, DAGSTER)
        create_database(stage.servers.database_url, DAGSTER)
        self._engine = connect(self.dagster_url, pool_size=1)
        with begin(self._engine) as connection:
            for statement in _DAGSTER:
                connection.execute(sa.text(statement))
        for name in ("configuration/settings.env", "dagster_logs/take_in.log"):
            path = self.folder / name
            path.parent.mkdir(parents=True)
            path.write_text(f"{name}\n")
        (self.folder / "grafana").mkdir()
        with closing(sqlite3.connect(self.folder / "grafana" / "grafana.db")) as database:
            database.execute("CREATE TABLE dashboard (id int, title text)")
            database.commit()
        self._scale = 0

    def grow(self, scale: int) -> None:
        """Let it be of so many times the demo's data."""
        more = scale - self._scale
        with begin(self._engine) as connection:
            for statement in (
                "INSERT INTO runs (run_id, status) VALUES (:run, 'SUCCESS')",
                "INSERT INTO event_logs (run_id, event) "
                "SELECT :run, repeat(md5(n::text), 16) FROM generate_series(1, :events) AS n",
            ):
                values = {"run": f"run-{scale}", "events": _EVENTS * more}
                connection.execute(sa.text(statement), values)
        block = self.folder / "prometheus" / f"01KB{scale:022d}"
        block.mkdir(parents=True)
        (block / "meta.json").write_text("{}")
        (block / "index").write_bytes(os.urandom(_BLOCK_BYTES * more))  # already compressed
        with closing(sqlite3.connect(self.folder / "grafana" / "grafana.db")) as database:
            database.execute("INSERT INTO dashboard VALUES (?, 'Mine')", (scale,))
            database.commit()
        self._scale = scale

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()


class Keeping:
    """Backups of a stage as the container stack makes them, in stores of their own.

    Args:
        stage: Whose.
        sources: What the stack has beside it.
        options: Of the S3 server.
        name: Of the stores.
    """

    def __init__(self, stage: Stage, sources: Sources, options: str, name: str) -> None:
        self._stage, self._sources, self.name = stage, sources, name
        self.folder = stage.folder / name
        self.folder.mkdir()
        url = stage.servers.database_url
        self.settings = BackupSettings(
            backup_store=self.folder / "backups",
            backup_keys=stage.root / "backup-keys",
            backup_offsite=f"s3://{s3.BUCKET}/{name}",
            backup_offsite_options=SecretStr(options),
            backup_replication_url=SecretStr(url),
            backup_dagster_url=SecretStr(sources.dagster_url),
            backup_stack=sources.folder,
        )
        self.environment = {
            "RUL_ROOT": str(stage.root),
            "RUL_DATABASE_URL": url,
            "RUL_REDIS_URL": stage.servers.redis_url,
            "RUL_BACKUP_STORE": str(self.settings.backup_store),
            "RUL_BACKUP_KEYS": str(self.settings.backup_keys),
            "RUL_BACKUP_OFFSITE": f"s3://{s3.BUCKET}/{name}",
            "RUL_BACKUP_OFFSITE_OPTIONS": options,
            "RUL_BACKUP_REPLICATION_URL": url,
        }
        self.backups = self.backups_at(1.0)

    @property
    def keys(self) -> ReadingKeys:
        """By which they are read."""
        return reading_keys_of(self._stage.root, self.settings)

    @property
    def remote(self) -> RemoteStore:
        """Where they are beyond the machine."""
        return remote_store_of(self.settings)

    def backups_at(self, share: float) -> Backups:
        """Backups that work for a share of the time."""
        stage = self._stage
        return Backups(
            stage.root, self.settings, stage.engine, stage.servers.redis_url, Pace(share)
        )

    def keep_all_anew(self, now: datetime) -> Sealed:
        """A run that takes nothing over, as one does after a week."""
        stage, run = self._stage, self.backups.begin(now)
        snapshots.keep_database(run, stage.servers.database_url)
        snapshots.keep_redis(run, stage.servers.redis_url)
        snapshots.keep_models(run, stage.root)
        snapshots.keep_base(run, stage.servers.database_url)
        snapshots.keep_database(run, self._sources.dagster_url, snapshots.DAGSTER, Kind.DAGSTER)
        stack.keep_stack(run, self._sources.folder)
        return self.backups.seal(run)

    @contextmanager
    def archived(self, cores: set[int], seconds: float) -> Generator[None]:
        """PostgreSQL's log is received, sealed and brought beyond, until the end of the context.

        Args:
            cores: Where the two processes run.
            seconds: Within which what was written is sealed.
        """
        commands = {
            "archive": ["archive", "--spool", str(self.folder / "spool"), f"--timeout={seconds}"],
            "bring-log": ["bring-log"],
        }
        with ExitStack() as ending:
            ending.callback(self._drop_slot)
            for name, command in commands.items():
                server = Server(
                    name,
                    ["nice", f"-n{LOW_PRIORITY}", *RUL, "backup", *command],
                    core=min(cores),
                    log=self.folder / f"{name}.log",
                    environment=self.environment,
                )
                ending.callback(server.stop)
                os.sched_setaffinity(server.pid, cores)
            # A base that is kept before has no log.
            self._wait("the log to be received", self._is_received)
            yield

    def wait_until_beyond(self) -> None:
        """Wait until all that was committed until now is beyond the machine.

        Raises:
            RuntimeError: It takes too long.
        """
        moment, keys = now(), self.keys.verify_keys()
        with begin(self._stage.engine) as connection:  # a quiet server has nothing to seal
            connection.execute(sa.text("SELECT pg_logical_emit_message(true, 'rul', '')"))

        def is_beyond() -> bool:
            newest = max(wal.names(self.remote), default=None)
            if newest is None:
                return False
            reaches_at = wal.read(self.remote, newest, keys).note.reaches_at
            return reaches_at is not None and reaches_at >= moment

        self._wait(f"the log until {moment} to be beyond the machine", is_beyond)

    def wait_until_base_leads(self) -> None:
        """Wait until the log of the base is beyond the machine to its end.

        Raises:
            RuntimeError: It takes too long.
        """
        keys = self.keys.verify_keys()
        self._wait("a base to recover from", lambda: recovery.has_log(self.remote, keys))

    def _drop_slot(self) -> None:
        """Else it holds the log back for nobody."""
        self._wait("the archiver's connection to end", lambda: not self._is_received())
        with begin(self._stage.engine) as connection:
            drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            connection.execute(sa.text(drop))

    def _is_received(self) -> bool:
        with begin(self._stage.engine) as connection:
            query = "SELECT bool_or(active) FROM pg_replication_slots"
            return bool(connection.execute(sa.text(query)).scalar_one())

    def _wait(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_so():
            if time.monotonic() > deadline:
                log = self.folder / "archive.log"
                raise RuntimeError(f"waited in vain for {what}: {log.read_text()[-2000:]}")
            time.sleep(0.2)


def of_database(url: str, name: str, user: str | None = None) -> str:
    """The address of another database of a server, or of another user."""
    place = make_url(url).set(database=name)
    return (place.set(username=user) if user else place).render_as_string(hide_password=False)


def rul(
    environment: Mapping[str, str], *arguments: str | Path
) -> "subprocess.CompletedProcess[str]":
    """What the command says of some arguments, and how it ends."""
    return subprocess.run(  # noqa: S603 - our own
        [*RUL, *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def now() -> datetime:
    """By the clock of this machine."""
    return datetime.now(UTC)
