"""PostgreSQL is reached in one way, migrated once, and missed in one way."""

import threading
import time

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import ProgrammingError

from rul_core.errors import StoreError, Unavailable
from rul_store.database import (
    VERSION_TABLE,
    begin,
    connect,
    create_database,
    current_revision,
    migrate,
    pipelined,
    require_migrated,
)
from rul_store.embedded import EmbeddedServers
from rul_store.tables import metadata


def test_the_tables_are_what_the_migrations_make(engine: sa.Engine):
    with begin(engine) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_migrating_twice_or_at_once_changes_nothing(servers: EmbeddedServers, database_url: str):
    url = create_database(servers.database_url, f"fresh_{time.time_ns()}")
    engine = connect(url)
    assert current_revision(engine) is None
    with pytest.raises(StoreError, match="at revision None, this version of the platform needs"):
        require_migrated(engine)
    revisions: list[str] = []
    threads = [threading.Thread(target=lambda: revisions.append(migrate(engine))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(revisions) == 4
    assert {*revisions, migrate(engine)} == {current_revision(engine)}
    require_migrated(engine)
    engine.dispose()


def test_a_database_of_a_newer_version_is_refused(engine: sa.Engine):
    with begin(engine) as connection:
        connection.execute(sa.text("UPDATE rul_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"at revision 9999, .* use the newer version"):
        migrate(engine)
    with pytest.raises(StoreError, match="at revision 9999"):
        require_migrated(engine)


def test_an_error_rolls_the_transaction_back(engine: sa.Engine):
    def write_and_fail() -> None:
        with begin(engine) as connection:
            connection.execute(sa.text("INSERT INTO units (fleet, unit) VALUES ('f', 'u')"))
            raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"):
        write_and_fail()
    with begin(engine) as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM units")).scalar() == 0


def test_a_server_that_does_not_answer_is_named_without_its_password():
    engine = connect("postgresql://rul:hush@127.0.0.1:1/plant")
    with pytest.raises(Unavailable) as refused, begin(engine):
        pytest.fail("connected")
    assert "127.0.0.1:1/plant" in str(refused.value)
    assert "RUL_DATABASE_URL" in str(refused.value)
    assert "hush" not in str(refused.value)


def test_a_lost_connection_is_unavailable_and_the_next_use_recovers(engine: sa.Engine):
    def use_a_killed_connection() -> None:
        with begin(engine) as connection:
            pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar()
            with begin(engine) as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            connection.execute(sa.text("SELECT 1"))

    with pytest.raises(Unavailable, match="try again"):
        use_a_killed_connection()
    with begin(engine) as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1


def test_a_connection_that_the_server_ended_while_it_rested_is_replaced_unseen(
    engine: sa.Engine, database_url: str
):
    with begin(engine) as connection:
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    _end(database_url, pid)
    with begin(engine) as connection:
        assert connection.execute(sa.text("SELECT pg_backend_pid()")).scalar() != pid


def test_a_connection_that_is_lost_between_statements_sent_together_is_unavailable(
    engine: sa.Engine, database_url: str
):
    def use_a_killed_connection() -> None:
        with begin(engine) as connection:
            pid = pipelined(connection, ("SELECT pg_backend_pid()", {}))[0][0][0]
            _end(database_url, pid)
            pipelined(connection, ("SELECT 1", {}), ("SELECT 2", {}))

    with pytest.raises(Unavailable, match="try again"):
        use_a_killed_connection()
    with begin(engine) as connection:
        both = pipelined(connection, ("SELECT 1", {}), ("SELECT %(n)s", {"n": 2}))
    assert both == [[(1,)], [(2,)]]


def test_of_statements_sent_together_none_counts_after_a_mistake_in_one(engine: sa.Engine):
    insert = "INSERT INTO units (fleet, unit) VALUES ('f', %(unit)s)"
    with pytest.raises(psycopg.errors.UndefinedColumn), begin(engine) as connection:
        pipelined(connection, (insert, {"unit": "u"}), ("SELECT nonsense", {}))
    with begin(engine) as connection:
        assert pipelined(connection, ("SELECT count(*) FROM units", {})) == [[(0,)]]
        assert pipelined(connection, (insert, {"unit": "u"})) == [[]]


def _end(database_url: str, pid: int) -> None:
    """End a connection and wait until it is gone."""
    other = connect(database_url)
    with begin(other) as connection:
        gone = sa.text("SELECT pg_terminate_backend(:pid, 5000)")
        assert connection.execute(gone, {"pid": pid}).scalar()
    other.dispose()


def test_a_mistake_in_a_statement_is_not_called_unavailable(engine: sa.Engine):
    with pytest.raises(ProgrammingError), begin(engine) as connection:
        connection.execute(sa.text("SELECT nonsense"))


def test_all_times_are_utc(engine: sa.Engine):
    with begin(engine) as connection:
        assert connection.execute(sa.text("SHOW timezone")).scalar() == "UTC"


@pytest.mark.parametrize("url", ["mysql://u:hush@h/d", "sqlite:///x"])
def test_another_dialect_is_refused(url: str):
    with pytest.raises(StoreError, match="is no PostgreSQL URL") as refused:
        connect(url)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"]
)
def test_every_spelling_of_postgresql_uses_psycopg_3(scheme: str):
    assert connect(f"{scheme}://u@h/d").dialect.driver == "psycopg"
