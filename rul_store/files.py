"""Files that are either wholly there or not there at all.

What belongs here: replacing one file, publishing a folder that never changes again, checksums,
locks between processes, room on a disk, names that are safe in a path. What does not: what the
files mean.

A temporary stands beside its target, since a volume may be a file system of its own; its name
begins with a dot and ends in ``.tmp``. A killed process leaves it behind; ``sweep`` removes it.
"""

import errno
import fcntl
import glob
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from rul_core.errors import StoreError
from rul_core.schema import NAME_PATTERN

CHECKSUMS = "SHA256SUMS"
TURN_SECONDS = 0.02
"""Whoever takes a lock again and again leaves it for so long, or nobody else would have a turn."""
ABANDONED_SECONDS = 24 * 3600.0
"""A temporary this old belongs to a process that was killed."""


def safe_name(name: str, what: str) -> str:
    """The name itself, when it is one plain part of a path.

    Raises:
        StoreError: It is empty, has a slash or begins with a dot.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise StoreError(
            f"{what} {name!r} cannot be a file name: use letters, digits, '_', '-' and '.', "
            "a letter or digit first, at most 63"
        )
    return name


@contextmanager
def replacing(target: Path) -> Generator[Path]:
    """Give a path to write to; what stands there at the end replaces the target in one step.

    After an error the target is as before and nothing is left beside it.
    """
    make_folder(target.parent)
    temporary = _beside(target)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write(target: Path, content: bytes | str) -> None:
    """Replace the file's content in one step."""
    with replacing(target) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(target: Path, value: object) -> None:
    """Replace the file by the value as indented JSON: builtins, structs, times, paths not."""
    write(target, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


@contextmanager
def publishing(target: Path) -> Generator[Path]:
    """Give an empty folder to fill; at the end it becomes the target in one step.

    Raises:
        StoreError: The target exists; what is published never changes.
    """
    _refuse_existing(target)
    make_folder(target.parent)
    temporary = _beside(target)
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        _refuse_existing(target)
        try:
            temporary.rename(target)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                _refuse_existing(target)
            raise
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def halves_of(target: Path) -> list[Path]:
    """What killed processes left of what they would have published or put there."""
    return sorted(target.parent.glob(f".{glob.escape(target.name[:100])}.{'[0-9a-f]' * 32}.tmp"))


def make_folder(folder: Path) -> None:
    """Make the folder and what is missing above it, so that a power cut does not lose it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def require_room(folder: Path, needed_bytes: float, what: str) -> None:
    """Do nothing where so much fits into a folder, which is made when missing.

    Raises:
        StoreError: It does not; says what is needed and what is there.
    """
    make_folder(folder)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise StoreError(
            f"{folder} has {free / 1e6:,.0f} MB free, and {what} needs {needed_bytes / 1e6:,.0f}; "
            "make room, or name another disk"
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> str:
    """Write the checksum of every file of the folder to its ``SHA256SUMS``; give the text."""
    text = "".join(
        f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder)
    )
    write(folder / CHECKSUMS, text)
    return text


def verify_checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of the folder, once each is as its ``SHA256SUMS`` says.

    Raises:
        StoreError: Names each file that differs, is missing, or is not in the list.
    """
    listed = _read_checksums(folder / CHECKSUMS)
    found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    complaints = [
        *(f"{name} is missing" for name in sorted(listed.keys() - found.keys())),
        *(f"{name} is not in {CHECKSUMS}" for name in sorted(found.keys() - listed.keys())),
    ]
    for name in sorted(listed.keys() & found.keys()):
        actual = sha256_of(found[name])
        if actual != listed[name]:
            complaints.append(f"{name} differs: sha256 {actual} where {listed[name]} is listed")
    if complaints:
        raise StoreError(f"{folder}: " + "; ".join(complaints))
    return listed


@contextmanager
def locked(path: Path, *, timeout_seconds: float = 30.0) -> Generator[None]:
    """Hold the file's lock, alone among all processes; a killed holder loses it.

    Raises:
        StoreError: Another held it for all of the timeout.
    """
    make_folder(path.parent)
    deadline = time.monotonic() + timeout_seconds
    with path.open("a") as file:
        while not try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{path} has been locked by another process for {timeout_seconds:g} s; "
                    "end that process (it may be paused) and try again"
                )
            time.sleep(TURN_SECONDS / 2)
        yield


def try_lock(descriptor: int) -> bool:
    """Whether the open file could be locked for this process alone; closing it unlocks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sweep(folder: Path, *, older_than_seconds: float = ABANDONED_SECONDS) -> None:
    """Remove the temporaries that killed processes left directly in the folder."""
    for path in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):  # whoever is at work on it was quicker
            if time.time() - path.stat().st_mtime > older_than_seconds:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.tmp")


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise StoreError(f"{target} exists and never changes; publish under another name")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and path != folder / CHECKSUMS
    )


def _read_checksums(path: Path) -> dict[str, str]:
    try:
        text = path.read_text()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is missing or no text; the folder cannot be trusted") from error
    listed = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if not match:
            raise StoreError(f"{path}, line {number}: {line!r} is no checksum and file name")
        listed[match[2]] = match[1]
    return listed
