"""A PostgreSQL that a test starts, stops and breaks."""

import hashlib
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rul_backup import programs
from rul_store.database import begin, connect
from rul_store.embedded import PostgresServer, give_to_nobody, make_sockets_folder

SEGMENT_BYTES = 1 << 20
"""The smallest that PostgreSQL has, so that a test fills many."""
OPTIONS = "-c listen_addresses= -c fsync=off -c wal_level=replica -c max_wal_size=64MB"


class Server:
    """PostgreSQL on a data folder of its own."""

    def __init__(self, home: Path, data: str = "data") -> None:
        self.home, self.data = home, home / data
        key = hashlib.sha256(str(home).encode()).hexdigest()[:16]
        self._sockets = Path("/tmp", f"rul-test-{key}")  # noqa: S108 - a short name
        self.url = f"postgresql+psycopg://postgres@/postgres?host={self._sockets}"
        self._server = PostgresServer(
            programs.servers_folder(16), self.data, home / "log", self._sockets
        )
        self._engine = connect(self.url)

    def make(self) -> None:
        give_to_nobody(self.home)
        self._server.make(durable=False, options=["--wal-segsize=1"])

    def start(self, more: str = "") -> None:
        make_sockets_folder(self._sockets, self.home.stat().st_uid)
        self._server.start(f"{OPTIONS} {more}")

    def stop(self, mode: str = "fast") -> None:
        self._engine.dispose()
        if self._server.listens():
            self._server.stop(mode)

    def discard(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self._sockets, ignore_errors=True)

    def ask(self, text: str) -> list[Any]:
        with begin(self._engine) as connection:
            return list(connection.execute(sa.text(text)).all())

    def do(self, *texts: str) -> None:
        with begin(self._engine) as connection:
            for text in texts:
                connection.execute(sa.text(text))


@contextmanager
def running(home: Path) -> Generator[Server]:
    """A new one; gone afterwards."""
    home.mkdir(mode=0o700)
    server = Server(home)
    server.make()
    server.start()
    try:
        yield server
    finally:
        server.discard()


@contextmanager
def started(home: Path, data: str) -> Generator[Server]:
    """One on a data folder that was recovered; stopped afterwards."""
    server = Server(home, data)
    give_to_nobody(home)
    server.start()
    try:
        yield server
    finally:
        server.discard()
