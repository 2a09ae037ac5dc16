"""Litestar's channels on Redis, of which each is a fleet's and says that there is news.

What belongs here: the backend of the channels, and saying it. What does not: what the news is
(``rul_store.news``), who reads it (``feeds``).

A message means "look": what is new is read from PostgreSQL, by its positions. So a message that is
lost, late or doubled makes nothing wrong, and a thousand that come at once are one.

Litestar's own backend is not used: its listener ends for good with the first error of Redis.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable

import msgspec
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.base import ChannelsBackend
from litestar.channels.backends.memory import MemoryChannelsBackend

from rul_serving.listening import heed_cancellation, messages
from rul_store.cache import connect_redis_async
from rul_store.news import CHANNEL
from rul_store.swallowed import swallow

PACE_SECONDS = 0.05
"""Between two messages at least: what becomes new meanwhile is told by the next one."""


class RedisBackend(ChannelsBackend):
    """Channels that share one of Redis, and outlive its absence.

    Args:
        url: Of Redis.
    """

    def __init__(self, url: str) -> None:
        self._url, self._client = url, connect_redis_async(url)
        self._wanted: set[str] = set()
        self._some = asyncio.Event()
        self._is_lost = False

    async def on_startup(self) -> None:
        """Nothing: Redis need not be there."""

    async def on_shutdown(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def publish(self, data: bytes, channels: Iterable[str]) -> None:  # noqa: ARG002
        """Say that there is news, of all channels in one message."""
        try:
            await self._client.publish(CHANNEL, msgspec.json.encode(sorted(channels)))
        except Exception as error:  # whoever says it must go on to say the next thing
            consequence = "streams learn of news by looking"
            swallow("news_channel", error, consequence, told=self._is_lost)
            self._is_lost = True
        else:
            self._is_lost = False
        heed_cancellation()

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Hear of these channels too."""
        self._wanted.update(channels)
        self._some.set()

    async def unsubscribe(self, channels: Iterable[str]) -> None:
        """Hear of these channels no more."""
        self._wanted.difference_update(channels)

    async def stream_events(self) -> AsyncGenerator[tuple[str, bytes]]:
        """Every channel of which something is said; all of them at every connection."""
        await self._some.wait()
        heard = messages(
            self._url, CHANNEL, called="news_listener", consequence="news is found by looking alone"
        )
        async for message in heard:
            told = self._wanted if message is None else self._wanted.intersection(_read(message))
            for channel in tuple(told):
                yield channel, b""

    async def get_history(self, channel: str, limit: int | None = None) -> list[bytes]:  # noqa: ARG002
        """None is kept: it is in PostgreSQL."""
        return []


class NewsChannels:
    """The channels, and a turn of saying that there is news.

    Args:
        redis_url: Through which all processes hear it; this one alone without.
    """

    def __init__(self, redis_url: str | None) -> None:
        backend = RedisBackend(redis_url) if redis_url else MemoryChannelsBackend()
        self.plugin = ChannelsPlugin(
            backend,
            arbitrary_channels_allowed=True,
            # Of many messages one is enough.
            subscriber_max_backlog=1,
            subscriber_backlog_strategy="dropleft",
        )
        self._untold: set[str] = set()
        self._some = asyncio.Event()

    def tell(self, fleet: str) -> None:
        """Say soon that there is news of a fleet; costs the caller nothing, and never fails."""
        self._untold.add(fleet)
        self._some.set()

    async def keep_telling(self) -> None:
        """Say what is to be said, until cancelled; the plugin must be running."""
        while True:
            await self._some.wait()
            self._some.clear()
            told, self._untold = self._untold, set()
            await self.plugin.wait_published(b"", told)
            await asyncio.sleep(PACE_SECONDS)


def _read(message: bytes) -> list[str]:
    try:
        return msgspec.json.decode(message, type=list[str])
    except msgspec.DecodeError as error:
        swallow("news_listener", error, "a message on Redis that is none of ours is left alone")
        return []
