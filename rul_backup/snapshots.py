"""Taking what is kept, from the servers and folders that have it.

What belongs here: a consistent stream of each, and the facts by which a restore is judged. What
does not: how it is sealed (``runs``), bringing it back (``drill``).
"""

import hashlib
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from rul_backup import fingerprints, programs, redis_copy
from rul_backup.manifest import Artefact, Kind
from rul_backup.runs import Run, Sealed
from rul_backup.streams import BLOCK_BYTES, Chunks
from rul_core.errors import StoreError
from rul_store.database import connect

DATABASE = "platform.dump"
REDIS = "redis.rdb"
MODELS = "models.tar"
_BLOCK = tarfile.BLOCKSIZE


def keep_database(run: Run, url: str, name: str = DATABASE) -> Artefact:
    """A dump of a database, with rows and sum of every table as they are in it.

    The dump is taken in a snapshot that the transaction exports in which the tables are summed, so
    that both are of the same moment while others go on writing. It is not compressed here, since
    that happens as it is sealed.

    Raises:
        StoreError: ``pg_dump`` fails; says what it said.
        SettingsError: ``pg_dump`` is not here.
        Unavailable: PostgreSQL does not answer.
    """
    engine = connect(url)
    try:
        with engine.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ")
            connection.execute(sa.text("SET TRANSACTION READ ONLY"))
            snapshot = connection.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one()
            server = programs.major_version(connection)
            facts = {"server": server, **fingerprints.of_database(connection)}
            arguments = ("--format=custom", "--compress=0", f"--snapshot={snapshot}")
            with programs.started(
                url, server, "pg_dump", arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as dump:
                return run.keep(name, Kind.POSTGRES, _Output(dump, "pg_dump"), facts)
    finally:
        engine.dispose()


class _Output:
    """What a program prints; an error where it fails, instead of an end that looks like one."""

    def __init__(self, process: "subprocess.Popen[bytes]", name: str) -> None:
        self._process, self._name = process, name

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes."""
        output: Any = self._process.stdout
        data = output.read(size)
        if data:
            return data
        errors: Any = self._process.stderr
        said = errors.read().decode(errors="replace").strip()
        if self._process.wait():
            raise StoreError(f"{self._name} failed: {said[-2000:]}")
        return b""


def keep_redis(run: Run, url: str, name: str = REDIS) -> Artefact:
    """All that a Redis has, in its own format.

    Raises:
        Unavailable: Redis does not answer.
        StoreError: It refuses, or breaks off.
    """
    with redis_copy.copied(url) as copy:
        return run.keep(name, Kind.REDIS, copy, {})


def keep_models(
    run: Run, root: Path, earlier: Sealed | None = None, name: str = MODELS
) -> Artefact:
    """The models and fleets of a data root as a tar, the same bytes for the same content.

    Bundles never change, and what is being published is not there yet; ``live.json`` follows
    PostgreSQL, so a moment between the two does no harm. Where no file has been added, removed or
    written since an earlier run, what that one kept is taken over.
    """
    found = [path for folder in ("fleets", "models") for path in _files(root / folder)]
    facts = {"files": len(found), "listing_sha256": _listing(root, found)}
    if earlier is not None:
        for artefact in earlier.manifest.artefacts:
            if artefact.kind is Kind.MODELS and artefact.facts == facts:
                return run.take_over(artefact, earlier)
    return run.keep(name, Kind.MODELS, Chunks(_tar(root, found)), facts)


def _listing(root: Path, paths: list[Path]) -> str:
    """SHA-256 of what a folder says of its files: names, sizes, and when they were written."""
    digest = hashlib.sha256()
    for path in paths:
        told = path.stat()
        line = f"{path.relative_to(root).as_posix()}\0{told.st_size}\0{told.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _tar(root: Path, paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            yield entry.tobuf(format=tarfile.PAX_FORMAT)
            yield from _content(file, entry)
    yield b"\0" * (2 * _BLOCK)


def _content(file: IO[bytes], entry: tarfile.TarInfo) -> Iterator[bytes]:
    left = entry.size
    while left:
        data = file.read(min(BLOCK_BYTES, left))
        if not data:
            raise StoreError(f"{entry.name} became shorter while it was kept; try again")
        left -= len(data)
        yield data
    yield b"\0" * (-entry.size % _BLOCK)
