"""Files that people or machines drop into ``landing/<fleet>/``, and what became of each.

What belongs here: finding new files, leaving those still being written alone, remembering which
content was taken, setting broken files aside. What does not: parsing (``rul_core.readers``), where
the rows go (``lake``).

A file is known by its content: the same bytes again, under whatever name, are taken once. Taken
files stay where they lie. A broken one moves to ``landing/<fleet>/.set-aside/`` with its error in a
text file beside it; dropped again, mended or not, it is tried again.
"""

import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from rul_core.errors import StoreError
from rul_core.schema import NAME_PATTERN
from rul_store import files
from rul_store.database import begin
from rul_store.tables import landed_files

FOLDER, SET_ASIDE = "landing", ".set-aside"
UNFINISHED_SUFFIXES = (".part", ".tmp")
SETTLE_SECONDS = 2.0


class Look(msgspec.Struct, frozen=True):
    """What lies in a landing folder and was not taken yet."""

    ready: tuple[Path, ...]
    unsettled: tuple[Path, ...]
    """Changed a moment ago, perhaps still being written: for the next look."""


class LandedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file's content, all from one moment."""

    path: Path
    name: str
    """The path below the fleet's landing folder, for messages and provenance."""
    data: bytes
    sha256: str
    modified_ns: int


class Landing:
    """The landing folder of one fleet.

    Args:
        engine: Remembers which content was taken.
        root: The data root.
        fleet: The fleet's name.
        settle_seconds: A file that changed more recently is left for the next look.
    """

    def __init__(
        self, engine: sa.Engine, root: Path, fleet: str, *, settle_seconds: float = SETTLE_SECONDS
    ) -> None:
        self.fleet = fleet
        self.folder = root / FOLDER / files.safe_name(fleet, "fleet")
        self._engine, self._settle_seconds = engine, settle_seconds

    def contents(self) -> dict[str, Path]:
        """SHA-256 and path of all that was taken, in the order in which it first was."""
        query = (
            sa.select(landed_files.c.sha256, landed_files.c.path)
            .where(*self._taken())
            .order_by(landed_files.c.decided_at, landed_files.c.path)
        )
        found: dict[str, Path] = {}
        with begin(self._engine) as connection:
            for sha256, path in connection.execute(query):
                found.setdefault(sha256, self.folder / path)
        return found

    def look(self, *, again: Collection[str] = ()) -> Look:
        """The files that were not taken, sorted by path; nothing is read.

        Hidden files and names that end in ``.part`` or ``.tmp`` are other programs' temporaries.

        Args:
            again: SHA-256 of what counts as not taken, since what it gave was lost.
        """
        columns = landed_files.c.path, landed_files.c.size, landed_files.c.modified_ns
        query = sa.select(*columns).where(*self._taken(), landed_files.c.sha256.not_in(list(again)))
        with begin(self._engine) as connection:
            taken = {tuple(row) for row in connection.execute(query)}
        ready, unsettled = [], []
        for path, found in self._walk():
            if (self._name(path), found.st_size, found.st_mtime_ns) in taken:
                continue
            # The change time: a copy that keeps the modification time cannot set it.
            still = abs(time.time() - found.st_ctime) >= self._settle_seconds
            (ready if still else unsettled).append(path)
        return Look(tuple(sorted(ready)), tuple(sorted(unsettled)))

    def read(self, path: Path) -> LandedFile:
        """The file's content.

        Raises:
            StoreError: The file changed or vanished meanwhile; the next look shows it again.
        """
        try:
            before = path.stat()
            data = path.read_bytes()
            after = path.stat()
        except OSError as error:
            raise StoreError(
                f"{path} cannot be read: {error}; the next look tries again"
            ) from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise StoreError(f"{path} changed while it was read; the next look tries again")
        return LandedFile(
            path=path,
            name=self._name(path),
            data=data,
            sha256=hashlib.sha256(data).hexdigest(),
            modified_ns=after.st_mtime_ns,
        )

    def was_taken(self, file: LandedFile) -> bool:
        """Whether this content was taken before; the next look then leaves this file out too."""
        query = sa.select(landed_files.c.rows).where(
            *self._taken(), landed_files.c.sha256 == file.sha256
        )
        with begin(self._engine) as connection:
            earlier = connection.execute(query).first()
            if earlier is not None:
                connection.execute(self._record(file, status="taken", rows=earlier.rows))
        return earlier is not None

    def mark_taken(self, file: LandedFile, rows: int) -> None:
        """Remember that the file's rows are kept elsewhere now."""
        with begin(self._engine) as connection:
            connection.execute(self._record(file, status="taken", rows=rows))

    def set_aside(self, file: LandedFile, error: str) -> Path:
        """Move a file that cannot be used out of the way, with its error beside it; give its path.

        Files of equal names but other content do not replace each other.
        """
        folder = self.folder / SET_ASIDE
        target = folder / f"{file.path.stem}.{file.sha256[:8]}{file.path.suffix}"
        files.write(folder / f"{target.name}.error.txt", f"{file.name}: {error}\n")
        file.path.replace(target)
        with begin(self._engine) as connection:
            connection.execute(self._record(file, status="broken", error=error))
        return target

    def _walk(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if not name.startswith(".") and not name.endswith(UNFINISHED_SUFFIXES):
                    path = Path(folder, name)
                    try:
                        yield path, path.stat()
                    except FileNotFoundError:  # removed meanwhile
                        continue

    def _taken(self) -> tuple[sa.ColumnElement[bool], ...]:
        return landed_files.c.fleet == self.fleet, landed_files.c.status == "taken"

    def _name(self, path: Path) -> str:
        # A name that is no UTF-8 cannot stand in the database as it is.
        return os.fsencode(path.relative_to(self.folder)).decode(errors="backslashreplace")

    def _record(self, file: LandedFile, **verdict: object) -> sa.Executable:
        values = {
            "fleet": self.fleet,
            "sha256": file.sha256,
            "path": file.name,
            "size": len(file.data),
            "modified_ns": file.modified_ns,
            "decided_at": sa.func.clock_timestamp(),
            "error": None,
            "rows": None,
            **verdict,
        }
        # When it first came, though it may have to be taken again from a lake that was lost.
        first = sa.case(
            (landed_files.c.status == values["status"], landed_files.c.decided_at),
            else_=sa.func.clock_timestamp(),
        )
        return (
            insert(landed_files)
            .values(values)
            .on_conflict_do_update(
                constraint="pk_landed_files", set_=values | {"decided_at": first}
            )
        )


def taken_rows(connection: sa.Connection, fleet: str) -> int:
    """How many readings the files of a fleet gave that were taken."""
    taken = (
        sa.select(landed_files.c.sha256, sa.func.max(landed_files.c.rows).label("rows"))
        .where(landed_files.c.fleet == fleet, landed_files.c.status == "taken")
        .group_by(landed_files.c.sha256)
        .subquery()
    )
    query = sa.select(sa.func.coalesce(sa.func.sum(taken.c.rows), 0))
    return int(connection.execute(query).scalar_one())


def fleets_with_landing(root: Path) -> tuple[str, ...]:
    """The names of the fleets that have a landing folder, described or not, sorted."""
    return tuple(
        sorted(
            path.name
            for path in (root / FOLDER).glob("*/")
            if re.fullmatch(NAME_PATTERN, path.name)
        )
    )
