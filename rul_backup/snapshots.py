"""Taking what is kept, from the servers and folders that have it.

What belongs here: a consistent stream of each, and the facts by which a restore is judged. What
does not: how it is sealed (``runs``), bringing it back (``drill``).
"""

import hashlib
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from rul_backup import fingerprints, programs, redis_copy
from rul_backup.manifest import Artefact, Kind
from rul_backup.runs import Run, Sealed
from rul_backup.streams import BLOCK_BYTES, Chunks
from rul_core.errors import StoreError
from rul_store.database import begin, connect

DATABASE = "platform.dump"
DAGSTER = "dagster.dump"
REDIS = "redis.rdb"
MODELS = "models.tar"
BASE = "base.tar"
BASE_EVERY = timedelta(hours=24)
_HEAD_BYTES = 4096
_LABEL = re.compile(
    rb"START WAL LOCATION: ([0-9A-F/]+) \(file ([0-9A-F]{24})\)(?s:.*?)START TIMELINE: (\d+)"
)
# A base that ends begins a new segment: the newest that is full has its end, or comes after that.
# Less one byte, as of a boundary PostgreSQL 15 names the segment before and 17 the one after.
_ENDED = """
    SELECT system_identifier::text, size, clock_timestamp(), pg_walfile_name(
        '0/0'::pg_lsn + div(pg_current_wal_insert_lsn() - '0/0'::pg_lsn, size) * size - 1
    )
    FROM pg_control_system(), pg_size_bytes(current_setting('wal_segment_size')) AS size
"""
_BLOCK = tarfile.BLOCKSIZE
TAR_END = b"\0" * (2 * _BLOCK)


def keep_database(run: Run, url: str, name: str = DATABASE, kind: Kind = Kind.POSTGRES) -> Artefact:
    """A dump of a database, with rows and sum of every table as they are in it.

    The dump is taken in a snapshot that the transaction exports in which the tables are summed, so
    that both are of the same moment while others go on writing. While it is held no row that they
    replace goes, so all that is done at once, and rested from afterwards. The dump is not
    compressed here, since that happens as it is sealed.

    Raises:
        StoreError: ``pg_dump`` fails; says what it said.
        SettingsError: ``pg_dump`` is not here.
        Unavailable: PostgreSQL does not answer.
    """
    engine = connect(url)
    try:
        with run.pace.hurried(), engine.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ")
            connection.execute(sa.text("SET TRANSACTION READ ONLY"))
            # It waits for the dump, which may take its time.
            connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            snapshot, taken_at = connection.execute(
                sa.text("SELECT pg_export_snapshot(), clock_timestamp()")
            ).one()
            server = programs.major_version(connection)
            facts = {
                "server": server,
                "taken_at": taken_at.isoformat(),
                **fingerprints.of_database(connection),
            }
            arguments = ("--format=custom", "--compress=0", f"--snapshot={snapshot}")
            with programs.started(
                url, server, "pg_dump", arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as dump:
                return run.keep(name, kind, programs.Output(dump, "pg_dump"), facts)
    finally:
        engine.dispose()


def keep_base(run: Run, url: str, name: str = BASE) -> Artefact:
    """PostgreSQL's own files as a tar, from which its log leads to any later moment.

    They are of no one moment: only with the log from ``start_segment`` to ``end_segment`` are they
    anything (``recovery``), from ``ended_at`` on.

    Args:
        run: Which keeps it.
        url: Of any database of the server, of a user who may replicate.
        name: Of the artefact.

    Raises:
        StoreError: ``pg_basebackup`` fails, as it does where there are tablespaces.
        SettingsError: ``pg_basebackup`` is not here.
        Unavailable: PostgreSQL does not answer.
    """
    engine = connect(url, pool_size=1)
    facts: dict[str, Any] = {}

    def ended(label: bytes) -> None:
        found = _LABEL.search(label)
        if found is None:
            raise StoreError("pg_basebackup gave no backup_label at its beginning")
        with begin(engine) as connection:
            cluster, size, at, end_segment = connection.execute(sa.text(_ENDED)).one()
        facts.update(
            cluster=cluster,
            segment_bytes=size,
            start_lsn=found[1].decode(),
            start_segment=found[2].decode(),
            end_segment=end_segment,
            timeline=int(found[3]),
            ended_at=at.isoformat(),
        )

    try:
        with begin(engine) as connection:
            facts["server"] = programs.major_version(connection)
        arguments = ("--format=tar", "--wal-method=none", "--checkpoint=fast", "--pgdata=-")
        with programs.started(
            url,
            facts["server"],
            "pg_basebackup",
            (*arguments, f"--label={run.name}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as taking:
            output = _Headed(programs.Output(taking, "pg_basebackup"), ended)
            return run.keep(name, Kind.BASE, output, facts)
    finally:
        engine.dispose()


def cluster_of(url: str) -> str:
    """The number that a server's PostgreSQL gave itself when it was made.

    Raises:
        Unavailable: It does not answer.
    """
    engine = connect(url, pool_size=1)
    try:
        with begin(engine) as connection:
            told = sa.text("SELECT system_identifier::text FROM pg_control_system()")
            return connection.execute(told).scalar_one()
    finally:
        engine.dispose()


def base_of(run: Sealed) -> Artefact | None:
    """The base that a run promises, where it does."""
    bases = [one for one in run.manifest.artefacts if one.kind is Kind.BASE]
    return bases[0] if bases else None


def dump_of(run: Sealed) -> Artefact:
    """The dump of the platform's database that a run promises.

    Raises:
        StoreError: There is none.
    """
    for artefact in run.manifest.artefacts:
        if artefact.kind is Kind.POSTGRES and artefact.name == DATABASE:
            return artefact
    raise StoreError(f"the run {run.manifest.run} has no {DATABASE}; choose another")


class _Headed:
    """A stream that gives its beginning to somebody at its end.

    Args:
        below: The stream.
        ended: Called with the beginning once all has been read; before the reader knows.
    """

    def __init__(self, below: programs.Output, ended: Callable[[bytes], None]) -> None:
        self._below, self._ended = below, ended
        self._head = b""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes."""
        data = self._below.read(size)
        if len(self._head) < _HEAD_BYTES:
            self._head += data[: _HEAD_BYTES - len(self._head)]
        if not data:
            self._ended(self._head)
        return data


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
    written since an earlier run, what that one kept is taken over, for a week.
    """
    found = _models(root)
    facts = {"files": len(found), "listing_sha256": _listing(root, found)}
    if earlier is not None:
        for artefact in earlier.manifest.artefacts:
            is_same = artefact.kind is Kind.MODELS and artefact.facts == facts
            if is_same and run.may_take_over(artefact, earlier):
                return run.take_over(artefact, earlier)
    return run.keep(name, Kind.MODELS, Chunks(_tar(root, found)), facts)


def models_bytes(root: Path) -> int:
    """Of all files of models and fleets."""
    return sum(path.stat().st_size for path in _models(root))


def _models(root: Path) -> list[Path]:
    return [path for folder in ("fleets", "models") for path in _files(root / folder)]


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
            yield from tar_member(path.relative_to(root).as_posix(), file)
    yield TAR_END


def tar_member(name: str, file: IO[bytes]) -> Iterator[bytes]:
    """A file as a tar has it, as long as it is now: the same bytes for the same content.

    Raises:
        StoreError: It became shorter meanwhile.
    """
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = os.fstat(file.fileno()).st_size, 0o644
    yield entry.tobuf(format=tarfile.PAX_FORMAT)
    yield from _content(file, entry)


def _content(file: IO[bytes], entry: tarfile.TarInfo) -> Iterator[bytes]:
    left = entry.size
    while left:
        data = file.read(min(BLOCK_BYTES, left))
        if not data:
            raise StoreError(f"{entry.name} became shorter while it was kept; try again")
        left -= len(data)
        yield data
    yield b"\0" * (-entry.size % _BLOCK)
