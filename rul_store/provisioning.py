"""Roles and databases of a PostgreSQL server that only the platform uses.

What belongs here: making them and setting their passwords, as often as wanted. What does not: the
tables (``migrations``), what a role may do with them (``rights``), the laptop's server
(``embedded``).

The passwords are sent as SCRAM verifiers, so that no log of the server has one.
"""

from collections.abc import Mapping

import sqlalchemy as sa
from pydantic import Field, SecretStr
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import make_url

from rul_store.database import begin, connect, create_database
from rul_store.rights import Group
from rul_store.roles import verifier
from rul_store.settings import DatabaseUrl, Settings

MIGRATOR = "rul_migrator"
"""Owns the platform's database and its tables."""
WATCHERS = ("postgres_exporter",)
"""May read the server's statistics, and no table."""
OPERATORS = ("rul_operator",)
"""May what serving and the assets may: people's command line."""
KEEPERS = (Group.BACKUP,)
"""Read every table, to keep it."""
ARCHIVERS = ("rul_archiver",)
"""Receive the server's log and copy its files, so whatever is in it; they may read no table."""
MAINTENANCE = "postgres"
"""The database in which the server itself is asked; no restore puts another in its place."""
DAGSTER = "dagster"
"""Dagster's database, and its owner."""
DATABASES = {"rul": (MIGRATOR, (*Group, *WATCHERS, *OPERATORS)), DAGSTER: (DAGSTER, KEEPERS)}
"""Each database: its owner, and who else may connect."""


class ProvisioningSettings(Settings):
    """Who may make roles and databases, and the passwords of the roles."""

    database_admin_url: DatabaseUrl | None = Field(
        default=None, description="a superuser's PostgreSQL URL; nothing is made without it"
    )
    database_roles: dict[str, SecretStr] = Field(
        default={}, description='JSON such as {"rul_serving": "password"}'
    )


_quote = postgresql.dialect().identifier_preparer.quote


def provision(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Make the roles and databases that are missing, and set every role's password.

    Args:
        admin_url: A superuser's, of any database.
        passwords: By role.

    Raises:
        StoreError: A database cannot be made.
        Unavailable: The server does not answer.
    """
    admin = connect(admin_url).execution_options(isolation_level="AUTOCOMMIT")
    try:
        with begin(admin) as connection:
            known = {*connection.execute(sa.text("SELECT rolname FROM pg_roles")).scalars()}
            for role, password in passwords.items():
                verb = "ALTER" if role in known else "CREATE"
                scram = verifier(connection, role, password)
                replicates = "REPLICATION" if role in ARCHIVERS else "NOREPLICATION"
                connection.exec_driver_sql(
                    f"{verb} ROLE {_quote(role)} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE "
                    f"{replicates} PASSWORD '{scram}'"
                )
            for role in WATCHERS:
                connection.exec_driver_sql(f"GRANT pg_monitor TO {_quote(role)}")
            for role in KEEPERS:
                connection.exec_driver_sql(f"GRANT pg_read_all_data TO {_quote(role)}")
            for role in OPERATORS:
                for group in (Group.SERVING, Group.ASSETS):
                    connection.exec_driver_sql(f"GRANT {group} TO {_quote(role)}")
        _let_archivers_end_segments(admin_url)
        for name in DATABASES:
            create_database(admin_url, name)
            with begin(admin) as connection:
                for statement in rights_on(name):
                    connection.exec_driver_sql(statement)
    finally:
        admin.dispose()


def _let_archivers_end_segments(admin_url: str) -> None:
    """Functions are each database's own, so this is said in the one where archivers ask."""
    place = make_url(admin_url).set(database=MAINTENANCE)
    engine = connect(place.render_as_string(hide_password=False))
    try:
        with begin(engine) as connection:
            for role in ARCHIVERS:
                connection.exec_driver_sql(
                    f"GRANT EXECUTE ON FUNCTION pg_switch_wal() TO {_quote(role)}"
                )
    finally:
        engine.dispose()


def rights_on(database: str) -> list[str]:
    """The statements that give a database its owner, and let in who may connect."""
    owner, others = DATABASES[database]
    quoted = _quote(database)
    return [
        f"ALTER DATABASE {quoted} OWNER TO {_quote(owner)}",
        f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC",
        *(f"GRANT CONNECT, TEMPORARY ON DATABASE {quoted} TO {_quote(role)}" for role in others),
    ]
