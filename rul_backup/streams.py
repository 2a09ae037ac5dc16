"""Streams that are read a little at a time.

What belongs here: what turns chunks into something to read from. What does not: what they are of.
"""

import hashlib
import io
from collections.abc import Iterator
from typing import BinaryIO

BLOCK_BYTES = 1 << 20


class Chunks:
    """A stream of chunks as they come.

    Args:
        chunks: One after the other.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, io.BytesIO()

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes, all that are left where none are named; none at the end."""
        if size < 0:
            return self._rest.read() + b"".join(self._chunks)
        while not (data := self._rest.read(size)):
            following = next(self._chunks, None)
            if following is None:
                return b""
            self._rest = io.BytesIO(following)
        return data


def sha256_of(stream: BinaryIO) -> str:
    """Of all that is left in a stream, hexadecimal."""
    digest = hashlib.sha256()
    while block := stream.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def copied(stream: BinaryIO, target: BinaryIO) -> str:
    """Copy all that is left in a stream; its SHA-256, hexadecimal."""
    digest = hashlib.sha256()
    while data := stream.read(BLOCK_BYTES):
        digest.update(data)
        target.write(data)
    return digest.hexdigest()
