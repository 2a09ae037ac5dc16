"""What backups promise, measured: damage found, data lost, time to come back, and their cost.

    python -m benchmarks.backups [--quick] [--json FILE or -] [--picture FILE.svg]

What belongs here: these measurements on PostgreSQL, Redis and files of its own. What does not: the
fleet, its model and the service (``serving_stage``), the stack's own complete loss
(``tests/stack``).

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
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from benchmarks.serving_load import Address, ask, get, saturate
from benchmarks.serving_readings import Machines, seed
from benchmarks.serving_stage import FLEET, Stage, cores, learn, on_core, spread
from rul_backup import drill, recovery, runs, scratch, wal
from rul_backup.keeping import Backups, archiver_of
from rul_backup.reading import BackupSettings, StoreReader, local_store_of, reading_keys_of
from rul_backup.runs import Sealed
from rul_backup.stores import FolderStore
from rul_backup.streams import Pace
from rul_backup.verification import Level, verify
from rul_core.model import Recipe
from rul_core.simulator import Simulation
from rul_store import champions
from rul_store.database import begin, connect, migrate
from rul_store.embedded import EmbeddedServers

SCHEDULE_SECONDS = 1800.0
"""A backup is made every half hour."""
WRITE_SECONDS = 0.1
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
        details["faults"] = faults = injected(plan, stage, backups, Path(name, "spoilt"))
        say(f"faults: {faults['found']} of {faults['injected']} found and named")
        details["recovery_point"] = point = recovery_points(plan, stage, backups)
        say(
            f"recovery point: {point['lost_seconds']['median']:.1f} s lost, "
            f"{point['lost_seconds']['highest']:.1f} at most, of a cycle of "
            f"{point['cycle_seconds']:.0f} s ({point['backup_seconds']:.1f} s a backup, a row "
            f"every {WRITE_SECONDS:g} s, {point['drills']} drills)"
        )
        details["log_recovery_point"] = log = log_points(plan, stage, Path(name, "spool"))
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


# --- what damage is found
def injected(plan: Plan, stage: Stage, backups: Backups, folder: Path) -> dict[str, Any]:
    """Every kind of fault, in every kind of object, one at a time; each must be named.

    Raises:
        RuntimeError: A fault changed nothing, so that it could not be found.
    """
    chance = random.Random(20)  # noqa: S311 - which bit is no secret
    for version in (0, 0, 0, 1, 0):  # where the models change, they are kept anew
        if champions.current_all(stage.engine)[FLEET].version != stage.versions[version]:
            stage.promote(stage.versions[version])
        backups.make(datetime.now(UTC))
    now, whole = datetime.now(UTC), backups.store
    keys = reading_keys_of(stage.root, BackupSettings())
    first, second, *_ = runs.there(whole, keys.verify_keys())
    backups.let_go([first.manifest.number, second.manifest.number], now)
    every = runs.every(whole, keys.verify_keys())
    known, names = [one.known for one in every], sorted(whole.sizes())
    # Without the word that a run was let go, what it promised is missing.
    promised = {
        f"{runs.GONE}/{one.manifest.number:08d}": one.objects.keys() - {*names} for one in every
    }
    missed, kinds = [], sorted({_class_of(name) for name in names})
    for number in range(plan.faults):
        fault, kind = FAULTS[number % len(FAULTS)], kinds[number // len(FAULTS) % len(kinds)]
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole.root, folder)
        chosen = chance.sample([name for name in names if _class_of(name) == kind], 2)
        touched = fault(folder, *chosen, chance)
        if fault is _delete and chosen[0] in promised:
            touched = set(promised[chosen[0]])
        if not touched:
            raise RuntimeError(f"{fault.__name__[1:]} of {chosen[0]} changed nothing")
        found = verify(
            FolderStore(folder), keys.verify_keys(), Level.CONTENT,
            now=now + timedelta(hours=1), known=known, identities=keys.identities(),
        )  # fmt: skip
        if touched - {one.object for one in found.findings}:
            missed.append(f"{fault.__name__[1:]} {sorted(touched)}")
    return {
        "injected": plan.faults, "found": plan.faults - len(missed), "missed": missed,
        "kinds": kinds,
    }  # fmt: skip


def _class_of(name: str) -> str:
    folder, _, rest = name.partition("/")
    return rest.rpartition("/")[2] if folder == runs.RUNS else folder


# Each takes the store's folder and two objects of a kind, and gives the objects that it spoilt.
def _flip(folder: Path, name: str, _: str, chance: random.Random) -> set[str]:
    content = bytearray((folder / name).read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    (folder / name).write_bytes(content)
    return {name}


def _truncate(folder: Path, name: str, _: str, chance: random.Random) -> set[str]:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: chance.randrange(len(content))])
    return {name}


def _lengthen(folder: Path, name: str, _: str, chance: random.Random) -> set[str]:
    with (folder / name).open("ab") as file:
        file.write(chance.randbytes(chance.randint(1, 9)))
    return {name}


def _delete(folder: Path, name: str, _: str, __: random.Random) -> set[str]:
    (folder / name).unlink()
    return {name}


def _swap(folder: Path, name: str, other: str, _: random.Random) -> set[str]:
    one, two = (folder / name).read_bytes(), (folder / other).read_bytes()
    (folder / name).write_bytes(two)
    (folder / other).write_bytes(one)
    return {name, other} if one != two else set()


def _replay(folder: Path, name: str, other: str, _: random.Random) -> set[str]:
    """An older one in the place of a newer one."""
    older, newer = sorted((name, other))
    content = (folder / older).read_bytes()
    is_same = content == (folder / newer).read_bytes()
    (folder / newer).write_bytes(content)
    return set() if is_same else {newer}


def _duplicate(folder: Path, name: str, _: str, __: random.Random) -> set[str]:
    copy = f"{name}-copy"
    shutil.copyfile(folder / name, folder / copy)
    return {copy}


FAULTS = (_flip, _truncate, _lengthen, _delete, _swap, _replay, _duplicate)


# --- how much is lost
def recovery_points(plan: Plan, stage: Stage, backups: Backups) -> dict[str, Any]:
    """A writer is killed at moments spread evenly over some cycles; each time all else is lost.

    What a loss at a moment leaves is the run that was sealed last until then. It is restored into
    a server of its own, and the newest row there is sought: what was written after it is lost.
    """
    sealed: list[tuple[float, Sealed]] = []
    seconds, stop = [], threading.Event()
    begun = time.monotonic()

    def keep() -> None:
        following = begun
        while not stop.wait(max(0.0, following - time.monotonic())):
            started = time.monotonic()
            run = backups.make(datetime.now(UTC))
            sealed.append((time.monotonic(), run))
            seconds.append(time.monotonic() - started)
            following += plan.cycle_seconds

    thread = threading.Thread(target=keep)
    # From the second backup on, which is the first with the writer's rows.
    first = begun + plan.cycle_seconds + max(2.0, plan.cycle_seconds / 4)
    moments = _spread_over(first, plan.cycles * plan.cycle_seconds, plan.drills)
    with _writing(stage) as written:
        thread.start()
        time.sleep(max(0.0, moments[-1] - time.monotonic()) + 0.1)
        stop.set()
        thread.join()
    lost = []
    identities = reading_keys_of(stage.root, BackupSettings()).identities()
    for moment in moments:
        run = [run for at, run in sealed if at <= moment][-1]
        (artefact,) = [one for one in run.manifest.artefacts if one.name == "platform.dump"]
        with scratch.server(artefact.facts["server"]) as url:
            drill.restore_database(backups.store, run, artefact, url, identities)
            lost.append(moment - _newest(url, written))
    return {
        "drills": len(lost),
        "cycle_seconds": plan.cycle_seconds,
        "cycles": plan.cycles,
        "writing_seconds": WRITE_SECONDS,
        "backup_seconds": statistics.median(seconds),
        "lost_seconds": spread(lost),
    }


def log_points(plan: Plan, stage: Stage, folder: Path) -> dict[str, Any]:
    """The same with PostgreSQL's log, which is received and sealed as it is written.

    What a loss at a moment leaves is what the store has then: a base, and the segments that are
    sealed. A server recovers from them.
    """
    url = stage.servers.database_url
    settings = BackupSettings(backup_replication_url=SecretStr(url))
    store = local_store_of(stage.root, settings)
    keys = reading_keys_of(stage.root, settings)
    archiver = archiver_of(
        stage.root, settings, url, folder,
        tell=_raise_errors, archive_timeout_seconds=plan.archive_seconds,
    )  # fmt: skip
    stop = threading.Event()
    thread = threading.Thread(target=archiver.run, args=(stop,))
    left: list[tuple[float, set[str]]] = []
    with _writing(stage) as written:
        thread.start()
        Backups(stage.root, settings, stage.engine, stage.servers.redis_url).make(datetime.now(UTC))
        while not wal.names(store):
            time.sleep(0.1)
        first = time.monotonic() + plan.archive_seconds
        for moment in _spread_over(first, plan.cycles * plan.archive_seconds, plan.drills):
            time.sleep(max(0.0, moment - time.monotonic()))
            left.append((time.monotonic(), {*store.sizes()}))
        stop.set()
        thread.join()
    with begin(stage.engine) as connection:  # else it holds the log back for nobody
        drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        connection.execute(sa.text(drop))
    lost, seconds = [], []
    for moment, names in left:
        shelf, started = _AsItWas(store, names), time.monotonic()
        with recovery.served(shelf, keys.verify_keys(), keys.identities(), None) as served:
            seconds.append(time.monotonic() - started)
            lost.append(moment - _newest(served.url(str(make_url(url).database)), written))
    return {
        "drills": len(lost),
        "cycle_seconds": plan.archive_seconds,
        "cycles": plan.cycles,
        "writing_seconds": WRITE_SECONDS,
        "recovery_seconds": spread(seconds),
        "lost_seconds": spread(lost),
    }


def _raise_errors(**told: Any) -> None:
    if "error" in told:
        raise RuntimeError(f"the archiver: {told}")


class _AsItWas:
    """A store as it was at a moment, by the names of its objects, which never change.

    Args:
        store: As it is.
        names: Of the objects that it had.
    """

    def __init__(self, store: FolderStore, names: set[str]) -> None:
        self._store, self._names = store, names

    def reading(self, name: str) -> AbstractContextManager[BinaryIO]:
        return self._store.reading(name)

    def sizes(self, below: str = "") -> dict[str, int]:
        found = self._store.sizes(below)
        return {name: size for name, size in found.items() if name in self._names}


def _spread_over(first: float, span_seconds: float, count: int) -> list[float]:
    return [first + span_seconds * number / count for number in range(count)]


@contextmanager
def _writing(stage: Stage) -> Generator[list[float]]:
    """A row every ``WRITE_SECONDS``, until the end; when each was committed, by its number."""
    written: list[float] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(WRITE_SECONDS):
            with begin(stage.engine) as connection:
                connection.execute(
                    sa.text("INSERT INTO units (fleet, unit) VALUES ('written', :unit)"),
                    {"unit": f"{len(written):09d}"},
                )
            written.append(time.monotonic())

    with begin(stage.engine) as connection:
        connection.execute(sa.text("DELETE FROM units WHERE fleet = 'written'"))
    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        stop.set()
        thread.join()


def _newest(url: str, written: list[float]) -> float:
    """When the newest row that a database has was written."""
    engine = connect(url)
    with begin(engine) as connection:
        query = "SELECT max(unit)::int FROM units WHERE fleet = 'written'"
        newest = connection.execute(sa.text(query)).scalar_one()
    engine.dispose()
    if newest is None:
        raise RuntimeError("what was restored has no row of the writer's")
    return written[newest]


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
