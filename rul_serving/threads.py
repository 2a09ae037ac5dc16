"""Blocking work beside the event loop, in lanes that cannot starve each other.

What belongs here: how many threads wait for what, and how long an answer waits for them. What does
not: the work.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync

from rul_core.errors import Unavailable

T = TypeVar("T")


class Lane:
    """A few threads for one purpose.

    Args:
        name: Of what is waited for, for messages.
        width: Threads at once; more work waits its turn.
        timeout_seconds: Of the turn and the work together. A thread that hangs in a driver is left
            behind and keeps its place in the lane until it returns, so that a server that takes
            connections and never answers blocks this lane's questions only.
    """

    def __init__(self, name: str, width: int, timeout_seconds: float | None = None) -> None:
        self.name, self.timeout_seconds = name, timeout_seconds
        self._limiter = anyio.CapacityLimiter(width)

    async def run(self, work: Callable[..., T], *args: object, **named: object) -> T:
        """What the work gives.

        Raises:
            Unavailable: It did not end in time.
        """
        try:
            with anyio.fail_after(self.timeout_seconds):
                return await run_sync(
                    partial(work, *args, **named),
                    abandon_on_cancel=self.timeout_seconds is not None,
                    limiter=self._limiter,
                )
        except TimeoutError as error:
            raise Unavailable(
                f"{self.name} did not answer within {self.timeout_seconds:g} s; try again"
            ) from error
