"""One way to reach Redis, which holds only what may be lost.

What belongs here: clients. What does not: keys and channels (the module that uses them names them).
"""

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_SECONDS = 1.0


def connect_redis(url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> redis.Redis:
    """A client that gives up soon: what waits for Redis could do without it.

    One retry, at once, is for a connection that was closed while nobody used it.

    Args:
        url: ``redis://…`` or ``unix://…``.
        timeout_seconds: Of each of the two tries.
    """
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 1),
    )


def connect_redis_async(url: str) -> redis.asyncio.Redis:
    """The same for the event loop in which it is used; what took too long is not done again."""
    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=AsyncRetry(NoBackoff(), 1, (redis.ConnectionError,)),
    )
