"""The load: requests that are encoded beforehand, over HTTP/1.1 connections that stay open.

What belongs here: sending as many as will be answered (``saturate``), sending at a rate whatever is
answered (``at_rate``), counting what failed. What does not: what is sent, and to whom.

It speaks the protocol itself, on uvloop: a client library costs more a request than the servers
that are measured. ``at_rate`` is an open loop: each request has a moment at which it is meant to be
sent, and its latency counts from that moment, also where it had to wait for a connection because
the server was slow. So a server that stalls is charged for all that would have come meanwhile (no
coordinated omission). Timers wake in whole milliseconds, which is charged to the server too.

A connection that the server closes before it answers anything is opened once more for the same
request, as HTTP's clients do with those that stay open; a second time, the request has failed.
"""

import asyncio
import gc
import resource
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

WAIT_SECONDS = 30.0
"""For what was sent, after the last was; what is not answered by then has failed."""
LATE = "not answered"


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


Check = Callable[[bytes, bytes], str]
"""Told a request and the body of its answer; says what is wrong with it, or nothing."""


@dataclass
class Load:
    """What became of requests."""

    answered: int = 0
    """With a status below 300 and a right body."""
    failures: Counter[str] = field(default_factory=Counter)
    """The others, by what happened."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of those answered, in the order of their answers."""
    seconds: float = 0.0
    """That the load lasted."""
    generator_share: float = 0.0
    """Of a core that the generator took: near 1, it is the generator that was measured."""
    reconnected: int = 0
    """Requests that went over a second connection."""

    @property
    def failed(self) -> int:
        """Requests without a right answer."""
        return self.failures.total()

    @property
    def per_second(self) -> float:
        """Requests answered a second."""
        return self.answered / self.seconds

    def latency_ms(self, share: float) -> float:
        """The latency that this share of the answers did not exceed."""
        if not self.latencies:
            return float("inf")
        return 1000 * float(np.quantile(self.latencies, share, method="higher"))


def post(path: str, body: bytes, *, content_type: str = "application/json", key: str = "") -> bytes:
    """A POST request as it goes over the wire."""
    return _head("POST", path, key, f"content-type: {content_type}", len(body)) + body


def get(path: str, *, key: str = "") -> bytes:
    """A GET request as it goes over the wire."""
    return _head("GET", path, key, "accept: application/json", 0)


def _head(method: str, path: str, key: str, more: str, length: int) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: benchmark", more, f"content-length: {length}"]
    if key:
        lines.append(f"authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode()


async def ask(address: Address, request: bytes) -> tuple[int, bytes]:
    """The status and body of one answer."""
    answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def told(_: "Connection", status: int, body: bytes) -> None:
        if not answer.done():
            answer.set_result((status, body))

    async with _connections(address, 1, told) as (connection,):
        connection.send(request)
        async with asyncio.timeout(WAIT_SECONDS):
            return await answer


async def saturate(
    address: Address,
    requests: Iterable[bytes],
    *,
    connections: int,
    seconds: float,
    check: Check | None = None,
) -> Load:
    """As many requests as will be answered: each connection sends its next with the answer.

    Args:
        address: Of the server.
        requests: Taken one after another, until they or the time are over.
        connections: That are kept busy.
        seconds: How long new requests are sent.
        check: Looks at the answers.
    """
    load, coming, busy = Load(), iter(requests), 0
    done = asyncio.get_running_loop().create_future()
    started = deadline = 0.0

    def next_of(connection: Connection) -> None:
        nonlocal busy
        request = next(coming, None) if time.perf_counter() < deadline else None
        if request is not None:
            connection.began = time.perf_counter()
            connection.send(request)
            return
        busy -= 1
        if busy == 0 and not done.done():
            done.set_result(None)

    def told(connection: Connection, status: int, body: bytes) -> None:
        _count(load, connection, status, body, check)
        next_of(connection)

    async with _connections(address, connections, told, load) as opened:
        with _measured(load):
            started = time.perf_counter()
            deadline, busy = started + seconds, len(opened)
            for connection in opened:
                next_of(connection)
            await asyncio.wait([done], timeout=seconds + WAIT_SECONDS)
        load.failures[LATE] += busy
    return load


async def at_rate(
    address: Address,
    requests: Iterable[bytes],
    *,
    per_second: float,
    seconds: float,
    connections: int,
    seed: int = 0,
    check: Check | None = None,
    stop: asyncio.Event | None = None,
) -> Load:
    """Requests at random moments (a Poisson process), whether the ones before are answered or not.

    Args:
        address: Of the server.
        requests: Taken one after another; there must be enough of them.
        per_second: How many on average.
        seconds: How long.
        connections: At most; a request that finds none free waits, and its latency counts on.
        seed: Of the moments.
        check: Looks at the answers.
        stop: Ends the load early once it is set.
    """
    load, coming = Load(), iter(requests)
    waiting: deque[tuple[float, bytes]] = deque()
    free: list[Connection] = []
    moments = _moments(per_second, seconds, seed)
    unanswered = 0
    idle = asyncio.Event()

    def give(connection: Connection) -> None:
        if waiting:
            connection.began, request = waiting.popleft()
            connection.send(request)
        else:
            free.append(connection)

    def told(connection: Connection, status: int, body: bytes) -> None:
        nonlocal unanswered
        _count(load, connection, status, body, check)
        unanswered -= 1
        if unanswered == 0:
            idle.set()
        give(connection)

    async with _connections(address, connections, told, load) as opened:
        free.extend(opened)
        with _measured(load):
            started = time.perf_counter()
            for moment in moments:
                ahead = started + moment - time.perf_counter()
                if ahead > 0:
                    await asyncio.sleep(ahead)
                if stop is not None and stop.is_set():
                    break
                unanswered += 1
                idle.clear()
                waiting.append((started + moment, next(coming)))
                if free:
                    give(free.pop())
            if unanswered:
                await asyncio.wait([asyncio.ensure_future(idle.wait())], timeout=WAIT_SECONDS)
        load.failures[LATE] += unanswered
    return load


def _moments(per_second: float, seconds: float, seed: int) -> Iterator[float]:
    draw, moment = np.random.default_rng(seed), 0.0
    while True:
        for pause in draw.exponential(1 / per_second, 1000).tolist():
            moment += pause
            if moment >= seconds:
                return
            yield moment


def _count(load: Load, connection: "Connection", status: int, body: bytes, check: Any) -> None:
    if not 200 <= status < 300:
        load.failures[f"status {status}" if status else "connection lost"] += 1
        return
    wrong = check(connection.request, body) if check else ""
    if wrong:
        load.failures[wrong] += 1
        return
    load.answered += 1
    load.latencies.append(time.perf_counter() - connection.began)


@contextmanager
def _measured(load: Load) -> Generator[None]:
    """Notes how long the load lasted and what the generator took; without pauses of its own."""
    gc.collect()
    gc.disable()
    started, before = time.perf_counter(), _own_seconds()
    try:
        yield
    finally:
        load.seconds = time.perf_counter() - started
        load.generator_share = (_own_seconds() - before) / load.seconds
        gc.enable()


def _own_seconds() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


Told = Callable[["Connection", int, bytes], None]


@asynccontextmanager
async def _connections(
    address: Address, count: int, told: Told, load: Load | None = None
) -> AsyncGenerator[list["Connection"]]:
    """Open connections, which are closed at the end."""
    opened = [Connection(address, told, load or Load()) for _ in range(count)]
    for connection in opened:
        await connection.open()
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


class Connection:
    """A client that sends a request at a time and is told of its answer.

    Args:
        address: Of the server.
        told: Told the status and body of each answer; status 0 where there will be none.
        load: Counts second connections.
    """

    def __init__(self, address: Address, told: Told, load: Load) -> None:
        self._address, self._told, self._load = address, told, load
        self._wire: _Wire | None = None
        self._busy = self._again = False
        self._opening: asyncio.Task[None] | None = None
        self.request = b""
        """The one that is, or was last, sent."""
        self.began = 0.0
        """From when its latency counts."""

    async def open(self) -> None:
        """Connect."""
        loop, (host, port) = asyncio.get_running_loop(), self._address
        _, self._wire = await loop.create_connection(lambda: _Wire(self), host, port)

    def close(self) -> None:
        """Close it; nothing more is told."""
        self._busy = False
        if self._opening is not None:
            self._opening.cancel()
        if self._wire is not None:
            self._wire.close()

    def send(self, request: bytes) -> None:
        """Send a request, once the one before is answered."""
        self.request, self._busy, self._again = request, True, False
        if self._wire is None:
            self._opening = asyncio.ensure_future(self._reopen())
        else:
            self._wire.write(request)

    def answered(self, status: int, body: bytes, *, closes: bool) -> None:
        """The wire has the answer; the server may want no more requests on it."""
        self._busy = False
        if closes and self._wire is not None:
            self._wire.close()
            self._wire = None
        self._told(self, status, body)

    def lost(self, wire: "_Wire", *, untouched: bool) -> None:
        """The wire was closed from the other end."""
        if wire is not self._wire:
            return
        self._wire = None
        if not self._busy:
            return
        if self._again or not untouched:  # HTTP lets nobody repeat what was half answered
            self.answered(0, b"", closes=False)
            return
        self._again = True
        self._load.reconnected += 1
        self._opening = asyncio.ensure_future(self._reopen())

    async def _reopen(self) -> None:
        try:
            await self.open()
        except OSError:
            self.answered(0, b"", closes=False)
            return
        if self._wire is not None:
            self._wire.write(self.request)


class _Wire(asyncio.Protocol):
    """HTTP on one socket."""

    def __init__(self, owner: Connection) -> None:
        self._owner, self._buffer, self._body_at, self._whole = owner, b"", 0, 0
        self._transport: Any = None

    def write(self, request: bytes) -> None:
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._whole:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._body_at = end + 4
            self._head = self._buffer[: end + 2].lower()
            self._whole = self._body_at + _length(self._head)
        if len(self._buffer) < self._whole:
            return
        answer, self._buffer, self._whole = self._buffer, b"", 0
        closes = b"\r\nconnection: close\r\n" in self._head
        self._owner.answered(int(answer[9:12]), answer[self._body_at :], closes=closes)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._owner.lost(self, untouched=not self._buffer)


def _length(head: bytes) -> int:
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"the answer does not say how long it is: {head!r}")
    return int(head[at + 17 : head.index(b"\r\n", at + 17)])
