"""What listens to Redis and speaks there ends when it is told to, whenever that is."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rul_serving.channels import NewsChannels
from rul_serving.listening import messages
from rul_store.cache import connect_redis
from rul_store.news import CHANNEL


async def tell(url: str) -> None:
    channels = NewsChannels(url)
    async with channels.plugin:
        channels.tell("pumps")
        await channels.keep_telling()


async def listen(url: str) -> None:
    async for _ in messages(url, CHANNEL, called="a_test", consequence="none"):
        pass


@pytest.mark.parametrize("work", [tell, listen])
def test_it_ends_at_whatever_moment_it_is_cancelled(
    redis_url: str, work: Callable[[str], Awaitable[None]]
):
    async def run() -> None:
        for moment in range(150):
            task = asyncio.ensure_future(work(redis_url))
            await asyncio.sleep(moment / 50_000)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=20)
            assert done, moment
            assert task.cancelled()

    asyncio.run(run())


def test_every_message_is_heard_after_the_connection_is_told(redis_url):
    async def run() -> list[bytes | None]:
        heard = messages(redis_url, CHANNEL, called="a_test", consequence="none")
        first = await anext(heard)
        with connect_redis(redis_url) as client:
            client.publish(CHANNEL, b"1")
            client.publish(CHANNEL, b"2")
        told = [first, await anext(heard), await anext(heard)]
        await heard.aclose()
        return told

    assert asyncio.run(run()) == [None, b"1", b"2"]
