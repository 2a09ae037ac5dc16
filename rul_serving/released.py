"""The release channel: Redis says that a champion moved, so that nobody waits for the next poll.

What belongs here: listening. What does not: what is done then (``served``), saying it
(``rul_store.champions``). A message only means "look"; one that is lost costs a poll.
"""

from collections.abc import Callable

from rul_serving.listening import client_of, messages
from rul_store.champions import CHANNEL


async def listen(url: str, heard: Callable[[], None]) -> None:
    """Call ``heard`` at every message, and once at every connection; until cancelled."""
    consequence = "releases are noticed by polling alone"
    async for _ in messages(url, CHANNEL, called="release_listener", consequence=consequence):
        heard()


async def ping(url: str) -> None:
    """See that Redis answers.

    Raises:
        RedisError: It does not.
    """
    async with client_of(url) as client:
        await client.ping()
