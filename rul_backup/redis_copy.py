"""What Redis has, as it gives it to a replica: one file, of one moment, while others go on writing.

What belongs here: asking for it, and seeing that Redis takes it back. What does not: sealing it
(``snapshots``).

So nobody needs Redis' folder, nor a program of Redis' where the copy is made. What Redis writes
itself (its append-only file) brings it back after a crash; this brings it back on another machine.
The protocol: https://redis.io/docs/latest/operate/oss_and_stack/management/replication/
"""

import contextlib
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, cast

import redis
from sqlalchemy.engine import URL, make_url

from rul_core.errors import SettingsError, StoreError, Unavailable
from rul_store import embedded

PORT = 6379
TIMEOUT_SECONDS = 60.0
"""Of silence; while it prepares the copy Redis says something every second."""
START_SECONDS = 300.0
"""Reading a copy of many gigabytes takes its time."""


@contextlib.contextmanager
def copied(url: str) -> Generator["Copy"]:
    """A copy of all that a Redis has.

    Args:
        url: ``redis://…``, ``rediss://…`` (TLS) or ``unix://…``, of a user who may ``SYNC``.

    Raises:
        Unavailable: Redis does not answer.
        StoreError: It refuses.
    """
    place = make_url(url)
    try:
        with _connected(place) as connection, connection.makefile("rb") as answers:
            if place.password:
                user = [place.username] if place.username else []
                _send(connection, "AUTH", *user, str(place.password))
                _told(answers, place)
            _send(connection, "SYNC")
            size = _told(answers, place)
            if not size.startswith("$") or not size[1:].isdigit():
                raise StoreError(f"Redis at {_name(place)} answers SYNC with {size[:200]!r}")
            yield Copy(cast("BinaryIO", answers), int(size[1:]), _name(place))
    except OSError as error:
        raise Unavailable(
            f"Redis at {_name(place)} does not answer: {error}; see that it runs and that "
            "RUL_REDIS_URL is right, then try again"
        ) from error


class Copy:
    """A stream of so many bytes; an error where it ends before.

    Args:
        answers: What Redis sends.
        size: How many bytes of it are the copy.
        place: For errors.
    """

    def __init__(self, answers: BinaryIO, size: int, place: str) -> None:
        self._answers, self._left, self._place = answers, size, place

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._answers.read(wanted) if wanted else b""
        if len(data) < wanted:
            raise StoreError(
                f"Redis at {self._place} broke off {self._left - len(data)} bytes early"
            )
        self._left -= len(data)
        return data


def count_keys(copy: BinaryIO, folder: Path | None = None) -> int:
    """How many keys a Redis has that starts from a copy.

    It is started for this alone, in a folder of its own, where nobody else reaches it.

    Args:
        copy: Its bytes.
        folder: Where its data lie meanwhile; the system's folder for such unless given.

    Raises:
        StoreError: It does not take the copy; says why.
        SettingsError: There is no ``redis-server``.
    """
    with (
        tempfile.TemporaryDirectory(prefix="rul-redis-", dir=folder) as name,
        tempfile.TemporaryDirectory(prefix="rul-redis-") as sockets,  # their names must be short
    ):
        home, door = Path(name), Path(sockets, "redis.sock")
        with (home / "dump.rdb").open("wb") as file:
            shutil.copyfileobj(copy, file)
        options = {"--port": "0", "--unixsocket": str(door), "--dir": name, "--save": ""}
        command = [program(), *(word for pair in options.items() for word in pair)]
        log = home / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, cwd=name)  # noqa: S603
        try:
            return _counted(process, door, log)
        finally:
            process.kill()
            process.wait()


def _counted(process: "subprocess.Popen[bytes]", door: Path, log: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    with redis.Redis.from_url(f"unix://{door}") as client:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(redis.ConnectionError):  # and while it loads
                return sum(each["keys"] for each in client.info("keyspace").values())
            time.sleep(0.05)
    end = log.read_text(errors="replace").splitlines()[-5:]
    raise StoreError(f"redis-server does not start from the copy: {' '.join(end)}")


def program() -> str:
    """Where ``redis-server`` is.

    Raises:
        SettingsError: It is nowhere.
    """
    if found := shutil.which("redis-server"):
        return found
    try:
        return str(embedded.redis_program())
    except StoreError as error:
        raise SettingsError(f"redis-server is not here ({error}); install Redis") from error


@contextlib.contextmanager
def _connected(place: URL) -> Generator[socket.socket]:
    if place.drivername == "unix":
        connection = socket.socket(socket.AF_UNIX)
        address: str | tuple[str, int] = f"/{place.database or ''}"
    else:
        connection = socket.socket()
        address = (place.host or "127.0.0.1", place.port or PORT)
    with connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(address)
        if place.drivername != "rediss":
            yield connection
            return
        with ssl.create_default_context().wrap_socket(
            connection, server_hostname=place.host
        ) as encrypted:
            yield encrypted


def _send(connection: socket.socket, *words: str) -> None:
    parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
    connection.sendall("".join(parts).encode())


def _told(answers: BinaryIO, place: URL) -> str:
    """The next line that says something."""
    line = b"\n"
    while line == b"\n":  # while it prepares the copy, so that nobody thinks it is gone
        line = answers.readline(1024)
    if not line:
        raise ConnectionResetError("it closed the connection")
    told = line.decode(errors="replace").strip()
    if told.startswith("-"):
        raise StoreError(f"Redis at {_name(place)} refuses: {told[1:]}")
    return told


def _name(place: URL) -> str:
    return (
        f"/{place.database}" if place.drivername == "unix" else f"{place.host}:{place.port or PORT}"
    )
