"""One way to reach PostgreSQL, and one error when it does not answer.

What belongs here: engines, transactions, databases, migrations. What does not: the tables
(``tables``), queries (each concern has a module of its own).
"""

import select
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import polars as pl
import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DisconnectionError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from rul_core.errors import StoreError, Unavailable

CONNECT_TIMEOUT_SECONDS = 5
UNAVAILABLE = (
    OperationalError,
    InterfaceError,
    PoolTimeout,
    psycopg.OperationalError,  # from COPY, which SQLAlchemy does not see
    psycopg.InterfaceError,
)
TIME_DTYPE = pl.Datetime("us", "UTC")
VERSION_TABLE = "rul_version"
"""Alembic's table under a name of our own: Dagster may share the database."""
Statement = tuple[str, Mapping[str, Any]]
"""SQL with ``%(name)s`` for parameters, and their values."""
MIGRATION_LOCK = 0x52554C01
"""The advisory lock that migrations of one database take in turn."""
FLEET_LOCK = 9031
"""Seeds the hash of a fleet's name, which is the advisory lock that ``lock_fleet`` takes."""
_LOCK_FLEET = f"SELECT pg_advisory_xact_lock({FLEET_LOCK}, hashtext(%(fleet)s))"


def connect(url: str, *, pool_size: int = 5, max_overflow: int = 10) -> sa.Engine:
    """An engine with a pool; no connection is made before the first use.

    Args:
        url: ``postgresql://…``; psycopg 3 is used whichever driver the URL names.
        pool_size: Connections kept open.
        max_overflow: Further connections under load.
    """
    engine = sa.create_engine(
        _with_psycopg(url),
        pool_size=pool_size,
        max_overflow=max_overflow,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "application_name": "rul",
            "options": "-c timezone=UTC",
        },
    )
    event.listen(engine, "checkout", _refuse_ended)
    return engine


@contextmanager
def engine_of(url: str, name: str | None = None) -> Generator[sa.Engine]:
    """A database by its URL, or another of its server by its name; closed afterwards."""
    place = make_url(url)
    engine = connect(
        (place.set(database=name) if name else place).render_as_string(hide_password=False)
    )
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def begin(engine: sa.Engine) -> Generator[sa.Connection]:
    """A transaction: committed at the end, rolled back after an error.

    Raises:
        Unavailable: PostgreSQL does not answer, or gave the transaction up; it can be tried again.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except UNAVAILABLE as error:
        reason = " ".join(str(getattr(error, "orig", error)).split())
        raise Unavailable(
            f"PostgreSQL at {place_of(engine.url)}: {reason}; "
            "see that it runs and that RUL_DATABASE_URL is right, then try again"
        ) from error


def pipelined(connection: sa.Connection, *statements: Statement) -> list[list[tuple[Any, ...]]]:
    """The rows of statements that are sent together: one way to the server and back for all.

    Raises:
        psycopg.Error: A statement is refused; SQLAlchemy does not see these, so it is not its own.
    """
    driver: Any = connection.connection.driver_connection
    with driver.pipeline():
        cursors = [driver.execute(text, parameters) for text, parameters in statements]
    return [cursor.fetchall() if cursor.pgresult.nfields else [] for cursor in cursors]


def time_of(connection: sa.Connection) -> datetime:
    """What the server's clock says now: one clock for all that write to it."""
    return connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()


def place_of(url: URL) -> str:
    """Host, port and database for messages; never the password."""
    host = url.host or url.query.get("host") or "localhost"
    return f"{host}:{url.port or 5432}/{url.database}"


def read_frame(
    connection: sa.Connection, query: str, parameters: dict[str, Any], schema: pl.Schema
) -> pl.DataFrame:
    """The rows of a query as a frame, many at once (by ``COPY``), without a Python object a cell.

    Args:
        connection: An open transaction.
        query: SQL with ``%(name)s`` for parameters; times go through ``microseconds``.
        parameters: Their values.
        schema: Names and dtypes of the query's columns, in order.
    """
    cursor = connection.connection.cursor()
    with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT csv)", parameters) as copy:
        content = b"".join(bytes(block) for block in copy)
    times = [name for name, dtype in schema.items() if dtype == TIME_DTYPE]
    return pl.read_csv(
        content,
        has_header=False,
        schema={name: pl.Int64 if name in times else schema[name] for name in schema},
    ).cast(dict.fromkeys(times, TIME_DTYPE))


def microseconds(time: str) -> str:
    """SQL for a ``timestamptz`` as ``read_frame`` wants it: exact, and the same for every year."""
    return f"(extract(epoch FROM {time}) * 1000000)::bigint"


def create_database(url: str, name: str, *, template: str | None = None) -> str:
    """Make a database beside the one of the URL, unless it is there; give its URL.

    Args:
        url: A database of the server, whose user may create databases.
        name: The new database.
        template: A database to copy, which nobody may be connected to.
    """
    quote = postgresql.dialect().identifier_preparer.quote
    statement = f"CREATE DATABASE {quote(name)}"
    if template:
        statement += f" TEMPLATE {quote(template)}"
    engine = connect(url).execution_options(isolation_level="AUTOCOMMIT")
    try:
        with begin(engine) as connection:
            connection.execute(sa.text(statement))
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != "42P04":  # it exists
            raise StoreError(
                f"cannot create the database {name!r} at {place_of(engine.url)}: {error.orig}"
            ) from error
    finally:
        engine.dispose()
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def lock_fleet(connection: sa.Connection, fleet: str) -> None:
    """Write in turn with all who do the same, to the end of the transaction.

    Under this lock the positions of a fleet's ledger and events are given, so that they are in the
    order of the commits. Take it before the rows that follow from prognoses are touched, and after
    those of units and lives: then nobody waits in a circle.
    """
    pipelined(connection, locking(fleet))


def locking(fleet: str) -> Statement:
    """What ``lock_fleet`` asks, to be sent with others."""
    return _LOCK_FLEET, {"fleet": fleet}


def migrate(engine: sa.Engine) -> str:
    """Bring the tables to the newest revision, which is returned; safe when several do at once.

    Serving's and the assets' group get their rights (``roles``) where the user owns the tables.

    Raises:
        StoreError: The database was migrated by a newer version of the platform, or the user may
            not alter the tables.
    """
    from alembic import command  # takes a quarter of a second, and serving never migrates

    from rul_store import roles

    with begin(engine) as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        config, head, known = _revisions()
        current = _revision(connection)
        if current is not None and current not in known:
            raise StoreError(
                f"the database at {place_of(engine.url)} is at revision {current}, and this "
                f"version of the platform knows none after {head}; use the newer version"
            )
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
            roles.settle(connection)
        except ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) != "42501":  # insufficient privilege
                raise
            reason = " ".join(str(error.orig).split())
            raise StoreError(
                f"{engine.url.username!r} may not alter the tables at {place_of(engine.url)}: "
                f"{reason}; migrate as their owner, with `rul database migrate`"
            ) from error
        return head


def current_revision(engine: sa.Engine) -> str | None:
    """The revision of the database's tables; none before the first ``migrate``."""
    with begin(engine) as connection:
        return _revision(connection)


def refuse_newer(revision: str, what: str) -> None:
    """Do nothing when this version of the platform knows a revision.

    Raises:
        StoreError: It does not; names the newest that it knows.
    """
    _, head, known = _revisions()
    if revision not in known:
        raise StoreError(
            f"{what} is at revision {revision}, and this version of the platform knows none after "
            f"{head}; use the newer version"
        )


def require_migrated(engine: sa.Engine) -> None:
    """Do nothing when the tables are those that this version of the platform was written for.

    Raises:
        StoreError: They are older or newer; names both revisions and the remedy.
        Unavailable: PostgreSQL does not answer.
    """
    current, (_, head, _) = current_revision(engine), _revisions()
    if current != head:
        raise StoreError(
            f"the database at {place_of(engine.url)} is at revision {current}, this version of "
            f"the platform needs {head}; migrate it, or use the version that fits"
        )


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608


def _revisions() -> tuple[Any, str, set[str]]:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "rul_store:migrations")
    scripts = ScriptDirectory.from_config(config)
    return config, str(scripts.get_current_head()), {s.revision for s in scripts.walk_revisions()}


def _refuse_ended(driver: Any, *_: object) -> None:
    """Let the pool make another connection for one that the server has ended.

    Nobody speaks on a connection that rests, so there is nothing to read but its end. To look is a
    microsecond; the ping of SQLAlchemy's pool is a way to the server and back.
    """
    poll = select.poll()  # unlike select, of any number of open files
    if not driver.closed:
        poll.register(driver, select.POLLIN)
    if driver.closed or poll.poll(0):
        raise DisconnectionError("the server has ended the connection")


def _with_psycopg(url: str) -> URL:
    parsed = make_url(url)
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise StoreError(
            f"{parsed.render_as_string()} is no PostgreSQL URL; "
            "give postgresql://user:password@host:5432/database"
        )
    return parsed.set(drivername="postgresql+psycopg")
