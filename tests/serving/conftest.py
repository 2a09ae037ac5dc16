"""A small real model, a data root with a described fleet, and a client of the application."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from litestar.testing import TestClient
from pydantic import SecretStr

from rul_core import evaluation, lookalikes, watch
from rul_core.leakage_report import GateReport, passed
from rul_core.model import Recipe, Training, train
from rul_core.schema import UNIT
from rul_core.scoring import Regimes
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_core.watch import LiveReference
from rul_serving.app import create_app
from rul_serving.settings import AccessMode, ServingSettings
from rul_store import champions, fleets, keys
from rul_store.champions import Action, Champion
from rul_store.keys import Author
from rul_store.models import Origin, save_model
from rul_store.registry import BundleStore

SIMULATION = Simulation(units=15, running_units=3, sensors=4, settings=1, mean_life_cycles=60)
RECIPE = Recipe(iterations=30, folds=3, threads=1)
SOUND = GateReport(findings=(passed("renamed_units", "the features are the same"),))


@dataclass(frozen=True)
class Learnt:
    """What one training of the fleet ``pumps`` gave."""

    training: Training
    readings: pl.DataFrame
    reference: LiveReference
    metrics: Regimes
    trajectories: pl.DataFrame


@pytest.fixture(scope="session")
def learnt() -> Learnt:
    simulated = simulate(SIMULATION)
    training = train(
        simulated.readings, simulated.lives, simulated_fleet(SIMULATION, "pumps"), RECIPE
    )
    cap = training.model.fleet.learning.label_cap_cycles
    return Learnt(
        training,
        simulated.readings,
        watch.learn_reference(simulated.readings, training.model.pipeline.conditions),
        evaluation.score(training.out_of_fold, cap, repeats=20),
        lookalikes.learn(
            simulated.readings, simulated.lives, training.model.fleet, training.model.pipeline
        ),
    )


@dataclass
class Platform:
    """A data root and a database, and what happens around the web service."""

    settings: ServingSettings
    engine: sa.Engine
    learnt: Learnt
    _moments: Iterator[int] = field(default_factory=count)

    @property
    def root(self) -> Path:
        return self.settings.root

    def train(self, gate: GateReport = SOUND, pictures: dict[str, bytes] | None = None) -> str:
        """Write a bundle; give its version."""
        moment = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=next(self._moments))
        return save_model(
            BundleStore(self.root),
            self.learnt.training,
            origin=Origin(
                recipe=RECIPE, seed=0, readings=900, failed_lives=15, data={"raw_rows": "0"},
                champion_generation=0, code_version="test",
            ),
            examples=self.learnt.readings,
            reference=self.learnt.reference,
            metrics=self.learnt.metrics,
            trajectories=self.learnt.trajectories,
            gate=gate,
            card="# Pumps",
            pictures=pictures,
            now=moment,
        )  # fmt: skip

    def promote(self, version: str, **kwargs: Any) -> Champion:
        """Make a version live."""
        before = champions.current(self.engine, "pumps")
        return champions.move(
            self.engine,
            self.root,
            "pumps",
            version,
            expected_generation=before.generation if before else 0,
            action=Action.RELEASE,
            by="a test",
            reason="better",
            **kwargs,
        )

    def release(self) -> Champion:
        """A new version, live."""
        return self.promote(self.train())

    def key(self, *roles: str, fleets: list[str] | None = None, name: str = "") -> str:
        """A key of these roles."""
        name = name or f"{' '.join(roles)} {next(self._moments)}"
        by = Author(principal="a test")
        return keys.create(self.engine, name=name, roles=roles, fleets=fleets, by=by).secret

    def bundle(self, version: str) -> Path:
        return self.root / "models" / "pumps" / version

    def with_settings(self, **changed: Any) -> ServingSettings:
        return ServingSettings(**{**self.settings.model_dump(), **changed})

    @contextmanager
    def client(self, **changed: Any) -> Generator[TestClient]:
        """A client of the application, which runs with settings changed as given."""
        with TestClient(
            create_app(self.with_settings(**changed)), raise_server_exceptions=False
        ) as client:
            yield client

    def question(self, *units: str, last: int | None = None, **more: Any) -> dict[str, Any]:
        """A what-if question about simulated units, each with its first ``last`` readings."""
        channels = self.learnt.training.model.fleet.channels
        return {
            "fleet": "pumps",
            "units": [
                {
                    "unit": unit,
                    "readings": [
                        {"cycle": row["cycle"], "values": {name: row[name] for name in channels}}
                        for row in self.learnt.readings.filter(pl.col(UNIT) == unit)[
                            :last
                        ].iter_rows(named=True)
                    ],
                }
                for unit in units
            ],
            **more,
        }


@pytest.fixture
def platform(tmp_path: Path, engine: sa.Engine, serving_url: str, learnt: Learnt) -> Platform:
    fleets.save(tmp_path, learnt.training.model.fleet)
    settings = ServingSettings(
        root=tmp_path,
        database_url=SecretStr(serving_url),
        redis_url=None,
        access=AccessMode.OPEN,
        model_poll_seconds=0.05,
        database_timeout_seconds=5,
    )
    return Platform(settings, engine, learnt)


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """Wait until something is so, for ten seconds at most, or as long as is said."""
    import time

    def wait(is_so: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return wait
