"""How fast the service answers, beside BentoML, MLServer, FastAPI and a limit, in one run.

``python -m benchmarks.serving [--quick] [--soak] [--json FILE|-]``

What belongs here: the race, the order of everything that is measured, the report. What does not:
the load (``serving_load``), servers, fleet and model (``serving_stage``), the peers
(``serving_peers``), readings (``serving_readings``), faults (``serving_faults``).

Each server has the same core for itself while it is asked, and the load generator has another, with
PostgreSQL and Redis. All have the same trees and are asked about the same feature rows; the service
checks a key, counts towards a limit, computes bands, counts and logs each request, and the peers
only predict. The limit decodes the same body in Litestar and answers at once. Before the race the
answers are compared with CatBoost's: a peer that computes something else is an error, not a rival.
In every round each has a turn, in changing order. A ratio is taken within each round, and the
median over rounds is reported with the lowest and the highest.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks import serving_faults, serving_readings, serving_stage
from benchmarks.serving_load import ask, post, saturate
from benchmarks.serving_peers import (
    BENTOML,
    FASTAPI,
    LIMIT,
    MLSERVER,
    MLSERVER_ALONE,
    MLSERVER_BATCHING,
    OURS,
    Contestant,
    infer_bodies,
    install,
    started,
)
from benchmarks.serving_readings import CSV, JSON, Machines
from benchmarks.serving_stage import (
    FLEET,
    BenchmarkError,
    Learnt,
    Stage,
    cores,
    feature_sample,
    figure_of,
    learn,
    plain,
    spread,
)
from rul_core.model import Recipe
from rul_core.simulator import Simulation

CONNECTIONS = 32
FULL_PATH_CONNECTIONS = 64
"""A reading waits for a transaction that many share, so it takes more of them to keep a core busy;
the limit is asked through as many."""
TOLERANCE = 1e-4
WARM_SECONDS = 0.5
PATIENCE_SECONDS = "20"
"""With PostgreSQL, so that a busy machine gives low figures and not none; under faults it is as it
comes."""
REQUIRED = {
    "single_row_vs_bentoml": (">=", 8.0),
    "single_row_vs_mlserver": (">=", 8.0),
    "single_row_vs_limit": (">=", 0.5),
    "full_path_vs_limit": (">=", 0.2),
    "bulk_readings_per_second": (">=", 50_000.0),
    "p99_single_row_ms": ("<", 25.0),
    "p99_full_path_ms": ("<", 50.0),
    "fleet_list_p95_ms": ("<", 300.0),
    "memory_growth_ratio": ("<=", 1.05),
    "swap_failures": ("<=", 0.0),
}
"""What the service must reach."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    simulation: Simulation
    recipe: Recipe
    rounds: int
    turn_seconds: float
    paced_seconds: float
    bulk_bodies: int
    swaps: int
    memory_requests: int
    peers: tuple[str, ...] = (FASTAPI, BENTOML, MLSERVER, MLSERVER_ALONE, MLSERVER_BATCHING)
    reading_connections: tuple[int, ...] = (CONNECTIONS, FULL_PATH_CONNECTIONS)
    """For the full path; the last is what is reported first, and paced by."""
    units: int = 10_000
    replaces_workers: bool = True


FULL = Plan(Simulation(), Recipe(), 5, 3.0, 15.0, 20, 6, 60_000)
QUICK = Plan(
    Simulation(units=15, running_units=5),
    Recipe(folds=3),
    3,
    0.8,
    3.0,
    4,
    1,
    10_000,
    peers=(BENTOML, MLSERVER),
    reading_connections=(FULL_PATH_CONNECTIONS,),
    units=2_000,
    replaces_workers=False,
)
SOAK_REQUESTS = 1_000_000


def main() -> None:
    """Runs the benchmark and reports."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or what it started would go on
    report = sys.stderr if options.json == "-" else sys.stdout
    plan = QUICK if options.quick else FULL
    try:
        result = measure(
            plan, soak=options.soak, say=lambda text: print(text, file=report, flush=True)
        )
    except BenchmarkError as error:
        sys.exit(f"benchmarks.serving: {error}")
    if options.json == "-":
        print(json.dumps(result, indent=2))
    elif options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="short turns, fewer peers, 2,000 units, no worker replaced: two minutes",
    )
    parser.add_argument(
        "--soak", action="store_true", help="a million requests before memory is looked at again"
    )
    parser.add_argument("--json", help="write the figures to a file, or to standard output: -")
    return parser.parse_args()


def measure(plan: Plan, *, soak: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures.

    Args:
        plan: How much is measured.
        soak: Whether memory is looked at after a million requests.
        say: Told every table, as Markdown.

    Returns:
        The headline, and ``details``.
    """
    server_core, load_core = cores()
    for peer in plan.peers:
        install(peer)
    say(f"{_machine()}\n")
    learnt = learn(plan.simulation, plan.recipe)
    with (
        tempfile.TemporaryDirectory(prefix="rul-benchmark-") as folder,
        serving_stage.on_core(load_core),
        Stage.open(Path(folder), learnt, server_core) as stage,
    ):
        return uvloop.run(_measured(plan, stage, server_core, soak, say))


async def _measured(
    plan: Plan, stage: Stage, core: int, soak: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    rows = feature_sample(stage.learnt)
    details: dict[str, Any] = {"machine": _machine(), "model": _model(stage.learnt)}
    with stage.serving(RUL_DATABASE_TIMEOUT_SECONDS=PATIENCE_SECONDS) as (server, address):
        requests = [
            post(f"/v2/models/{FLEET}/infer", body, key=stage.key) for body in infer_bodies(rows)
        ]
        ours = Contestant(
            OURS, server, address, requests, lambda answer: answer["outputs"][0]["data"][0]
        )
        with started(stage, rows, core, plan.peers) as peers:
            everyone = {OURS: ours, **peers}
            await check_agreement(everyone, stage.learnt, rows)
            details["race"] = race_result = await race(everyone, plan.rounds, plan.turn_seconds)
            say(_race_table(race_result))
            machines = Machines(stage.learnt, "unit", plan.units)
            await serving_readings.seed(stage, address, machines, cycles=5)
            details["full_path"] = [
                await serving_readings.full_path(
                    stage,
                    server,
                    address,
                    peers[LIMIT],
                    machines,
                    rounds=plan.rounds,
                    seconds=plan.turn_seconds,
                    connections=connections,
                )
                for connections in plan.reading_connections
            ]
        say("\n".join(map(_full_path_text, details["full_path"])))
        full = details["full_path"][-1]
        details["paced_single_row"] = single = await serving_readings.paced(
            address,
            cycle(requests),
            race_result["per_second"][OURS]["median"] / 2,
            plan.paced_seconds,
        )
        details["paced_full_path"] = whole = await serving_readings.paced(
            address,
            machines.one_by_one(stage.key),
            full["per_second"]["median"] / 2,
            plan.paced_seconds,
            serving_readings.kept_and_said,
        )
        stage.acknowledged += whole["requests"]
        say(_paced_table(single, whole))
        details["bulk"] = bulk = [
            await serving_readings.bulk(stage, address, kind, plan.rounds, plan.bulk_bodies)
            for kind in (JSON, CSV)
        ]
        details["fleet_list"] = ranked = await serving_readings.fleet_list(
            stage, address, plan.units, 200
        )
    with stage.serving("fresh", RUL_DATABASE_TIMEOUT_SECONDS=PATIENCE_SECONDS) as (
        server,
        address,
    ):
        details["memory"] = memory = await serving_readings.memory(
            stage, server, address, machines, SOAK_REQUESTS if soak else plan.memory_requests
        )
    details["faults"] = faults = await serving_faults.ride(
        stage, rows, plan.swaps, replace_workers=plan.replaces_workers
    )
    details["kept"] = serving_readings.check_kept(stage)
    headline = {
        "single_row_vs_bentoml": race_result["vs"][BENTOML]["median"],
        "single_row_vs_mlserver": race_result["vs"][MLSERVER]["median"],
        **{
            name: race_result["vs"][peer]["median"]
            for name, peer in _OTHER_PEERS.items()
            if peer in plan.peers
        },
        "single_row_vs_limit": race_result["vs"][LIMIT]["median"],
        "single_rows_per_second": race_result["per_second"][OURS]["median"],
        "full_path_vs_limit": full["vs_limit"]["median"],
        "full_path_per_second": full["per_second"]["median"],
        **{
            f"full_path_vs_limit_{one['connections']}_connections": one["vs_limit"]["median"]
            for one in details["full_path"][:-1]
        },
        "bulk_readings_per_second": bulk[0]["readings_per_second"]["median"],
        "bulk_csv_readings_per_second": bulk[1]["readings_per_second"]["median"],
        "p99_single_row_ms": single["p99_ms"],
        "p99_full_path_ms": whole["p99_ms"],
        "fleet_list_p95_ms": ranked["p95_ms"],
        "memory_growth_ratio": memory["growth_ratio"],
        "swap_failures": faults["failures"] + single["failed"] + whole["failed"],
        "swap_reconnected": faults["reconnected"],
    }
    say(_required_table(headline, details))
    return {**headline, "details": details}


async def check_agreement(
    everyone: dict[str, Contestant], learnt: Learnt, rows: np.ndarray
) -> None:
    """See that everyone says of some rows what CatBoost says of them.

    Raises:
        BenchmarkError: One does not.
    """
    some = rows[:: max(1, len(rows) // 16)]
    peers = everyone.keys() - {OURS, LIMIT}
    expected = {
        OURS: figure_of(learnt.model, some),
        **dict.fromkeys(peers, plain(learnt.model.booster, some)),
    }
    for name, contestant in everyone.items():
        await _until_ready(contestant)
        if contestant.read is None:
            continue
        step = len(rows) // len(some)
        for place, figure in enumerate(expected[name]):
            status, body = await ask(contestant.address, contestant.requests[place * step])
            said = contestant.read(json.loads(body)) if status == 200 else None
            if said is None or not abs(said - figure) <= TOLERANCE:
                raise BenchmarkError(
                    f"{name} says {said} of row {place * step} (status {status}), CatBoost {figure}"
                )


async def _until_ready(contestant: Contestant) -> None:
    deadline = time.monotonic() + serving_stage.START_SECONDS
    while True:
        try:
            status, body = await ask(contestant.address, contestant.requests[0])
        except OSError as error:
            status, body = 0, str(error).encode()
        if status == 200:
            return
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{contestant.name} does not answer: {status} {body[:500]!r}")
        await asyncio.sleep(0.2)


async def race(everyone: dict[str, Contestant], rounds: int, seconds: float) -> dict[str, Any]:
    """Requests a second of everyone, and how many times the others' the service answers."""
    rates: dict[str, list[float]] = {name: [] for name in everyone}
    generator: dict[str, list[float]] = {name: [] for name in everyone}
    busy: dict[str, list[float]] = {name: [] for name in everyone}
    order = list(everyone)
    for _ in range(rounds):
        for name in order:
            one = everyone[name]
            await saturate(
                one.address, cycle(one.requests), connections=CONNECTIONS, seconds=WARM_SECONDS
            )
            before = one.server.seconds()
            load = await saturate(
                one.address, cycle(one.requests), connections=CONNECTIONS, seconds=seconds
            )
            busy[name].append((one.server.seconds() - before) / load.seconds)
            if load.failed:
                raise BenchmarkError(f"{name} did not answer rightly: {dict(load.failures)}")
            rates[name].append(load.per_second)
            generator[name].append(load.generator_share)
        order = order[1:] + order[:1]
    return {
        "rounds": rounds,
        "connections": CONNECTIONS,
        "per_second": {name: spread(own) for name, own in rates.items()},
        "vs": {
            name: spread([a / b for a, b in zip(rates[OURS], own, strict=True)])
            for name, own in rates.items()
            if name != OURS
        },
        "server_share": {name: spread(own) for name, own in busy.items()},
        "generator_share": {name: spread(own) for name, own in generator.items()},
    }


def _machine() -> str:
    names = ("catboost", "litestar", "uvicorn")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"{versions}"
    )


def _model(learnt: Learnt) -> dict[str, Any]:
    model = learnt.model
    return {
        "features": len(model.pipeline.names),
        "trees": len(model.trees.splits) - 1,
        "channels": len(model.fleet.channels),
    }


def _race_table(result: dict[str, Any]) -> str:
    lines = [
        f"One feature row a request, {result['connections']} connections, "
        f"{result['rounds']} rounds\n",
        "| who | requests a second (lowest to highest) | the service answers so many times as many"
        " | its core, the generator's |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, rate in result["per_second"].items():
        vs = result["vs"].get(name)
        shares = [f"{100 * result[of][name]['median']:.0f} %" for of in _SHARES]
        times = _spread_text(vs, ".2f") if vs else ""
        lines.append(f"| {name} | {_spread_text(rate, ',.0f')} | {times} | {', '.join(shares)} |")
    return "\n".join(lines) + "\n"


_SHARES = ("server_share", "generator_share")
_OTHER_PEERS = {
    "single_row_vs_mlserver_without_worker": MLSERVER_ALONE,
    "single_row_vs_mlserver_batching": MLSERVER_BATCHING,
    "single_row_vs_fastapi": FASTAPI,
}


def _spread_text(found: dict[str, float], form: str) -> str:
    return f"{found['median']:{form}} ({found['lowest']:{form}} to {found['highest']:{form}})"


def _full_path_text(full: dict[str, Any]) -> str:
    return (
        f"One reading a request of {full['units']:,} units through everything, "
        f"{full['connections']} connections: {_spread_text(full['per_second'], ',.0f')} a second, "
        f"{_spread_text(full['vs_limit'], '.2f')} of the limit's "
        f"{_spread_text(full['limit_per_second'], ',.0f')}.\n"
    )


def _paced_table(single: dict[str, Any], whole: dict[str, Any]) -> str:
    lines = [
        "At half of that, at random moments, from the moment each was meant to be sent\n",
        "| what | a second | median ms | p95 | p99 | worst |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, found in (("one feature row", single), ("one reading", whole)):
        figures = " | ".join(
            f"{found[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "worst_ms")
        )
        lines.append(f"| {name} | {found['per_second']:,.0f} | {figures} |")
    return "\n".join(lines) + "\n"


def _required_table(headline: dict[str, float], details: dict[str, Any]) -> str:
    memory, faults, kept = details["memory"], details["faults"], details["kept"]
    lines = [
        f"Memory after {memory['requests']:,} requests beside that after "
        f"{memory['first_requests']:,}; {faults['answered']:,} requests while "
        f"{', '.join(event['event'] for event in faults['events'])}; "
        f"{kept['readings']:,} readings acknowledged and found, "
        f"{kept['ledger_entries']:,} ledger entries walked.\n",
        "| figure | required | measured | |",
        "| --- | ---: | ---: | --- |",
    ]
    for name, value in headline.items():
        sign, bound = REQUIRED.get(name, ("", None))
        required = f"{sign} {bound:,g}" if bound is not None else ""
        is_met = bound is None or _is_met(value, sign, bound)
        lines.append(f"| {name} | {required} | {value:,.5g} | {'' if is_met else 'missed'} |")
    return "\n".join(lines) + "\n"


def _is_met(value: float, sign: str, bound: float) -> bool:
    return {">=": value >= bound, "<=": value <= bound, "<": value < bound}[sign]


if __name__ == "__main__":
    main()
