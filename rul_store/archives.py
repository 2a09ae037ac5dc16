"""Finding known files in an archive that nobody vouches for.

What belongs here: looking through ZIP archives in ZIP archives, within limits, by name and
checksum. What does not: where the archive is from (``download``), where the files go.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from rul_core.errors import StoreError

CHUNK_BYTES = 1 << 18

Progress = Callable[[str, int, int | None], None]
"""Told what is done, how many bytes of it, and of how many, where that is known."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is not unpacked any more: an archive beyond this is not the one that was asked for."""

    archive_bytes: int = 512 << 20
    file_bytes: int = 64 << 20
    """The largest file of the data set has 10 MiB."""
    members: int = 1000
    depth: int = 3
    """Of archives in archives; NASA's has two."""


@dataclass(frozen=True)
class Search:
    """Looks for files through archives in archives.

    Whatever path an archive gives a file, only the last part of it counts, and only a wanted name
    is written, into the staging folder: nothing can be put elsewhere.
    """

    staging: Path
    missing: dict[str, str]
    """SHA-256 by name of what was not yet found."""
    limits: Limits
    progress: Progress
    other: dict[str, str] = field(default_factory=dict)
    """SHA-256 by name of files of a wanted name and other content."""

    def run(self, archive: Path) -> None:
        """Put what is found into the staging folder.

        Raises:
            StoreError: The archive is damaged, encrypted, or beyond the limits.
        """
        try:
            self._archive(archive, 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise StoreError(f"this is no sound ZIP archive ({error})") from error

    def _archive(self, path: Path, depth: int) -> None:
        with zipfile.ZipFile(path) as opened:
            members = opened.infolist()
            if len(members) > self.limits.members:
                raise StoreError(f"the archive has {len(members)} members: too many to be it")
            for member in members:
                name = PurePosixPath(member.filename).name
                inner = name.lower().endswith(".zip") and depth < self.limits.depth
                if member.is_dir() or not (inner or name in self.missing):
                    continue
                if member.flag_bits & 1:
                    raise StoreError(f"{member.filename} in the archive is encrypted")
                target = self.staging / (f"{depth}.zip" if inner else name)
                most = self.limits.archive_bytes if inner else self.limits.file_bytes
                with opened.open(member) as source:
                    sha256 = self._copy(source, target, member, most)
                if inner:
                    self._archive(target, depth + 1)
                elif sha256 == self.missing[name]:
                    del self.missing[name]
                else:
                    self.other[name] = sha256
                if not self.missing:
                    return

    def _copy(self, source: IO[bytes], target: Path, member: zipfile.ZipInfo, most: int) -> str:
        """Write the member to the target; gives its SHA-256. Trusts no stated size."""
        digest, done = hashlib.sha256(), 0
        with target.open("wb") as out:
            while chunk := source.read(CHUNK_BYTES):
                done += len(chunk)
                if done > most:
                    raise StoreError(
                        f"{member.filename} in the archive unpacks to over {most} bytes"
                    )
                digest.update(chunk)
                out.write(chunk)
                self.progress(f"unpack {target.name}", done, member.file_size)
        return digest.hexdigest()
