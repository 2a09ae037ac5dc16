"""Where the lives of units stand, in Redis: what may be lost, and then is made again.

What belongs here: keeping and finding states of lives. What does not: how a life goes on
(``rul_core.following``), the readings that a state is made again from (``histories``).

A state is kept under its fleet, the feature specification, unit and life; so a new model never
finds an old one's. It bears the token of the transaction that last added to the life, and the count
of rows that had come in files: whoever finds it compares both with what PostgreSQL and the lake say
now, so that a state that was left behind is never taken for the newest.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

import msgspec
import numpy as np
import redis

from rul_core.following import VERSION, Followed
from rul_store.swallowed import swallow

KEPT_SECONDS = 30 * 24 * 3600
"""A unit that is silent for longer is followed from its readings again."""
TIMEOUT_SECONDS = 0.2
"""How long Redis is waited for, with the lives locked: following readings again takes no longer."""
PAUSE_SECONDS = 5.0
"""How long Redis is left alone after it did not answer."""

_PREFIX, _AT_ONCE = "rul:life:", 1000
# One command for all: a client spends more on each command than Redis does.
_KEEP = """
for at, key in ipairs(KEYS) do redis.call('SET', key, ARGV[at + 1], 'EX', ARGV[1]) end
"""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A state as it was kept."""

    token: int
    """Of the transaction that last added a reading to the life."""
    landed_rows: int
    """How many readings of the fleet had come in files."""
    life: Followed


class States:
    """States of lives in Redis; without it, none is ever found.

    Args:
        client: A client that gives up soon; None where there is no Redis.
    """

    def __init__(self, client: redis.Redis | None) -> None:
        self._client, self._pause_until = client, 0.0

    def find(
        self, fleet: str, feature_spec: str, lives: Sequence[tuple[str, int]]
    ) -> list[Kept | None]:
        """What is kept of lives (unit, life), in order; none where nothing is."""
        if not lives or self._client is None or self._paused:
            return [None] * len(lives)
        try:
            found = self._client.mget([_key(fleet, feature_spec, *life) for life in lives])
        except redis.RedisError as error:
            self._pause(error)
            return [None] * len(lives)
        return [
            None if content is None else _read(content, unit, life)
            for content, (unit, life) in zip(found, lives, strict=True)
        ]

    def keep(self, fleet: str, feature_spec: str, states: Sequence[Kept]) -> None:
        """Keep states; when Redis does not answer, they are lost."""
        if not states or self._client is None or self._paused:
            return
        try:
            keep = self._client.register_script(_KEEP)
            keep(
                keys=[_key(fleet, feature_spec, one.life.unit, one.life.life) for one in states],
                args=[KEPT_SECONDS, *map(_write, states)],
            )
        except redis.RedisError as error:
            self._pause(error)

    @property
    def _paused(self) -> bool:
        return time.monotonic() < self._pause_until

    def _pause(self, error: Exception) -> None:
        swallow("unit_states", error, "lives are followed from their readings for a while")
        self._pause_until = time.monotonic() + PAUSE_SECONDS


def forget_all(client: redis.Redis) -> int:
    """Forget every life, of whatever fleet; give how many were kept.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    forgotten = 0
    for key in client.scan_iter(match=f"{_PREFIX}*", count=_AT_ONCE):
        forgotten += int(cast("Any", client.unlink(key)))
    return forgotten


class _Content(msgspec.Struct, array_like=True):
    token: int
    landed_rows: int
    readings: int
    first_cycle: float
    cycle: float
    time: datetime | None
    values: bytes
    state: bytes
    features: bytes


def _key(fleet: str, feature_spec: str, unit: str, life: int) -> str:
    # A fleet's name holds no colon, and the unit's, which may, comes last.
    return f"{_PREFIX}{VERSION}:{fleet}:{feature_spec}:{life}:{unit}"


def _write(kept: Kept) -> bytes:
    life = kept.life
    content = _Content(
        token=kept.token,
        landed_rows=kept.landed_rows,
        readings=life.readings,
        first_cycle=life.first_cycle,
        cycle=life.cycle,
        time=life.time,
        values=life.values.tobytes(),
        state=life.state.tobytes(),
        features=life.features.tobytes(),
    )
    return msgspec.msgpack.encode(content)


def _read(content: Any, unit: str, life: int) -> Kept | None:
    try:
        found = msgspec.msgpack.decode(content, type=_Content)
    except msgspec.DecodeError:  # of another version of the platform: as good as none
        return None
    return Kept(
        token=found.token,
        landed_rows=found.landed_rows,
        life=Followed(
            unit=unit,
            life=life,
            readings=found.readings,
            first_cycle=found.first_cycle,
            cycle=found.cycle,
            time=found.time,
            values=np.frombuffer(found.values),
            state=np.frombuffer(found.state),
            features=np.frombuffer(found.features, dtype=np.float32),
        ),
    )
