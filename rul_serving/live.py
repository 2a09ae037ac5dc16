"""Streams of server-sent events: what a client is sent, from when to when, and why it ends.

What belongs here: the events as text, one client's stream, how many there may be. What does not:
the news (``rul_store.news``), reading them for all (``feeds``), the address (``routes.events``).

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import time
from collections import Counter as Counts
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from enum import StrEnum

import msgspec
import structlog
from litestar.response.base import ASGIResponse
from litestar.types import HTTPResponseBodyEvent, Receive, Scope, Send

from rul_core.errors import Unavailable
from rul_serving import metrics
from rul_serving.access import Access
from rul_serving.channels import NewsChannels
from rul_serving.database import Database
from rul_serving.feeds import Feed, Feeds
from rul_serving.principal import Principal
from rul_serving.problems import Kind, Refusal
from rul_store import news
from rul_store.news import Cursor, News, NewsKind
from rul_store.swallowed import swallow

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_SECONDS = 15.0
"""So long nothing is sent at most, or proxies think that nobody is there."""
RETRY_MILLISECONDS = 2_000
"""How soon a client that was cut off comes again."""
STALLED_SECONDS = 60.0
"""A client that takes nothing for so long is left."""
WATCH_SECONDS = 0.25
"""How often keys are looked at: a revoked one ends its streams."""
TRY_AGAIN_SECONDS = 1.0
"""After which a stream that could not look does so again."""
PAGE = 50
"""News that a stream which is behind reads at once."""
MOST_BYTES = 64 * 1024
"""After which no more news is put into what is sent at once."""
FILLS_AT_ONCE = 2
"""Streams that read what they missed, so that many that come again leave PostgreSQL to others."""
REFUSED_SECONDS = 10
"""After which somebody with too many streams may try again."""

_log = structlog.stdlib.get_logger(__name__)


class EndReason(StrEnum):
    """Why a stream ends; come again with the last id, unless it says otherwise."""

    STOPPING = "stopping"
    """The server stops; another one, or the next, goes on."""
    KEY_ENDED = "key_ended"
    """The API key has expired or was revoked; another one is needed."""
    CAUGHT_UP = "caught_up"
    """All that there was has been told, and no more was asked for."""


class StreamEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The last event of a stream, `end`."""

    reason: EndReason


class StreamReset(msgspec.Struct, frozen=True, kw_only=True):
    """The event `reset`: what the client's last id names is not there; the stream goes on from now.

    The database was restored from before, or the id is another fleet's. Whatever the client made of
    earlier events may be wrong: look at everything anew.
    """

    unknown_id: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants to be told."""

    fleet: str
    unit: str | None = None
    """Only of this one."""
    kind: NewsKind | None = None
    """Only this."""
    follow: bool = True
    """Whether to wait for more once all is told."""

    def includes(self, one: News) -> bool:
        """Whether the news is wanted."""
        return self.unit in (None, one.unit) and self.kind in (None, one.kind)


def event(name: str, content: bytes, cursor: Cursor | None = None) -> bytes:
    """An event as text; with the id to go on from."""
    at = b"" if cursor is None else b"id: %s\n" % str(cursor).encode()
    return b"event: %s\n%sdata: %s\n\n" % (name.encode(), at, content)


class Live:
    """All streams of this process.

    Args:
        database: Where the news is.
        access: Whether keys still hold.
        redis_url: Through which processes hear of news; without, each looks by itself.
        most: Streams at once.
        most_of_one: Of one principal.
    """

    def __init__(
        self,
        database: Database,
        access: Access,
        redis_url: str | None,
        *,
        most: int,
        most_of_one: int,
    ) -> None:
        self.database, self.access = database, access
        self._channels = NewsChannels(redis_url)
        self.tell = self._channels.tell
        """Say that there is news of a fleet, once it is committed."""
        self.feeds = Feeds(database, self._channels.plugin)
        self.filling = asyncio.Semaphore(FILLS_AT_ONCE)
        self._most, self._most_of_one = most, most_of_one
        self._streams: set[Stream] = set()
        self._is_stopping = False

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Until the end of the context, when every stream ends."""
        async with self._channels.plugin:
            tasks = [
                asyncio.create_task(work())
                for work in (self._channels.keep_telling, self._watch_keys)
            ]
            try:
                yield
            finally:
                self.stop()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def open(self, wanted: Wanted, last_id: str | None, principal: Principal) -> "Stream":
        """A stream from where the client left off, or from now on; somebody must ``send`` it.

        Raises:
            Refusal: The id is none, or the principal has too many.
            Unavailable: There are too many, the service stops, or PostgreSQL does not answer.
        """
        if last_id is None:
            cursor = await self.database.ask(news.head, wanted.fleet)
        else:
            cursor = Cursor.read(last_id)
        if self._is_stopping:
            raise Unavailable("the service is stopping; come again with the last id")
        if len(self._streams) >= self._most:
            raise Unavailable(
                f"{self._most} streams are open here already; try again, or elsewhere"
            )
        own = Counts(stream.principal.name for stream in self._streams)[principal.name]
        if own >= self._most_of_one:
            raise Refusal(
                Kind.RATE_LIMITED,
                f"{principal.name!r} has {own} streams open here; close one, or follow several "
                "units in one stream",
                headers={"Retry-After": str(REFUSED_SECONDS)},
            )
        stream = Stream(self, wanted, cursor, principal)
        self._streams.add(stream)
        metrics.STREAMS.set(len(self._streams))
        return stream

    def left(self, stream: "Stream") -> None:
        """Forget a stream that has ended."""
        self._streams.discard(stream)
        metrics.STREAMS.set(len(self._streams))

    def stop(self) -> None:
        """End every stream, and open no more."""
        self._is_stopping = True
        self.feeds.wake()

    def end_of(self, principal: Principal) -> EndReason | None:
        """Why streams of the principal must end, if they must."""
        if self._is_stopping:
            return EndReason.STOPPING
        return None if self.access.holds(principal) else EndReason.KEY_ENDED

    async def _watch_keys(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            principals = {stream.principal for stream in self._streams}
            if not all(map(self.access.holds, principals)):
                self.feeds.wake()


class Stream:
    """What one client is sent.

    Args:
        live: All streams.
        wanted: By the client.
        cursor: After what it begins.
        principal: For whom.
    """

    def __init__(self, live: Live, wanted: Wanted, cursor: Cursor, principal: Principal) -> None:
        self.principal = principal
        self._live, self._wanted, self._cursor = live, wanted, cursor
        self._place: int | None = None
        """In the feed; None where the stream reads by itself."""
        self._is_waiting = self._is_failing = False
        """Whether it could not look, because others do, or PostgreSQL does not answer."""

    async def chunks(self) -> AsyncGenerator[bytes]:
        """What is to be sent; each is made once the one before was taken."""
        async with self._live.feeds.of(self._wanted.fleet) as feed:
            # The id first: who is cut off before the first event comes again to the same place.
            yield self._alive(b"retry: %d\n" % RETRY_MILLISECONDS)
            sent_at = time.monotonic()
            while True:
                changed = feed.changed
                told = await self._next(feed)
                if reason := self._end(is_idle=not told):
                    yield event("end", msgspec.json.encode(StreamEnd(reason=reason)), self._cursor)
                    return
                silent_seconds = time.monotonic() - sent_at
                if not told and silent_seconds < HEARTBEAT_SECONDS:
                    seconds = HEARTBEAT_SECONDS - silent_seconds
                    if self._place is None:
                        seconds = min(seconds, TRY_AGAIN_SECONDS)
                    await _wait(changed, seconds)
                    continue
                yield told or self._alive(b": nothing new\n")
                sent_at = time.monotonic()

    def _end(self, *, is_idle: bool) -> EndReason | None:
        reason = self._live.end_of(self.principal)
        if reason is None and is_idle and not self._wanted.follow and not self._is_waiting:
            return EndReason.CAUGHT_UP
        return reason

    def _alive(self, block: bytes) -> bytes:
        """A block that is no event, with the id to go on from."""
        return b"%sid: %s\n\n" % (block, str(self._cursor).encode())

    async def _next(self, feed: Feed) -> bytes:
        """The next events; empty where there is none now."""
        if self._place is not None and feed.holds(self._place):
            return self._take(feed, self._place)
        filling, self._is_waiting = self._live.filling, True
        try:
            async with asyncio.timeout(TRY_AGAIN_SECONDS):
                await filling.acquire()
        except TimeoutError:
            return b""
        try:
            told = await self._fill()
        except Unavailable as error:
            swallow("news", error, "a stream goes on once it can be read", told=self._is_failing)
            self._is_failing = True
            return b""
        finally:
            filling.release()
        self._is_waiting = self._is_failing = False
        # What there is now is in PostgreSQL, which a feed may lag behind.
        self._place = feed.place_of(self._cursor) if self._wanted.follow else None
        return told

    def _take(self, feed: Feed, place: int) -> bytes:
        """From the feed, as much as is sent at once."""
        told, size = [], 0
        for one in feed.after(place):
            place += 1
            if self._cursor.has_passed(one):
                continue
            self._cursor = self._cursor.past(one)
            if self._wanted.includes(one):
                told.append(event(one.kind, one.content, self._cursor))
                metrics.EVENTS_SENT.labels(one.kind).inc()
                size += len(told[-1])
                if size >= MOST_BYTES:
                    break
        self._place = place
        return b"".join(told)

    async def _fill(self) -> bytes:
        """From PostgreSQL: what came before the feed, or was too long ago for it."""
        wanted = self._wanted
        page = await self._live.database.ask(
            news.since, wanted.fleet, self._cursor, limit=PAGE, unit=wanted.unit, kind=wanted.kind
        )
        if not page.is_known:
            reset = StreamReset(unknown_id=str(self._cursor))
            self._cursor = page.cursor
            return event("reset", msgspec.json.encode(reset), self._cursor)
        told = []
        for one in page.news:
            self._cursor = self._cursor.past(one)
            told.append(event(one.kind, one.content, self._cursor))
            metrics.EVENTS_SENT.labels(one.kind).inc()
        if told:
            metrics.GAPS_FILLED.inc()
        self._cursor = page.cursor
        return b"".join(told)


class EventStream(ASGIResponse):
    """The answer that sends a stream.

    Args:
        live: All streams.
        stream: That was opened for it.
    """

    _should_set_content_length = False

    def __init__(self, live: Live, stream: Stream) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(media_type=MEDIA_TYPE, headers=headers)
        self._live, self._stream = live, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it until it ends or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.left(self._stream)

    async def send_body(self, send: Send, receive: Receive) -> None:
        """One part after another, each once the client has taken what was before."""
        parts = [asyncio.create_task(self._send(send)), asyncio.create_task(_left(receive))]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async with aclosing(self._stream.chunks()) as chunks:
            async for chunk in chunks:
                part = HTTPResponseBodyEvent(type="http.response.body", body=chunk, more_body=True)
                try:
                    async with asyncio.timeout(STALLED_SECONDS):
                        await send(part)
                except TimeoutError:
                    _log.info("event stream left", stalled_seconds=STALLED_SECONDS)
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()
