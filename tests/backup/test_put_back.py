"""Dagster's database comes back on a server where it has no run yet, and nowhere else."""

import re
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from rul_backup import drill, fingerprints, put_back, snapshots
from rul_backup.live import Asked, run_alone
from rul_backup.manifest import Kind
from rul_backup.put_back import put_back_dagster
from rul_backup.runs import Run, Sealed
from rul_backup.stores import FolderStore
from rul_cli.stack_secrets import ROLES
from rul_core.errors import StoreError
from rul_store.database import begin, connect
from rul_store.embedded import EmbeddedServers
from rul_store.provisioning import provision

from .conftest import Keys

NOW = datetime(2026, 11, 28, tzinfo=UTC)
PASSWORDS = dict.fromkeys(ROLES, "a password")
TABLES = (
    "CREATE TABLE runs (id bigserial PRIMARY KEY, run_id text UNIQUE, status text)",
    "CREATE TABLE run_tags (run_id text REFERENCES runs (run_id), key text, value text)",
)
ROWS = (
    "INSERT INTO runs (run_id, status) VALUES ('a', 'SUCCESS'), ('b', 'FAILURE')",
    "INSERT INTO run_tags VALUES ('a', 'dagster/run_key', 'files 1'), ('a', 'fleet', 'pumps')",
)


class Server:
    """A stack's PostgreSQL."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url

    def url(self, role: str, database: str = "dagster") -> str:
        place = make_url(self.admin_url).set(username=role, database=database)
        return place.render_as_string(hide_password=False)

    def do(self, role: str, *statements: str) -> list[tuple]:
        engine = connect(self.url(role))
        try:
            with begin(engine) as connection:
                for statement in statements[:-1]:
                    connection.execute(sa.text(statement))
                done = connection.execute(sa.text(statements[-1]))
                return [tuple(row) for row in done] if done.returns_rows else []
        finally:
            engine.dispose()

    def forget(self) -> None:
        """As on a new machine: its tables are made, and it has no run."""
        self.drop()
        provision(self.admin_url, PASSWORDS)
        self.do("dagster", *TABLES)

    def drop(self) -> None:
        admin = connect(self.admin_url)
        run_alone(admin, "DROP DATABASE IF EXISTS dagster WITH (FORCE)")
        admin.dispose()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with EmbeddedServers(tmp_path_factory.mktemp("own"), durable=False) as servers:
        provision(servers.database_url, PASSWORDS)
        yield Server(servers.database_url)


@pytest.fixture
def server(own: Server) -> Server:
    own.forget()
    own.do("dagster", *ROWS)
    return own


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "backups")


def kept(store: FolderStore, plant: Keys, server: Server) -> Sealed:
    run = Run(store, plant.maker, NOW)
    snapshots.keep_database(run, server.url("rul_backup"), snapshots.DAGSTER, Kind.DAGSTER)
    return run.seal({}, plant.verify, NOW)


def asked(store: FolderStore, plant: Keys, run: Sealed) -> Asked:
    return Asked(store, run, plant.identities)


def test_who_makes_backups_reads_it_and_changes_nothing_of_it(server: Server):
    assert server.do("rul_backup", "SELECT count(*) FROM runs") == [(2,)]
    with pytest.raises(ProgrammingError, match="permission denied"):
        server.do("rul_backup", "DELETE FROM run_tags")


@pytest.mark.parametrize("is_there", [True, False])
def test_it_comes_back_as_it_was_and_dagster_s_own(
    store: FolderStore, plant: Keys, server: Server, is_there: bool
):
    run = kept(store, plant, server)
    server.forget() if is_there else server.drop()
    assert put_back_dagster(asked(store, plant, run), server.admin_url) == 2
    found = server.do("dagster", "INSERT INTO runs (run_id) VALUES ('c')", "SELECT * FROM runs")
    assert found == [(1, "a", "SUCCESS"), (2, "b", "FAILURE"), (3, "c", None)]
    assert server.do("dagster", "ALTER TABLE runs ADD COLUMN later int", "SELECT 1") == [(1,)]
    assert server.do("rul_backup", "SELECT count(*) FROM runs") == [(3,)]
    with pytest.raises(Exception, match="permission denied for database"):
        server.do("rul_serving", "SELECT 1")


def test_sensors_ask_again_for_what_they_asked_for_since_what_came_of_it_may_be_lost(
    store: FolderStore, plant: Keys, server: Server
):
    run = kept(store, plant, server)
    server.forget()
    put_back_dagster(asked(store, plant, run), server.admin_url)
    assert server.do("dagster", "SELECT key, value FROM run_tags") == [("fleet", "pumps")]


def test_one_that_has_runs_stays_as_it_is(store: FolderStore, plant: Keys, server: Server):
    run = kept(store, plant, server)
    server.do("dagster", "DELETE FROM run_tags", "UPDATE runs SET status = 'mine'")
    with pytest.raises(StoreError, match="the database dagster has 2 runs and stays as it is"):
        put_back_dagster(asked(store, plant, run), server.admin_url)
    assert server.do("dagster", "SELECT DISTINCT status FROM runs") == [("mine",)]


@pytest.mark.parametrize(
    "at", ['DROP DATABASE IF EXISTS "?dagster"? WITH', "ALTER DATABASE .* RENAME"]
)
def test_killed_on_its_way_it_is_asked_for_again(
    store: FolderStore, plant: Keys, server: Server, monkeypatch: pytest.MonkeyPatch, at: str
):
    run = kept(store, plant, server)
    server.forget()

    def killed(admin: sa.Engine, statement: str) -> None:
        if re.match(at, statement):
            raise KeyboardInterrupt
        run_alone(admin, statement)

    with monkeypatch.context() as patched:
        patched.setattr(put_back, "run_alone", killed)
        with pytest.raises(KeyboardInterrupt):
            put_back_dagster(asked(store, plant, run), server.admin_url)
    assert put_back_dagster(asked(store, plant, run), server.admin_url) == 2
    assert server.do("dagster", "SELECT count(*) FROM runs") == [(2,)]


def test_what_came_back_otherwise_takes_no_place(
    store: FolderStore, plant: Keys, server: Server, monkeypatch: pytest.MonkeyPatch
):
    run = kept(store, plant, server)
    server.forget()
    monkeypatch.setattr(fingerprints, "differences", lambda *_: ["table public.runs has 1"])
    with pytest.raises(StoreError, match=r"dagster\.dump was restored otherwise .*public\.runs"):
        put_back_dagster(asked(store, plant, run), server.admin_url)
    assert server.do("dagster", "SELECT count(*) FROM runs") == [(0,)]


def test_a_damaged_dump_changes_nothing(store: FolderStore, plant: Keys, server: Server):
    run = kept(store, plant, server)
    server.forget()
    (path,) = (store.root / "runs").rglob("*.age")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        put_back_dagster(asked(store, plant, run), server.admin_url)
    assert server.do("dagster", "SELECT count(*) FROM runs") == [(0,)]


def test_a_run_without_it_changes_nothing(store: FolderStore, plant: Keys, server: Server):
    run = Run(store, plant.maker, NOW)
    snapshots.keep_database(run, server.url("rul_backup"))
    sealed = run.seal({}, plant.verify, NOW)
    assert put_back_dagster(asked(store, plant, sealed), server.admin_url) is None
    assert server.do("dagster", "SELECT count(*) FROM runs") == [(2,)]


def test_a_drill_restores_it_and_tells_what_differs(
    store: FolderStore, plant: Keys, server: Server, monkeypatch: pytest.MonkeyPatch
):
    run = kept(store, plant, server)
    (proof,) = drill.prove_stack(store, run, plant.identities)
    assert proof.differences == ()
    assert run.manifest.artefacts[0].facts["tables"]["public.runs"]["rows"] == 2
    monkeypatch.setattr(fingerprints, "differences", lambda *_: ["table public.runs is missing"])
    (proof,) = drill.prove_stack(store, run, plant.identities)
    assert proof.differences == ("table public.runs is missing",)
