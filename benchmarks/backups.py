"""What backups promise, measured: damage found, data lost, time to come back, and their cost.

    python -m benchmarks.backups [--quick] [--json FILE or -] [--picture FILE.svg]

What belongs here: what is measured, in which order, on PostgreSQL, Redis and files of its own, and
the cost. What does not: damage (``backups_faults``), losses (``backups_losses``), the time to come
back (``backups_recovery``), stores and what goes there (``backups_stage``), the fleet, its model
and the service (``serving_stage``), the stack's own loss (``tests/stack``).

PostgreSQL's log is sealed every minute and brought beyond the machine every ten seconds, as it is
in the stack. Backups are made every few seconds instead of every half hour, so that many cycles fit
into a minute: a loss costs a cycle and what a backup takes until it is beyond the machine. So the
figure for the half hour is derived: 1800 s, and the seconds of one backup at the schedule's pace,
with its way beyond, of the most data that are measured.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import backups_losses as losses
from benchmarks.backups_faults import Faults, injected
from benchmarks.backups_losses import Losses
from benchmarks.backups_recovery import draw, grow, recovery_time
from benchmarks.backups_stage import LOW_PRIORITY, Keeping, Sources, beyond, now
from benchmarks.backups_writer import WRITE_SECONDS
from benchmarks.serving_load import Address, saturate
from benchmarks.serving_readings import Machines, seed
from benchmarks.serving_stage import Learnt, Stage, cores, learn, on_core, spread
from rul_backup.keeping import Backups
from rul_backup.reading import BackupSettings
from rul_backup.streams import Pace
from rul_core.model import Recipe
from rul_core.simulator import Simulation
from rul_store.database import connect

SCHEDULE_SECONDS = 1800.0
"""A backup is made every half hour."""
LONGEST_TURN_SECONDS = 1200.0
ARCHIVE_SECONDS = 60.0
"""The log is sealed every minute."""
UNITS, CYCLES = 84, 200
"""Of the demo, whose readings are one time its data."""
REQUIRED = {
    "faults_missed": ("<=", 0.0),
    "rpo_max_seconds": ("<=", 300.0),
    "rpo_of_dumps_max_seconds": ("<=", 3600.0),
    "rto_max_seconds": ("<=", 900.0),
    "last_volume_max_seconds": ("<=", 3600.0),
    "throughput_ratio": (">=", 0.9),
}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    simulation: Simulation
    recipe: Recipe
    faults: Faults
    of_the_log: Losses
    of_dumps: Losses
    scales: tuple[int, ...]
    load_scale: int
    """Of the database that is kept under load: a backup of it fits into a turn."""
    rounds: int
    turn_seconds: float


# The drills are no multiple of the cycles, so that every moment is at another place of its cycle.
FULL = Plan(
    Simulation(), Recipe(), Faults(each=3, by_command=4),
    of_the_log=Losses(21, ARCHIVE_SECONDS, 2), of_dumps=Losses(20, 30.0, 3),
    scales=(1, 10, 100), load_scale=10, rounds=3, turn_seconds=30.0,
)  # fmt: skip
QUICK = Plan(
    Simulation(units=15, running_units=5), Recipe(folds=3), Faults(each=1, by_command=10),
    of_the_log=Losses(5, 5.0, 2), of_dumps=Losses(5, 5.0, 2),
    scales=(1,), load_scale=1, rounds=1, turn_seconds=8.0,
)  # fmt: skip


def main() -> None:
    """Runs the benchmark and reports."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backups")
    parser.add_argument("--quick", action="store_true", help="less of everything: five minutes")
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
        beyond(Path(name, "s3")) as options,
    ):
        Path(name).chmod(0o711)  # the drill's PostgreSQL is another user's
        with _staged(Path(name, "load"), learnt, server_core) as (stage, sources):
            details["load"] = load = beside_backups(
                plan, stage, sources, options, {server_core, other_core}
            )
        say(_of_load(load))
        with _staged(Path(name, "demo"), learnt, server_core) as (stage, sources):

            def keeping(store: str) -> Keeping:
                return Keeping(stage, sources, options, store)

            # First: that database is asked which runs there are of its one local store.
            details["faults"] = injected(plan.faults, stage, keeping("faults"), {server_core})
            say(_of_faults(details["faults"]))
            details["log_recovery_point"] = losses.of_the_log(
                plan.of_the_log, stage, keeping("log"), {server_core}
            )
            say(_of_losses("with the log", details["log_recovery_point"]))
            share = BackupSettings().backup_share
            details["recovery_point"] = losses.of_dumps(
                plan.of_dumps, stage, keeping("dumps"), share
            )
            say(_of_losses("from dumps alone", details["recovery_point"]))
            details["recovery_time"] = []
            for scale in plan.scales:
                sources.grow(scale)
                found = recovery_time(stage, keeping(f"scale-{scale}"), scale, share, {server_core})
                details["recovery_time"].append(found)
                say(_of_recovery(found))
    figures = headline(details)
    reached = {
        name: figures[name] >= limit if relation == ">=" else figures[name] <= limit
        for name, (relation, limit) in REQUIRED.items()
    }
    say("\n".join(f"{name}: {'reached' if is_so else 'MISSED'}" for name, is_so in reached.items()))
    return {**figures, "reached": reached, "details": details}


def headline(details: dict[str, Any]) -> dict[str, Any]:
    """The figures by which promises are judged."""
    faults, log, dumps = (
        details[name] for name in ("faults", "log_recovery_point", "recovery_point")
    )
    times = details["recovery_time"]
    return {
        "faults_injected": faults["injected"],
        "faults_found": faults["found"],
        "faults_missed": faults["injected"] - faults["found"],
        "rpo_median_seconds": log["lost_seconds"]["median"],
        "rpo_max_seconds": log["lost_seconds"]["highest"],
        # Derived; see the module's docstring.
        "rpo_of_dumps_max_seconds": SCHEDULE_SECONDS
        + max(each["backup_seconds"] + each["bringing_seconds"] for each in times)
        + WRITE_SECONDS,
        "rpo_of_dumps_measured_median_seconds": dumps["lost_seconds"]["median"],
        "rpo_of_dumps_measured_max_seconds": dumps["lost_seconds"]["highest"],
        "rpo_of_dumps_measured_cycle_seconds": dumps["cycle_seconds"],
        "rto_max_seconds": max(each["seconds"] for each in times),
        "last_volume_max_seconds": max(each["last_volume_seconds"] for each in times),
        "drills": log["drills"] + dumps["drills"],
        "throughput_ratio": details["load"]["ratio"]["median"],
    }


@contextmanager
def _staged(folder: Path, learnt: Learnt, core: int) -> Generator[tuple[Stage, Sources]]:
    """A platform with the demo's readings, keys of its backups, and what its stack has."""
    folder.mkdir()
    with Stage.open(folder, learnt, core) as stage:
        Backups(stage.root, BackupSettings(), stage.engine, None).make_keys("benchmark")
        with stage.serving() as (_, address):
            asyncio.run(seed(stage, address, Machines(learnt, "unit", UNITS), CYCLES))
        sources = Sources(stage)
        try:
            yield stage, sources
        finally:
            sources.close()


# --- what is told
def _of_load(load: dict[str, Any]) -> str:
    ratio, made = load["ratio"], load["backups_a_turn"]
    return (
        f"throughput beside backups: {ratio['median']:.2f} ({ratio['lowest']:.2f}-"
        f"{ratio['highest']:.2f}) of what it is without; turns of {load['turn_seconds']:.0f} s or "
        f"more, {made['lowest']:.0f} to {made['highest']:.0f} backups made and ended in each, the "
        f"first with a base; {load['readings']:,} readings before them"
    )


def _of_faults(faults: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"faults: {faults['found']} of {faults['injected']} found, all that they spoilt named; "
            f"{sum(faults['by_command'].values())} of them by the command too",
            *(
                f"  by {what}: " + ", ".join(f"{name} {n}" for name, n in faults[key].items())
                for what, key in (
                    ("class", "by_class"), ("kind", "by_kind"), ("the command", "by_command")
                )
            ),
            *(f"  MISSED: {told}" for told in faults["missed"]),
        ]
    )  # fmt: skip


def _of_losses(what: str, point: dict[str, Any]) -> str:
    lost = point["lost_seconds"]
    took = {"backup_seconds": "a backup and its way", "recovery_seconds": "a recovery"}
    (name,) = took.keys() & point.keys()
    return (
        f"{what}: {lost['median']:.1f} s lost, {lost['highest']:.1f} at most, of cycles of "
        f"{point['cycle_seconds']:.0f} s ({point[name]['median']:.1f} s {took[name]}, a row every "
        f"{point['writing_seconds']:g} s, {point['drills']} kills over {point['cycles']} cycles)"
    )


def _of_recovery(time: dict[str, Any]) -> str:
    return (
        f"recovery time: {time['seconds']:.1f} s to the first prognosis at {time['scale']} times "
        f"the demo's data ({time['readings']:,} readings, {time['stored_bytes'] / 1e6:,.1f} MB; "
        f"the last volume was back after {time['last_volume_seconds']:.1f} s; to keep it took "
        f"{time['backup_seconds']:.1f} s, to bring it {time['bringing_seconds']:.1f}): "
        + ", ".join(f"{what} {seconds:.1f}" for what, seconds in time["steps"].items())
    )


# --- what they cost
def beside_backups(
    plan: Plan, stage: Stage, sources: Sources, options: str, both: set[int]
) -> dict[str, Any]:
    """Readings taken in a second with backups and without, in turns.

    With them all is at work that the stack has: the log is received, sealed and brought, and
    backups are made at the schedule's pace, one after the other instead of every half hour. The
    first of a turn keeps a base and all else anew, and the turn lasts until it has ended at least;
    one without lasts as long as the one with them before it. These processes may run on both cores.

    Raises:
        RuntimeError: A request failed, or no backup ends.
    """
    sources.grow(plan.load_scale)
    readings = grow(stage, plan.load_scale)
    ratios, backups_made, bases, lasted = [], [], [], plan.turn_seconds
    with stage.serving() as (_, address):
        requests = Machines(stage.learnt, "load", 200).one_by_one(stage.key)

        _answered(address, requests, lasted)  # warms up: the first requests of a unit cost less
        for number in range(plan.rounds):
            figures = {}
            for backed in (number % 2 == 0, number % 2 == 1):  # in changing order
                if not backed:
                    figures[backed], _ = _answered(address, requests, lasted)
                    continue
                keeping = Keeping(stage, sources, options, f"load-{number}")
                with (
                    keeping.archived(both, ARCHIVE_SECONDS),
                    _making(stage, keeping, both) as made,
                ):
                    figures[backed], lasted = _answered(
                        address, requests, plan.turn_seconds, lambda made=made: made.value > 0
                    )
                    backups_made.append(made.value)
                    kept = keeping.backups.store.sizes()
                    bases.append(sum("/base.tar" in name for name in kept))
            ratios.append(figures[True] / figures[False])
    return {
        "ratio": spread(ratios),
        "connections": 32,
        "backups_a_turn": spread(backups_made),
        "bases_a_turn": spread(bases),
        "turn_seconds": plan.turn_seconds,
        "readings": readings,
    }


def _answered(
    address: Address,
    requests: Iterator[bytes],
    seconds: float,
    until: Callable[[], bool] = lambda: True,
) -> tuple[float, float]:
    """Requests answered a second, for some seconds, and again for as many until something is so.

    Returns:
        The rate, and how many seconds it were.
    """
    answered = lasted = 0.0
    while not lasted or not until():
        load = asyncio.run(saturate(address, requests, connections=32, seconds=seconds))
        if load.failed:
            raise RuntimeError(f"requests failed: {load.failures}")
        answered, lasted = answered + load.answered, lasted + load.seconds
        if lasted > LONGEST_TURN_SECONDS:
            raise RuntimeError(f"no backup was ended in {lasted:.0f} s")
    return answered / lasted, lasted


@contextmanager
def _making(stage: Stage, keeping: Keeping, both: set[int]) -> Generator[Any]:
    """Backups, one after another, by a process of low priority, until the end."""
    context = multiprocessing.get_context("spawn")
    ready, stop, made = context.Event(), context.Event(), context.Value("i", 0)
    place = stage.root, keeping.settings, stage.servers.database_url, stage.servers.redis_url
    process = context.Process(target=_make_until, args=(*place, both, ready, stop, made))
    process.start()
    try:
        if not ready.wait(60):
            raise RuntimeError("no backup could be made; what it said is above")
        yield made
    finally:
        stop.set()
        process.terminate()  # what it was making counts for nothing
        process.join()


def _make_until(
    root: Path,
    settings: BackupSettings,
    url: str,
    redis_url: str,
    both: set[int],
    ready: Any,
    stop: Any,
    made: Any,
) -> None:
    os.nice(LOW_PRIORITY)
    os.sched_setaffinity(0, both)
    engine = connect(url)
    backups = Backups(root, settings, engine, redis_url, Pace(settings.backup_share))
    ready.set()
    while not stop.is_set():
        backups.make(now())
        backups.bring()
        made.value += 1
    engine.dispose()


if __name__ == "__main__":
    main()
