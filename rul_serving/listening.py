"""Listening on a Redis channel for as long as the service runs, whatever befalls Redis.

What belongs here: the connection and its return. What does not: what the messages mean
(``released``, ``channels``). While the connection is away messages are lost: whoever listens must
be able to do without any of them.
"""

import asyncio
from collections.abc import AsyncGenerator

from redis.asyncio import Redis

from rul_store.cache import TIMEOUT_SECONDS
from rul_store.swallowed import swallow

RECONNECT_SECONDS = 5.0
PING_SECONDS = 30
"""While nothing is said: whether Redis is still there."""
LOOK_SECONDS = 1.0
"""How soon a cancellation that was lost is heeded."""


async def messages(
    url: str, channel: str, *, called: str, consequence: str
) -> AsyncGenerator[bytes | None]:
    """The messages of a channel, until cancelled; None at every connection, after which look.

    Args:
        url: Of Redis.
        channel: The channel's name.
        called: What listens, for logs and metrics.
        consequence: What follows while Redis is away.
    """
    lost = False
    while True:
        try:
            async with client_of(url) as client, client.pubsub() as subscribed:
                await subscribed.subscribe(channel)
                while True:
                    heed_cancellation()
                    message = await subscribed.get_message(timeout=LOOK_SECONDS)
                    if message is not None:
                        lost = False
                        # The first one confirms the subscription.
                        yield message["data"] if message["type"] == "message" else None
        except Exception as error:  # a listener that ended would never be missed
            heed_cancellation()
            swallow(called, error, consequence, told=lost)
            lost = True
            await asyncio.sleep(RECONNECT_SECONDS)


def heed_cancellation() -> None:
    """End the task where it was cancelled; to be called after redis-py was waited for.

    It sends by ``asyncio.wait_for``, which before Python 3.12 forgets a cancellation that comes
    when the work is done (https://github.com/python/cpython/issues/86296): half of those that come
    while it connects. The task would go on for ever, and whoever waits for its end too.

    Raises:
        CancelledError: It was.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def client_of(url: str) -> Redis:
    """A client for a connection that waits long."""
    return Redis.from_url(
        url,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        health_check_interval=PING_SECONDS,
    )
