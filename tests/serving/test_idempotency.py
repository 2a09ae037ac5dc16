"""The header Idempotency-Key: one change, one answer, by whichever server."""

import json
import threading
import time
from typing import Any

import httpx
import pytest
import redis
import sqlalchemy as sa
from litestar.testing import TestClient

from rul_core.errors import Unavailable
from rul_store import audit, idempotency, keys, swallowed
from rul_store.database import begin

WANTED = {"name": "line 1", "roles": ["viewer"]}


def create(client: TestClient, key: str = "k-1", **changed: Any) -> httpx.Response:
    return client.post("/v1/keys", json=WANTED | changed, headers={"idempotency-key": key})


def made(platform) -> list[str]:
    return [key.name for key in keys.every(platform.engine)]


def age(platform, interval: str) -> None:
    sql = "UPDATE idempotency_records SET reserved_at = reserved_at - CAST(:age AS interval)"
    with begin(platform.engine) as connection:
        connection.execute(sa.text(sql), {"age": interval})


def test_a_repeat_changes_nothing_and_gets_the_answer_without_the_key(platform):
    with platform.client() as client:
        first, again = create(client), create(client)
    assert first.status_code == again.status_code == 201
    assert again.json() == first.json() | {"api_key": None}
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["cache-control"] == first.headers["cache-control"] == "no-store"
    assert again.headers["content-type"] == "application/json"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert "idempotency-replayed" not in first.headers
    assert made(platform) == ["line 1"]
    with begin(platform.engine) as connection:
        kept = str(connection.execute(sa.text("SELECT * FROM idempotency_records")).all())
    assert first.json()["api_key"][13:] not in kept


def test_another_server_gives_the_answer_also_after_redis_was_emptied(platform, redis_url):
    with platform.client(redis_url=redis_url) as client:
        first = create(client)
    with redis.Redis.from_url(redis_url) as emptied:
        emptied.flushall()
    with platform.client(redis_url=redis_url) as client:
        assert create(client).json()["key"] == first.json()["key"]
    assert made(platform) == ["line 1"]


@pytest.mark.parametrize("changed", ["body", "path", "query"])
def test_another_request_with_the_same_key_is_refused(platform, changed):
    with platform.client() as client:
        create(client)
        path = {"path": "/v1/keys/nobody00/rotate", "query": "/v1/keys?a=1"}.get(
            changed, "/v1/keys"
        )
        body = {"name": "line 2", "roles": ["viewer"]} if changed == "body" else WANTED
        answer = client.post(path, json=body, headers={"idempotency-key": "k-1"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/idempotency-key-reused"
    assert made(platform) == ["line 1"]


def test_a_refusal_is_repeated_too(platform):
    with platform.client() as client:
        create(client, "k-0")
        first = create(client)
        keys.revoke(
            platform.engine, keys.every(platform.engine)[0].key_id, by=keys.Author(principal="a")
        )
        again = create(client)
    assert first.status_code == again.status_code == 409
    assert again.json() == first.json()
    assert again.headers["content-type"] == "application/problem+json"


def test_the_keys_of_two_principals_are_apart(platform):
    ann, bob = platform.key("admin", name="ann"), platform.key("admin", name="bob")
    with platform.client(access="keys") as client:
        statuses = [
            client.post(
                "/v1/keys",
                json={"name": name, "roles": ["viewer"]},
                headers={"x-api-key": key, "idempotency-key": "1"},
            ).status_code
            for key, name in ((ann, "one"), (bob, "two"))
        ]
    assert statuses == [201, 201]


@pytest.mark.parametrize("key", ["", " ", "a b", "é".encode(), "k" * 256])
def test_a_malformed_key_is_refused_by_name(platform, key):
    with platform.client() as client:
        answer = client.post("/v1/keys", json=WANTED, headers={"idempotency-key": key})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["at"] == "Idempotency-Key"
    assert made(platform) == []


def test_naturally_idempotent_operations_and_reads_keep_no_record(platform):
    with platform.client() as client:
        header = {"idempotency-key": "k-1"}
        question = platform.question("unit-000001", last=2)
        assert client.post("/v1/prognoses", json=question, headers=header).status_code == 200
        assert client.delete("/v1/keys/nobody00", headers=header).status_code == 404
        assert client.get("/v1/keys", headers=header).status_code == 200
        assert create(client).status_code == 201


def test_of_two_at_once_the_second_waits_its_turn(platform, monkeypatch):
    create_really, entered, go_on = keys.create, threading.Event(), threading.Event()

    def slowly(*args, **named):
        entered.set()
        assert go_on.wait(10)
        return create_really(*args, **named)

    monkeypatch.setattr(keys, "create", slowly)
    answers: list[httpx.Response] = []
    with platform.client() as client:
        first = threading.Thread(target=lambda: answers.append(create(client)))
        first.start()
        assert entered.wait(10)
        second = create(client)
        go_on.set()
        first.join()
        third = create(client)
    assert second.status_code == 409
    assert second.json()["type"] == "/problems/in-progress"
    assert second.headers["retry-after"] == "1"
    assert answers[0].status_code == third.status_code == 201
    assert made(platform) == ["line 1"]


def test_a_failure_before_the_change_gives_the_key_back(platform, monkeypatch):
    create_really, failures = keys.create, [Unavailable("away"), RuntimeError("a mistake")]

    def badly(*args, **named):
        if failures:
            raise failures.pop()
        return create_really(*args, **named)

    monkeypatch.setattr(keys, "create", badly)
    with platform.client() as client:
        assert [create(client).status_code for _ in range(4)] == [500, 503, 201, 201]
    assert made(platform) == ["line 1"]


def test_a_failure_after_the_change_never_makes_it_twice(platform, monkeypatch):
    create_really = keys.create

    def lost(*args, **named):
        create_really(*args, **named)
        raise Unavailable("the connection was lost while the transaction was committed")

    monkeypatch.setattr(keys, "create", lost)
    with platform.client() as client:
        first = create(client)
        soon = create(client)
        age(platform, "61 seconds")
        late = create(client)
    assert [first.status_code, soon.status_code, late.status_code] == [503, 409, 409]
    assert soon.json()["type"] == "/problems/in-progress"
    assert late.json()["type"] == "/problems/answer-lost"
    assert first.headers["x-request-id"] in late.json()["detail"]
    assert made(platform) == ["line 1"]


def test_a_thread_that_outlives_its_request_changes_nothing(platform, monkeypatch):
    """The answer was 503, so the change must not come after all."""
    create_really, ended = keys.create, threading.Event()
    slow = [True]

    def slowly(*args, **named):
        if slow.pop() if slow else False:
            time.sleep(1.0)
            try:
                return create_really(*args, **named)
            finally:
                ended.set()
        return create_really(*args, **named)

    monkeypatch.setattr(keys, "create", slowly)
    with platform.client(database_timeout_seconds=0.5) as client:
        assert create(client).status_code == 503
        assert ended.wait(10)
        assert made(platform) == []
        assert create(client).status_code == 201
    assert made(platform) == ["line 1"]


def test_an_answer_that_cannot_be_kept_is_given_and_counted(platform, monkeypatch):
    def away(*args):
        raise Unavailable("away")

    monkeypatch.setattr(idempotency, "complete", away)
    before = swallowed.counts().get("idempotency", 0)
    with platform.client() as client:
        assert create(client).status_code == 201
        age(platform, "61 seconds")
        assert create(client).json()["type"] == "/problems/answer-lost"
    assert swallowed.counts()["idempotency"] == before + 1


def test_the_trace_of_a_change_stands_in_the_audit(platform):
    with platform.client() as client:
        answer = client.post("/v1/keys", json=WANTED, headers={"x-request-id": "abc"})
    assert answer.headers["x-request-id"] == "abc"
    (entry,) = audit.page(platform.engine, limit=9).entries
    assert (entry.trace_id, entry.principal) == ("abc", "anonymous")
    assert json.loads(answer.text)["key"]["prefix"] == entry.target
