"""One thing that is kept: compressed, then encrypted, and known by its checksums.

What belongs here: from a stream of bytes to a file and back. What does not: which things
(``snapshots``), what is said of them (``manifest``).

Compressed before it is encrypted, since afterwards nothing can be. The checksum of the stored
bytes lets anybody see damage; that of the plain ones says that what is read is what was written. A
flipped bit in an uncompressed dump restores in silence, so nothing is ever kept plain.
"""

import hashlib
import io
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import msgspec
import pyrage
import zstandard
from pyrage import x25519

from rul_backup.streams import Readable
from rul_core.errors import StoreError

LEVEL = 3
"""Of zstd: beyond it time grows faster than space shrinks."""
SUFFIX = ".zst.age"


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes and checksums of a thing, before and after."""

    plain_bytes: int
    plain_sha256: str
    stored_bytes: int
    stored_sha256: str


class Writable(Protocol):
    """Takes a stream of bytes."""

    def write(self, data: bytes, /) -> object:
        """Take all of them."""
        ...


class _Watched(io.RawIOBase):
    """A stream that is summed as it is read or written, and knows what kept it from that."""

    def __init__(self, below: Any) -> None:
        self._below, self._digest = below, hashlib.sha256()
        self.count = 0
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        with self._noting_errors():
            data = self._below.read(size)
        return self._summed(data)

    def write(self, data: bytes, /) -> int:  # ty: ignore[incompatible-method-override]
        with self._noting_errors():
            self._below.write(data)
        return len(self._summed(data))

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @contextmanager
    def _noting_errors(self) -> Generator[None]:
        try:
            yield
        except Exception as error:
            self.error = error
            raise

    def _summed(self, data: bytes) -> bytes:
        self._digest.update(data)
        self.count += len(data)
        return data


def seal(plain: Readable, stored: Writable, to: Sequence[x25519.Recipient]) -> Sums:
    """Compress and encrypt a stream.

    Args:
        plain: What is kept.
        stored: Where it is written.
        to: Who can read it.

    Raises:
        Exception: Whatever ``plain`` raises as it is read, or ``stored`` as it is written.
    """
    source, target = _Watched(plain), _Watched(stored)
    compressed: Any = zstandard.ZstdCompressor(level=LEVEL).stream_reader(cast("Any", source))
    try:
        pyrage.encrypt_io(compressed, cast("Any", target), list(to))
    finally:
        _raise_what_really_happened(source, target)
    return Sums(
        plain_bytes=source.count,
        plain_sha256=source.sha256,
        stored_bytes=target.count,
        stored_sha256=target.sha256,
    )


def unseal(stored: Readable, plain: Writable, by: Sequence[x25519.Identity]) -> Sums:
    """Decrypt and decompress a stream.

    Raises:
        StoreError: None of the identities can, or the bytes are not those that were written.
        Exception: Whatever ``stored`` raises as it is read, or ``plain`` as it is written.
    """
    source, target = _Watched(stored), _Watched(plain)
    below = cast("Any", target)
    try:
        with zstandard.ZstdDecompressor().stream_writer(below, closefd=False) as expanded:
            pyrage.decrypt_io(cast("Any", source), cast("Any", expanded), list(by))
    except Exception as error:
        _raise_what_really_happened(source, target)
        if isinstance(error, pyrage.DecryptError):
            raise StoreError(
                f"cannot be decrypted: {error}; give an identity of one of its recipients"
            ) from error
        if isinstance(error, OSError | zstandard.ZstdError):
            raise StoreError(f"is damaged: {error}") from error
        raise
    _raise_what_really_happened(source, target)
    return Sums(
        plain_bytes=target.count,
        plain_sha256=target.sha256,
        stored_bytes=source.count,
        stored_sha256=source.sha256,
    )


def _raise_what_really_happened(source: _Watched, target: _Watched) -> None:
    """What a stream raised: age tells of damage instead, or of nothing after the last write."""
    if error := source.error or target.error:
        raise error
