"""Where backups lie: objects by name that are written once, whole or not at all.

What belongs here: what a store does, and folders. What does not: stores beyond the machine
(``remote``), which objects there are (``runs``).
"""

import errno
import filecmp
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from rul_core.errors import StoreError, Unavailable
from rul_store import files

LEAVING, LEFT = ".rul_leaving", ".rul_left"
"""What a folder had, while another line takes its place: until all of it is there, and since."""
READERS = 16
"""Who read at once."""
Read = TypeVar("Read")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_HALF = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*/)*\.[A-Za-z0-9._-]+\.[0-9a-f]{32}\.tmp")
"""What ``files.replacing`` writes to."""


def each(read: Callable[[str], Read], names: Iterable[str]) -> list[Read]:
    """Read many small objects, some at once: beyond the machine each takes its time.

    Args:
        read: Reads one.
        names: Of the objects.

    Returns:
        What was read, in the order of the names.

    Raises:
        Exception: What the first of the names raises that cannot be read.
    """
    return list(in_turn(read, names))


def in_turn(read: Callable[[str], Read], names: Iterable[str]) -> Generator[Read]:
    """As ``each``, one by one, with no more than a few read ahead of whoever takes them."""
    with ThreadPoolExecutor(READERS) as readers:
        ahead: deque[Future[Read]] = deque()
        try:
            for name in names:
                ahead.append(readers.submit(read, name))
                if len(ahead) > 2 * READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # whoever stopped waits for none that has not begun
            readers.shutdown(cancel_futures=True)


def each_or_why(read: Callable[[str], Read], names: Iterable[str]) -> list[Read | StoreError]:
    """As ``each``, with the error in the place of what is damaged.

    Raises:
        Unavailable: The store does not answer, so nobody knows whether anything is.
    """

    def attempted(name: str) -> Read | StoreError:
        try:
            return read(name)
        except Unavailable:
            raise
        except StoreError as error:
            return error

    return each(attempted, names)


def content_of(shelf: "Shelf", name: str) -> bytes:
    """All of a small object.

    Raises:
        StoreError: It cannot be read; names it.
    """
    with shelf.reading(name) as file:
        try:
            return file.read()
        except OSError as error:
            raise StoreError(f"{shelf}/{name} cannot be read: {error.strerror or error}") from error


class Shelf(Protocol):
    """Objects by name, to read."""

    def reading(self, name: str) -> AbstractContextManager[BinaryIO]:
        """The object's content.

        Raises:
            StoreError: There is none, or it may not be read.
        """
        ...

    def sizes(self, below: str = "") -> dict[str, int]:
        """Every object whose name begins so, and its bytes.

        Raises:
            StoreError: They cannot be listed: that is not the same as that there are none.
        """
        ...


class Store(Shelf, Protocol):
    """Objects by name that are put and removed."""

    def putting(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A stream whose content becomes the object at the end, unless an error ends it.

        Raises:
            StoreError: There is such an object.
            OSError: It cannot be written.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether an object is there, also one that cannot be read.

        Raises:
            OSError: Nobody can tell.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove an object, or half of one; what is not there is no error."""
        ...

    def halves(self) -> list[str]:
        """What is left, after a day, of objects whose putting was killed; it is in no ``sizes``."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Hold the store alone among all who put manifests or log into it or take some out.

        Raises:
            StoreError: Another holds it for too long.
        """
        ...


class FolderStore:
    """A folder, or a volume that is mounted.

    Args:
        root: The folder; made when something is put into it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    @contextmanager
    def putting(self, name: str) -> Generator[BinaryIO]:
        """See ``Store``."""
        path = self._path(name)
        if path.exists():
            raise StoreError(f"{path} exists and never changes; it is not written over")
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            yield file

    @contextmanager
    def reading(self, name: str) -> Generator[BinaryIO]:
        """See ``Shelf``."""
        path = self._path(name)
        try:
            file = path.open("rb")
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
        with file:
            yield file

    def sizes(self, below: str = "") -> dict[str, int]:
        """See ``Shelf``."""
        found = {}
        # PostgreSQL's log has a hundred thousand of them, so only what is asked for is walked; and
        # manifests before runs, so that of a run that is sealed meanwhile all is seen or nothing.
        top = self.root / below.rpartition("/")[0]
        try:
            for folder, within, listed in os.walk(top, onerror=_unless_missing):
                within[:] = sorted(each for each in within if not each.startswith("."))
                for each in listed:
                    path = Path(folder, each)
                    name = path.relative_to(self.root).as_posix()
                    if name.startswith(below) and _NAME.fullmatch(name):
                        with suppress(FileNotFoundError):  # it was removed meanwhile
                            found[name] = path.stat().st_size
        except OSError as error:
            why = f"{error.filename} cannot be read: {error.strerror}"
            raise StoreError(f"{why}; nobody knows what {self.root} has") from error
        return dict(sorted(found.items()))

    def has(self, name: str) -> bool:
        """See ``Store``."""
        try:
            self._path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def remove(self, name: str) -> None:
        """See ``Store``; empty folders go too."""
        path = self.root / name if _HALF.fullmatch(name) else self._path(name)
        path.unlink(missing_ok=True)
        folder = path.parent
        # Not looked into first: PostgreSQL's log has so many in one that each look takes its time.
        while folder != self.root and _is_removed(folder):
            folder = folder.parent

    def move(self, name: str, target: "FolderStore") -> None:
        """Let another on the same disk have an object, in the same place; it may have it already.

        Raises:
            OSError: It cannot be moved, or the other has another.
        """
        here, there = self._path(name), target._path(name)
        files.make_folder(there.parent)
        if not there.exists():
            here.rename(there)
        elif not filecmp.cmp(here, there, shallow=False):
            raise FileExistsError(errno.EEXIST, "there is another", str(there))
        self.remove(name)

    def halves(self) -> list[str]:
        """See ``Store``."""
        found = []
        for path in self.root.rglob(".*.tmp"):
            name = path.relative_to(self.root).as_posix()
            with suppress(FileNotFoundError):  # whoever is at work on it was quicker
                age_seconds = time.time() - path.stat().st_mtime
                if _HALF.fullmatch(name) and age_seconds > files.ABANDONED_SECONDS:
                    found.append(name)
        return sorted(found)

    @contextmanager
    def alone(self, *, exchanging: bool = False) -> Generator[None]:
        """See ``Store``; refused while another line takes the place of what is here.

        Args:
            exchanging: By whoever does that.
        """
        with files.locked(self.root / ".lock"):
            if not exchanging:
                self.refuse_half()
            yield

    def refuse_half(self) -> None:
        """See that no line is half in the place of another.

        Raises:
            StoreError: One is.
        """
        for folder in (self.root / LEAVING, self.root / LEFT):
            if folder.exists():
                raise StoreError(
                    f"{self.root} is being exchanged, and {folder} has what was there: let the "
                    "restore that does so go on first; where nobody knows of it any more, move the "
                    "backups that shall be here back by hand, and that folder elsewhere"
                )

    def free_bytes(self) -> int:
        """How much more it can take."""
        files.make_folder(self.root)
        return shutil.disk_usage(self.root).free

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise StoreError(f"{name!r} is no name of an object in a backup")
        return self.root / name


def _is_removed(folder: Path) -> bool:
    """Remove a folder that is empty; whether it was."""
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
        return False
    return True


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
