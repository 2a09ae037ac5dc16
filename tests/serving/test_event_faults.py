"""What befalls streams of events in real life, on real servers: nothing is lost, and each ends for
a reason that it tells."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import httpx
import pytest

from rul_store import keys, ledger
from rul_store.keys import Author
from tests.serving.conftest import Platform
from tests.serving.test_events import PATH, bearer, by_log, everything, last_id, read
from tests.serving.test_faults import (  # noqa: F401 - two are fixtures
    Machines,
    disturb_redis,
    own_servers,
    platform,
    restart_postgres,
    serving,
)
from tests.serving.test_process import environment, process, start


class Follower(threading.Thread):
    """A client that comes again with its last id whenever its stream breaks or ends."""

    def __init__(self, address: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(daemon=True)
        self._address, self._headers = address, headers or {}
        self._is_over = threading.Event()
        self.began = threading.Event()
        self.last_id = "0"
        self.places: list[tuple[str, int]] = []
        self.ends: list[str] = []
        self.status = 0

    def run(self) -> None:
        while not self._is_over.is_set() and self.status not in {401, 403}:
            try:
                self._follow()
            except httpx.TransportError:
                time.sleep(0.05)

    def _follow(self) -> None:
        headers = {**self._headers, "Last-Event-ID": self.last_id}
        with (
            httpx.Client(base_url=self._address, timeout=httpx.Timeout(20)) as client,
            client.stream("GET", PATH, headers=headers) as answer,
        ):
            self.status = answer.status_code
            if self.status != 200:
                time.sleep(0.05)
                return
            rest = ""
            for part in answer.iter_text():
                *blocks, rest = (rest + part).split("\n\n")
                for block in blocks:
                    self._take(f"{block}\n\n")
                self.began.set()
                if self._is_over.is_set():
                    return

    def _take(self, block: str) -> None:
        for one in read(block):
            if one.name == "end":
                self.ends.append(one.data["reason"])
            else:
                self.places.append(one.place)
        if "id: " in block:
            self.last_id = last_id(block)

    def stop(self, count: int = 0) -> None:
        """Once it has so many events."""
        deadline = time.monotonic() + 60
        while len(self.places) < count:
            assert time.monotonic() < deadline, (len(self.places), count)
            time.sleep(0.02)
        self._is_over.set()


Follow = Callable[..., Follower]


@pytest.fixture
def follow() -> Generator[Follow]:
    """Begins to follow. Who is not stopped would come again to whoever has the address next."""
    begun: list[Follower] = []

    def begin(address: str, headers: dict[str, str] | None = None) -> Follower:
        begun.append(Follower(address, headers))
        begun[-1].start()
        assert begun[-1].began.wait(30)
        return begun[-1]

    yield begin
    for one in begun:
        one.stop()
    for one in begun:
        one.join(30)
        assert not one.is_alive()


@pytest.mark.parametrize("fault", ["restarted", "emptied", "paused", "postgresql"])
def test_whatever_befalls_the_servers_a_stream_misses_nothing(
    platform,  # noqa: F811
    own_servers,  # noqa: F811
    follow,
    fault,
):
    with serving(platform) as (address, _), Machines(platform, address) as machines:
        follower = follow(address)
        machines.until(3)
        if fault == "postgresql":
            restart_postgres(own_servers)
        else:
            disturb_redis(own_servers, fault, machines)
        machines.until(3)
        machines.__exit__()
        expected = everything(platform)
        follower.stop(len(expected))
    assert by_log(follower.places) == by_log(expected)
    assert len(expected) == ledger.head(platform.engine, "pumps") + sum(
        kind == "advisory" for kind, _ in expected
    )
    assert follower.ends == []


def test_a_server_that_is_killed_is_followed_by_the_next(platform, follow):  # noqa: F811
    with serving(platform) as (address, service), Machines(platform, address) as machines:
        follower = follow(address)
        machines.until(3)
        service.kill()
        service.wait()
    with serving(platform) as (address, _), Machines(platform, address) as machines:
        follower._address = address
        machines.until(3)
        machines.__exit__()
        expected = everything(platform)
        follower.stop(len(expected))
    assert by_log(follower.places) == by_log(expected)


@contextmanager
def guarded(platform: Platform, **more: str) -> Generator[tuple[str, subprocess.Popen]]:  # noqa: F811
    """A service that asks for keys: its address and the process."""
    with process(**environment(platform), **more) as service:
        yield start(service)[1], service


def test_a_key_that_is_revoked_ends_its_stream_and_no_other(platform, follow):  # noqa: F811
    secret, other = platform.key("viewer", fleets=["pumps"]), platform.key("technician")
    with guarded(platform) as (address, _):
        robbed, honest = (follow(address, bearer(key)) for key in (secret, other))
        keys.revoke(platform.engine, secret.split("_")[1], by=Author(principal="a test"))
        robbed.join(30)
        assert robbed.ends == ["key_ended"]
        assert robbed.status == 401  # it came again
        assert honest.ends == []
        assert honest.is_alive()


def test_a_service_that_is_told_to_stop_ends_its_streams_first(platform, follow):  # noqa: F811
    secret = platform.key("viewer")
    with guarded(platform) as (address, service):
        follower = follow(address, bearer(secret))
        service.send_signal(signal.SIGTERM)
        rest, errors = service.communicate(timeout=60)
        follower.stop()
    assert follower.ends[:1] == ["stopping"]
    assert set(follower.ends) == {"stopping"}
    assert errors == ""
    lines = [json.loads(line) for line in rest.splitlines()]
    events = [line["event"] for line in lines]
    assert "Application shutdown complete." in events
    assert not any("timeout graceful shutdown exceeded" in event for event in events)
    (stream,) = [line for line in lines if line["event"] == "request" and line["status"] == 200]
    assert stream["path"] == PATH


def test_a_stream_is_counted_when_it_begins_and_held_while_it_is_open(platform):  # noqa: F811
    secret = platform.key("viewer")
    headers = {**bearer(secret), "Last-Event-ID": "0"}
    with (
        guarded(platform, RUL_MAX_STREAMS_OF_ONE="1") as (address, _),
        httpx.Client(base_url=address, timeout=20) as client,
    ):
        with client.stream("GET", PATH, headers=headers) as answer:
            parts = answer.iter_text()
            assert next(parts).startswith("retry: 2000\n")
            told = client.get("/metrics").text
            refused = client.get(PATH, headers=headers)
        assert "rul_event_streams 1.0" in told
        assert "rul_requests_in_progress 1.0" in told  # the one that asks
        route = 'method="GET",path="/v1/fleets/{fleet}/events",status_code="200"'
        assert f"rul_requests_total{{{route}}} 1.0" in told
        assert f'rul_request_duration_seconds_bucket{{le="10.0",{route}}} 1.0' in told
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/rate-limited")
        assert int(refused.headers["Retry-After"]) >= 1
        deadline = time.monotonic() + 20
        while "rul_event_streams 0.0" not in (told := client.get("/metrics").text):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert f"rul_requests_total{{{route}}} 1.0" in told
        assert "rul_requests_in_progress 1.0" in told
