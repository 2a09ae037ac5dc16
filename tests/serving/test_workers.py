"""Several workers and instances behave as one, and are replaced without a failed request."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from typing import Any

import httpx
import polars as pl
import psutil
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from rul_core.schema import UNIT
from rul_serving.settings import AccessMode, ServingSettings
from rul_store import current, fleets, keys, ledger, tables
from rul_store.database import begin, connect, create_database
from rul_store.embedded import EmbeddedServers
from tests.conftest import TEMPLATE
from tests.serving.conftest import Learnt, Platform
from tests.serving.test_faults import Machines, assert_nothing_is_lost, serving
from tests.serving.test_process import environment, process
from tests.serving.test_readings import PATH, body, expected, life_of, plain

WORKERS = 2
BURST = 60
SCRAPES = "/metrics"
PATIENCE_SECONDS = 300
"""New processes are waited for so long: a busy machine takes a minute to start one."""


@pytest.fixture(scope="module")
def platform(
    servers: EmbeddedServers, learnt: Learnt, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Platform]:
    root = tmp_path_factory.mktemp("workers")
    fleets.save(root, learnt.training.model.fleet)
    url = create_database(servers.database_url, "workers", template=TEMPLATE)
    made = ServingSettings(
        root=root,
        database_url=SecretStr(url),
        redis_url=SecretStr(servers.redis_url),
        access=AccessMode.KEYS,
    )
    engine = connect(url)
    platform = Platform(made, engine, learnt)
    platform.release()
    yield platform
    engine.dispose()


class Instances:
    """One instance of two workers and one of a single process, on the same servers."""

    def __init__(self, platform: Platform, stack: ExitStack) -> None:
        more = {
            "RUL_ACCESS": "keys",
            "RUL_REQUESTS_PER_SECOND": "0.01",
            "RUL_REQUESTS_BURST": str(BURST),
            "RUL_DRAIN_SECONDS": "2",
            "RUL_DATABASE_TIMEOUT_SECONDS": "10",
        }
        self._platform = platform
        self.log = (shared := serving(platform, RUL_WORKERS=str(WORKERS), **more)).log
        self.address, process = stack.enter_context(shared)
        self.supervisor = psutil.Process(process.pid)
        self.other, _ = stack.enter_context(serving(platform, **more))

    def workers(self) -> set[int]:
        return {child.pid for child in self.supervisor.children()}

    def metrics(self, address: str | None = None) -> dict[tuple[str, frozenset], float]:
        text = httpx.get(f"{address or self.address}{SCRAPES}", timeout=20).text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    @contextmanager
    def clients(self, *roles: str) -> Generator[list[httpx.Client]]:
        """A client of each worker, and one of the other instance, with a key of these roles."""
        with ExitStack() as stack:

            def client(address: str) -> httpx.Client:
                made = httpx.Client(base_url=address, headers=headers, timeout=20)
                stack.enter_context(made)
                assert made.get("/livez").status_code == 200  # connected, and stays so
                return made

            headers = {"x-api-key": self._platform.key(*roles)} if roles else {}
            found, workers = [], self.workers()
            for worker in workers:
                with paused(workers - {worker}):
                    found.append(client(self.address))
            yield [*found, client(self.other)]


@contextmanager
def paused(pids: set[int]) -> Generator[None]:
    """While others wait, the only worker that takes connections is known."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def instances(platform: Platform) -> Generator[Instances]:
    with ExitStack() as stack:
        yield Instances(platform, stack)


def at_once(*work: Callable[[], Any]) -> list[Any]:
    barrier = threading.Barrier(len(work))

    def begin_together(one: Callable[[], Any]) -> Any:
        barrier.wait()
        return one()

    with ThreadPoolExecutor(len(work)) as threads:
        return list(threads.map(begin_together, work))


def test_a_scrape_of_any_worker_tells_of_all(instances):
    labels = frozenset({("method", "GET"), ("path", "/v1/fleets"), ("status_code", "200")})
    with instances.clients("viewer") as clients:
        before = instances.metrics().get(("rul_requests_total", labels), 0)
        for times, client in zip((3, 4), clients, strict=False):
            assert {client.get("/v1/fleets").status_code for _ in range(times)} == {200}
        texts = [client.get(SCRAPES).text for client in clients[:WORKERS]]
    for text in texts:
        families = list(text_string_to_metric_families(text))
        names = [family.name for family in families]
        assert len(names) == len(set(names))
        told = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }
        assert told["rul_requests_total", labels] == before + 7
        assert told["rul_request_duration_seconds_count", labels] == before + 7
        assert told["rul_workers", frozenset()] == WORKERS
        assert told["rul_requests_in_progress", frozenset()] >= 1  # the scrape itself
        assert told["rul_ingest_waiting_readings", frozenset()] == 0
        assert [name for name, _ in told].count("rul_model_info") == 1
        assert not {key for _, labels in told for key, _ in labels} & {"pid", "worker", "number"}


def test_gauges_of_whole_fleets_are_told_by_one_instance(instances, platform, eventually):
    rows = body(platform, life_of(platform, platform.learnt.readings[UNIT][0])[:1])
    with instances.clients("ingest") as clients:
        assert clients[0].post(PATH, json=rows).status_code == 200

        def told() -> list[bool]:
            return ["rul_units{" in client.get(SCRAPES).text for client in clients]

        eventually(lambda: any(told()))
        eventually(lambda: told()[0] == told()[1])  # workers of an instance have one turn
        *one, other = told()
    assert all(one) != other


def test_a_change_that_is_sent_to_all_at_once_is_made_once(instances, platform):
    with instances.clients("admin") as clients:
        wanted = {"name": "once", "roles": ["viewer"]}
        answers = at_once(
            *(
                lambda client=client: client.post(
                    "/v1/keys", json=wanted, headers={"idempotency-key": "once"}
                )
                for client in clients * 3
            )
        )
        again = clients[-1].post("/v1/keys", json=wanted, headers={"idempotency-key": "once"})
    assert [key.name for key in keys.every(platform.engine)].count("once") == 1
    made = [
        one
        for one in answers
        if one.status_code == 201 and "idempotency-replayed" not in one.headers
    ]
    assert len(made) == 1
    for answer in answers:
        if answer.status_code != 201:
            assert (answer.status_code, answer.json()["type"]) == (409, "/problems/in-progress")
    assert again.json() == made[0].json() | {"api_key": None}


def test_limits_of_all_add_up_to_one(instances):
    with instances.clients("viewer") as clients:
        statuses = Counter(
            client.get("/v1/fleets").status_code for _ in range(BURST // 2) for client in clients
        )
    assert set(statuses) == {200, 429}
    # A lease is one token here; what filled in the minutes of a slow machine is a few.
    assert BURST - len(clients) <= statuses[200] <= BURST + len(clients)


def test_a_key_is_known_at_once_and_its_revocation_soon_everywhere(instances, eventually):
    with instances.clients("admin") as clients:
        answer = clients[0].post("/v1/keys", json={"name": "new", "roles": ["viewer"]}).json()
        mine = {"x-api-key": answer["api_key"]}
        assert [client.get("/v1/fleets", headers=mine).status_code for client in clients] == [
            200
        ] * len(clients)
        assert clients[0].delete(f"/v1/keys/{answer['key']['key_id']}").status_code < 300
        assert clients[0].get("/v1/fleets", headers=mine).status_code == 401
        for client in clients:
            eventually(
                lambda client=client: (
                    client.get("/livez").status_code == 200
                    and client.get("/v1/fleets", headers=mine).status_code == 401
                )
            )


def test_readings_through_all_in_any_order_end_in_the_state_of_ordered_ones(
    instances, platform, eventually
):
    unit = platform.learnt.readings[UNIT][0]
    rows = body(platform, life_of(platform, unit)[:14])
    version = platform.release().version
    with instances.clients("ingest") as clients:

        @settings(max_examples=10)
        @given(
            order=st.permutations(range(len(rows))),
            ways=st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)),
            size=st.integers(1, 5),
        )
        def send_so(order: list[int], ways: list[int], size: int) -> None:
            name = f"any order {next(numbers)}"
            sent = [{**rows[each], "unit": name} for each in order]

            def send_part(first: int) -> int:
                way = clients[ways[first]]
                return way.post(PATH, json=sent[first : first + size]).status_code

            parts = range(0, len(sent), size)
            with ThreadPoolExecutor(4) as threads:
                assert set(threads.map(send_part, parts)) == {200}
            found = current.one(platform.engine, "pumps", name)
            assert found is not None
            life = life_of(platform, unit)[:14].with_columns(pl.lit(name).alias(UNIT))
            assert plain(found.prognosis) == expected(platform, version, life)

        numbers = iter(range(1_000))
        eventually(lambda: serve(clients, version))
        send_so()


def serve(clients: list[httpx.Client], version: str) -> bool:
    """Whether everybody answers with the version."""
    return all(f'version="{version}"' in client.get(SCRAPES).text for client in clients)


def test_ten_writers_on_one_unit_over_all_lose_nothing(instances, platform):
    life = life_of(platform, platform.learnt.readings[UNIT][0])[:40]
    rows = [{**row, "unit": "ten writers"} for row in body(platform, life)]
    with instances.clients("ingest") as clients:

        def write(first: int) -> set[int]:
            client = clients[first % len(clients)]
            return {client.post(PATH, json=row).status_code for row in rows[first::10]}

        with ThreadPoolExecutor(10) as threads:
            assert set().union(*threads.map(write, range(10))) == {200}
    found = current.one(platform.engine, "pumps", "ten writers")
    assert found is not None
    assert found.prognosis is not None
    assert found.prognosis.provenance.readings == len(rows)
    assert list(ledger.verify(platform.engine, "pumps"))[-1] == ledger.head(
        platform.engine, "pumps"
    )


def test_a_champion_that_moved_is_served_by_all_and_no_request_fails(
    instances, platform, eventually
):
    with instances.clients("ingest") as clients, sending(instances, platform) as machines:
        machines.until(2)
        version = platform.release().version
        eventually(lambda: serve(clients, version))
        machines.until(2)
    assert (machines.statuses, machines.failed) == ({200}, 0)
    assert_nothing_is_lost(platform, machines)


def sending(instances: Instances, platform: Platform) -> Machines:
    """Units that send to the instance of two workers, anew for each test."""
    with begin(platform.engine) as connection:
        connection.execute(sa.text("SET session_replication_role = replica"))
        for table in (tables.units, tables.lives, tables.readings, tables.current_prognoses):
            connection.execute(table.delete().where(table.c.unit.like("machine %")))
    return Machines(platform, instances.address, platform.key("ingest"))


def test_a_rolling_restart_fails_no_request_and_forgets_no_count(instances, platform, eventually):
    before, counted = instances.workers(), answered(instances)
    with instances.clients("viewer") as idle, sending(instances, platform) as machines:
        machines.until(3)
        instances.supervisor.send_signal(signal.SIGHUP)
        eventually(lambda: len(instances.workers() - before) == WORKERS, seconds=PATIENCE_SECONDS)
        eventually(lambda: not instances.workers() & before, seconds=PATIENCE_SECONDS)
        machines.until(3)
        assert {client.get("/v1/fleets").status_code for client in idle} == {200}
    assert (machines.statuses, machines.failed) == ({200}, 0)
    assert_nothing_is_lost(platform, machines)
    assert answered(instances) >= counted + sum(machines.acknowledged)
    metrics = instances.metrics()
    assert metrics["rul_workers", frozenset()] == WORKERS
    assert metrics["rul_workers_replaced_total", frozenset({("reason", "rolled")})] == WORKERS


def answered(instances: Instances) -> float:
    """Requests that sent readings, and were answered with 200."""
    labels = {"method": "POST", "path": "/v1/fleets/{fleet}/readings", "status_code": "200"}
    return instances.metrics().get(("rul_requests_total", frozenset(labels.items())), 0)


def test_a_killed_worker_is_replaced_and_what_was_acknowledged_is_kept(
    instances, platform, eventually
):
    """What it was answering breaks; senders come again, and others never notice."""
    with sending(instances, platform) as machines:
        machines.until(3)
        before, counted = instances.workers(), answered(instances)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: len(instances.workers() - {killed}) == WORKERS, seconds=PATIENCE_SECONDS)
        replaced = frozenset({("reason", "died")})
        eventually(
            lambda: instances.metrics().get(("rul_workers_replaced_total", replaced)) == 1,
            seconds=PATIENCE_SECONDS,
        )
        machines.until(3)
        assert answered(instances) >= counted
    assert machines.statuses == {200}
    assert_nothing_is_lost(platform, machines)
    eventually(
        lambda: instances.metrics()["rul_workers", frozenset()] == WORKERS, seconds=PATIENCE_SECONDS
    )
    assert any('"worker died"' in line and "SIGKILL" in line for line in instances.log)


@pytest.mark.parametrize("workers", [1, 2])
def test_told_to_stop_it_answers_what_is_under_way_and_what_comes_on_open_connections(
    platform, workers, eventually
):
    content = json.dumps(platform.question("unit-000001")).encode()
    with serving(
        platform, RUL_WORKERS=str(workers), RUL_SHUTDOWN_SECONDS="4000", RUL_DRAIN_SECONDS="2000"
    ) as (address, process):
        place = address.removeprefix("http://")
        under_way, idle, silent = (HTTPConnection(place, timeout=30) for _ in range(3))
        for connection in (under_way, idle, silent):
            assert ask(connection, "GET", "/livez") == (200, None)
        under_way.putrequest("POST", "/v1/prognoses")
        under_way.putheader("Content-Type", "application/json")
        under_way.putheader("Content-Length", str(len(content)))
        under_way.endheaders(content[:100])
        process.send_signal(signal.SIGTERM)
        eventually(lambda: not takes_connections(*place.split(":")), seconds=PATIENCE_SECONDS)
        assert ask(idle, "GET", "/livez") == (200, "close")
        under_way.send(content[100:])
        answer = under_way.getresponse()
        assert json.loads(answer.read())["prognoses"][0]["unit"] == "unit-000001"
        assert (answer.status, answer.getheader("connection")) == (200, "close")
        silent.close()
        # With nobody left to wait for, it does not wait.
        assert process.wait(PATIENCE_SECONDS) == (-signal.SIGTERM if workers == 1 else 0)


def ask(connection: HTTPConnection, method: str, path: str) -> tuple[int, str | None]:
    """The answer's status and its header Connection, on this very connection."""
    before = connection.sock
    connection.request(method, path)
    assert before is None or connection.sock is before
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("connection")


def takes_connections(host: str, port: str) -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def test_what_does_not_end_in_time_is_cut(platform):
    with serving(platform, RUL_WORKERS="2", RUL_SHUTDOWN_SECONDS="2") as (address, process):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as endless:
            endless.sendall(
                b"POST /v1/prognoses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n"
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0


def test_workers_that_cannot_start_leave_the_old_ones_or_end_all_with_one_line(
    platform, tmp_path, eventually
):
    setting = tmp_path / "poll"
    setting.write_text("2")
    running = serving(platform, RUL_WORKERS="2", RUL_MODEL_POLL_SECONDS_FILE=str(setting))
    with running as (address, process):
        supervisor = psutil.Process(process.pid)
        before = {child.pid for child in supervisor.children()}
        setting.write_text("soon")
        process.send_signal(signal.SIGHUP)
        eventually(
            lambda: any("workers stay" in line for line in running.log), seconds=PATIENCE_SECONDS
        )
        assert {child.pid for child in supervisor.children()} == before
        assert httpx.get(f"{address}/livez").status_code == 200
        os.kill(min(before), signal.SIGKILL)
        assert process.wait(PATIENCE_SECONDS) == 1
        _, error = process.communicate()
    assert "RUL_MODEL_POLL_SECONDS=soon cannot be used" in error
    assert error.splitlines()[-1] == (
        "a worker ended with code 1 before it answered; its own lines above say why"
    )
    assert "Traceback" not in error


def test_a_new_worker_that_is_not_ready_does_not_take_over(platform, eventually):
    running = serving(platform, patched(READY_SECONDS=1.0), RUL_WORKERS="2")
    with running as (address, process):
        supervisor = psutil.Process(process.pid)
        before = {child.pid for child in supervisor.children()}
        root = platform.root.rename(platform.root.with_name("away"))
        try:
            process.send_signal(signal.SIGHUP)
            eventually(
                lambda: any("workers stay" in line for line in running.log),
                seconds=PATIENCE_SECONDS,
            )
        finally:
            root.rename(platform.root)
        assert {child.pid for child in supervisor.children()} == before
        answer = httpx.post(f"{address}/v1/prognoses", json=platform.question("unit-000001"))
        assert answer.json()["prognoses"][0]["rul_cycles"] is not None
    assert any("not ready to take over" in line and "RUL_ROOT" in line for line in running.log)


def patched(**constants: float) -> str:
    """The program, with the supervisor's constants changed so that a test need not wait."""
    changes = "".join(f"supervisor.{name} = {value}; " for name, value in constants.items())
    return f"from rul_serving import __main__, supervisor; {changes}__main__.main()"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_ends_the_process_with_one_line(platform, workers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = environment(platform) | {"RUL_WORKERS": workers, "RUL_PORT": port}
        with process(**settings) as service:
            output, error = service.communicate(timeout=PATIENCE_SECONDS)
    assert (service.returncode, output) == (1, "")
    (line,) = error.splitlines()
    assert f"RUL_PORT={port} cannot be listened on: Address already in use" in line


def test_workers_end_by_themselves_when_their_supervisor_is_killed(platform, tmp_path, eventually):
    with serving(platform, RUL_WORKERS="2", TMPDIR=str(tmp_path)) as (address, process):
        workers = psutil.Process(process.pid).children()
        (metrics,) = tmp_path.glob("rul-metrics-*")
        process.kill()
        psutil.wait_procs(workers, timeout=PATIENCE_SECONDS)
        assert not any(worker.is_running() for worker in workers)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/livez")
        assert not metrics.exists()


def test_a_worker_that_hangs_is_replaced(platform, eventually):
    running = serving(platform, patched(SILENT_SECONDS=5), RUL_WORKERS="2")
    with running as (address, process):
        supervisor = psutil.Process(process.pid)
        hung = supervisor.children()[0].pid
        os.kill(hung, signal.SIGSTOP)
        eventually(
            lambda: hung not in {child.pid for child in supervisor.children()},
            seconds=PATIENCE_SECONDS,
        )
        eventually(lambda: len(supervisor.children()) == WORKERS, seconds=PATIENCE_SECONDS)
        assert httpx.get(f"{address}/livez", timeout=20).status_code == 200
    assert any('"worker hangs"' in line for line in running.log)


def test_a_gauge_that_would_name_processes_is_refused(tmp_path):
    program = f"""
from pathlib import Path
from rul_serving import shared_values
shared_values.keep_in(Path({str(tmp_path)!r}), "0")
from prometheus_client import Gauge
Gauge("rul_anything", "Whatever.")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "rul_anything has no multiprocess_mode='livesum'; give it" in done.stderr
