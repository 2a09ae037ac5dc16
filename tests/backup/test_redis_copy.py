"""What Redis has is copied while others write, and another Redis starts from it."""

import io
import socket
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from rul_backup import drill, redis_copy, snapshots
from rul_backup.manifest import Kind
from rul_backup.runs import Run
from rul_backup.stores import FolderStore
from rul_core.errors import SettingsError, StoreError, Unavailable

from .conftest import Keys
from .s3 import certify

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def test_a_redis_starts_from_what_was_kept_while_others_wrote(
    tmp_path: Path, plant: Keys, redis_url: str
):
    stop = threading.Event()

    def write() -> None:
        with redis.Redis.from_url(redis_url) as client:
            number = 0
            while not stop.is_set():
                client.set(f"more:{number}", number)
                number += 1

    with redis.Redis.from_url(redis_url) as client:
        client.mset({f"unit:{number}": b"x" * 1000 for number in range(500)})
        client.hset("hash", mapping={"a": 1})
        writer = threading.Thread(target=write)
        writer.start()
        try:
            run = Run(FolderStore(tmp_path / "backups"), plant.maker, NOW)
            kept = snapshots.keep_redis(run, redis_url)
        finally:
            stop.set()
            writer.join()
        there = client.dbsize()
    assert kept.kind is Kind.REDIS
    sealed = run.seal({}, plant.verify, NOW)
    store = FolderStore(tmp_path / "backups")
    assert len(drill.prove_redis(store, sealed, plant.identities)) == 1
    drill.restore_files(store, sealed, tmp_path / "back", plant.identities)
    with (tmp_path / "back" / "redis.rdb").open("rb") as copy:
        assert 501 <= redis_copy.count_keys(copy) <= there


def test_a_password_is_asked_for_and_a_user_who_may_not_is_told(redis_url: str):
    with redis.Redis.from_url(redis_url) as client:
        client.acl_setuser("keeper", enabled=True, passwords=["+s3cret"], commands=["+sync"])
        client.acl_setuser("reader", enabled=True, passwords=["+s3cret"], commands=["+get"])
    place = redis_url.removeprefix("unix://")
    try:
        with redis_copy.copied(f"unix://keeper:s3cret@{place}") as copy:
            assert copy.read(5) == b"REDIS"
        for who, told in (("reader", "no permissions"), ("keeper:x", "WRONGPASS")):
            name, _, password = who.partition(":")
            url = f"unix://{name}:{password or 's3cret'}@{place}"
            with pytest.raises(StoreError, match=told), redis_copy.copied(url):
                pass
    finally:
        with redis.Redis.from_url(redis_url) as client:
            client.acl_deluser("keeper", "reader")


@contextmanager
def answering(told: bytes, context: ssl.SSLContext | None = None) -> Generator[str]:
    """Something that is no Redis: says this to whoever asks, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection, suppress(ssl.SSLError):  # who does not trust it goes away
                if context:
                    connection = context.wrap_socket(connection, server_side=True)
                connection.recv(1000)
                connection.sendall(told)
                connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"redis{'s' if context else ''}://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_over_tls_it_is_asked_only_where_its_certificate_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    certify(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with answering(b"$9\r\nREDIS0011", context) as url, redis_copy.copied(url) as copy:
        assert copy.read() == b"REDIS0011"
    monkeypatch.delenv("SSL_CERT_FILE")
    with (
        answering(b"$9\r\nREDIS0011", context) as url,
        pytest.raises(Unavailable, match="certificate verify failed"),
        redis_copy.copied(url),
    ):
        pass


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"$1000\r\nREDIS0011", "broke off 991 bytes early"),
        (b"+FULLRESYNC\r\n", "answers SYNC with"),
        (b"-LOADING Redis is loading\r\n", "refuses: LOADING"),
    ],
)
def test_a_copy_that_is_not_whole_is_none(said: bytes, told: str):
    def read_all(url: str) -> None:
        with redis_copy.copied(url) as copy:
            copy.read()

    with answering(b"\n\n" + said) as url, pytest.raises(StoreError, match=told):
        read_all(url)


def test_a_redis_that_is_not_there_is_told_with_its_address():
    for url in ("redis://127.0.0.1:9", "unix:///nowhere/redis.sock"):
        with (
            pytest.raises(Unavailable, match=r"(127\.0\.0\.1:9|/nowhere/redis\.sock) does not"),
            redis_copy.copied(url),
        ):
            pass
    with (
        answering(b"") as url,
        pytest.raises(Unavailable, match="closed the connection"),
        redis_copy.copied(url),
    ):
        pass


def test_a_copy_that_redis_does_not_take_is_told_with_what_it_said():
    with pytest.raises(StoreError, match="does not start from the copy"):
        redis_copy.count_keys(io.BytesIO(b"REDIS0011 and nothing that follows"))


def test_where_there_is_no_redis_server_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.prefix", "/nowhere")
    with pytest.raises(SettingsError, match="install Redis"):
        redis_copy.count_keys(io.BytesIO(b""))
