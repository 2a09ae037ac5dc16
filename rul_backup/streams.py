"""Streams that are read a little at a time.

What belongs here: what turns chunks into something to read from, and how fast they are read. What
does not: what they are of.
"""

import hashlib
import io
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

BLOCK_BYTES = 1 << 20
LONGEST_REST_SECONDS = 5.0
"""Servers that are kept waiting for a minute take their reader for dead."""
MOST_REST_SECONDS = 600.0
"""A run that rests keeps its place from others, and the next backup is due after half an hour."""


class Readable(Protocol):
    """What can be read."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


class Pace:
    """Rests between pieces of work, so that what else the machine does goes on.

    A program that gives a stream waits for whoever reads it; so a reader that rests lets
    PostgreSQL's own work for a base rest too, to which nothing else could give a low priority.
    Once it has rested for ``MOST_REST_SECONDS`` in all it rests no more, so each run has its own.

    Args:
        share: Of the time, how much is worked, over 0 and up to 1; at 1 it never rests.
        clock: Seconds that go on.
        sleep: Rests for so many seconds.
    """

    def __init__(
        self,
        share: float = 1.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.share, self._clock, self._sleep = share, clock, sleep
        self._since: float | None = None
        self._hurries, self._left_seconds = False, MOST_REST_SECONDS

    def anew(self) -> "Pace":
        """The same for another run."""
        return Pace(self.share, clock=self._clock, sleep=self._sleep)

    def rest(self) -> None:
        """For as long as the work since the last rest asks for."""
        if not self._hurries:
            self._rest(LONGEST_REST_SECONDS)

    @contextmanager
    def hurried(self) -> Generator[None]:
        """Without any rest until the end of the context, which is rested from as a whole.

        For what holds a snapshot: the longer it does, the more old rows others must pass over.
        """
        self._since, self._hurries = self._clock(), True
        try:
            yield
        finally:
            self._hurries = False
        self._rest(math.inf)  # nothing is kept waiting now

    def _rest(self, longest_seconds: float) -> None:
        now = self._clock()
        if self._since is not None and self.share < 1:
            asked_seconds = (now - self._since) * (1 / self.share - 1)
            rest_seconds = min(asked_seconds, longest_seconds, self._left_seconds)
            self._left_seconds -= rest_seconds
            self._sleep(rest_seconds)
        self._since = self._clock()


class Paced:
    """A stream that is read at a pace.

    Args:
        below: The stream.
        pace: The pace.
    """

    def __init__(self, below: Readable, pace: Pace) -> None:
        self._below, self._pace = below, pace

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes, after a rest."""
        self._pace.rest()
        return self._below.read(size)


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


def sha256_of(stream: Readable) -> str:
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
