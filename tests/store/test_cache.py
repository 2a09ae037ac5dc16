"""Redis is given up after a second; survived errors are logged and counted."""

import logging
import socket
import time

import pytest
import redis

from rul_store.cache import connect_redis
from rul_store.swallowed import counts, swallow


def test_redis_answers(redis_url: str):
    with connect_redis(redis_url) as client:
        client.set("a", "1")
        assert client.get("a") == b"1"


def test_a_redis_that_is_silent_is_given_up_soon():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        with connect_redis(f"redis://127.0.0.1:{port}") as client, pytest.raises(redis.RedisError):
            client.ping()
    assert time.monotonic() - began < 5


def test_a_survived_error_is_logged_with_its_trace_and_counted(caplog: pytest.LogCaptureFixture):
    before = counts().get("a_test", 0)
    with caplog.at_level(logging.WARNING):
        swallow("a_test", ValueError("odd"), "nobody will notice")
    assert counts()["a_test"] == before + 1
    (record,) = caplog.records
    assert record.getMessage() == "a_test: nobody will notice: odd"
    assert record.exc_info is not None
