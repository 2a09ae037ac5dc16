"""How fast each principal may ask: token buckets in Redis, of which every process takes leases.

What belongs here: counting and refusing. What does not: who asks (``access``), limits of size
(``settings``).

A bucket holds tokens for a burst and fills at the rate; every request takes one. The buckets are in
Redis, so that all workers and instances count as one; but a worker takes a lease of several tokens
at a time, the more the faster they go, and so most requests wait for nothing. What a lease has left
is given back with the next one. A limit is never exceeded; a principal whose requests are spread
thinly over many workers may find a few tokens of its burst leased elsewhere, for a moment.

While Redis does not answer, each worker fills a bucket of its own: the limit is then one a worker.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum

import msgspec
from pydantic import SecretStr
from redis.exceptions import RedisError

from rul_serving.problems import Kind, Refusal
from rul_store.cache import connect_redis_async
from rul_store.swallowed import swallow

KEY = "rul:limit:{limit}:{principal}"
LEASE_SECONDS = 1.0
LEASED_SECONDS = 0.1
"""A lease holds as many tokens as fill in this time, at most."""
ANSWER_SECONDS = 0.25
"""Redis is waited for so long by the request that needs a lease."""
AWAY_SECONDS = 5.0
"""So long Redis is left alone after it did not answer."""

# As Redis counts time, so that no two clocks can differ; a lost bucket is a full one.
_LEASE = """
local rate, burst, wanted, back = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(kept[1]) or burst, tonumber(kept[2]) or now
tokens = math.min(burst, tokens + back + math.max(0, now - at) * rate)
local granted = math.min(wanted, math.floor(tokens))
tokens = tokens - granted
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / rate * 1000) + 1000)
return {granted, string.format('%.6f', tokens)}
"""  # noqa: E501 - Lua


class Limit(StrEnum):
    """What is counted apart; ``opt={"limit": …}`` of a handler, requests unless given."""

    REQUESTS = "requests"
    SENDINGS = "sendings"
    """Of readings."""


class Rate(msgspec.Struct, frozen=True):
    """How much is allowed."""

    per_second: float
    burst: int

    @property
    def most_leased(self) -> int:
        """Tokens in a lease at most."""
        return max(1, min(self.burst // 4, round(self.per_second * LEASED_SECONDS)))


class _Bucket:
    """A principal's tokens in this process, for when Redis is away."""

    def __init__(self, rate: Rate) -> None:
        self._rate, self._tokens, self._at = rate, float(rate.burst), time.monotonic()

    def take(self, wanted: int, back: int) -> tuple[int, float]:
        """As ``_LEASE`` does."""
        now = time.monotonic()
        filled = self._tokens + back + (now - self._at) * self._rate.per_second
        tokens = min(self._rate.burst, filled)
        granted = min(wanted, math.floor(tokens))
        self._tokens, self._at = tokens - granted, now
        return granted, self._tokens


class Lease:
    """The tokens that this process has for a principal."""

    def __init__(self, limit: Limit, principal: str, rate: Rate) -> None:
        self.limit, self.principal, self.rate = limit, principal, rate
        self.key = KEY.format(limit=limit, principal=principal)
        self.local = _Bucket(rate)
        self.tokens = 0
        self.left = float(rate.burst)
        """In the bucket, as it was last told."""
        self.until = 0.0
        self.closed_until = 0.0
        self.size = 1
        """Of the last lease."""
        self.leased_at = 0.0
        self.waiting = 0
        self.renewing: asyncio.Task[None] | None = None
        window_seconds = math.ceil(rate.burst / rate.per_second)
        self._policy = f'"{limit}";q={rate.burst};w={window_seconds}'.encode()

    def take(self) -> bool:
        """Take a token, where there is one."""
        if self.tokens > 0 and time.monotonic() < self.until:
            self.tokens -= 1
            return True
        return False

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the answer shall say of it (draft-ietf-httpapi-ratelimit-headers)."""
        remaining = self.tokens + int(self.left)
        full_in = math.ceil((self.rate.burst - remaining) / self.rate.per_second)
        return [
            (b"ratelimit-policy", self._policy),
            (b"ratelimit", f'"{self.limit}";r={remaining};t={max(0, full_in)}'.encode()),
        ]

    def wanted(self) -> int:
        """How many tokens to ask for: twice the last lease where that was spent at once."""
        if self.tokens == 0 and time.monotonic() - self.leased_at < LEASE_SECONDS / 2:
            self.size *= 2
        elif self.tokens > self.size // 2:
            self.size //= 2
        self.size = min(max(self.size, self.waiting, 1), self.rate.most_leased)
        return self.size


class Limits:
    """The limits of every principal.

    Args:
        rates: How much is allowed of what.
        redis_url: Where the buckets are; each process has its own unless given.
    """

    def __init__(self, rates: Mapping[Limit, Rate], redis_url: SecretStr | None) -> None:
        self._rates = dict(rates)
        self._leases: dict[tuple[str, str], Lease] = {}
        self._redis_url, self._away_until, self._was_away = redis_url, 0.0, False
        self._script = None

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[None]:
        """Use Redis until the end of the context."""
        if self._redis_url is None:
            yield
            return
        url = self._redis_url.get_secret_value()
        async with connect_redis_async(url) as client:
            self._script = client.register_script(_LEASE)
            yield
            self._script = None

    def lease(self, limit: Limit, principal: str) -> Lease:
        """The principal's tokens here."""
        found = self._leases.get((limit, principal))
        if found is None:
            found = Lease(limit, principal, self._rates[limit])
            self._leases[limit, principal] = found
        return found

    async def take(self, lease: Lease) -> None:
        """Take a token, with the next lease where this one is spent.

        Raises:
            Refusal: There is none now; says when there will be.
        """
        while not lease.take():
            wait_seconds = lease.closed_until - time.monotonic()
            if wait_seconds > 0:
                raise _refusal(lease, wait_seconds)
            if lease.renewing is None:
                lease.renewing = asyncio.create_task(self._renew(lease))
            lease.waiting += 1
            try:
                await asyncio.shield(lease.renewing)
            finally:
                lease.waiting -= 1

    async def _renew(self, lease: Lease) -> None:
        try:
            # All that ask at the same moment are waiting by then.
            await asyncio.sleep(0)
            wanted, back = lease.wanted(), lease.tokens
            granted, lease.left = await self._ask(lease, wanted, back)
            now = time.monotonic()
            lease.tokens, lease.leased_at, lease.until = granted, now, now + LEASE_SECONDS
            if granted == 0:
                lease.closed_until = now + (1 - lease.left) / lease.rate.per_second
        finally:
            lease.renewing = None

    async def _ask(self, lease: Lease, wanted: int, back: int) -> tuple[int, float]:
        if self._script is None or time.monotonic() < self._away_until:
            return lease.local.take(wanted, back)
        arguments = [lease.rate.per_second, lease.rate.burst, wanted, back]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):  # for connecting and asking together
                granted, left = await self._script(keys=[lease.key], args=arguments)
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            consequence = "each worker limits requests by itself"
            swallow("rate_limits", error, consequence, told=self._was_away)
            self._away_until, self._was_away = time.monotonic() + AWAY_SECONDS, True
            return lease.local.take(wanted, back)
        self._was_away = False
        return int(granted), float(left)


def _refusal(lease: Lease, wait_seconds: float) -> Refusal:
    return Refusal(
        Kind.RATE_LIMITED,
        f"{lease.principal!r} may make {lease.rate.per_second:g} {lease.limit} a second, "
        f"{lease.rate.burst} at once after a pause; come again after the seconds of Retry-After",
        headers={"Retry-After": str(max(1, math.ceil(wait_seconds)))},
    )
