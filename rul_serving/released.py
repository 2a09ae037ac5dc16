"""The release channel: Redis says that a champion moved, so that nobody waits for the next poll.

What belongs here: listening. What does not: what is done then (``served``), saying it
(``rul_store.champions``). A message only means "look"; one that is lost costs a poll.
"""

import asyncio
from collections.abc import Callable

from redis.asyncio import Redis

from rul_store.cache import TIMEOUT_SECONDS
from rul_store.champions import CHANNEL
from rul_store.swallowed import swallow

RECONNECT_SECONDS = 5.0
PING_SECONDS = 30
"""While nothing is said: whether Redis is still there."""


async def listen(url: str, heard: Callable[[], None]) -> None:
    """Call ``heard`` at every message, and once at every connection; until cancelled."""
    lost = False
    while True:
        try:
            async with _client(url) as client, client.pubsub() as channel:
                await channel.subscribe(CHANNEL)
                while True:
                    if await channel.get_message(timeout=PING_SECONDS) is not None:
                        heard()  # the first message confirms the subscription
                        lost = False
        except Exception as error:  # a listener that ended would never be missed
            consequence = "releases are noticed by polling alone"
            swallow("release_listener", error, consequence, told=lost)
            lost = True
            await asyncio.sleep(RECONNECT_SECONDS)


async def ping(url: str) -> None:
    """See that Redis answers.

    Raises:
        RedisError: It does not.
    """
    async with _client(url) as client:
        await client.ping()


def _client(url: str) -> Redis:
    return Redis.from_url(
        url,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        health_check_interval=PING_SECONDS,
    )
