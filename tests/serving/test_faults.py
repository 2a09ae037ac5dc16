"""What befalls the service in real life, on real servers: what is kept, what is said, and that it
recovers by itself."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import psutil
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from rul_core.schema import UNIT
from rul_serving.settings import ServingSettings
from rul_store import current, fleets, ledger
from rul_store.cache import connect_redis
from rul_store.database import begin, connect, migrate
from rul_store.embedded import EmbeddedServers
from tests.serving.conftest import Learnt, Platform
from tests.serving.test_process import process
from tests.serving.test_readings import PATH, body

UNITS = 6
PAUSE_SECONDS = 30.0
UNAVAILABLE = "/problems/unavailable"


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedServers]:
    """Servers that nobody else uses: they will be stopped and started."""
    with EmbeddedServers(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture
def platform(own_servers: EmbeddedServers, tmp_path: Path, learnt: Learnt) -> Generator[Platform]:
    fleets.save(tmp_path, learnt.training.model.fleet)
    engine = connect(own_servers.database_url)
    with begin(engine) as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    migrate(engine)
    with connect_redis(own_servers.redis_url) as client:
        client.flushall()
    settings = ServingSettings(
        root=tmp_path,
        database_url=SecretStr(own_servers.database_url),
        redis_url=SecretStr(own_servers.redis_url),
    )
    made = Platform(settings, engine, learnt)
    made.release()
    yield made
    engine.dispose()


@pytest.fixture
def address(platform: Platform) -> Generator[str]:
    with serving(platform) as (found, _):
        yield found


class serving:  # noqa: N801 - reads as what it does
    """The service as a process of its own: its address and the process."""

    def __init__(self, platform: Platform, program: str = "", **environment: str) -> None:
        url = platform.settings.redis_url
        self.log: list[str] = []
        self._process = process(
            program,
            **{
                "RUL_ROOT": str(platform.root),
                "RUL_DATABASE_URL": platform.settings.database_url.get_secret_value(),
                "RUL_REDIS_URL": url.get_secret_value() if url else "",
                "RUL_DATABASE_TIMEOUT_SECONDS": "1",
                "RUL_ACCESS": "open",
                "RUL_PORT": "0",
                **environment,
            },
        )

    def __enter__(self) -> tuple[str, subprocess.Popen]:
        running = self._process.__enter__()
        assert running.stdout
        address = ""
        while not address:
            line = running.stdout.readline()
            assert line, "the service ended before it listened"
            address = "".join(re.findall(r"http://[\d.:]+", line)[:1])
        # Somebody must read on, or the process waits for its own log.
        threading.Thread(target=self.log.extend, args=(running.stdout,), daemon=True).start()
        return address, running

    def __exit__(self, *error: Any) -> None:
        self._process.__exit__(*error)


def life(platform: Platform) -> pl.DataFrame:
    return platform.learnt.readings.filter(pl.col(UNIT) == platform.learnt.readings[UNIT][0])


class Machines:
    """Units that send their readings one by one, each again until it is acknowledged."""

    def __init__(self, platform: Platform, address: str, key: str = "") -> None:
        self._platform, self._address = platform, address
        self._headers = {"x-api-key": key} if key else {}
        self._rows = body(platform, life(platform))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(UNITS)]
        self.acknowledged = [0] * UNITS
        self.statuses: set[int] = set()
        self.problems: set[str] = set()
        """Their types."""
        self.failed = 0

    def __enter__(self) -> "Machines":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until(self, count: int, seconds: float = 30.0) -> None:
        """Wait until every unit has so many more readings acknowledged."""
        goal = [before + count for before in self.acknowledged]
        deadline = time.monotonic() + seconds
        while any(now < then for now, then in zip(self.acknowledged, goal, strict=True)):
            assert time.monotonic() < deadline, (self.acknowledged, goal, self.statuses)
            time.sleep(0.01)

    def _run(self, unit: int) -> None:
        cycle = 0
        with httpx.Client(base_url=self._address, headers=self._headers, timeout=20) as client:
            while not self._stop.is_set():
                row = {**self._rows[cycle % len(self._rows)], "unit": f"machine {unit}"}
                row["cycle"] = cycle + 1.0
                try:
                    answer = client.post(PATH, json=row)
                except httpx.TransportError:
                    self.failed += 1
                    time.sleep(0.02)
                    continue
                self.statuses.add(answer.status_code)
                if answer.status_code == 200:
                    cycle += 1
                    self.acknowledged[unit] = cycle
                else:
                    self.problems.add(answer.json()["type"])
                    self.failed += 1
                    time.sleep(0.02)


def assert_nothing_is_lost(platform: Platform, machines: Machines) -> None:
    """Every acknowledged reading is kept, every prognosis chained, every unit's current."""
    with begin(platform.engine) as connection:
        query = """
            SELECT unit, count(*), max(cycle) FROM readings WHERE unit LIKE 'machine %'
            GROUP BY unit ORDER BY unit
        """
        kept = connection.execute(sa.text(query)).all()
    for (unit, count, last), acknowledged in zip(kept, machines.acknowledged, strict=True):
        assert acknowledged <= count == last
        found = current.one(platform.engine, "pumps", unit)
        assert found is not None
        assert found.prognosis is not None
        assert found.prognosis.provenance.readings == count
    head = ledger.head(platform.engine, "pumps")
    assert [*ledger.verify(platform.engine, "pumps")][-1] == head


def postgres_pids(servers: EmbeddedServers) -> list[int]:
    pid = (servers.folder / "postgres" / "data" / "postmaster.pid").read_text().split()[0]
    children = Path("/proc", pid, "task", pid, "children").read_text()
    return [int(pid), *map(int, children.split())]


def restart_postgres(servers: EmbeddedServers) -> None:
    """As a machine does that loses its power, but for the disk's cache."""
    for pid in postgres_pids(servers):
        os.kill(pid, signal.SIGKILL)
    while servers.postgres_listens():
        time.sleep(0.01)
    with EmbeddedServers(servers.folder):
        pass


def test_what_is_acknowledged_survives_the_kill_of_the_server(platform):
    with serving(platform) as (address, service), Machines(platform, address) as machines:
        machines.until(10)
        service.kill()
        service.wait()
    assert_nothing_is_lost(platform, machines)
    with serving(platform) as (address, _), Machines(platform, address) as again:
        again.until(machines.acknowledged[0] + 3)
    assert_nothing_is_lost(platform, again)
    assert again.statuses == {200}


def test_a_restart_of_postgresql_is_told_as_503_and_survived(platform, own_servers, address):
    with Machines(platform, address) as machines:
        machines.until(5)
        restart_postgres(own_servers)
        machines.until(5)
    assert machines.statuses <= {200, 503}
    assert machines.problems <= {UNAVAILABLE}
    assert_nothing_is_lost(platform, machines)


def test_a_postgresql_that_pauses_for_half_a_minute_is_told_as_503_in_time_and_survived(
    platform, own_servers, address
):
    with Machines(platform, address) as machines:
        machines.until(5)
        paused = postgres_pids(own_servers)
        for pid in paused:
            os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            while time.monotonic() - stopped < PAUSE_SECONDS:
                started = time.monotonic()
                answer = httpx.post(f"{address}{PATH}", json=machines._rows[0], timeout=20)
                assert time.monotonic() - started < 10
                assert answer.status_code == 503
                assert answer.json()["type"] == UNAVAILABLE
                assert int(answer.headers["Retry-After"]) >= 1
            assert httpx.get(f"{address}/livez").status_code == 200
            health = httpx.get(f"{address}/readyz", timeout=20)
            assert (health.status_code, health.json()["status"]) == (200, "degraded")
            what_if = platform.question("unit-000001")
            asked = httpx.post(f"{address}/v1/prognoses", json=what_if, timeout=20)
            assert asked.status_code == 200
        finally:
            for pid in paused:
                os.kill(pid, signal.SIGCONT)
        machines.until(5)
    assert machines.statuses <= {200, 503}
    assert machines.problems <= {UNAVAILABLE}
    assert_nothing_is_lost(platform, machines)


def test_a_full_postgresql_is_told_as_503_and_survived(platform, address):
    # PostgreSQL is made to say what it says then; tests/stack/test_full_disk.py has a full disk.
    with begin(platform.engine) as connection:
        connection.execute(
            sa.text(
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "RAISE EXCEPTION 'could not extend file: No space left on device' "
                "USING ERRCODE = 'disk_full'; END $$"
            )
        )
    with Machines(platform, address) as machines:
        machines.until(5)
        with begin(platform.engine) as connection:
            connection.execute(
                sa.text(
                    "CREATE TRIGGER full_disk BEFORE INSERT ON ledger "
                    "FOR EACH STATEMENT EXECUTE FUNCTION full_disk()"
                )
            )
        answer = httpx.post(
            f"{address}{PATH}", json={**machines._rows[0], "unit": "other"}, timeout=20
        )
        with begin(platform.engine) as connection:
            connection.execute(sa.text("DROP TRIGGER full_disk ON ledger"))
            other = connection.execute(
                sa.text("SELECT count(*) FROM readings WHERE unit = 'other'")
            ).scalar_one()
        assert (answer.status_code, answer.json()["type"]) == (503, UNAVAILABLE)
        assert "No space left on device" in answer.json()["detail"]
        assert other == 0
        machines.until(5)
    assert machines.statuses <= {200, 503}
    assert_nothing_is_lost(platform, machines)


def disturb_redis(servers: EmbeddedServers, fault: str, machines: Machines) -> None:
    """Kill it and start it again, empty it, or stop it for a while; machines go on meanwhile."""
    redis_client = connect_redis(servers.redis_url)
    pid = int(redis_client.info("server")["process_id"])
    if fault == "restarted":
        os.kill(pid, signal.SIGKILL)
        machines.until(3)
        with EmbeddedServers(servers.folder):
            pass
    elif fault == "emptied":
        redis_client.flushall()
    else:
        os.kill(pid, signal.SIGSTOP)
        try:
            machines.until(3)
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", ["restarted", "emptied", "paused"])
def test_whatever_befalls_redis_no_request_fails(platform, own_servers, address, fault):
    with Machines(platform, address) as machines:
        machines.until(5)
        disturb_redis(own_servers, fault, machines)
        machines.until(5)
    assert machines.statuses == {200}
    assert machines.failed == 0
    assert_nothing_is_lost(platform, machines)


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(platform, address):
    host, port = address.removeprefix("http://").split(":")
    for sent in (b"", b"[", b'[{"unit": "a", "cycle": 1'):
        with socket.create_connection((host, int(port))) as client:
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            client.sendall(head.encode() + b"Content-Length: 1000\r\n\r\n" + sent)
    told = httpx.get(f"{address}/metrics").text
    assert not re.search(r'^rul_requests_error_total\{.*/readings"', told, re.MULTILINE)
    with Machines(platform, address) as machines:
        machines.until(3)
    assert machines.statuses == {200}
    with begin(platform.engine) as connection:
        kept = connection.execute(sa.text("SELECT DISTINCT unit FROM readings")).scalars().all()
    assert "a" not in kept


def test_a_body_of_a_million_rows_is_refused_before_it_is_read(address):
    content = b"[" + b'{"unit":"a"},' * 1_400_000 + b"0]"
    answer = httpx.post(
        f"{address}{PATH}", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert answer.json()["type"] == "/problems/too-large"
    assert httpx.get(f"{address}/livez").status_code == 200


WRONG_BODIES = {
    "half a body": (b'[{"unit": "wrong", "cycle": 1, "val', 400, "/problems/invalid-request"),
    "deep": (b"[" * 1_000_000, 400, "/problems/invalid-request"),
    "deep in a row": (
        b'[{"unit": "wrong", "cycle": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
        400,
        "/problems/invalid-request",
    ),
    "NaN": ({"sensor_1": "NaN"}, 400, "/problems/invalid-request"),
    "infinity": ({"sensor_1": "-Infinity"}, 400, "/problems/invalid-request"),
    "beyond all bounds": ({"sensor_1": "1e999"}, 422, "/problems/invalid-readings"),
    "a number as text": ({"sensor_1": '"21.5"'}, 422, "/problems/invalid-readings"),
    "a cycle as text": ({"cycle": '"one"'}, 422, "/problems/invalid-readings"),
}


def test_what_a_client_sends_wrong_is_told_nothing_of_it_is_kept_and_others_go_on(
    platform, address
):
    with Machines(platform, address) as machines, httpx.Client(base_url=address) as client:
        machines.until(2)
        for name, (wrong, status, problem) in WRONG_BODIES.items():
            content = wrong if isinstance(wrong, bytes) else written(machines._rows[0], wrong)
            answer = client.post(
                PATH, content=content, headers={"Content-Type": "application/json"}
            )
            assert (name, answer.status_code) == (name, status)
            assert answer.json()["type"] == problem
        answer = client.post("/v1/fleets/nobody/readings", json=machines._rows[:1])
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/unknown-fleet")
        machines.until(2)
    assert machines.statuses == {200}
    assert_nothing_is_lost(platform, machines)
    with begin(platform.engine) as connection:
        kept = connection.execute(sa.text("SELECT DISTINCT unit FROM readings")).scalars().all()
    assert sorted(kept) == [f"machine {unit}" for unit in range(UNITS)]


def written(row: dict[str, Any], wrong: dict[str, str]) -> bytes:
    """The row as JSON, where some of it is written otherwise."""
    marked = {**row, "unit": "wrong", "values": dict(row["values"])}
    for name in wrong:
        (marked if name in marked else marked["values"])[name] = f"<{name}>"
    text = json.dumps([marked])
    for name, instead in wrong.items():
        text = text.replace(f'"<{name}>"', instead)
    return text.encode()


def test_a_cycle_that_goes_back_is_put_where_it_belongs_or_set_aside(platform, address):
    rows: list[dict[str, Any]] = [
        {**row, "unit": "back"} for row in body(platform, life(platform))[:4]
    ]
    other = {**rows[0], "values": {**rows[0]["values"], "sensor_1": 1.0}}
    with httpx.Client(base_url=address) as client:
        answers = [client.post(PATH, json=row) for row in (rows[0], rows[2], rows[3], rows[1])]
        assert [answer.status_code for answer in answers] == [200] * 4
        repeated, conflict = client.post(PATH, json=rows[0]), client.post(PATH, json=other)
    assert repeated.status_code == 200
    assert repeated.json()["repeated"] == 1
    assert (conflict.status_code, conflict.json()["type"]) == (422, "/problems/invalid-readings")
    assert "conflict" in conflict.text
    found = current.one(platform.engine, "pumps", "back")
    assert found is not None
    assert found.prognosis is not None
    assert found.prognosis.provenance.readings == 4


@pytest.mark.parametrize(("hours", "warnings"), [(1, 1), (-1, 0)])
def test_a_client_whose_clock_is_an_hour_off_is_told_and_its_readings_kept(
    platform, address, hours, warnings
):
    at = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
    rows = body(platform, life(platform)[:1], time=at)
    answer = httpx.post(f"{address}{PATH}", json=rows)
    assert (answer.status_code, answer.json()["new"]) == (200, 1)
    assert len(answer.json()["warnings"]) == warnings


def test_new_workers_a_new_model_and_a_restarted_redis_fail_no_request_together(
    platform, own_servers, eventually
):
    with (
        serving(platform, RUL_WORKERS="2", RUL_DATABASE_TIMEOUT_SECONDS="10") as (address, process),
        Machines(platform, address) as machines,
    ):
        supervisor = psutil.Process(process.pid)
        before = {child.pid for child in supervisor.children()}
        machines.until(3)
        process.send_signal(signal.SIGHUP)
        with connect_redis(own_servers.redis_url) as client:
            os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
        version = platform.release().version
        machines.until(3)
        with EmbeddedServers(own_servers.folder):
            pass
        eventually(lambda: not before & {child.pid for child in supervisor.children()}, seconds=300)
        eventually(lambda: version in httpx.get(f"{address}/metrics", timeout=20).text)
        machines.until(3)
    assert (machines.statuses, machines.failed) == ({200}, 0)
    assert_nothing_is_lost(platform, machines)
