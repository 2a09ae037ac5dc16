"""A small fleet in a house of its own: real PostgreSQL, real files, a Dagster that forgets.

The definitions are the very ones that ``dg dev`` loads, with resources made from the environment,
for a user who may do in PostgreSQL what the assets may, and nothing else.
``house`` has a described fleet and nothing else; ``lived_in`` one whose every asset was made once,
copied from a house that was built once for all tests.
"""

import shutil
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa

from rul_assets import intake
from rul_assets.definitions import defs
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_store import fleets
from rul_store.database import connect, create_database
from rul_store.embedded import EmbeddedServers
from rul_store.lake import Lake
from rul_store.registry import BundleStore
from rul_store.rights import Group
from tests.conftest import as_member_of

FLEET = "pumps"
SIMULATION = Simulation(
    units=16, running_units=4, sensors=4, settings=1, mean_life_cycles=40, seed=5
)
SETTINGS = {"RUL_LEARNING_ITERATIONS": "20", "RUL_RETRAIN_COOL_DOWN_SECONDS": "0"}


@dataclass
class House:
    """What a test has in its hands."""

    root: Path
    engine: sa.Engine
    instance: dg.DagsterInstance
    definitions: dg.Definitions
    tick_cursor: Any = None
    sensor_cursors: dict[str, str | None] = field(default_factory=dict)
    run_keys: set[str | None] = field(default_factory=set)

    @property
    def lake(self) -> Lake:
        return Lake(self.root)

    @property
    def bundles(self) -> BundleStore:
        return BundleStore(self.root)

    def describe(self, simulation: Simulation = SIMULATION, name: str = FLEET) -> None:
        """Write a fleet's description and make its partition."""
        fleets.save(self.root, simulated_fleet(simulation, name), replace=True)
        self.instance.add_dynamic_partitions("fleet", [name])

    def drop(self, content: pl.DataFrame | bytes, file: str, name: str = FLEET) -> Path:
        """Put a file into the landing folder."""
        path = self.root / "landing" / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.write_parquet(path)
        return path

    def make(
        self,
        *assets: str,
        fleet: str = FLEET,
        tags: Mapping[str, str] | None = None,
        fails: bool | None = False,
    ) -> dg.ExecuteInProcessResult:
        """Materialise assets with their checks, in one run, which may also fail if ``None``."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=self.instance,
            partition_key=fleet,
            asset_selection=[dg.AssetKey(name) for name in assets] or None,
            tags=tags,
            raise_on_error=fails is False,
        )
        assert fails is None or result.success is not fails
        return result

    def run(
        self,
        job: str,
        fleet: str | None = FLEET,
        *,
        tags: Mapping[str, str] | None = None,
        fails: bool = False,
    ) -> dg.ExecuteInProcessResult:
        """Run a job of the code location."""
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=fleet, tags=tags, raise_on_error=not fails
        )
        assert result.success is not fails
        return result

    def check(self, asset: str, *, fails: bool = False) -> dict[str, dg.AssetCheckEvaluation]:
        """Run an asset's checks alone; give their evaluations by name."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        keys = {
            key
            for key in job.asset_layer.asset_graph.asset_check_keys
            if key.asset_key == dg.AssetKey(asset)
        }
        result = job.get_subset(asset_check_selection=keys).execute_in_process(
            instance=self.instance, partition_key=FLEET, raise_on_error=not fails
        )
        assert result.success is not fails
        return {found.check_name: found for found in result.get_asset_check_evaluations()}

    def tick(self) -> dict[str, set[str | None]]:
        """What automation asks for at its next look: fleets by asset."""
        result = dg.evaluate_automation_conditions(
            self.definitions, self.instance, cursor=self.tick_cursor
        )
        self.tick_cursor = result.cursor
        return {
            key.to_user_string(): asked
            for key in self.definitions.resolve_asset_graph().get_all_asset_keys()
            if (asked := {*result.get_requested_partitions(key)})
        }

    def look(self, sensor: str) -> dg.SensorResult:
        """What a sensor says at its next look."""
        with dg.build_sensor_context(
            instance=self.instance,
            resources=self.definitions.resources,
            cursor=self.sensor_cursors.get(sensor),
        ) as context:
            result = self.definitions.resolve_sensor_def(sensor)(context)
        assert isinstance(result, dg.SensorResult)
        self.sensor_cursors[sensor] = result.cursor
        return result

    def live(self, rounds: int = 12) -> list[str]:
        """Do as the daemon does until nothing is asked for any more; give what was run, in order.

        Runs are named by their job and, where they have one, their reason; those of automation by
        their assets.
        """
        ran = []
        for _ in range(rounds):
            asked = [
                (sensor, request)
                for sensor in ("new_fleets", "new_files", "new_rows", "retraining")
                for request in self.asks(sensor)
                if request.run_key not in self.run_keys
            ]
            for sensor, request in asked:
                self.run_keys.add(request.run_key)
                (target,) = self.definitions.resolve_sensor_def(sensor).targets
                self.run(target.job_name, request.partition_key, tags=request.tags)
                reason = request.tags.get("rul/reason")
                ran.append(f"{target.job_name} ({reason})" if reason else target.job_name)
            wanted: dict[str | None, list[str]] = {}
            for asset, partitions in self.tick().items():
                for partition in partitions:
                    wanted.setdefault(partition, []).append(asset)
            for partition, assets in wanted.items():
                assert partition is not None
                result = self.make(*assets, fleet=partition, fails=None)
                failed = "" if result.success else " (failed)"
                ran.append(", ".join(sorted(assets)) + failed)
            if not asked and not wanted:
                return ran
        raise AssertionError(f"still not at rest: {ran}")

    def asks(self, sensor: str) -> list[dg.RunRequest]:
        """The runs that a sensor asks for at its next look; fleets that it finds are added."""
        result = self.look(sensor)
        for request in result.dynamic_partitions_requests or ():
            assert isinstance(request, dg.AddDynamicPartitionsRequest)
            self.instance.add_dynamic_partitions("fleet", [*request.partition_keys])
        return [*(result.run_requests or ())]


@pytest.fixture(scope="session")
def definitions() -> dg.Definitions:
    return defs()


@pytest.fixture
def empty_house(tmp_path: Path, database_url: str, definitions: dg.Definitions) -> Generator[House]:
    """A database with tables, and nothing else."""
    with living(tmp_path / "data", database_url, definitions) as made:
        yield made


@pytest.fixture
def house(empty_house: House) -> House:
    """A described fleet, and nothing else."""
    empty_house.describe()
    return empty_house


@pytest.fixture(scope="session")
def furnished(
    servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory, definitions: dg.Definitions
) -> tuple[Path, str]:
    """Root and database of a house in which everything was made once."""
    root, name = tmp_path_factory.mktemp("furnished") / "data", "furnished"
    url = create_database(servers.database_url, name, template="rul_template")
    with living(root, url, definitions) as made:
        made.describe()
        made.drop(simulate(SIMULATION).table, "first.parquet")
        made.run("everything")
    return root, name


@pytest.fixture
def lived_in(
    tmp_path: Path,
    furnished: tuple[Path, str],
    servers: EmbeddedServers,
    definitions: dg.Definitions,
) -> Generator[House]:
    """A fleet with a champion and prognoses."""
    root, template = furnished
    shutil.copytree(root, tmp_path / "data")
    url = create_database(servers.database_url, f"test_{uuid.uuid4().hex}", template=template)
    with living(tmp_path / "data", url, definitions) as made:
        made.instance.add_dynamic_partitions("fleet", [FLEET])
        yield made


@contextmanager
def living(root: Path, url: str, definitions: dg.Definitions) -> Generator[House]:
    engine = connect(url)
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        for variable, value in SETTINGS.items():
            patch.setenv(variable, value)
        patch.setenv("RUL_ROOT", str(root))
        patch.setenv("RUL_DATABASE_URL", as_member_of(Group.ASSETS, url))
        patch.delenv("RUL_REDIS_URL", raising=False)
        patch.setattr(intake, "SETTLE_SECONDS", 0.0)
        yield House(root, engine, instance, definitions)
    engine.dispose()
