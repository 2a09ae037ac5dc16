"""One thing that is kept: compressed, then encrypted, and known by its checksums.

What belongs here: from a stream of bytes to a file and back. What does not: which things
(``snapshots``), what is said of them (``manifest``).

Compressed before it is encrypted, since afterwards nothing can be. The checksum of the stored
bytes lets anybody see damage; that of the plain ones says that what is read is what was written. A
flipped bit in an uncompressed dump restores in silence, so nothing is ever kept plain.
"""

import hashlib
import io
from collections.abc import Sequence
from typing import Any, Protocol, cast

import msgspec
import pyrage
import zstandard
from pyrage import x25519

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


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


class Writable(Protocol):
    """Takes a stream of bytes."""

    def write(self, data: bytes, /) -> object:
        """Take all of them."""
        ...


class _Sum:
    """Of all that went by."""

    def __init__(self) -> None:
        self._digest, self.count = hashlib.sha256(), 0

    def add(self, data: bytes) -> None:
        self._digest.update(data)
        self.count += len(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


class _Read(io.RawIOBase):
    """A stream that is summed as it is read."""

    def __init__(self, below: Readable) -> None:
        self._below, self.sum = below, _Sum()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._below.read(size)
        self.sum.add(data)
        return data


class _Written(io.RawIOBase):
    """A stream that is summed as it is written."""

    def __init__(self, below: Writable) -> None:
        self._below, self.sum = below, _Sum()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # ty: ignore[incompatible-method-override]
        self._below.write(data)
        self.sum.add(data)
        return len(data)


def seal(plain: Readable, stored: Writable, to: Sequence[x25519.Recipient]) -> Sums:
    """Compress and encrypt a stream.

    Args:
        plain: What is kept.
        stored: Where it is written.
        to: Who can read it.

    Raises:
        StoreError: It cannot be read or written; the reason is in it.
    """
    source, target = _Read(plain), _Written(stored)
    compressed: Any = zstandard.ZstdCompressor(level=LEVEL).stream_reader(cast("Any", source))
    try:
        pyrage.encrypt_io(compressed, cast("Any", target), list(to))
    except pyrage.EncryptError as error:
        raise StoreError(f"cannot be encrypted: {error}") from error
    return Sums(
        plain_bytes=source.sum.count,
        plain_sha256=source.sum.sha256,
        stored_bytes=target.sum.count,
        stored_sha256=target.sum.sha256,
    )


def unseal(stored: Readable, plain: Writable, by: Sequence[x25519.Identity]) -> Sums:
    """Decrypt and decompress a stream.

    Raises:
        StoreError: None of the identities can, or the bytes are not those that were written.
    """
    source, target = _Read(stored), _Written(plain)
    below = cast("Any", target)
    with zstandard.ZstdDecompressor().stream_writer(below, closefd=False) as expanded:
        try:
            pyrage.decrypt_io(cast("Any", source), cast("Any", expanded), list(by))
        except pyrage.DecryptError as error:
            raise StoreError(
                f"cannot be decrypted: {error}; give an identity of one of its recipients"
            ) from error
        except (OSError, zstandard.ZstdError) as error:
            raise StoreError(f"is damaged: {error}") from error
    return Sums(
        plain_bytes=target.sum.count,
        plain_sha256=target.sum.sha256,
        stored_bytes=source.sum.count,
        stored_sha256=source.sum.sha256,
    )
