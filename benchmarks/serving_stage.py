"""What the serving benchmark runs on: servers of its own, a fleet, a model, keys, pinned processes.

What belongs here: making all of it from nothing in a temporary folder, and taking it down. What
does not: what is measured (``serving``, ``serving_readings``, ``serving_faults``), the peers
(``serving_peers``).

Everything that is measured runs on one core, everything else on another: PostgreSQL and Redis, as
durable as they come, and the load generator. A process inherits its core from whoever starts it.
"""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import sqlalchemy as sa
from catboost import CatBoostRegressor

from benchmarks.serving_load import Address
from rul_core import evaluation, intervals, lookalikes, watch
from rul_core.labels import RUL, label
from rul_core.leakage_report import GateReport
from rul_core.model import Recipe, RulModel, Training, feature_rows, fit_point, train
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_store import champions, fleets, keys
from rul_store.champions import Action
from rul_store.database import connect, migrate
from rul_store.embedded import EmbeddedServers
from rul_store.keys import Author
from rul_store.models import Origin, save_model
from rul_store.registry import BundleStore

FLEET = "pumps"
ROWS = 1024
"""Feature rows that everybody is asked about, in turn."""
START_SECONDS = 120.0
MANY_PER_SECOND = "10000000"
"""The limits count and never refuse."""


class BenchmarkError(Exception):
    """The benchmark cannot be run here, or would not be one."""


def cores() -> tuple[int, int]:
    """The core of what is measured, and that of everything else.

    Raises:
        BenchmarkError: There are not two.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(usable) < 2:
        raise BenchmarkError(
            f"the servers and the load need a core each, and this process may use {len(usable)}; "
            "run on Linux with two cores or more"
        )
    return usable[0], usable[1]


@contextmanager
def on_core(core: int) -> Generator[None]:
    """This process, and those it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """A process of its own, pinned, with its children.

    Args:
        name: For messages and tables.
        command: Starts it; it must stay in the foreground.
        core: Where it may run.
        log: Takes what it writes.
        environment: Added to this process' own.
        folder: Where it is started.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        core: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name, self._log = name, log
        threads = {"OMP_NUM_THREADS": "1"}
        with on_core(core), log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - programs that the benchmark names
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads, **(environment or {})},
                cwd=folder,
                start_new_session=True,
            )
        self._seen = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    def wait_for(self, pattern: str) -> re.Match[str]:
        """What the log says once it says this.

        Raises:
            BenchmarkError: It ended before, or takes too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            said = self._log.read_text(errors="replace")
            found = re.search(pattern, said)
            if found:
                return found
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{self.name} did not start; it said:\n{said[-2000:]}")
            time.sleep(0.05)

    def seconds(self) -> float:
        """Processor time that it and its children have taken."""
        total = 0.0
        for process in (self._seen, *self._seen.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
        return total

    def children(self) -> set[int]:
        """Process ids of those that it started and that run."""
        return {child.pid for child in self._seen.children()}

    def memory_bytes(self) -> int:
        """Resident, of it and its children."""
        processes = (self._seen, *self._seen.children(recursive=True))
        return sum(process.memory_info().rss for process in processes)

    def stop(self) -> None:
        """Ask it to end, and see that all of it does."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(20)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


@dataclass(frozen=True)
class Learnt:
    """A model, another that answers otherwise, and what they were made of."""

    champion: Training
    challenger: Training
    readings: pl.DataFrame
    lives: pl.DataFrame

    @property
    def model(self) -> RulModel:
        """The champion's."""
        return self.champion.model


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, with the lowest and the highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def learn(simulation: Simulation, recipe: Recipe) -> Learnt:
    """Models of a simulated fleet; the second has the trees of another seed."""
    made = simulate(simulation)
    fleet = simulated_fleet(simulation, FLEET)
    training = train(made.readings, made.lives, fleet, recipe)
    labelled, model = label(made.readings, made.lives), training.model
    rows = feature_rows(model.pipeline, labelled, np.arange(labelled.height))
    cap = fleet.learning.label_cap_cycles
    other = fit_point(rows, labelled[RUL].to_numpy(), cap, recipe, seed=1)
    challenger = replace(training, model=replace(model, booster=other))
    return Learnt(training, challenger, made.readings, made.lives)


def feature_sample(learnt: Learnt) -> np.ndarray:
    """(``ROWS``, features) float32, whole numbers of a thousandth: all who read them agree."""
    rows = learnt.model.compiled.matrix(learnt.readings)
    drawn = np.random.default_rng(0).choice(len(rows), ROWS)
    return np.nan_to_num(np.round(rows[drawn].astype(np.float64), 3)).astype(np.float32)


def figure_of(model: RulModel, rows: np.ndarray) -> np.ndarray:
    """(n,) ``rul_cycles`` of feature rows, of what CatBoost itself predicts."""
    cap = model.fleet.learning.label_cap_cycles
    point = np.clip(plain(model.booster, rows), 0.0, cap)
    return intervals.into_band(point, model.bands.table().at(point))


def plain(booster: CatBoostRegressor, rows: np.ndarray) -> np.ndarray:
    """(n,) float64: what CatBoost predicts."""
    return np.asarray(booster.predict(rows), dtype=np.float64)


class Stage:
    """Servers, a described fleet, two versions of its model, and keys.

    Args:
        folder: Of its own, empty; short enough for the names of sockets.
        learnt: What is served.
        server_core: Where the service runs.
        servers: PostgreSQL and Redis.
    """

    def __init__(
        self, folder: Path, learnt: Learnt, server_core: int, servers: EmbeddedServers
    ) -> None:
        self.folder, self.learnt = folder, learnt
        self.servers, self._core = servers, server_core
        self.acknowledged = 0
        """Readings that the service said it kept."""
        self.root = folder / "root"
        self.root.mkdir()
        self.engine: sa.Engine = connect(servers.database_url)
        migrate(self.engine)
        fleets.save(self.root, learnt.model.fleet)
        self.versions = tuple(
            self._save(training, place)
            for place, training in enumerate((learnt.champion, learnt.challenger))
        )
        self.promote(self.versions[0])
        self.key = keys.create(
            self.engine,
            name="benchmark",
            roles=["viewer", "ingest"],
            by=Author(principal="benchmark"),
        ).secret

    @classmethod
    @contextmanager
    def open(cls, folder: Path, learnt: Learnt, server_core: int) -> Generator["Stage"]:
        """A stage whose servers run until the end of the context, on this process' core."""
        with ExitStack() as stack:
            servers = stack.enter_context(EmbeddedServers(folder / "servers"))
            stage = cls(folder, learnt, server_core, servers)
            stack.callback(stage.engine.dispose)
            yield stage

    def promote(self, version: str) -> None:
        """Make a version live."""
        before = champions.current(self.engine, FLEET)
        champions.move(
            self.engine,
            self.root,
            FLEET,
            version,
            expected_generation=before.generation if before else 0,
            action=Action.RELEASE,
            by="benchmark",
            reason="it is the other's turn",
        )

    @contextmanager
    def serving(self, name: str = "rul", **environment: str) -> Generator[tuple[Server, Address]]:
        """The service as its users start it, with keys and limits that count and never refuse."""
        server = Server(
            name,
            [sys.executable, "-m", "rul_serving"],
            core=self._core,
            log=self.folder / f"{name}.log",
            environment={
                "RUL_ROOT": str(self.root),
                "RUL_DATABASE_URL": self.servers.database_url,
                "RUL_REDIS_URL": self.servers.redis_url,
                "RUL_PORT": "0",
                "RUL_ACCESS": "keys",
                "RUL_REQUESTS_PER_SECOND": MANY_PER_SECOND,
                "RUL_REQUESTS_BURST": MANY_PER_SECOND,
                "RUL_SENDINGS_PER_SECOND": MANY_PER_SECOND,
                "RUL_SENDINGS_BURST": MANY_PER_SECOND,
                **environment,
            },
        )
        try:
            found = server.wait_for(r"running on http://([\d.]+):(\d+)")
            yield server, Address(found[1], int(found[2]))
        finally:
            server.stop()

    def _save(self, training: Training, place: int) -> str:
        model, readings = training.model, self.learnt.readings
        cap = model.fleet.learning.label_cap_cycles
        return save_model(
            BundleStore(self.root),
            training,
            origin=Origin(
                recipe=Recipe(), seed=place, readings=readings.height, failed_lives=0, data={},
                champion_generation=0, code_version="benchmark",
            ),
            examples=readings,
            reference=watch.learn_reference(readings, model.pipeline.conditions),
            trajectories=lookalikes.learn(
                readings, self.learnt.lives, model.fleet, model.pipeline
            ),
            metrics=evaluation.score(training.out_of_fold, cap, repeats=20),
            gate=GateReport(findings=()),
            card="# Pumps of a benchmark",
            now=datetime.now(UTC) + timedelta(seconds=place),
        )  # fmt: skip
