"""Proving that a backup restores, by restoring it where nothing is lost by it.

What belongs here: bringing back a database and files, and comparing with what was kept. What does
not: restoring over a live system, looking at bytes (``verification``), what is found of models
(``golden``).
"""

import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import sqlalchemy as sa
from pyrage import x25519
from sqlalchemy.engine import make_url

from rul_backup import (
    fingerprints,
    golden,
    programs,
    redis_copy,
    scratch,
    snapshots,
    structure,
    telling,
)
from rul_backup.golden import Golden
from rul_backup.manifest import Artefact, Kind
from rul_backup.runs import Sealed
from rul_backup.sealing import Sums, unseal
from rul_backup.stores import Shelf
from rul_backup.streams import BLOCK_BYTES
from rul_backup.telling import Tell, timed
from rul_core.errors import StoreError, Unavailable
from rul_store import database, files
from rul_store.database import begin, connect, engine_of

ROOM = 2
"""How many times its bytes a thing needs to be restored: a database with the log of writing it,
files as an archive and as what is in it."""
OF_THE_PLATFORM = frozenset({Kind.REDIS, Kind.MODELS})
OF_THE_STACK = frozenset({Kind.DAGSTER, Kind.STACK})
"""What may be brought back as files."""
_DRILLED = frozenset(Kind) - {Kind.BASE}


class Restored(NamedTuple):
    """What was restored for a moment."""

    seconds: float
    differences: tuple[str, ...]
    """From what was kept, and from what champions said."""
    champions: tuple[Golden, ...] = ()
    """What was found of each fleet's; none was tried where the database differs."""


def prove_databases(
    store: Shelf,
    run: Sealed,
    identities: Sequence[x25519.Identity],
    folder: Path | None = None,
    tell: Tell = telling.nobody,
) -> list[Restored]:
    """Restore every database of a run into a PostgreSQL of its own, and compare.

    In the platform's every champion is loaded from the run's models, and says again what it said.

    Args:
        store: Has the run.
        run: Which.
        identities: By which it is decrypted.
        folder: Where that PostgreSQL's data and the models lie meanwhile; the system's for
            temporary files unless given.
        tell: Told of the steps.

    Raises:
        StoreError: The run has no database, it is damaged or of a newer version, there is too
            little room, or ``pg_restore`` fails.
        SettingsError: PostgreSQL's programs are not here.
    """
    kept = [one for one in run.manifest.artefacts if one.kind is Kind.POSTGRES]
    if not kept:
        raise StoreError(f"the run {run.manifest.run} has no database; choose another")
    refuse_newer(run)
    drilled = [one for one in run.manifest.artefacts if one.kind in _DRILLED]
    files.require_room(scratch.place(folder), _needed_bytes(drilled), "the drill")
    return [_prove(store, run, artefact, identities, folder, tell) for artefact in kept]


def prove_redis(
    store: Shelf,
    run: Sealed,
    identities: Sequence[x25519.Identity],
    folder: Path | None = None,
    tell: Tell = telling.nobody,
) -> list[Restored]:
    """Start a Redis from every copy of a run, for a moment; its data lie in the folder meanwhile.

    Raises:
        StoreError: A copy is damaged, or Redis does not take it.
    """
    found = []
    for artefact in run.manifest.artefacts:
        if artefact.kind is Kind.REDIS:
            started = time.monotonic()
            with (
                scratch.room(folder) as room,
                opened(store, run, artefact, identities, room) as plain,
            ):
                redis_copy.count_keys(plain, room)
            found.append(Restored(time.monotonic() - started, ()))
            tell(f"a Redis started from {artefact.name}", found[-1].seconds)
    return found


def prove_stack(
    store: Shelf,
    run: Sealed,
    identities: Sequence[x25519.Identity],
    folder: Path | None = None,
    tell: Tell = telling.nobody,
) -> list[Restored]:
    """Restore Dagster's database as the platform's, and read what else a stack had to its end.

    Args:
        store: Has the run.
        run: Which; it need not have any of a stack.
        identities: By which it is decrypted.
        folder: Where it lies meanwhile.
        tell: Told of the steps.

    Raises:
        StoreError: Something is damaged, or ``pg_restore`` fails.
        SettingsError: PostgreSQL's programs are not here.
    """
    found = []
    for artefact in run.manifest.artefacts:
        if artefact.kind is Kind.DAGSTER:
            found.append(_prove(store, run, artefact, identities, folder, tell))
        elif artefact.kind is Kind.STACK:
            started = time.monotonic()
            with opened(store, run, artefact, identities, folder) as plain:
                told = structure.problem(artefact, plain)
            differences = (f"{artefact.name} {told}",) if told else ()
            found.append(Restored(time.monotonic() - started, differences))
            tell(f"{artefact.name} read to its end", found[-1].seconds)
    return found


def _prove(
    store: Shelf,
    run: Sealed,
    artefact: Artefact,
    identities: Sequence[x25519.Identity],
    folder: Path | None,
    tell: Tell,
) -> Restored:
    started = time.monotonic()
    with scratch.server(artefact.facts["server"], folder) as url:
        tell(f"a server made for {artefact.name}", time.monotonic() - started)
        what = f"{artefact.name} restored"
        timed(tell, what, lambda: restore_database(store, run, artefact, url, identities))
        engine = connect(url)
        try:
            what = f"{artefact.name} compared"
            found = timed(tell, what, lambda: fingerprints.of_address(url))
            told = fingerprints.differences(artefact.facts, found)
            tried = []
            if artefact.name == snapshots.DATABASE and not told:
                what = "models brought and champions tried"
                tried = timed(
                    tell, what, lambda: _try_champions(store, run, engine, identities, folder)
                )
        finally:
            engine.dispose()
    told += [
        f"the champion of fleet {one.fleet}, {one.version}, does not answer as it did: {one.told}"
        for one in tried
        if not one.is_sound
    ]
    return Restored(time.monotonic() - started, tuple(told), tuple(tried))


def try_champions(url: str, root: Path) -> list[Golden]:
    """What the models of a restored folder say in the database that was restored with them."""
    with engine_of(url) as engine:
        return golden.check(engine, root, root)


def _try_champions(
    store: Shelf,
    run: Sealed,
    engine: sa.Engine,
    identities: Sequence[x25519.Identity],
    folder: Path | None,
) -> list[Golden]:
    """What restored models say in the database that was restored with them."""
    database.migrate(engine)  # its tables may be those of an older version
    with scratch.room(folder) as root:
        for artefact in run.manifest.artefacts:
            if artefact.kind is Kind.MODELS:
                _unpack(store, run, artefact, identities, root)
        return golden.check(engine, root, root)


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
    name = run.object_of(artefact)
    _restore_dump(url, name, lambda fed: bring(store, name, artefact.sums, fed, identities), owner)


def refuse_otherwise(what: str, url: str, facts: dict[str, Any]) -> None:
    """Refuse a restored database that has not exactly what was kept.

    Args:
        what: That was restored.
        url: Of the database.
        facts: Rows and sum of every table (``fingerprints``).

    Raises:
        StoreError: It has something else; says what.
    """
    if told := fingerprints.differences(facts, fingerprints.of_address(url)):
        raise StoreError(f"{what} was restored otherwise than it was kept: {'; '.join(told)}")


def is_back(run: Sealed, url: str) -> bool:
    """Whether a database has exactly what a run kept of the platform's."""
    found = fingerprints.of_address(url)
    return all(
        not fingerprints.differences(one.facts, found)
        for one in run.manifest.artefacts
        if one.kind is Kind.POSTGRES
    )


def migrate(url: str) -> None:
    """Make a restored database one of this version."""
    with engine_of(url) as engine:
        database.migrate(engine)
        with begin(engine) as connection:
            connection.execute(sa.text("ANALYZE"))


def copy_database(source: str, target: str) -> dict[str, Any]:
    """Copy a database to which nobody writes into an empty one.

    Args:
        source: Its address.
        target: That of the empty one.

    Returns:
        Rows and sum of every table of the source (``fingerprints``).

    Raises:
        StoreError: The target is not empty, or ``pg_dump`` or ``pg_restore`` fails.
        SettingsError: These programs are not here.
    """
    engine = connect(source)
    try:
        with begin(engine) as connection:
            server = programs.major_version(connection)
            facts = fingerprints.of_database(connection)
    finally:
        engine.dispose()
    with programs.started(
        source, server, "pg_dump", ("--format=custom", "--compress=0"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as dump:  # fmt: skip
        output = programs.Output(dump, "pg_dump")
        name = f"the database {make_url(source).database}"
        _restore_dump(target, name, lambda fed: shutil.copyfileobj(output, fed, BLOCK_BYTES))
    return facts


def _restore_dump(
    url: str, name: str, feed: Callable[[BinaryIO], None], owner: str | None = None
) -> None:
    """Let ``pg_restore`` fill an empty database, all of it or nothing.

    Args:
        url: Of the database.
        name: What is restored, for people.
        feed: Gives the dump.
        owner: Whose it becomes; the user's of the URL unless given.
    """
    server = refuse_content(url)
    arguments = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"]
    if owner is not None:
        arguments.append(f"--role={owner}")
    target = make_url(url).database or ""
    with programs.started(
        url,
        server,
        "pg_restore",
        (*arguments, f"--dbname={target}"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        fed: Any = process.stdin
        held = _AllButTheEnd(fed)
        try:
            feed(cast("BinaryIO", held))
            held.end()
            fed.close()
        except BaseException as error:
            process.kill()  # before it has the end, so that nothing is committed
            with suppress(BrokenPipeError):  # of what was still to be written
                fed.close()
            if isinstance(error, BrokenPipeError):
                raise StoreError(f"{name} cannot be restored: {_said(process)}") from error
            raise
        said = _said(process)
        if process.wait():
            raise StoreError(f"{name} cannot be restored: {said}")


def refuse_newer(run: Sealed) -> None:
    """Refuse a run whose tables are of a newer version of the platform.

    Raises:
        StoreError: They are.
    """
    schema = run.manifest.versions.get("schema", "none")
    if schema != "none":
        database.refuse_newer(schema, f"the run {run.manifest.run}")


def refuse_files(run: Sealed, into: Path, kinds: Collection[Kind] = OF_THE_PLATFORM) -> None:
    """Refuse a folder that is there, or where a run's files do not fit.

    Raises:
        StoreError: It is, or they do not.
    """
    if into.exists():
        raise StoreError(f"{into} is there already; name a folder that is not, to restore into")
    kept = [one for one in run.manifest.artefacts if one.kind in kinds]
    files.require_room(into.absolute().parent, _needed_bytes(kept), f"restoring into {into.name}")


def restore_files(
    store: Shelf,
    run: Sealed,
    into: Path,
    identities: Sequence[x25519.Identity],
    kinds: Collection[Kind] = OF_THE_PLATFORM,
    then: Callable[[], None] = lambda: None,
    tell: Tell = telling.nobody,
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
        then: Done once all files are seen to be whole; where it fails there is no folder.
        tell: Told of each thing that is brought.

    Raises:
        StoreError: The folder is there already, there is too little room, or something is damaged.
    """
    refuse_files(run, into, kinds)
    with files.publishing(into) as folder:
        for artefact in run.manifest.artefacts:
            if artefact.kind not in kinds:
                continue
            started = time.monotonic()
            if artefact.kind in {Kind.REDIS, Kind.DAGSTER}:
                with (
                    opened(store, run, artefact, identities, into.parent) as plain,
                    (folder / artefact.name).open("wb") as file,
                ):
                    shutil.copyfileobj(plain, file)
            else:
                _unpack(store, run, artefact, identities, folder)
            tell(f"{artefact.name} brought", time.monotonic() - started)
        then()


def _unpack(
    store: Shelf,
    run: Sealed,
    artefact: Artefact,
    identities: Sequence[x25519.Identity],
    folder: Path,
) -> None:
    with (
        opened(store, run, artefact, identities, folder.parent) as plain,
        tarfile.open(fileobj=plain) as archive,
    ):
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
    with tempfile.TemporaryFile(dir=folder) as file:
        plain = cast("BinaryIO", file)
        bring(store, run.object_of(artefact), artefact.sums, plain, identities)
        plain.seek(0)
        yield plain


def bring(
    store: Shelf, name: str, sums: Sums, plain: BinaryIO, identities: Sequence[x25519.Identity]
) -> None:
    """Write what was kept to a stream, and see that it was that once all is written.

    Args:
        store: Has it.
        name: Of the object.
        sums: Of what was kept.
        plain: Where it is written; trusted by nobody before this returns.
        identities: By which it is decrypted.

    Raises:
        StoreError: It is missing, damaged or something else; names it.
        Unavailable: The store does not answer.
    """
    with store.reading(name) as stored:
        try:
            found = unseal(stored, plain, identities)
        except Unavailable:
            raise
        except StoreError as error:
            raise StoreError(f"{store}/{name} {error}") from error
    if found != sums:
        raise StoreError(f"{store}/{name} is not what was kept: its checksum differs")


class _AllButTheEnd:
    """Passes on what is written but for its end, so that nobody takes it for whole too early."""

    def __init__(self, below: Any) -> None:
        self._below, self._held = below, b""

    def write(self, data: bytes) -> int:
        if data:
            self._below.write(self._held)
            self._held = bytes(data)
        return len(data)

    def end(self) -> None:
        self._below.write(self._held)


def _needed_bytes(artefacts: Iterable[Artefact]) -> int:
    return ROOM * sum(one.sums.plain_bytes for one in artefacts)


def _said(process: "subprocess.Popen[bytes]") -> str:
    errors: Any = process.stderr
    return errors.read().decode(errors="replace").strip()[-2000:]


def refuse_content(url: str) -> int:
    """The server's version, once the database is seen to be empty.

    Raises:
        StoreError: It is not.
        Unavailable: It does not answer.
    """
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
