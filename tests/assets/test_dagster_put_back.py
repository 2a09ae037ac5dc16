"""A real Dagster's database is kept, lost and put back: it knows its runs, and asks again."""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import RUN_KEY_TAG
from sqlalchemy.engine import make_url

from rul_backup import snapshots
from rul_backup.live import Asked
from rul_backup.manifest import Kind
from rul_backup.put_back import put_back_dagster
from rul_backup.runs import Run
from rul_backup.stores import FolderStore
from rul_cli.stack_secrets import ROLES
from rul_store.embedded import EmbeddedServers
from rul_store.provisioning import provision
from tests.backup.conftest import keys_in


@dg.op
def take() -> None:
    pass


@dg.job
def take_in() -> None:
    take()


@pytest.fixture
def admin_url(tmp_path: Path) -> Generator[str]:
    with EmbeddedServers(tmp_path / "own", durable=False) as servers:
        provision(servers.database_url, dict.fromkeys(ROLES, "a password"))
        yield servers.database_url


def url_of(admin_url: str, role: str) -> str:
    place = make_url(admin_url).set(
        username=role, database="dagster", drivername="postgresql+psycopg2"
    )
    return place.render_as_string(hide_password=False)


@contextmanager
def dagster_of(admin_url: str) -> Generator[dg.DagsterInstance]:
    storage = {"storage": {"postgres": {"postgres_url": url_of(admin_url, "dagster")}}}
    with dg.instance_for_test(overrides=storage) as instance:
        yield instance


def asked_for(instance: dg.DagsterInstance, key: str) -> int:
    """How a sensor's daemon looks whether it has asked for something."""
    return len(instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: key})))


def test_it_lists_its_old_runs_and_their_events_and_sensors_ask_again(
    admin_url: str, tmp_path: Path
):
    (tmp_path / "keys").mkdir()
    plant, store = keys_in(tmp_path / "keys"), FolderStore(tmp_path / "backups")
    now = datetime(2026, 11, 28, tzinfo=UTC)
    with dagster_of(admin_url) as instance:
        instance.add_dynamic_partitions("fleet", ["pumps"])
        tags = {RUN_KEY_TAG: "pumps: files 1, try 1", "dagster/partition": "pumps"}
        made = take_in.execute_in_process(instance=instance, tags=tags)
        assert asked_for(instance, tags[RUN_KEY_TAG]) == 1
    run = Run(store, plant.maker, now)
    url = url_of(admin_url, "rul_backup")
    snapshots.keep_database(run, url, snapshots.DAGSTER, Kind.DAGSTER)
    asked = Asked(store, run.seal({}, plant.verify, now), plant.identities)
    assert asked.run.manifest.artefacts[0].facts["tables"]["public.event_logs"]["rows"] > 5
    with dagster_of(admin_url) as instance:
        instance.wipe()
    assert put_back_dagster(asked, admin_url) == 1
    with dagster_of(admin_url) as instance:
        (known,) = instance.get_runs()
        assert known.run_id == made.run_id
        assert known.status is dg.DagsterRunStatus.SUCCESS
        assert len(instance.all_logs(made.run_id)) > 5
        assert instance.get_dynamic_partitions("fleet") == ["pumps"]
        assert asked_for(instance, tags[RUN_KEY_TAG]) == 0
        by_partition = dg.RunsFilter(tags={"dagster/partition": "pumps"})
        assert instance.get_runs_count(by_partition) == 1
        assert take_in.execute_in_process(instance=instance, tags=tags).success
        assert asked_for(instance, tags[RUN_KEY_TAG]) == 1
