"""The news of a fleet as this process knows it: read once, for all who follow it.

What belongs here: following a fleet's logs, and the newest part of them in memory. What does not:
clients and what they are sent (``live``), the logs (``rul_store.news``).

A feed follows as long as somebody reads it. It holds the newest news only, in the order in which it
read them; a reader knows its place among them and takes what follows, and whoever falls behind
reads on from PostgreSQL. So nobody's slowness costs memory, and nobody waits for it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from litestar.channels import ChannelsPlugin

from rul_serving.channels import PACE_SECONDS
from rul_serving.database import Database
from rul_store import news
from rul_store.news import Cursor, News
from rul_store.swallowed import swallow

KEPT = 1_000
"""News that a feed holds at most."""
PAGE = 250
"""News that are read at once."""
POLL_SECONDS = 2.0
"""How long it may take to learn of news of which no message came."""


class Feed:
    """The newest news of a fleet.

    Args:
        fleet: The fleet's name.
        database: Where the logs are.
    """

    def __init__(self, fleet: str, database: Database) -> None:
        self._fleet, self._database = fleet, database
        self._kept: deque[News] = deque()
        self._first = 0
        """The place of the oldest that is kept; places count on for ever."""
        self._start = self._end = Cursor()
        """Just before the oldest that is kept, and at the newest."""
        self._has_looked = False
        self._look = asyncio.Event()
        self._is_failing = False
        self.changed = asyncio.Event()
        """Set at the next change, and then another takes its place."""

    def place_of(self, cursor: Cursor) -> int | None:
        """Where among the kept a reader of a cursor goes on; None where it would miss something."""
        if not self._has_looked or not self._start.is_within(cursor):
            return None
        for place, one in enumerate(self._kept, self._first):
            if not cursor.has_passed(one):
                return place
        return self._first + len(self._kept)

    def holds(self, place: int) -> bool:
        """Whether all from this place on is kept."""
        return place >= self._first

    def after(self, place: int) -> Iterator[News]:
        """The news from a place on that it holds, as long as nothing is awaited."""
        for index in range(place - self._first, len(self._kept)):
            yield self._kept[index]

    def wake(self) -> None:
        """Let every reader look."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def follow(self, channels: ChannelsPlugin) -> None:
        """Read what is new, until cancelled."""
        async with (
            channels.start_subscription(self._fleet) as subscriber,
            subscriber.run_in_background(self._hear, join=False),
        ):
            while True:
                self._look.clear()
                await self._catch_up()
                await asyncio.sleep(PACE_SECONDS)
                # Not ``wait_for``, which before Python 3.12 may forget that it was cancelled.
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._look.wait()

    async def _hear(self, _: bytes) -> None:
        self._look.set()

    async def _catch_up(self) -> None:
        try:
            if not self._has_looked:
                self._start = self._end = await self._database.ask(news.head, self._fleet)
                self._has_looked = True
                self.wake()
            while not await self._read_on():
                pass
        except Exception as error:  # a feed that ended would never be missed
            swallow("news", error, "streams go on once it can be read", told=self._is_failing)
            self._is_failing = True
        else:
            self._is_failing = False

    async def _read_on(self) -> bool:
        """Take in a page; whether it was the last."""
        page = await self._database.ask(news.since, self._fleet, self._end, limit=PAGE)
        if not page.is_known:  # an earlier state was restored: everybody looks for themselves
            self._first += len(self._kept) + 1
            self._kept.clear()
            self._start = page.cursor
        self._kept.extend(page.news)
        self._end = page.cursor
        while len(self._kept) > KEPT:
            self._start = self._start.past(self._kept.popleft())
            self._first += 1
        if page.news or not page.is_known:
            self.wake()
        return page.is_last


@dataclass
class _Followed:
    feed: Feed
    task: asyncio.Task[None]
    readers: int = 0


@dataclass
class Feeds:
    """A feed for every fleet that somebody reads.

    Args:
        database: Where the logs are.
        channels: That say when to look.
    """

    database: Database
    channels: ChannelsPlugin
    _followed: dict[str, _Followed] = field(default_factory=dict)

    @asynccontextmanager
    async def of(self, fleet: str) -> AsyncGenerator[Feed]:
        """The fleet's feed, which follows until its last reader has left."""
        followed = self._followed.get(fleet)
        if followed is None:
            feed = Feed(fleet, self.database)
            task = asyncio.create_task(feed.follow(self.channels))
            followed = self._followed[fleet] = _Followed(feed, task)
        followed.readers += 1
        try:
            yield followed.feed
        finally:
            followed.readers -= 1
            if followed.readers == 0:
                del self._followed[fleet]
                followed.task.cancel()
                await asyncio.wait([followed.task])

    def wake(self) -> None:
        """Let every reader look."""
        for followed in self._followed.values():
            followed.feed.wake()
