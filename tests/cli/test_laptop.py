"""A data root with servers: those that the environment names, or embedded ones."""

import os
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml

from rul_cli.laptop import opened
from rul_core.errors import SettingsError, Unavailable
from rul_store.database import begin, connect

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RUL_"):
            monkeypatch.delenv(name)


def tables_of(engine: sa.Engine) -> set[str]:
    with begin(engine) as connection:
        return set(sa.inspect(connection).get_table_names())


def test_without_named_servers_embedded_ones_run_while_it_is_open(tmp_path):
    with opened(tmp_path) as laptop:
        assert {"champions", "champion_history", "units"} <= tables_of(laptop.engine)
        client = laptop.redis_client
        assert client is not None
        with client:
            assert client.ping()
        environment = laptop.environment()
        assert environment["RUL_ROOT"] == str(tmp_path)
        assert environment["RUL_REDIS_URL"].startswith("unix://")
        assert environment["DAGSTER_HOME"] == str(tmp_path / "dagster")
        settings = yaml.safe_load((tmp_path / "dagster" / "dagster.yaml").read_text())
        url = settings["storage"]["postgres"]["postgres_url"]
        assert url.startswith("postgresql+psycopg2://postgres@/dagster?host=")
        history = connect(url)
        with begin(history) as connection:
            assert connection.execute(sa.text("SELECT current_database()")).scalar() == "dagster"
        history.dispose()
        url = environment["RUL_DATABASE_URL"]
    left = connect(url)
    with pytest.raises(Unavailable), begin(left):
        pass
    left.dispose()
    assert (tmp_path / "servers").is_dir()


def test_the_stack_s_files_at_the_project_s_root_are_not_the_laptop_s(tmp_path, monkeypatch):
    """Whoever starts Dagster here gets no Docker launcher, though dagster.yaml lies beside."""
    monkeypatch.chdir(PROJECT)
    stack = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    assert stack["run_launcher"]["class"] == "PatientDockerRunLauncher"
    with opened(tmp_path) as laptop:
        monkeypatch.setenv("DAGSTER_HOME", laptop.environment()["DAGSTER_HOME"])
        with dg.DagsterInstance.get() as instance:
            assert type(instance.run_launcher).__name__ == "DefaultRunLauncher"
            assert instance.run_coordinator is not None
            assert not instance.run_retries_enabled


def test_named_servers_are_used_and_none_is_started(tmp_path, database_url, redis_url, monkeypatch):
    monkeypatch.setenv("RUL_DATABASE_URL", database_url)
    monkeypatch.setenv("RUL_REDIS_URL", redis_url)
    monkeypatch.setenv("RUL_ROOT", str(tmp_path))
    with opened() as laptop:
        assert laptop.root == tmp_path
        environment = laptop.environment()
        assert environment["RUL_DATABASE_URL"] == database_url
        assert environment["RUL_REDIS_URL"] == redis_url
        assert not (tmp_path / "servers").exists()


def test_redis_is_optional(tmp_path, database_url, monkeypatch):
    monkeypatch.setenv("RUL_DATABASE_URL", database_url)
    with opened(tmp_path) as laptop:
        assert laptop.redis_client is None
        assert "RUL_REDIS_URL" not in laptop.environment()


def test_other_programs_get_absolute_paths_wherever_they_run(tmp_path, database_url, monkeypatch):
    monkeypatch.setenv("RUL_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    with opened(Path("data")) as laptop:
        environment = laptop.environment()
    assert environment["RUL_ROOT"] == str(tmp_path / "data")
    assert environment["DAGSTER_HOME"] == str(tmp_path / "data" / "dagster")


def test_an_empty_root_in_the_environment_counts_as_none(tmp_path, database_url, monkeypatch):
    monkeypatch.setenv("RUL_DATABASE_URL", database_url)
    monkeypatch.setenv("RUL_ROOT", "")
    monkeypatch.chdir(tmp_path)
    with opened() as laptop:
        assert laptop.root == tmp_path / ".rul"


def test_a_secret_from_a_file_is_not_given_twice_to_other_programs(
    tmp_path, database_url, monkeypatch
):
    secret = tmp_path / "database_url"
    secret.write_text(database_url + "\n")
    monkeypatch.setenv("RUL_DATABASE_URL_FILE", str(secret))
    with opened(tmp_path) as laptop:
        environment = laptop.environment()
    assert environment["RUL_DATABASE_URL"] == database_url
    assert "RUL_DATABASE_URL_FILE" not in environment


def test_a_database_that_was_never_migrated_is(tmp_path, servers, monkeypatch):
    from rul_store.database import create_database

    url = create_database(servers.database_url, "never_migrated")
    monkeypatch.setenv("RUL_DATABASE_URL", url)
    with opened(tmp_path) as laptop:
        assert "champions" in tables_of(laptop.engine)
    with opened(tmp_path) as laptop:
        assert "champions" in tables_of(laptop.engine)


def test_a_wrong_setting_is_named_and_its_secret_is_not_told(tmp_path, monkeypatch):
    monkeypatch.setenv("RUL_DATABASE_URL", "mysql://rul:secret@host/rul")
    with pytest.raises(SettingsError, match="RUL_DATABASE_URL") as caught, opened(tmp_path):
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["RUL_LEARNING_ITERATIONS", "RUL_MAX_UNITS"])
def test_a_wrong_setting_of_the_other_programs_is_told_before_they_start(
    tmp_path, database_url, monkeypatch, name
):
    monkeypatch.setenv("RUL_DATABASE_URL", database_url)
    monkeypatch.setenv(name, "many")
    with opened(tmp_path) as laptop, pytest.raises(SettingsError, match=f"{name}=many"):
        laptop.environment()
