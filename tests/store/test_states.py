"""States of lives are kept in Redis, and missed without harm."""

from datetime import UTC, datetime

import numpy as np
import pytest
import redis

from rul_core.following import Followed
from rul_store import states, swallowed
from rul_store.cache import connect_redis
from rul_store.states import Kept, States

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def kept(unit: str = "a", life: int = 1, token: int = 7) -> Kept:
    return Kept(
        token=token,
        landed_rows=3,
        life=Followed(
            unit=unit, life=life, readings=2, first_cycle=1.0, cycle=2.5, time=NOON,
            values=np.array([1.0, np.nan]), state=np.array([2.0, -0.0, 5e-324]),
            features=np.array([1.5, np.nan], dtype=np.float32),
        ),
    )  # fmt: skip


def same(a: Kept | None, b: Kept) -> bool:
    return a is not None and states._write(a) == states._write(b) and a.life.unit == b.life.unit


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return connect_redis(redis_url)


def test_a_state_is_found_as_it_was_kept(client: redis.Redis):
    store = States(client)
    store.keep("pumps", "spec", [kept("a"), kept("b:2", life=3)])
    found = store.find("pumps", "spec", [("b:2", 3), ("nobody", 1), ("a", 1)])
    assert same(found[0], kept("b:2", life=3))
    assert found[1] is None
    assert same(found[2], kept("a"))


def test_a_state_of_another_fleet_life_or_specification_is_another(client: redis.Redis):
    store = States(client)
    store.keep("pumps", "spec", [kept()])
    assert store.find("pumps", "other", [("a", 1)]) == [None]
    assert store.find("fans", "spec", [("a", 1)]) == [None]
    assert store.find("pumps", "spec", [("a", 2)]) == [None]


def test_a_state_that_is_kept_again_is_the_newest(client: redis.Redis):
    store = States(client)
    store.keep("pumps", "spec", [kept(token=7)])
    store.keep("pumps", "spec", [kept(token=8)])
    (found,) = store.find("pumps", "spec", [("a", 1)])
    assert found is not None
    assert found.token == 8


def test_what_cannot_be_read_is_as_good_as_none(client: redis.Redis):
    store = States(client)
    store.keep("pumps", "spec", [kept()])
    (key,) = client.keys("rul:life:*")
    client.set(key, b"\x93\x01\x02\x03")
    assert store.find("pumps", "spec", [("a", 1)]) == [None]


def test_a_silent_unit_is_forgotten_after_a_while(client: redis.Redis):
    States(client).keep("pumps", "spec", [kept()])
    (key,) = client.keys("rul:life:*")
    assert 0 < client.ttl(key) <= states.KEPT_SECONDS


def test_without_redis_nothing_is_found_and_each_error_is_told_once_a_pause():
    before = swallowed.counts().get("unit_states", 0)
    away = States(connect_redis("redis://127.0.0.1:1"))
    assert away.find("pumps", "spec", [("a", 1)]) == [None]
    away.keep("pumps", "spec", [kept()])
    assert away.find("pumps", "spec", [("a", 1)]) == [None]
    assert swallowed.counts()["unit_states"] == before + 1


def test_keeping_without_redis_harms_nobody():
    before = swallowed.counts().get("unit_states", 0)
    States(connect_redis("redis://127.0.0.1:1")).keep("pumps", "spec", [kept()])
    assert swallowed.counts()["unit_states"] == before + 1


def test_a_platform_without_redis_keeps_no_states():
    nowhere = States(None)
    nowhere.keep("pumps", "spec", [kept()])
    assert nowhere.find("pumps", "spec", [("a", 1), ("b", 1)]) == [None, None]


def test_redis_is_asked_again_after_the_pause(client: redis.Redis, monkeypatch):
    monkeypatch.setattr(states, "PAUSE_SECONDS", 0.0)
    store = States(connect_redis("redis://127.0.0.1:1"))
    assert store.find("pumps", "spec", [("a", 1)]) == [None]
    store._client = client
    store.keep("pumps", "spec", [kept()])
    assert same(store.find("pumps", "spec", [("a", 1)])[0], kept())
