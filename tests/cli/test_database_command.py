"""``rul database`` on a real PostgreSQL: the owner's migration, the stack's, and a user."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError
from typer.testing import CliRunner

from rul_cli.main import app
from rul_core.errors import SettingsError, StoreError
from rul_store.database import begin, connect
from rul_store.embedded import EmbeddedServers

ROLES = (
    "rul_migrator", "rul_serving", "rul_assets", "rul_operator", "rul_backup", "rul_drill",
    "rul_archiver", "dagster", "postgres_exporter",
)  # fmt: skip


@pytest.fixture(scope="module")
def admin_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with EmbeddedServers(tmp_path_factory.mktemp("own"), durable=False) as servers:
        yield servers.database_url


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUL_ROOT", str(tmp_path / "root"))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["database", *arguments])
    if result.exception:
        raise result.exception
    return result.output


def test_a_server_of_ones_own_gets_roles_databases_and_tables_in_one_command(
    admin_url, monkeypatch
):
    owner = make_url(admin_url).set(username="rul_migrator", database="rul")
    monkeypatch.setenv("RUL_DATABASE_URL", owner.render_as_string(False))
    monkeypatch.setenv("RUL_DATABASE_ADMIN_URL", admin_url)
    passwords = {role: f"the password of {role}" for role in ROLES}
    monkeypatch.setenv("RUL_DATABASE_ROLES", json.dumps(passwords))
    told = run("migrate")
    assert f"Roles: {', '.join(ROLES)}." in " ".join(told.split())
    assert "the password" not in told
    assert run("migrate") == told
    serving = connect(owner.set(username="rul_serving").render_as_string(False))
    with begin(serving) as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM ledger")).scalar() == 0
    with pytest.raises(ProgrammingError), begin(serving) as connection:
        connection.execute(sa.text("DELETE FROM ledger"))
    serving.dispose()


def test_a_user_gets_the_password_of_a_file(database_url, monkeypatch, tmp_path):
    monkeypatch.setenv("RUL_DATABASE_URL", database_url)
    file = tmp_path / "password"
    file.write_text("a secret\n")
    arguments = ("user", "someone", "--group", "rul_serving", "--password-file", str(file))
    assert "someone is made: rul_serving" in run(*arguments)
    assert "someone is there, with this password" in run(*arguments)
    file.write_text("\n")
    with pytest.raises(StoreError, match="the password is empty"):
        run(*arguments)


def test_roles_that_are_no_json_are_refused_before_anything_is_made(
    database_url, monkeypatch, tmp_path
):
    monkeypatch.setenv("RUL_DATABASE_URL", database_url)
    monkeypatch.setenv("RUL_DATABASE_ROLES", "{")
    with pytest.raises(SettingsError, match="RUL_DATABASE_ROLES is not JSON"):
        run("migrate")
