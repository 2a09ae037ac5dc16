"""A PostgreSQL of one's own, for as long as something is tried in it.

What belongs here: making, starting and removing it. What does not: what is tried (``drill``), the
laptop's server, which stays (``rul_store.embedded``).

A drill needs no right on the server that lives, takes nothing from it, and shows what a new machine
would have: the backup alone.
"""

import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rul_backup import programs
from rul_core.errors import StoreError
from rul_store.embedded import INITDB_OPTIONS, give_to_nobody, without_root

_OPTIONS = (
    "-c listen_addresses= -c fsync=off -c full_page_writes=off -c synchronous_commit=off "
    "-c max_wal_size=4GB -c jit=off"
)
"""What it holds is gone afterwards, so nothing need survive a power cut."""
START_SECONDS = 120


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
    if folder is not None and not folder.is_dir():
        raise StoreError(
            f"the folder {folder}, in which drills restore (RUL_BACKUP_SCRATCH), is not there"
        )
    initdb = Path(programs.path_of("initdb", major))
    control = Path(programs.path_of("pg_ctl", major))
    with (
        tempfile.TemporaryDirectory(prefix="rul-drill-", dir=folder) as home,
        tempfile.TemporaryDirectory(prefix="rul-drill-") as sockets,
    ):
        data, log = Path(home, "data"), Path(home, "log")
        for each in (Path(home), Path(sockets)):
            give_to_nobody(each)
        _run([initdb, "-D", data, "--no-sync", *INITDB_OPTIONS], Path(home))
        start = ["start", "-w", "-t", str(START_SECONDS), "-D", data, "-l", log]
        _run([control, *start, "-o", f"-k {sockets} {_OPTIONS}"], Path(home), log)
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={sockets}"
        finally:
            _run([control, "stop", "-w", "-D", data, "-m", "immediate"], Path(home))


def _run(command: Sequence[str | Path], home: Path, log: Path | None = None) -> None:
    program = Path(command[0])
    prefix, identity = without_root(program, home.parent)
    done = subprocess.run(  # noqa: S603 - PostgreSQL's own
        [*prefix, *command], capture_output=True, text=True, check=False, cwd="/", **identity
    )
    if done.returncode:
        said = log.read_text(errors="replace") if log and log.exists() else done.stderr
        told = " ".join(said.split())[-2000:]
        raise StoreError(f"{program} ended with {done.returncode}: {told}")
