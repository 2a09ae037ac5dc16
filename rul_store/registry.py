"""Bundles: ``models/<fleet>/<version>/``, each a folder of files that never changes.

What belongs here: writing, checking, opening and listing bundles. What does not: what the files
mean (``rul_core.model``), which version is live (``champions``).
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from rul_core.errors import BundleError, StoreError, UnknownVersion
from rul_store import files

FOLDER, MANIFEST = "models", "bundle.json"
VERSION_PATTERN = r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}"
REMEDY = "restore it from a backup, or roll back to another version"


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """An opened bundle, every file of which had its checksum when it was opened."""

    fleet: str
    version: str
    folder: Path
    manifest: dict[str, Any]
    checksums: dict[str, str]
    """The SHA-256 of each file."""

    def path(self, name: str) -> Path:
        """Where a file of the bundle lies.

        Raises:
            BundleError: The bundle has no such file; names those it has.
        """
        if name not in self.checksums:
            raise BundleError(
                f"bundle {self.version} of fleet {self.fleet!r} has no file {name!r}, only "
                f"{', '.join(sorted(self.checksums))}; release a version that has it"
            )
        return self.folder / name

    def read(self, name: str) -> bytes:
        """A file's content, checked again as it is read.

        Raises:
            BundleError: The bundle has no such file, or it changed since the bundle was opened.
        """
        content = self.path(name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.checksums[name]:
            raise BundleError(f"{self.folder / name} changed since it was opened; {REMEDY}")
        return content


class BundleStore:
    """The bundles under one data root.

    Args:
        root: The data root.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / FOLDER

    def write(
        self,
        fleet: str,
        contents: Mapping[str, bytes | Path],
        manifest: Mapping[str, Any],
        *,
        now: datetime | None = None,
    ) -> str:
        """Write a bundle in one step; give its version.

        Args:
            fleet: The fleet's name.
            contents: By file name, the content or a file to copy.
            manifest: What the bundle says of itself, as JSON goes; kept as ``bundle.json``.
            now: The time in the version, the present by default.

        Returns:
            The time and six digits of the content's checksum, ``20261123T041500Z-0a1b2c``; versions
            sort by time.

        Raises:
            StoreError: A name is unsafe or is that of the manifest.
        """
        for name in contents:
            if files.safe_name(name, "bundle file") in {MANIFEST, files.CHECKSUMS}:
                raise StoreError(f"{name} is written with the bundle; name the file otherwise")
        digest = hashlib.sha256(msgspec.json.encode(manifest, order="deterministic"))
        for name, content in sorted(contents.items()):
            digest.update(f"{name} {_sha256(content)}\n".encode())
        version = f"{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}-{digest.hexdigest()[:6]}"
        target = self._folder(fleet) / version
        if target.is_dir():  # the same content, in the same second
            return version
        with files.publishing(target) as new:
            for name, content in contents.items():
                if isinstance(content, Path):
                    shutil.copyfile(content, new / name)
                else:
                    (new / name).write_bytes(content)
            files.write_json(new / MANIFEST, manifest)
            files.write_checksums(new)
        files.sweep(target.parent)
        return version

    def open(self, fleet: str, version: str) -> Bundle:
        """The bundle, once every file has its checksum.

        Raises:
            UnknownVersion: There is no such version.
            BundleError: A file differs, is missing or is extra.
        """
        folder = self._folder(fleet) / files.safe_name(version, "version")
        if not folder.is_dir():
            known = ", ".join(self.list(fleet)[-3:]) or "none"
            raise UnknownVersion(
                f"{folder} is not there (newest versions of fleet {fleet!r}: {known}); "
                "name one that is, or restore it from a backup"
            )
        try:
            checksums = files.verify_checksums(folder)
            manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=dict[str, Any])
        except (StoreError, FileNotFoundError, msgspec.DecodeError) as error:
            raise BundleError(
                f"bundle {version} of fleet {fleet!r} is damaged: {error}; {REMEDY}"
            ) from error
        return Bundle(
            fleet=fleet, version=version, folder=folder, manifest=manifest, checksums=checksums
        )

    def fingerprint(self, fleet: str, version: str) -> tuple[tuple[str, int, int], ...]:
        """What the version's files look like without being read: name, size, time of change."""
        folder = self._folder(fleet) / files.safe_name(version, "version")
        found = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
        return tuple(
            sorted((path.as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in found)
        )

    def list(self, fleet: str) -> tuple[str, ...]:
        """All versions of the fleet, oldest first."""
        return tuple(
            sorted(
                path.name
                for path in self._folder(fleet).glob("*/")
                if re.fullmatch(VERSION_PATTERN, path.name)
            )
        )

    def _folder(self, fleet: str) -> Path:
        return self._root / files.safe_name(fleet, "fleet")


def _sha256(content: bytes | Path) -> str:
    if isinstance(content, Path):
        return files.sha256_of(content)
    return hashlib.sha256(content).hexdigest()
