"""Readings for the serving benchmark, and what it measures of them.

What belongs here: units that send readings, in bulk and one by one; the fleet's list; memory. What
does not: feature rows and peers (``serving_peers``), faults (``serving_faults``).
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from benchmarks.serving_load import Address, Check, Load, ask, at_rate, get, post, saturate
from benchmarks.serving_peers import Contestant
from benchmarks.serving_stage import FLEET, BenchmarkError, Learnt, Server, Stage, spread
from rul_core.schema import CYCLE, UNIT
from rul_store import ledger
from rul_store.chain import Break
from rul_store.database import begin

PATH = f"/v1/fleets/{FLEET}/readings"
BODY_ROWS, BODY_UNITS = 10_000, 100
JSON, CSV = "application/json", "text/csv"
SEED_ROWS = 2_500
"""In a body of many new units, each of which costs more than its readings."""
BULK_CONNECTIONS = 2
"""One body is read while the other is written."""
KEPT_UP = b'"new":1,'


class Machines:
    """Units that live through simulated lives again and again, each from its first cycle on.

    Args:
        learnt: Has the readings.
        prefix: Of the units' names.
        count: Of units.
    """

    def __init__(self, learnt: Learnt, prefix: str, count: int) -> None:
        channels = learnt.model.fleet.channels
        self.channels = channels
        self._values, self._cells = [], []
        for _, life in learnt.readings.sort(UNIT, CYCLE).group_by(UNIT, maintain_order=True):
            rows = life.select(channels).rows()
            self._values.append(
                [json.dumps(dict(zip(channels, row, strict=True))).encode() for row in rows]
            )
            self._cells.append([",".join(map(str, row)).encode() for row in rows])
        self._prefix, self.count = prefix.encode(), count
        self._cycles = [0] * count

    def rows(self, units: range, cycles: int, content_type: str = JSON) -> bytes:
        """The next so many cycles of some units as one body, cycle by cycle."""
        lines = [self._row(unit, content_type) for _ in range(cycles) for unit in units]
        if content_type == JSON:
            return b"[" + b",".join(lines) + b"]"
        return ",".join((UNIT, CYCLE, *self.channels)).encode() + b"\n" + b"\n".join(lines) + b"\n"

    def one_by_one(self, key: str, path: str = PATH) -> Iterator[bytes]:
        """Requests with a row each, of one unit after another, for ever."""
        while True:
            for unit in range(self.count):
                yield post(path, b"[" + self._row(unit, JSON) + b"]", key=key)

    def _row(self, unit: int, content_type: str) -> bytes:
        self._cycles[unit] += 1
        cycle, life = self._cycles[unit], unit % len(self._values)
        place = (cycle - 1) % len(self._values[life])
        if content_type == JSON:
            values = self._values[life][place]
            return b'{"unit":"%b-%d","cycle":%d,"values":%b}' % (self._prefix, unit, cycle, values)
        return b"%b-%d,%d,%b" % (self._prefix, unit, cycle, self._cells[life][place])


def encoded(requests: Iterator[bytes], count: int) -> list[bytes]:
    """So many requests, before anything is measured."""
    return [next(requests) for _ in range(count)]


async def seed(stage: Stage, address: Address, machines: Machines, cycles: int) -> None:
    """Give every unit a first few readings."""
    units = SEED_ROWS // cycles
    for first in range(0, machines.count, units):
        some = range(first, min(first + units, machines.count))
        status, body = await ask(
            address, post(PATH, machines.rows(some, cycles, CSV), content_type=CSV, key=stage.key)
        )
        if status != 200 or json.loads(body)["new"] != cycles * len(some):
            raise BenchmarkError(f"the first readings were not kept: {status} {body[:500]!r}")
        stage.acknowledged += cycles * len(some)
    with begin(stage.engine) as connection:  # as autovacuum does within a minute
        connection.execute(sa.text("ANALYZE"))


async def bulk(
    stage: Stage, address: Address, content_type: str, rounds: int, bodies: int
) -> dict[str, Any]:
    """Readings a second in large bodies, each of 100 units and answered with their prognoses."""
    per_second, shares = [], []
    machines = Machines(stage.learnt, f"bulk {content_type[-4:]}", 4 * BODY_UNITS)
    for turn in range(rounds + 1):
        requests = [
            post(
                PATH,
                machines.rows(
                    range(first, first + BODY_UNITS), BODY_ROWS // BODY_UNITS, content_type
                ),
                content_type=content_type,
                key=stage.key,
            )
            for first in (
                BODY_UNITS * (place % 4) for place in range(bodies if turn else BULK_CONNECTIONS)
            )
        ]
        load = await saturate(
            address, requests, connections=BULK_CONNECTIONS, seconds=60, check=_whole
        )
        if load.failed or load.answered != len(requests):
            raise BenchmarkError(f"bodies were not kept: {load.failures}")
        stage.acknowledged += BODY_ROWS * load.answered
        if turn:  # the first is for warming up
            per_second.append(BODY_ROWS * load.per_second)
            shares.append(load.generator_share)
    return {
        "content_type": content_type,
        "bodies": bodies,
        "body_bytes": len(requests[-1]),
        "readings_per_second": spread(per_second),
        "generator_share": max(shares),
    }


def _whole(_request: bytes, body: bytes) -> str:
    answer = json.loads(body)
    said = {one["unit"] for one in answer["prognoses"] if one["state"] != "model_error"}
    if answer["new"] != BODY_ROWS or len(said) != BODY_UNITS:
        return f"{answer['new']} rows kept, {len(said)} units with a prognosis"
    return ""


def kept_and_said(_request: bytes, body: bytes) -> str:
    """What is wrong with the answer to one new reading."""
    if KEPT_UP not in body or b'"prognoses":[{' not in body or b'"model_error"' in body:
        return f"not kept, or nothing said of it: {body[:200]!r}"
    return ""


async def full_path(
    stage: Stage,
    server: Server,
    address: Address,
    limit: Contestant,
    machines: Machines,
    *,
    rounds: int,
    seconds: float,
    connections: int,
) -> dict[str, Any]:
    """One reading a request through everything, beside a limit that decodes the same bodies."""
    ours, theirs, ratios, shares, busy = [], [], [], [], []
    requests = machines.one_by_one(stage.key)
    bodies = Machines(stage.learnt, "limit", machines.count).one_by_one("", "/readings")
    for turn in range(rounds):
        loads: dict[str, Load] = {}
        for name in ("limit", "ours") if turn % 2 else ("ours", "limit"):
            if name == "limit":
                many = encoded(bodies, round(20_000 * seconds))
                loads[name] = await saturate(
                    limit.address, many, connections=connections, seconds=seconds
                )
            else:
                many, before = encoded(requests, round(10_000 * seconds)), server.seconds()
                loads[name] = await saturate(
                    address, many, connections=connections, seconds=seconds, check=kept_and_said
                )
                busy.append((server.seconds() - before) / loads[name].seconds)
                stage.acknowledged += loads[name].answered
        _require_answers(loads)
        ours.append(loads["ours"].per_second)
        theirs.append(loads["limit"].per_second)
        ratios.append(ours[-1] / theirs[-1])
        shares.append(loads["ours"].generator_share)
    return {
        "connections": connections,
        "units": machines.count,
        "per_second": spread(ours),
        "limit_per_second": spread(theirs),
        "vs_limit": spread(ratios),
        "generator_share": max(shares),
        "server_share": spread(busy),
    }


def _require_answers(loads: dict[str, Load]) -> None:
    for name, load in loads.items():
        if load.failed:
            raise BenchmarkError(f"{name} did not answer rightly: {dict(load.failures)}")


async def paced(
    address: Address,
    requests: Iterator[bytes],
    per_second: float,
    seconds: float,
    check: Check | None = None,
) -> dict[str, Any]:
    """Latencies at a rate, from the moments at which requests were meant to be sent."""
    many = encoded(requests, round(1.2 * per_second * seconds) + 100)
    load = await at_rate(
        address, many, per_second=per_second, seconds=seconds, connections=64, check=check
    )
    return {
        "per_second": load.per_second,
        "requests": load.answered,
        "failed": load.failed,
        **{f"p{share}_ms": load.latency_ms(share / 100) for share in (50, 95, 99)},
        "worst_ms": load.latency_ms(1.0),
        "generator_share": load.generator_share,
    }


async def fleet_list(stage: Stage, address: Address, units: int, count: int) -> dict[str, Any]:
    """Latencies of the ranked list, asked one page after another from the first."""
    latencies = []
    path = first = f"/v1/fleets/{FLEET}/units?limit=100"
    for _ in range(count):
        began = time.perf_counter()
        status, body = await ask(address, get(path, key=stage.key))
        latencies.append(time.perf_counter() - began)
        page = json.loads(body)
        if status != 200 or len(page["units"]) == 0:
            raise BenchmarkError(f"the fleet's list cannot be read: {status} {body[:500]!r}")
        cursor = page["next_cursor"]
        path = f"{first}&cursor={cursor}" if cursor else first
    found = Load(answered=count, latencies=latencies)
    return {
        "units": units,
        "page": 100,
        "p50_ms": found.latency_ms(0.5),
        "p95_ms": found.latency_ms(0.95),
    }


def check_kept(stage: Stage) -> dict[str, int]:
    """Count what PostgreSQL holds, and walk the chain.

    Raises:
        BenchmarkError: A reading that was acknowledged is not there, the chain is broken, or a
            unit has no prognosis.
    """
    entries = 0
    for step in ledger.verify(stage.engine, FLEET):
        if isinstance(step, Break):
            raise BenchmarkError(f"the ledger is broken at {step.position}: {step.reason}")
        entries = step
    with begin(stage.engine) as connection:
        readings = connection.execute(sa.text("SELECT count(*) FROM readings")).scalar_one()
        silent = connection.execute(sa.text(_SILENT)).scalar_one()
    if readings != stage.acknowledged:
        raise BenchmarkError(f"{stage.acknowledged} readings were acknowledged, {readings} kept")
    if silent:
        raise BenchmarkError(f"{silent} units have readings and no current prognosis")
    return {"readings": readings, "ledger_entries": entries}


_SILENT = """
    SELECT count(*) FROM units WHERE NOT EXISTS (
        SELECT FROM current_prognoses AS said
        WHERE said.fleet = units.fleet AND said.unit = units.unit
    )
"""


async def memory(
    stage: Stage, server: Server, address: Address, machines: Machines, requests: int
) -> dict[str, Any]:
    """Memory of a worker after the first 10,000 requests and after all."""
    coming, first = machines.one_by_one(stage.key), min(10_000, requests // 4)
    answered, marks = 0, {}
    while answered < requests:
        part = min(first, requests - answered)
        load = await saturate(
            address, encoded(coming, part), connections=64, seconds=600, check=kept_and_said
        )
        _require_answers({"the service": load})
        stage.acknowledged += load.answered
        answered += load.answered
        marks[answered] = server.memory_bytes()
    return {
        "units": machines.count,
        "requests": answered,
        "first_requests": first,
        "first_bytes": marks[first],
        "last_bytes": marks[answered],
        "growth_ratio": marks[answered] / marks[first],
    }
