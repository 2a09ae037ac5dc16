"""What happens to requests while a model is swapped, Redis restarts and workers are replaced.

What belongs here: the load, the events, and judging every answer. What does not: speed.

Two loads run at once at a modest rate: feature rows, whose figures must be those of the version
that the answer names; and readings, each of which must be kept with a prognosis. Any other answer
has failed, 503 with ``Retry-After`` too.
"""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import redis

from benchmarks.serving_load import Check, at_rate, post
from benchmarks.serving_peers import infer_bodies
from benchmarks.serving_readings import Machines, kept_and_said
from benchmarks.serving_stage import FLEET, BenchmarkError, Server, Stage, figure_of
from rul_store.embedded import EmbeddedServers

TOLERANCE = 1e-4
WORKERS = 2
ROWS_PER_SECOND, READINGS_PER_SECOND = 300.0, 100.0
EVENT_SECONDS = 240.0
"""So long an event may take, on a machine that is busy with other things."""
LOAD_SECONDS = 900.0
"""Longer than all of them; the load ends with the last."""


async def ride(
    stage: Stage, rows: np.ndarray, swaps: int, *, replace_workers: bool
) -> dict[str, Any]:
    """Every event in turn under load; counts what failed.

    Args:
        stage: With both versions saved.
        rows: Feature rows.
        swaps: How often the model is exchanged.
        replace_workers: Whether this happens too, which takes most of the time; without, there is
            one.
    """
    figures = {
        version: figure_of(training.model, rows)
        for version, training in zip(
            stage.versions, (stage.learnt.champion, stage.learnt.challenger), strict=True
        )
    }
    if np.abs(np.subtract(*figures.values())).max() < 1.0:
        raise BenchmarkError("both versions say the same, so a wrong answer would not show")
    seen: Counter[str] = Counter()
    requests = [
        post(f"/v2/models/{FLEET}/infer", body, key=stage.key) for body in infer_bodies(rows)
    ]
    check = of_a_version(requests, figures, seen)
    machines = Machines(stage.learnt, "steady", 200)
    readings = machines.one_by_one(stage.key)
    stop = asyncio.Event()
    workers = WORKERS if replace_workers else 1
    with stage.serving("workers", RUL_WORKERS=str(workers)) as (server, address):
        loads = [
            asyncio.create_task(
                at_rate(
                    address,
                    many,
                    per_second=rate,
                    seconds=LOAD_SECONDS,
                    connections=16,
                    check=how,
                    stop=stop,
                )
            )
            for many, rate, how in (
                (cycle(requests), ROWS_PER_SECOND, check),
                (readings, READINGS_PER_SECOND, kept_and_said),
            )
        ]
        events = await _events(stage, seen, swaps)
        if replace_workers:
            events.append(await _replacement(server))
        stop.set()
        rows_load, readings_load = await asyncio.gather(*loads)
    stage.acknowledged += readings_load.answered
    failures = rows_load.failures + readings_load.failures
    return {
        "failures": failures.total(),
        "by_failure": dict(+failures),
        "answered": rows_load.answered + readings_load.answered,
        "reconnected": rows_load.reconnected + readings_load.reconnected,
        "workers": workers,
        "events": events,
        "worst_ms": {
            "rows": rows_load.latency_ms(1.0), "readings": readings_load.latency_ms(1.0)
        },
    }  # fmt: skip


def of_a_version(
    requests: list[bytes], figures: dict[str, np.ndarray], seen: Counter[str]
) -> Check:
    """Whether an answer says what the version that it names says.

    Args:
        requests: One a feature row.
        figures: By version, one a feature row.
        seen: Counts answers by version.
    """
    places = {request: place for place, request in enumerate(requests)}

    def check(request: bytes, body: bytes) -> str:
        answer = json.loads(body)
        version, said = answer["model_version"], answer["outputs"][0]["data"][0]
        seen[version] += 1
        expected = figures[version][places[request]]
        return "" if abs(said - expected) <= TOLERANCE else f"{said} is not {expected} of {version}"

    return check


async def _events(stage: Stage, seen: Counter[str], swaps: int) -> list[dict[str, Any]]:
    told = []
    await asyncio.sleep(2)
    for turn in range(swaps):
        version, began = stage.versions[(turn + 1) % 2], time.monotonic()
        before = seen[version]
        await asyncio.to_thread(stage.promote, version)
        await _until(
            lambda version=version, before=before: seen[version] > before,
            f"version {version} was promoted and did not answer",
        )
        told.append(await _noted("model swapped", began))
    began = time.monotonic()
    await asyncio.to_thread(restart_redis, stage.servers)
    told.append(await _noted("Redis restarted", began))
    return told


async def _replacement(server: Server) -> dict[str, Any]:
    began, before_workers = time.monotonic(), server.children()
    os.kill(server.pid, signal.SIGHUP)
    await _until(
        lambda: len(now := server.children()) == WORKERS and not now & before_workers,
        "the workers were not replaced",
    )
    return await _noted("every worker replaced", began)


async def _noted(name: str, began: float) -> dict[str, Any]:
    """What is told of an event; the load goes on for a while."""
    took = time.monotonic() - began
    await asyncio.sleep(1)
    return {"event": name, "seconds": round(took, 3)}


async def _until(is_so: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + EVENT_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{otherwise} within {EVENT_SECONDS:g} s")
        await asyncio.sleep(0.02)


def restart_redis(servers: EmbeddedServers) -> None:
    """Stop Redis and start it again on what it had saved."""
    with redis.Redis.from_url(servers.redis_url) as client:
        client.shutdown(save=True)
    with EmbeddedServers(servers.folder):  # starts what does not run; the first user stays
        return
