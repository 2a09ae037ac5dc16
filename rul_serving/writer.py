"""Requests that send readings, gathered into transactions.

What belongs here: waiting together, and who waits how long. What does not: what a transaction does
(``ingest``).

While a transaction runs, requests gather; the next one takes them all, once they are as many as the
running one has. So a quiet service answers each at once, and a busy one pays for a commit once in
many requests. What is answered is committed.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rul_core.errors import RulError, Unavailable
from rul_core.prognosis import Prognosis
from rul_core.schema import Fleet
from rul_serving import metrics
from rul_serving.batch import Receipt, Sent
from rul_serving.database import Database
from rul_serving.ingest import Ingest
from rul_serving.served import ServedModels

TRANSACTIONS_AT_ONCE = 2
"""One computes while the other waits for its commit."""
QUICK_ROWS = 1_000
"""A transaction with fewer is soon over: to wait for it is cheaper than a small one beside it."""
MOST_ROWS = 20_000
"""Of a transaction, which takes further requests while it has fewer."""
MOST_WAITING_ROWS = 200_000
"""Of all requests that wait; beyond, the service is too busy to take more."""
LONGEST_WAIT_SECONDS = 1.0
"""How long work at low priority waits while readings wait."""


@dataclass(eq=False)
class _Waiting:
    fleet: Fleet
    sent: Sent
    receipt: asyncio.Future[Receipt]


class Writer:
    """Takes readings in, many requests at a time.

    Args:
        database: Where they are kept.
        ingest: What is done with them.
        models: Which model answers.
        tell: Told the fleet's name once something new is said of its units; must not wait.
        committed: Told of all that was said, once it is committed; must not fail nor wait.
    """

    def __init__(
        self,
        database: Database,
        ingest: Ingest,
        models: ServedModels,
        tell: Callable[[str], None],
        committed: Callable[[Iterable[Prognosis]], None],
    ) -> None:
        self._database, self._ingest, self._models = database, ingest, models
        self._tell, self._committed = tell, committed
        # Rows are in the order of the channels that their fleet had when they came.
        self._waiting: dict[tuple[str, tuple[str, ...]], deque[_Waiting]] = {}
        self._waiting_rows = 0
        self._running: list[list[_Waiting]] = []
        self._some = asyncio.Event()

    async def gives_way(self) -> None:
        """Wait while readings wait for a transaction, but not for ever: for work at low priority.

        Such work takes a step, asks for the way, and takes the next.
        """
        until = time.monotonic() + LONGEST_WAIT_SECONDS
        while self._waiting_rows > 0 and time.monotonic() < until:
            await asyncio.sleep(LONGEST_WAIT_SECONDS / 20)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Take readings until the end of the context; what waits then is refused."""
        loops = [asyncio.create_task(self._work()) for _ in range(TRANSACTIONS_AT_ONCE)]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            for queue in self._waiting.values():
                for one in queue:
                    _fail(one, Unavailable("the service is stopping; send the readings again"))

    async def send(self, fleet: Fleet, sent: Sent, *, atomic: bool) -> Receipt:
        """Keep the rows; what became of them, once that is committed.

        Raises:
            Refusal: ``atomic``, and a row cannot be kept.
            Unavailable: PostgreSQL does not answer, or too much waits for it already.
        """
        if atomic:  # alone: it must not take others down with it
            return (await self._take(fleet, [sent], atomic=True))[0]
        if self._waiting_rows + len(sent.rows) > MOST_WAITING_ROWS:
            raise Unavailable(
                f"{self._waiting_rows} readings wait to be kept; send these again in a moment"
            )
        waiting = _Waiting(fleet, sent, asyncio.get_running_loop().create_future())
        self._waiting.setdefault((fleet.name, fleet.channels), deque()).append(waiting)
        self._count(len(sent.rows))
        self._some.set()
        return await waiting.receipt

    async def _work(self) -> None:
        while True:
            batch = [] if self._is_soon_over() else self._gather()
            if not batch:
                self._some.clear()
                await self._some.wait()
                continue
            self._running.append(batch)
            try:
                await self._answer(batch)
            except asyncio.CancelledError:
                for one in batch:
                    _fail(one, Unavailable("the service is stopping; send the readings again"))
                raise
            finally:
                self._running.remove(batch)
                self._some.set()

    def _is_soon_over(self) -> bool:
        """Whether those that wait had better wait for what runs: it is quick, and has more."""
        running = [one for batch in self._running for one in batch]
        waiting = sum(map(len, self._waiting.values()))
        return waiting < len(running) and sum(len(one.sent.rows) for one in running) < QUICK_ROWS

    def _gather(self) -> list[_Waiting]:
        """The requests of the fleet that waits longest, as many as go into one transaction."""
        for name in list(self._waiting):
            queue, batch, rows = self._waiting.pop(name), [], 0
            while queue and (not batch or rows + len(queue[0].sent.rows) <= MOST_ROWS):
                one = queue.popleft()
                rows += len(one.sent.rows)
                if not one.receipt.cancelled():
                    batch.append(one)
            if queue:
                self._waiting[name] = queue  # behind the other fleets
            self._count(-rows)
            if batch:
                return batch
        return []

    async def _answer(self, batch: list[_Waiting]) -> None:
        """One transaction; where it fails though PostgreSQL answers, each request alone."""
        try:
            receipts = await self._take(batch[0].fleet, [one.sent for one in batch])
        except Exception as error:  # whoever waits is told
            if len(batch) == 1 or isinstance(error, RulError):
                for one in batch:
                    _fail(one, error)
                return
            for one in batch:
                await self._answer([one])
            return
        for one, receipt in zip(batch, receipts, strict=True):
            if not one.receipt.done():
                one.receipt.set_result(receipt)

    def _count(self, rows: int) -> None:
        self._waiting_rows += rows
        metrics.WAITING.set(self._waiting_rows)

    async def _take(self, fleet: Fleet, sent: list[Sent], *, atomic: bool = False) -> list[Receipt]:
        served = self._models.get(fleet.name)
        loaded = served.loaded if served else None
        with metrics.TRANSACTION_SECONDS.time():
            receipts = await self._database.ask(
                self._ingest.take, fleet, loaded, sent, atomic=atomic
            )
        if any(receipt.prognoses for receipt in receipts):
            self._tell(fleet.name)
        metrics.TRANSACTION_REQUESTS.observe(len(sent))
        metrics.count_readings(fleet.name, receipts)
        self._committed(one for receipt in receipts for one in receipt.prognoses)
        return receipts


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.receipt.done():
        waiting.receipt.set_exception(error)
