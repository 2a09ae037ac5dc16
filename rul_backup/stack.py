"""What the container stack has beside the platform: settings, logs, Grafana, Prometheus.

What belongs here: taking it as one tar while its owners go on writing, and seeing that such a tar
is whole. What does not: Dagster's database, which is kept as any (``snapshots``) and put back by
``put_back``; the volumes (``docker/scripts/restore.sh``).

    configuration/   settings, and the files that services read; no secret is among them
    dagster_logs/    what runs wrote
    grafana/         its database, by SQLite's own backup, and plugins
    prometheus/      blocks, which are never written to once they are there; what it was told in the
                     last two hours, and has not made a block of, is not kept

What goes while it is read, as old logs and blocks do, is left out.
"""

import os
import re
import shutil
import sqlite3
import stat
import tarfile
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rul_backup.manifest import Artefact, Kind
from rul_backup.runs import Run
from rul_backup.snapshots import TAR_END, tar_member
from rul_backup.streams import Chunks
from rul_core.errors import StoreError

FILES = "stack.tar"
GRAFANA_DATABASE = "grafana.db"
BUSY_SECONDS = 60.0
"""For so long a copy of Grafana's database waits for who writes to it."""
_BLOCK = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
"""A block's folder is named by a ULID; one that is made or removed has an ending besides."""
_NEEDED = {"meta.json", "index"}
Opened = Iterator[tuple[str, BinaryIO]]
"""Files by their names below their source; who takes one closes it."""


def keep_stack(run: Run, folder: Path, name: str = FILES) -> Artefact:
    """What lies in a folder of sources, each in a folder of its own; one may be missing.

    Args:
        run: Which keeps it.
        folder: Has ``configuration``, ``dagster_logs``, ``grafana`` and ``prometheus``.
        name: Of the artefact.

    Raises:
        StoreError: None of them is there, or something in one cannot be read.
    """
    there = [source for source in SOURCES if (folder / source).is_dir()]
    if not there:
        raise StoreError(
            f"{name} cannot be kept: {folder} (RUL_BACKUP_STACK) has none of the folders "
            f"{', '.join(SOURCES)}; mount the stack's volumes there, or unset it"
        )
    facts: dict[str, Any] = {"files": 0, "sources": dict.fromkeys(there, 0)}
    return run.keep(name, Kind.STACK, Chunks(_tar(folder, facts)), facts)


def problem(artefact: Artefact, plain: BinaryIO) -> str:
    """What is wrong within a whole tar of the stack; nothing where all is well.

    Args:
        artefact: What it shall be.
        plain: Its bytes; read from its beginning.
    """
    plain.seek(0)
    counted: Counter[str] = Counter()
    blocks: dict[str, set[str]] = {}
    with tarfile.open(fileobj=plain, mode="r:") as archive:
        for member in archive:
            source, _, rest = member.name.partition("/")
            counted[source] += 1
            if source == "prometheus":
                block, _, file = rest.partition("/")
                blocks.setdefault(block, set()).add(file)
            if (source, rest) == ("grafana", GRAFANA_DATABASE) and (
                told := _damage(archive.extractfile(member))
            ):
                return f"has a damaged {member.name}: {told}"
    for source, files in artefact.facts.get("sources", {}).items():
        if counted[source] != files:
            return f"has {counted[source]} files of {source} where {files} were kept"
    for block, names in blocks.items():
        if missing := _NEEDED - names:
            return f"has no {', '.join(sorted(missing))} of Prometheus' block {block}"
    return ""


def _tar(folder: Path, facts: dict[str, Any]) -> Iterator[bytes]:
    for source in facts["sources"]:
        for name, file in SOURCES[source](folder / source):
            with file:
                yield from tar_member(f"{source}/{name}", file)
            facts["sources"][source] += 1
            facts["files"] += 1
    yield TAR_END


def _settled(folder: Path) -> Opened:
    """All files of a folder that nobody but a start of the stack writes to."""
    for name, path in _named(folder):
        yield name, _opened(path)


def _growing(folder: Path) -> Opened:
    """The files of a folder from which old ones go, at any time."""
    for name, path in _named(folder, may_go=True):
        try:
            file = _opened(path)
        except FileNotFoundError:
            continue
        yield name, file


def _grafana(folder: Path) -> Opened:
    database = folder / GRAFANA_DATABASE
    if database.exists():
        _opened(database).close()  # SQLite would not say why it cannot
        with _copy_of(database) as copy:
            yield GRAFANA_DATABASE, copy.open("rb")
    for name, file in _growing(folder / "plugins"):  # the rest are pictures that it once sent
        yield f"plugins/{name}", file


def _prometheus(folder: Path) -> Opened:
    seen: set[str] = set()
    # Looked for again, since some may have become part of a larger one meanwhile.
    while new := {each.name for each in folder.iterdir() if _BLOCK.fullmatch(each.name)} - seen:
        for name in sorted(new):
            yield from _block(folder / name)
        seen |= new


def _block(folder: Path) -> Opened:
    with ExitStack() as stack:
        try:  # open as a whole before any of it is written: what is open can be read to its end
            opened = [(name, stack.enter_context(_opened(path))) for name, path in _named(folder)]
        except FileNotFoundError:
            return  # it is older than Prometheus keeps, or has become part of a larger one
        if {name for name, _ in opened} >= _NEEDED:  # else Prometheus takes it for none either
            for name, file in opened:
                yield f"{folder.name}/{name}", file


SOURCES: dict[str, Callable[[Path], Opened]] = {
    "configuration": _settled,
    "dagster_logs": _growing,
    "grafana": _grafana,
    "prometheus": _prometheus,
}
"""Each folder, and how what is in it is read."""


def _named(folder: Path, *, may_go: bool = False) -> Iterator[tuple[str, Path]]:
    """Plain files by their names below the folder, in order."""

    def told(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise _refused(error.filename) from error
        if not (may_go and isinstance(error, FileNotFoundError)):
            raise error

    for above, folders, names in os.walk(folder, onerror=told):
        folders.sort()
        for name in sorted(names):
            path = Path(above, name)
            try:
                is_plain = stat.S_ISREG(path.lstat().st_mode)
            except FileNotFoundError:
                if may_go:
                    continue
                raise
            if is_plain:
                yield path.relative_to(folder).as_posix(), path


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except PermissionError as error:
        raise _refused(path) from error


def _refused(path: Path | str) -> StoreError:
    return StoreError(
        f"{path} cannot be read by user {os.getuid()} of the groups {os.getgroups()}; let one of "
        "these read it (docs/runbook.md, StackNotKept)"
    )


@contextmanager
def _copy_of(database: Path) -> Generator[Path]:
    """A copy of one moment, while others write."""
    deadline = time.monotonic() + BUSY_SECONDS

    def look(status: int, _left: int, _pages: int) -> None:
        if status != sqlite3.SQLITE_DONE and time.monotonic() > deadline:
            raise StoreError(
                f"{database} was written to for {BUSY_SECONDS:.0f} s without a pause; try again"
            )

    with tempfile.TemporaryDirectory() as name:
        copy = Path(name, database.name)
        address = f"file:{urllib.parse.quote(str(database))}?mode=ro"
        try:
            with (
                closing(sqlite3.connect(address, uri=True, timeout=0)) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target, progress=look)
        except sqlite3.Error as error:
            raise StoreError(
                f"{database} cannot be copied: {error}; see that it is whole (Grafana's log), and "
                f"that {tempfile.gettempdir()} has room for it"
            ) from error
        yield copy


def _damage(database: Any) -> str:
    """What SQLite says of a database; nothing where it is whole."""
    with tempfile.NamedTemporaryFile() as copy:
        shutil.copyfileobj(database, copy)
        copy.flush()
        try:
            with closing(sqlite3.connect(f"file:{copy.name}?mode=ro", uri=True)) as opened:
                (told,) = opened.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.Error as error:
            return str(error)
    return "" if told == "ok" else " ".join(str(told).split())
