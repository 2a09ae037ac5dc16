"""What the serving benchmark says is only worth something if its load counts what goes wrong, and
charges a server for the time in which it did not answer."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import repeat

import numpy as np
import pytest

from benchmarks import serving, serving_faults, serving_peers
from benchmarks.serving_load import Address, Load, ask, at_rate, post, saturate
from benchmarks.serving_peers import LIMIT, MLSERVER, OURS, Contestant
from benchmarks.serving_readings import CSV, JSON, Machines
from benchmarks.serving_stage import BenchmarkError, Learnt, figure_of, plain
from rul_serving import rows as bodies

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncGenerator[Address]:
    """Answers one request after another on each connection, as it is told to."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await answer(await reader.readexactly(length), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield Address(*listening.sockets[0].getsockname()[:2])


def write(writer: asyncio.StreamWriter, body: bytes, status: int = 200, more: bytes = b"") -> None:
    head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%b\r\n" % (status, len(body), more)
    writer.write(head + body)


async def echo(body: bytes, writer: asyncio.StreamWriter) -> None:
    write(writer, body)


def test_every_request_is_answered_and_its_latency_kept():
    async def run() -> Load:
        async with server(echo) as address:
            requests = [post("/", b"x" * n) for n in range(300)]
            return await saturate(address, requests, connections=4, seconds=30)

    load = asyncio.run(run())
    assert (load.answered, load.failed, len(load.latencies)) == (300, 0, 300)
    assert load.per_second == pytest.approx(300 / load.seconds)
    assert 0 < load.latency_ms(0.5) <= load.latency_ms(0.99) <= load.latency_ms(1.0)


def test_an_answer_that_comes_in_pieces_is_one():
    async def in_pieces(body: bytes, writer: asyncio.StreamWriter) -> None:
        whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        for byte in whole:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async def run() -> tuple[int, bytes]:
        async with server(in_pieces) as address:
            return await ask(address, post("/", b"a body"))

    assert asyncio.run(run()) == (200, b"a body")


def test_refusals_wrong_answers_and_broken_connections_are_failures():
    async def moody(body: bytes, writer: asyncio.StreamWriter) -> None:
        if body == b"busy":
            write(writer, b"", 503, b"Retry-After: 1\r\n")
        elif body == b"lost":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-")
            await writer.drain()
            writer.close()
        else:
            write(writer, b"wrong" if body == b"bend" else body)

    def check(request: bytes, body: bytes) -> str:
        return "" if request.endswith(body) else "another body"

    async def run() -> Load:
        async with server(moody) as address:
            requests = [post("/", body) for body in (b"good", b"busy", b"lost", b"bend", b"good")]
            return await saturate(address, requests, connections=1, seconds=30, check=check)

    load = asyncio.run(run())
    assert (load.answered, load.failed) == (2, 3)
    assert +load.failures == {"status 503": 1, "connection lost": 1, "another body": 1}


def test_a_connection_that_was_closed_unanswered_is_opened_once_more():
    seen: list[bytes] = []

    async def shy(body: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(body)
        if body == b"never" or seen.count(body) == 1:
            writer.close()
        else:
            write(writer, body)

    async def run() -> Load:
        async with server(shy) as address:
            requests = [post("/", b"once"), post("/", b"never")]
            return await saturate(address, requests, connections=1, seconds=30)

    load = asyncio.run(run())
    assert seen == [b"once", b"once", b"never", b"never"]
    assert (load.answered, load.failures["connection lost"], load.reconnected) == (1, 1, 2)


def test_a_server_may_say_that_it_closes_the_connection():
    async def leaving(body: bytes, writer: asyncio.StreamWriter) -> None:
        write(writer, body, more=b"Connection: close\r\n")
        writer.close()

    async def run() -> Load:
        async with server(leaving) as address:
            requests = [post("/", b"%d" % n) for n in range(20)]
            return await saturate(address, requests, connections=2, seconds=30)

    load = asyncio.run(run())
    assert (load.answered, load.failed, load.reconnected) == (20, 0, 0)


def test_latencies_count_from_when_requests_were_meant_to_be_sent():
    """The server answers the first only once thirty more were due; a closed loop would have sent
    one, and told of one slow answer."""
    due = 30

    async def run() -> Load:
        first = asyncio.Event()

        async def stalls(body: bytes, writer: asyncio.StreamWriter) -> None:
            if not first.is_set():
                first.set()
                await asyncio.sleep(0.3)
            write(writer, body)

        async with server(stalls) as address:
            return await at_rate(
                address, repeat(post("/", b"x")), per_second=due / 0.3, seconds=0.6, connections=1
            )

    load = asyncio.run(run())
    assert load.failed == 0
    waited = [seconds for seconds in load.latencies if seconds > 0.1]
    assert len(waited) > due / 3
    assert max(load.latencies) >= 0.25


def test_what_is_not_answered_in_the_end_has_failed(monkeypatch):
    monkeypatch.setattr("benchmarks.serving_load.WAIT_SECONDS", 0.05)

    async def silent(body: bytes, writer: asyncio.StreamWriter) -> None:
        return

    async def run() -> tuple[Load, Load]:
        async with server(silent) as address:
            requests = repeat(post("/", b"x"))
            return (
                await saturate(address, requests, connections=3, seconds=0.01),
                await at_rate(
                    address, requests, per_second=2000, seconds=0.01, connections=1, seed=1
                ),
            )

    closed, opened = asyncio.run(run())
    assert (closed.answered, closed.failures["not answered"]) == (0, 3)
    assert opened.answered == 0
    assert opened.failed > 1


@pytest.fixture(scope="module")
def small(learnt) -> Learnt:
    """The fixtures' model, and one that says something else."""
    from dataclasses import replace

    other = learnt.training.model.booster.copy()
    other.set_scale_and_bias(1.0, 5.0 + other.get_scale_and_bias()[1])
    challenger = replace(learnt.training, model=replace(learnt.training.model, booster=other))
    return Learnt(learnt.training, challenger, learnt.readings, learnt.readings.select("unit"))


@pytest.mark.parametrize("content_type", [JSON, CSV])
def test_machines_send_each_cycle_once_and_in_order(small, content_type):
    machines = Machines(small, "m", 3)
    fleet = small.model.fleet
    sent = [
        bodies.parse(content_type, machines.rows(range(2), 40, content_type), fleet)
        for _ in range(2)
    ]
    for read, first in zip(sent, (1, 41), strict=True):
        assert not read.flaws
        of_first = [c for c, unit in zip(read.cycles, read.units, strict=True) if unit == "m-0"]
        assert of_first == list(range(first, first + 40))
        assert set(read.units) == {"m-0", "m-1"}
    life = small.readings.filter(small.readings["unit"] == small.readings["unit"][0])
    np.testing.assert_array_equal(sent[0].values[0], life.select(fleet.channels).row(0))


def test_one_by_one_every_unit_has_its_turn(small):
    machines = Machines(small, "m", 2)
    requests = machines.one_by_one("a key")
    sent = [json.loads(next(requests).split(b"\r\n\r\n")[1]) for _ in range(5)]
    assert [(row["unit"], row["cycle"]) for (row,) in sent] == [
        ("m-0", 1), ("m-1", 1), ("m-0", 2), ("m-1", 2), ("m-0", 3)
    ]  # fmt: skip


def test_an_answer_must_be_of_the_version_that_it_names(small):
    rows = small.model.compiled.matrix(small.readings)[:8]
    figures = {
        name: figure_of(training.model, rows)
        for name, training in (("a", small.champion), ("b", small.challenger))
    }
    requests = [post("/", body) for body in serving_peers.infer_bodies(rows)]
    check = serving_faults.of_a_version(requests, figures, seen=serving_faults.Counter())

    def told(version: str, figure: float) -> bytes:
        return json.dumps({"model_version": version, "outputs": [{"data": [figure]}]}).encode()

    assert check(requests[3], told("a", figures["a"][3])) == ""
    assert check(requests[3], told("b", figures["b"][3])) == ""
    assert "is not" in check(requests[3], told("a", figures["a"][3] + 0.01))


class _Idle:
    """Stands for a server's process."""

    def seconds(self) -> float:
        return 0.0


def _contestants(small: Learnt, rows: np.ndarray, address: Address) -> dict[str, Contestant]:
    def one(name: str, path: str) -> Contestant:
        requests = [post(path, body) for body in serving_peers.infer_bodies(rows)]
        return Contestant(name, _Idle(), address, requests, lambda answer: answer["said"])  # ty: ignore[invalid-argument-type]

    return {
        OURS: one(OURS, "/"),
        MLSERVER: one(MLSERVER, "/"),
        LIMIT: Contestant(LIMIT, _Idle(), address, [post("/", b'{"inputs":[{"data":[0]}]}')], None),  # ty: ignore[invalid-argument-type]
    }


def test_a_peer_that_says_something_else_than_catboost_is_found_out(small):
    rows = small.model.compiled.matrix(small.readings)[:32]
    rows = np.nan_to_num(rows)
    said = {True: figure_of(small.model, rows), False: plain(small.model.booster, rows)}
    known = {tuple(row.tolist()): place for place, row in enumerate(rows)}
    off = 0.0

    async def race(error: float) -> dict:
        nonlocal off
        off = error
        asked = iter(range(10**6))

        async def says(body: bytes, writer: asyncio.StreamWriter) -> None:
            place = known.get(tuple(json.loads(body)["inputs"][0]["data"]))
            is_ours = next(asked) <= 16  # the first that is asked, once more than the rows
            figure = 0.0 if place is None else float(said[is_ours][place])
            write(writer, json.dumps({"said": figure + (0.0 if is_ours else off)}).encode())

        async with server(says) as address:
            everyone = _contestants(small, rows, address)
            await serving.check_agreement(everyone, small, rows)
            return await serving.race(everyone, rounds=2, seconds=0.05)

    with pytest.raises(BenchmarkError, match="MLServer says"):
        asyncio.run(race(0.001))
    result = asyncio.run(race(0.0))
    assert set(result["vs"]) == {MLSERVER, LIMIT}
    for found in (*result["vs"].values(), *result["per_second"].values()):
        assert 0 < found["lowest"] <= found["median"] <= found["highest"]
