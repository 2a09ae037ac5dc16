"""Proving that a backup restores, by restoring it where nothing is lost by it.

What belongs here: bringing back a database and files, and comparing with what was kept. What does
not: restoring over a live system, looking at bytes (``verification``).
"""

import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from pyrage import x25519
from sqlalchemy.engine import make_url

from rul_backup import fingerprints, programs, redis_copy, scratch, structure
from rul_backup.manifest import Artefact, Kind
from rul_backup.runs import Sealed
from rul_backup.sealing import unseal
from rul_backup.stores import Shelf
from rul_core.errors import StoreError
from rul_store import files
from rul_store.database import begin, connect

OF_THE_PLATFORM = frozenset({Kind.REDIS, Kind.MODELS})
OF_THE_STACK = frozenset({Kind.DAGSTER, Kind.STACK})
"""What may be brought back as files."""


class Restored(NamedTuple):
    """What was restored for a moment."""

    seconds: float
    differences: tuple[str, ...]
    """From what was kept."""


def prove_databases(
    store: Shelf,
    run: Sealed,
    identities: Sequence[x25519.Identity],
    folder: Path | None = None,
) -> list[Restored]:
    """Restore every database of a run into a PostgreSQL of its own, and compare.

    Args:
        store: Has the run.
        run: Which.
        identities: By which it is decrypted.
        folder: Where that PostgreSQL's data lie meanwhile.

    Raises:
        StoreError: The run has no database, it is damaged, or ``pg_restore`` fails.
        SettingsError: PostgreSQL's programs are not here.
    """
    kept = [one for one in run.manifest.artefacts if one.kind is Kind.POSTGRES]
    if not kept:
        raise StoreError(f"the run {run.manifest.run} has no database; choose another")
    return [_prove(store, run, artefact, identities, folder) for artefact in kept]


def prove_redis(store: Shelf, run: Sealed, identities: Sequence[x25519.Identity]) -> list[Restored]:
    """Start a Redis from every copy of a run, for a moment.

    Raises:
        StoreError: A copy is damaged, or Redis does not take it.
    """
    found = []
    for artefact in run.manifest.artefacts:
        if artefact.kind is Kind.REDIS:
            started = time.monotonic()
            with opened(store, run, artefact, identities) as plain:
                redis_copy.count_keys(plain)
            found.append(Restored(time.monotonic() - started, ()))
    return found


def prove_stack(
    store: Shelf,
    run: Sealed,
    identities: Sequence[x25519.Identity],
    folder: Path | None = None,
) -> list[Restored]:
    """Restore Dagster's database as the platform's, and read what else a stack had to its end.

    Args:
        store: Has the run.
        run: Which; it need not have any of a stack.
        identities: By which it is decrypted.
        folder: Where it lies meanwhile.

    Raises:
        StoreError: Something is damaged, or ``pg_restore`` fails.
        SettingsError: PostgreSQL's programs are not here.
    """
    found = []
    for artefact in run.manifest.artefacts:
        if artefact.kind is Kind.DAGSTER:
            found.append(_prove(store, run, artefact, identities, folder))
        elif artefact.kind is Kind.STACK:
            started = time.monotonic()
            with opened(store, run, artefact, identities, folder) as plain:
                told = structure.problem(artefact, plain)
            differences = (f"{artefact.name} {told}",) if told else ()
            found.append(Restored(time.monotonic() - started, differences))
    return found


def _prove(
    store: Shelf,
    run: Sealed,
    artefact: Artefact,
    identities: Sequence[x25519.Identity],
    folder: Path | None,
) -> Restored:
    started = time.monotonic()
    with scratch.server(artefact.facts["server"], folder) as url:
        restore_database(store, run, artefact, url, identities)
        engine = connect(url)
        try:
            with begin(engine) as connection:
                found = fingerprints.of_database(connection)
        finally:
            engine.dispose()
    told = fingerprints.differences(artefact.facts, found)
    return Restored(time.monotonic() - started, tuple(told))


def restore_database(
    store: Shelf,
    run: Sealed,
    artefact: Artefact,
    url: str,
    identities: Sequence[x25519.Identity],
    owner: str | None = None,
) -> None:
    """Bring a dump back into an empty database.

    Args:
        store: Has the run.
        run: Which.
        artefact: The dump.
        url: Of the database.
        identities: By which it is decrypted.
        owner: Whose it becomes; the user's of the URL unless given.

    Raises:
        StoreError: The database is not empty, the dump is damaged, or ``pg_restore`` fails.
    """
    server = _refuse_content(url)
    name = run.object_of(artefact)
    arguments = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"]
    if owner is not None:
        arguments.append(f"--role={owner}")
    database = make_url(url).database or ""
    with programs.started(
        url,
        server,
        "pg_restore",
        (*arguments, f"--dbname={database}"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        fed: Any = process.stdin
        try:
            with store.reading(name) as stored:
                sums = unseal(stored, fed, identities)
            if sums != artefact.sums:
                raise StoreError(f"{name} is not what was kept: its checksum differs")
        except BaseException as error:
            process.kill()  # before its input ends, so that nothing is committed
            if isinstance(error, BrokenPipeError):
                raise StoreError(f"{name} cannot be restored: {_said(process)}") from error
            raise
        fed.close()
        said = _said(process)
        if process.wait():
            raise StoreError(f"{name} cannot be restored: {said}")


def refuse_files(into: Path) -> None:
    """Refuse a folder that is there.

    Raises:
        StoreError: It is.
    """
    if into.exists():
        raise StoreError(f"{into} is there already; name a folder that is not, to restore into")


def restore_files(
    store: Shelf,
    run: Sealed,
    into: Path,
    identities: Sequence[x25519.Identity],
    kinds: Collection[Kind] = OF_THE_PLATFORM,
) -> None:
    """Bring the files of a run back into a new folder, all of them or none.

    Models and fleets lie there as in a data root, what Redis had in ``redis.rdb``: the file that a
    new Redis starts from, as ``dump.rdb`` in its folder. What a stack had lies there by its
    sources, Dagster's database as ``dagster.dump``.

    Args:
        store: Has the run.
        run: Which.
        into: The new folder.
        identities: By which it is decrypted.
        kinds: Of it alone.

    Raises:
        StoreError: The folder is there already, or something is damaged.
    """
    refuse_files(into)
    with files.publishing(into) as folder:
        for artefact in run.manifest.artefacts:
            if artefact.kind not in kinds:
                continue
            with opened(store, run, artefact, identities, into.parent) as plain:
                if artefact.kind in {Kind.REDIS, Kind.DAGSTER}:
                    with (folder / artefact.name).open("wb") as file:
                        shutil.copyfileobj(plain, file)
                else:
                    with tarfile.open(fileobj=plain) as archive:
                        archive.extractall(folder, filter="data")


@contextmanager
def opened(
    store: Shelf,
    run: Sealed,
    artefact: Artefact,
    identities: Sequence[x25519.Identity],
    folder: Path | None = None,
) -> Generator[BinaryIO]:
    """What was kept, once it is seen to be that; gone afterwards."""
    name = run.object_of(artefact)
    with tempfile.TemporaryFile(dir=folder) as plain:
        with store.reading(name) as stored:
            sums = unseal(stored, plain, identities)
        if sums != artefact.sums:
            raise StoreError(f"{name} is not what was kept: its checksum differs")
        plain.seek(0)
        yield cast("BinaryIO", plain)


def _said(process: "subprocess.Popen[bytes]") -> str:
    errors: Any = process.stderr
    return errors.read().decode(errors="replace").strip()[-2000:]


def _refuse_content(url: str) -> int:
    """The server's version, once the database is seen to be empty."""
    engine = connect(url)
    try:
        with begin(engine) as connection:
            server = programs.major_version(connection)
            found = fingerprints.tables_of(connection)
    finally:
        engine.dispose()
    if found:
        raise StoreError(
            f"the database {make_url(url).database} is not empty ({len(found)} tables, "
            f"{found[0]} the first); restore into an empty one"
        )
    return server
