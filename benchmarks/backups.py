"""What backups promise, measured: damage found, data lost, time to come back, and their cost.

    python -m benchmarks.backups [--quick] [--json FILE or -] [--picture FILE.svg]

What belongs here: what is measured, on PostgreSQL, Redis and files of its own, the time to come
back and the cost. What does not: damage (``backups_faults``), losses (``backups_losses``), the
fleet, its model and the service (``serving_stage``), the stack's own loss (``tests/stack``).

A backup is made here every few seconds instead of every half hour, so that many cycles fit into a
minute. What a loss costs beyond a cycle does not depend on how long the cycle is: it is measured,
and half an hour is added for the figure of the schedule. PostgreSQL's log is sealed every minute,
as it is in the stack.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import backups_losses as losses
from benchmarks.backups_faults import injected
from benchmarks.backups_losses import Losses
from benchmarks.serving_load import Address, ask, get, saturate
from benchmarks.serving_readings import Machines, seed
from benchmarks.serving_stage import FLEET, Stage, cores, learn, on_core, spread
from rul_backup.keeping import Backups
from rul_backup.reading import BackupSettings, StoreReader, reading_keys_of
from rul_backup.streams import Pace
from rul_core.model import Recipe
from rul_core.simulator import Simulation
from rul_store.database import begin, connect, migrate
from rul_store.embedded import EmbeddedServers

SCHEDULE_SECONDS = 1800.0
"""A backup is made every half hour."""
LOW_PRIORITY = 3
"""Half the processor's weight, as runs of backups have it beside the API's instances in the stack
(``cpu_shares``); each step of ``nice`` is a factor of 1.25."""
UNITS, CYCLES = 84, 200
"""Of the demo, whose readings are one time its data."""
REQUIRED = {
    "faults_missed": ("<=", 0.0),
    "rpo_max_seconds": ("<=", 300.0),
    "rpo_of_dumps_max_seconds": ("<=", 3600.0),
    "rto_max_seconds": ("<=", 900.0),
    "throughput_ratio": (">=", 0.9),
}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    simulation: Simulation
    recipe: Recipe
    faults: int
    cycle_seconds: float
    archive_seconds: float
    cycles: int
    drills: int
    scales: tuple[int, ...]
    rounds: int
    turn_seconds: float


FULL = Plan(Simulation(), Recipe(), 280, 15.0, 60.0, 3, 20, (1, 10, 100), 8, 6.0)
QUICK = Plan(
    Simulation(units=15, running_units=5), Recipe(folds=3), 70, 4.0, 4.0, 2, 5, (1, 10), 3, 2.0
)


def main() -> None:
    """Runs the benchmark and reports."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backups")
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    parser.add_argument("--json", help="write the figures to a file, or to standard output: -")
    parser.add_argument("--picture", type=Path, help="draw recovery times into an SVG")
    options = parser.parse_args()
    report = sys.stderr if options.json == "-" else sys.stdout
    plan = QUICK if options.quick else FULL
    result = measure(plan, lambda text: print(text, file=report, flush=True))
    if options.json == "-":
        print(json.dumps(result, indent=2))
    elif options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    if options.picture:
        draw(result["details"]["recovery_time"], options.picture)


def measure(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures: the headline, and ``details``."""
    server_core, other_core = cores()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    say(machine)
    learnt = learn(plan.simulation, plan.recipe)
    details: dict[str, Any] = {"machine": machine}
    with (
        tempfile.TemporaryDirectory(prefix="rul-benchmark-") as name,
        on_core(other_core),
        Stage.open(Path(name), learnt, server_core) as stage,
    ):
        Path(name).chmod(0o711)  # the drill's PostgreSQL is another user's
        backups = Backups(stage.root, BackupSettings(), stage.engine, stage.servers.redis_url)
        backups.make_keys("benchmark")
        with stage.serving() as (_, address):
            asyncio.run(seed(stage, address, Machines(learnt, "unit", UNITS), CYCLES))
        # First, while there are few runs to be looked at after each fault.
        details["faults"] = faults = injected(plan.faults, stage, backups, Path(name, "spoilt"))
        say(f"faults: {faults['found']} of {faults['injected']} found and named")
        details["recovery_point"] = point = losses.of_dumps(
            Losses(plan.drills, plan.cycle_seconds, plan.cycles), stage, backups
        )
        say(
            f"recovery point: {point['lost_seconds']['median']:.1f} s lost, "
            f"{point['lost_seconds']['highest']:.1f} at most, of a cycle of "
            f"{point['cycle_seconds']:.0f} s ({point['backup_seconds']:.1f} s a backup, a row "
            f"every {losses.WRITE_SECONDS:g} s, {point['drills']} drills)"
        )
        details["log_recovery_point"] = log = losses.of_the_log(
            Losses(plan.drills, plan.archive_seconds, plan.cycles), stage, Path(name, "spool")
        )
        say(
            f"with the log: {log['lost_seconds']['median']:.1f} s lost, "
            f"{log['lost_seconds']['highest']:.1f} at most, sealed every {log['cycle_seconds']:.0f}"
            f" s ({log['recovery_seconds']['median']:.1f} s a recovery, {log['drills']} drills)"
        )
        details["recovery_time"] = times = [
            recovery_time(stage, backups, scale, Path(name)) for scale in plan.scales
        ]
        for each in times:
            say(
                f"recovery time: {each['seconds']:.1f} s at {each['scale']} times the demo's data "
                f"({each['readings']:,} readings, {each['stored_bytes'] / 1e6:,.1f} MB): "
                + ", ".join(f"{what} {seconds:.1f}" for what, seconds in each["steps"].items())
            )
        # Last, since what it sends is no part of the demo's data.
        with stage.serving() as (_, address):
            details["load"] = load = beside_backups(plan, stage, address)
        say(
            f"throughput while backups of that are made: {load['ratio']['median']:.2f} "
            f"({load['ratio']['lowest']:.2f}-{load['ratio']['highest']:.2f}) of what it is else"
        )
    beyond = point["lost_seconds"]["highest"] - point["cycle_seconds"]
    headline = {
        "faults_injected": faults["injected"],
        "faults_found": faults["found"],
        "faults_missed": faults["injected"] - faults["found"],
        "rpo_max_seconds": log["lost_seconds"]["highest"],
        "rpo_of_dumps_max_seconds": SCHEDULE_SECONDS + max(0.0, beyond),
        "rpo_measured_max_seconds": point["lost_seconds"]["highest"],
        "rpo_measured_cycle_seconds": point["cycle_seconds"],
        "rto_max_seconds": max(each["seconds"] for each in times),
        "drills": point["drills"] + log["drills"],
        "throughput_ratio": load["ratio"]["median"],
    }
    reached = {
        name: headline[name] >= limit if relation == ">=" else headline[name] <= limit
        for name, (relation, limit) in REQUIRED.items()
    }
    say("\n".join(f"{name}: {'reached' if is_so else 'MISSED'}" for name, is_so in reached.items()))
    return {**headline, "reached": reached, "details": details}


# --- what they cost
def beside_backups(plan: Plan, stage: Stage, address: Address) -> dict[str, Any]:
    """Readings taken in a second, with and without backups being made, in turns."""
    machines = Machines(stage.learnt, "load", 200)
    requests = machines.one_by_one(stage.key)
    ratios, backups_made = [], []

    def turn() -> float:
        load = asyncio.run(saturate(address, requests, connections=32, seconds=plan.turn_seconds))
        if load.failed:
            raise RuntimeError(f"requests failed: {load.failures}")
        return load.per_second

    turn()  # warms up
    for number in range(plan.rounds):
        figures = {}
        for backed in (number % 2 == 0, number % 2 == 1):  # in changing order
            if not backed:
                figures[backed] = turn()
                continue
            with _making(stage) as made:
                figures[backed] = turn()
            backups_made.append(made.value)
        ratios.append(figures[True] / figures[False])
    return {
        "ratio": spread(ratios),
        "connections": 32,
        "backups_a_turn": spread(backups_made),
        "turn_seconds": plan.turn_seconds,
    }


@contextmanager
def _making(stage: Stage) -> Generator[Any]:
    """Backups, one after another, by a process of low priority, until the end."""
    context = multiprocessing.get_context("spawn")
    ready, stop, made = context.Event(), context.Event(), context.Value("i", 0)
    place = str(stage.root), stage.servers.database_url, stage.servers.redis_url
    process = context.Process(target=_make_until, args=(*place, ready, stop, made))
    process.start()
    try:
        if not ready.wait(60):
            raise RuntimeError("no backup could be made; what it said is above")
        yield made
    finally:
        stop.set()
        process.terminate()  # what it was making counts for nothing
        process.join()


def _make_until(root: str, url: str, redis_url: str, ready: Any, stop: Any, made: Any) -> None:
    os.nice(LOW_PRIORITY)
    engine, settings = connect(url), BackupSettings()
    pace = Pace(settings.backup_share)
    backups = Backups(Path(root), settings, engine, redis_url, pace)
    ready.set()
    while not stop.is_set():
        backups.make(datetime.now(UTC))
        made.value += 1
    engine.dispose()


# --- how long it takes to come back
def recovery_time(stage: Stage, backups: Backups, scale: int, folder: Path) -> dict[str, Any]:
    """From nothing but a store and keys to the first prognosis, which is as it was."""
    _grow(stage, scale)
    unit = f"/v1/fleets/{FLEET}/units/unit-0/prognosis"
    with stage.serving() as (_, address):
        before = _prognosis(address, get(unit, key=stage.key))
    sealed = backups.make(datetime.now(UTC))
    keys = reading_keys_of(stage.root, BackupSettings())
    steps, root = {}, folder / f"back-{scale}"
    began = time.monotonic()

    def done(what: str) -> None:
        steps[what] = time.monotonic() - began - sum(steps.values())

    with EmbeddedServers(folder / f"servers-{scale}") as servers:
        done("servers started")
        StoreReader(backups.store, keys).restore(sealed.manifest.run, servers.database_url, root)
        done("restored")
        engine = connect(servers.database_url)
        migrate(engine)
        engine.dispose()
        done("migrated")
        place = {
            "RUL_ROOT": str(root),
            "RUL_DATABASE_URL": servers.database_url,
            "RUL_REDIS_URL": servers.redis_url,
        }
        with stage.serving(f"again-{scale}", **place) as (_, address):
            done("service started")
            after = _prognosis(address, get(unit, key=stage.key))
            done("first prognosis")
    seconds = time.monotonic() - began
    if (before["rul_cycles"], before["cycle"]) != (after["rul_cycles"], after["cycle"]):
        raise RuntimeError(f"it was {before}, and is {after}")
    shutil.rmtree(root)
    with begin(stage.engine) as connection:
        readings = connection.execute(sa.text("SELECT count(*) FROM readings")).scalar_one()
    return {
        "scale": scale, "readings": readings, "stored_bytes": sealed.stored_bytes,
        "seconds": seconds, "steps": steps,
    }  # fmt: skip


def draw(times: list[dict[str, Any]], path: Path) -> None:
    """Seconds from nothing to the first prognosis over the demo's data, by step, as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "rul"
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    names = [f"{each['scale']}×: {each['readings']:,} readings" for each in times]
    left = [0.0] * len(times)
    for step in times[0]["steps"]:
        seconds = [each["steps"][step] for each in times]
        axes.barh(names, seconds, left=left, label=step)
        left = [before + more for before, more in zip(left, seconds, strict=True)]
    axes.set(xlabel="seconds from nothing to the first prognosis (900 are allowed)")
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _grow(stage: Stage, scale: int) -> None:
    """Readings of so many times the demo's units, as copies of those that were sent."""
    copy = sa.text(
        "INSERT INTO readings (fleet, unit, life, cycle, time, layout, measured) "
        "SELECT fleet, unit || '-' || copy, life, cycle, time, layout, measured "
        "FROM readings, generate_series(1, :copies) AS copy "
        "WHERE fleet = :fleet AND unit LIKE 'unit-%' AND unit NOT LIKE 'unit-%-%' "
        "ON CONFLICT DO NOTHING"
    )
    with begin(stage.engine) as connection:
        connection.execute(copy, {"copies": scale - 1, "fleet": FLEET})


def _prognosis(address: Address, request: bytes) -> dict[str, Any]:
    status, body = asyncio.run(ask(address, request))
    if status != 200:
        raise RuntimeError(f"no prognosis: {status} {body[:500]!r}")
    return json.loads(body)


if __name__ == "__main__":
    main()
