"""Blocking work beside the event loop, in lanes that cannot starve each other.

What belongs here: how many threads wait for what, and how long an answer waits for them. What does
not: the work.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from prometheus_client import Gauge

from rul_core.errors import Unavailable
from rul_serving.shared_values import GAUGE_MODE

T = TypeVar("T")
LANE_CALLS = Gauge(
    "rul_lane_calls",
    "Calls that a lane's threads run, or that wait for one of them.",
    ("lane",),
    multiprocess_mode=GAUGE_MODE,
)
LANE_THREADS = Gauge(
    "rul_lane_threads",
    "Calls that a lane runs at once; for PostgreSQL, each with a connection of the pool.",
    ("lane",),
    multiprocess_mode=GAUGE_MODE,
)


class Lane:
    """A few threads for one purpose.

    A thread that hangs in a driver keeps its place until it returns, though nobody waits for it any
    more: so a server that takes connections and never answers holds up this lane alone, with this
    many threads. (AnyIO's threads would not do: one that is given up frees its place at once.)

    Args:
        label: In metrics.
        name: Of what is waited for, for messages.
        width: Threads at once; more work waits its turn.
        timeout_seconds: Of the turn and the work together; for ever unless given.
    """

    def __init__(
        self, label: str, name: str, width: int, timeout_seconds: float | None = None
    ) -> None:
        LANE_THREADS.labels(label).set(width)
        self._calls = LANE_CALLS.labels(label)
        self._name, self._timeout_seconds = name, timeout_seconds
        self._threads = ThreadPoolExecutor(width, thread_name_prefix=name)
        self._unfinished: set[Future[Any]] = set()

    async def run(self, work: Callable[..., T], *args: object, **named: object) -> T:
        """What the work gives.

        Raises:
            Unavailable: It did not end in time.
        """
        call: Callable[[], T] = partial(copy_context().run, work, *args, **named)
        future = self._threads.submit(call)
        self._unfinished.add(future)
        self._calls.inc()
        future.add_done_callback(self._end)
        result = asyncio.wrap_future(future)
        try:
            await asyncio.wait([result], timeout=self._timeout_seconds)
            if result.done():
                return result.result()
        finally:
            result.cancel()
        raise Unavailable(
            f"{self._name} did not answer within {self._timeout_seconds:g} s; try again"
        )

    def _end(self, future: Future[Any]) -> None:
        self._unfinished.discard(future)
        self._calls.dec()

    async def close(self, seconds: float) -> None:
        """Take no more work, and wait for the rest, but not longer than this."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        unfinished = [asyncio.wrap_future(future) for future in set(self._unfinished)]
        if unfinished:
            await asyncio.wait(unfinished, timeout=seconds)
