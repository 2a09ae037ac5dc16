"""One file with all that restoring a run elsewhere needs, but for the keys.

What belongs here: writing such a file, and reading it as a store. What does not: what is in a run
(``runs``), restoring it (``drill``, ``keeping``).

    README.txt        how it is restored, also without the platform
    run               the name of the run that it is of
    base              where the log begins before the run's own base: whose base it begins with
    manifests/…       every manifest of its store: the chain that the run stands in
    gone/…, lost/…    every word that a run was let go, or a manifest given up
    runs/…            what the run promises, encrypted as it is stored; and that base
    wal/…             where it was asked for, PostgreSQL's log from the run's base on, or that one

It promises its run alone, and that base: of the others it has the manifests, so that the chain can
be followed, and not what they kept.
"""

import hashlib
import io
import tarfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from rul_backup import runs, telling, wal
from rul_backup.manifest import Kind
from rul_backup.runs import GONE, Sealed
from rul_backup.stores import Shelf, content_of, in_turn
from rul_backup.streams import BLOCK_BYTES
from rul_backup.telling import Tell
from rul_core.errors import StoreError
from rul_store import files

README, RUN, BASE = "README.txt", "run", "base"
_LONGEST_RUN_NAME = 200
_SMALL_BYTES = 1 << 20
_END = 2 * tarfile.BLOCKSIZE
_README = """\
This is the run {run} (number {number}, ended {ended:%Y-%m-%d %H:%M} UTC)
of the backups of {system}: all that restoring it on a new machine needs, but for the keys.

You need
  - rul, version {version} or newer, with PostgreSQL's client programs, {server} or newer;
  - backup_escrow_identity, from the safe (or backup_identity of the machine that was);
  - backup_verify_key, the public key of whoever made the backups;
  - an empty database on a PostgreSQL {server} or newer, and room for a new folder.

Look at it, then restore it:
  rul backup verify --store THIS.tar --level structure --identity IDENTITY --verify-key KEY
  rul backup restore --store THIS.tar --identity IDENTITY --verify-key KEY \\
      --database postgresql://USER:PASSWORD@HOST/EMPTY --files NEW-FOLDER
Then name the database by RUL_DATABASE_URL, move models/ and fleets/ of the new folder into the data
root (RUL_ROOT), and run: rul database migrate

Without rul, with age and zstd alone, each thing opens so:
  tar -xf THIS.tar
  age --decrypt --identity IDENTITY runs/RUN/NAME.zst.age | zstd --decompress > NAME
NAME is platform.dump or dagster.dump (for pg_restore), redis.rdb, models.tar, or stack.tar.
The line in manifests/{number:08d} says where each lies, and its checksums.
"""


def export(
    store: Shelf,
    sealed: Sealed,
    keys: Sequence[Ed25519PublicKey],
    target: Path,
    *,
    with_log: bool = False,
    since: Sealed | None = None,
    tell: Tell = telling.nobody,
) -> dict[str, int]:
    """Write a run and the chain that it stands in to a file, all of it or none.

    The same run of the same store gives the same bytes, as long as the log is left out. A damaged
    manifest of another run is taken along as it is: whoever looks at the archive is told of it too.

    Args:
        store: Has the run.
        sealed: Which.
        keys: Of our signatures.
        target: The new file.
        with_log: Also PostgreSQL's log from the run's base on, as far as it leads.
        since: An earlier run, with whose base the log begins instead; that is taken along.
        tell: Told of damaged manifests, and why the log ends early.

    Returns:
        The bytes of each object in it.

    Raises:
        StoreError: The file is there, there is too little room, or an object is missing or not what
            was written.
    """
    if target.exists():
        raise StoreError(f"{target} is there already; name a file that is not")
    line = runs.names(store)
    known, words = runs.readable(store, line, keys, tell), runs.words_or_why(store, keys)
    for word in words.values():
        if isinstance(word, StoreError):
            tell(f"passed over: {word}", None)
    based = [sealed] if since is None else [since, sealed]
    log, problem = wal.from_base(store, keys, based) if with_log else ([], None)
    if problem:
        reached = wal.reached(log)
        until = f" (it leads until {reached.isoformat()})" if reached else ""
        tell(f"the log ends before what is damaged{until}: {problem}", None)
    sizes = store.sizes()
    told = {README: _readme(sealed).encode(), RUN: f"{sealed.manifest.run}\n".encode()}
    artefacts = dict(sealed.objects)
    if since is not None:
        told[BASE] = f"{since.manifest.run}\n".encode()
        artefacts |= since.of_kind(Kind.BASE)
    names = [
        *line,
        *(word for name in line if (word := f"{GONE}/{name.rpartition('/')[2]}") in sizes),
        *words,
        *sorted(artefacts),
        *(name for noted in log for name in (noted.content, noted.object)),
    ]
    for name in names:
        if name not in sizes:
            raise StoreError(f"{store}/{name} is missing; export another run")
    content = {name: sizes[name] for name in names}
    _refuse_where_it_does_not_fit(target, [*map(len, told.values()), *content.values()])
    expected = {name: kept.sums.stored_sha256 for name, kept in artefacts.items()}
    expected |= {one.object: one.sha256 for one in (*known, *log)}
    expected |= {noted.content: noted.note.sums.stored_sha256 for noted in log}
    with (
        files.replacing(target) as temporary,
        temporary.open("wb") as file,
        closing(_read_ahead(store, content)) as objects,
    ):
        for name, text in told.items():
            _add(file, name, len(text), io.BytesIO(text))
        for name, size, stored in objects:
            sha256 = _add(file, name, size, stored)
            if sha256 != expected.get(name, sha256):
                raise StoreError(
                    f"{store}/{name} is not what was written: its checksum differs; export "
                    "another run"
                )
        file.write(b"\0" * _END)
    return content


class Archive:
    """An exported file, as a store to read.

    Args:
        path: Of the file.

    Raises:
        StoreError: It cannot be read, or is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(path, mode="r:") as archive:
                for member in archive:
                    if not member.isreg() or member.name in self._places:
                        raise StoreError(
                            f"{path}: {member.name} is no plain file, or is there twice; "
                            "`rul backup export` wrote no such file"
                        )
                    self._places[member.name] = (member.offset_data, member.size)
        except (tarfile.TarError, OSError) as error:
            raise StoreError(
                f"{path} cannot be read as an archive of `rul backup export`: {error}"
            ) from error
        if RUN not in self._places:
            raise StoreError(f"{path} does not say of which run it is; give an exported file")
        self.run = self._named(RUN)
        """That it is of."""
        self.since = self._named(BASE) if BASE in self._places else None
        """The run with whose base its log begins, where that is another."""

    def __str__(self) -> str:
        return str(self._path)

    @contextmanager
    def reading(self, name: str) -> Generator[BinaryIO]:
        """See ``Shelf``."""
        if name not in self._places:
            raise StoreError(f"{self}/{name} is not there")
        offset, size = self._places[name]
        try:
            file = self._path.open("rb")
        except OSError as error:
            raise StoreError(f"{self} cannot be read: {error.strerror or error}") from error
        with file:
            file.seek(offset)
            yield cast("BinaryIO", _Part(file, size))

    def sizes(self, below: str = "") -> dict[str, int]:
        """See ``Shelf``."""
        return {
            name: size
            for name, (_, size) in sorted(self._places.items())
            if name.startswith(below) and name not in {README, RUN, BASE}
        }

    def _named(self, marker: str) -> str:
        with self.reading(marker) as file:
            return file.read(_LONGEST_RUN_NAME).decode(errors="replace").strip()


class _Part:
    """So many bytes of a file, from where it stands."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


def _read_ahead(store: Shelf, sizes: Mapping[str, int]) -> Generator[tuple[str, int, BinaryIO]]:
    """Objects in their order; small ones are asked for before their turn.

    The words and the log of some years are many, and beyond the machine each takes its time.
    """
    small = [name for name, size in sizes.items() if size <= _SMALL_BYTES]
    with closing(in_turn(lambda name: content_of(store, name), small)) as ahead:
        for name, size in sizes.items():
            if size <= _SMALL_BYTES:
                yield name, size, io.BytesIO(next(ahead))
            else:
                with store.reading(name) as stored:
                    yield name, size, stored


def _add(file: BinaryIO, name: str, size: int, content: BinaryIO) -> str:
    """Write a member, the same bytes for the same content; give the content's SHA-256."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    file.write(entry.tobuf(format=tarfile.PAX_FORMAT))
    digest, left = hashlib.sha256(), size
    while block := content.read(BLOCK_BYTES):
        digest.update(block)
        left -= len(block)
        file.write(block)
    if left:
        raise StoreError(f"{name} has {size - left:,} bytes where the store told of {size:,}")
    file.write(b"\0" * (-size % tarfile.BLOCKSIZE))
    return digest.hexdigest()


def _refuse_where_it_does_not_fit(target: Path, sizes: Iterable[int]) -> None:
    # A member has a header of a block, and fills its last one.
    needed = sum(size + 2 * tarfile.BLOCKSIZE for size in sizes) + _END
    files.require_room(target.parent, needed, "the archive")


def _readme(sealed: Sealed) -> str:
    told = sealed.manifest
    servers = [each.facts["server"] for each in told.artefacts if "server" in each.facts]
    return _README.format(
        run=told.run,
        number=told.number,
        ended=told.finished_at,
        system=told.system,
        version=told.versions.get("rul", "that made it"),
        server=max(servers, default=15),
    )
