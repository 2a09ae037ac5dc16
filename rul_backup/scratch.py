"""A PostgreSQL and a folder of one's own, for as long as something is tried in them.

What belongs here: making, starting and removing them. What does not: what is tried (``drill``), the
laptop's server, which stays (``rul_store.embedded``).

A drill needs no right on the server that lives, takes nothing from it, and shows what a new machine
would have: the backup alone.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from rul_backup import programs
from rul_core.errors import RulError, StoreError
from rul_store import files
from rul_store.embedded import PostgresServer, give_to_nobody

_OPTIONS = (
    "-c listen_addresses= -c fsync=off -c full_page_writes=off -c synchronous_commit=off "
    "-c max_wal_size=4GB -c jit=off"
)
"""What it holds is gone afterwards, so nothing need survive a power cut."""
START_SECONDS = 120
ABANDONED_SECONDS = 60.0
"""A room that is younger may be one that nobody holds yet."""
_PREFIX, _SUFFIX = ".rul-drill-", ".tmp"


def place(folder: Path | None) -> Path:
    """The folder in which drills restore, which must be there.

    Args:
        folder: That one; the system's for temporary files unless given.

    Raises:
        StoreError: There is none.
    """
    if folder is not None and not folder.is_dir():
        raise StoreError(
            f"the folder {folder}, in which drills restore (RUL_BACKUP_SCRATCH), is not there"
        )
    return folder or Path(tempfile.gettempdir())


@contextmanager
def room(folder: Path | None = None) -> Generator[Path]:
    """A folder of one's own, which is gone afterwards; what was killed left goes with the next.

    Args:
        folder: In which it is; the system's for such unless given.

    Raises:
        StoreError: There is no such folder.
    """
    within = place(folder)
    for left in within.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError), _held(left) as is_ours:
            if is_ours and time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                _end_servers(left)
                shutil.rmtree(left)
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, suffix=_SUFFIX, dir=within) as name,
        _held(Path(name)),
    ):
        yield Path(name)


def _end_servers(home: Path) -> None:
    for pid_file in home.glob("*/postmaster.pid"):
        data = pid_file.parent
        major = int((data / "PG_VERSION").read_text())
        with suppress(RulError):  # it has ended; else it ends once it misses its folder
            PostgresServer(programs.servers_folder(major), data, home / "log", home).stop(
                "immediate"
            )


@contextmanager
def _held(folder: Path) -> Generator[bool]:
    """Whether nobody else holds a folder; then it is held here. Who is killed lets it go."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield files.try_lock(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def server(major: int, folder: Path | None = None) -> Generator[str]:
    """A new PostgreSQL with an empty database.

    Args:
        major: The oldest version that will do.
        folder: Where its data lie meanwhile; the system's folder for such unless given.

    Yields:
        The address of its database.

    Raises:
        SettingsError: PostgreSQL's programs of that version are not here.
        StoreError: It cannot be made or started; says what it said.
    """
    with room(folder) as home, room() as sockets:  # whose names must be short
        binaries = Path(programs.path_of("initdb", major)).parent
        give_to_nobody(home, sockets)
        running = PostgresServer(binaries, home / "data", home / "log", sockets)
        running.make(durable=False)
        running.start(_OPTIONS, timeout_seconds=START_SECONDS)
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={sockets}"
        finally:
            running.stop("immediate")
