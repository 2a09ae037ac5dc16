"""PostgreSQL's groups are given their rights, and users are made who may log in.

What belongs here: making groups and users of them. What does not: what each may do (``rights``),
the stack's own server with its databases (``provisioning``).

Groups are of the whole server, not of a database: a copied or restored database may stand on a
server that has none. So no migration makes them; ``settle`` follows every ``database.migrate``.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import ProgrammingError

from rul_core.errors import StoreError
from rul_store.database import begin, place_of
from rul_store.rights import RIGHTS, SEQUENCES, Group


def settle(connection: sa.Connection) -> None:
    """Make the groups where that is allowed, and give those that are there exactly their rights.

    Does nothing for a user who does not own the tables: serving may look at what it cannot change.
    """
    if not connection.execute(sa.text(_OWNS)).scalar_one():
        return
    if connection.execute(sa.text(_MAY_MAKE)).scalar_one():
        for group in Group:
            connection.execute(sa.text(_MAKE.format(group=group)))
    schema = _quoted(connection.execute(sa.text("SELECT current_schema()")).scalar_one())
    for group in _there(connection):
        connection.execute(sa.text(f"GRANT USAGE ON SCHEMA {schema} TO {group}"))
        for table, rights in {**RIGHTS, **SEQUENCES}.items():
            connection.execute(sa.text(f"REVOKE ALL ON {schema}.{table} FROM {group}"))
            if given := ", ".join(rights.of(group)):
                connection.execute(sa.text(f"GRANT {given} ON {schema}.{table} TO {group}"))


def make_user(engine: sa.Engine, name: str, group: Group, password: str) -> bool:
    """A user of the group who may log in; one that is there gets the password and the group.

    The password leaves this process as its SCRAM verifier, so that no log of the server has it.

    Args:
        engine: Of a user who may make roles.
        name: The user.
        group: What it may do.
        password: Not empty.

    Returns:
        Whether it was made now.

    Raises:
        StoreError: The groups are not there, or PostgreSQL does not let this user make roles.
    """
    if not password:
        raise StoreError("the password is empty; put one into its file")
    user = _quoted(name)
    try:
        with begin(engine) as connection:
            if group not in _there(connection):
                raise StoreError(
                    f"the server at {place_of(engine.url)} has no group {group}; run `rul database "
                    "migrate` as the tables' owner, who may make roles (CREATEROLE)"
                )
            is_new = not connection.execute(sa.text(_IS_ROLE), {"name": name}).scalar_one()
            if not is_new and _is_mighty(connection, name):
                raise StoreError(
                    f"{name!r} owns tables or may do anything; give the name of another user"
                )
            scram = verifier(connection, name, password)
            verb = "CREATE" if is_new else "ALTER"
            connection.exec_driver_sql(f"{verb} ROLE {user} LOGIN PASSWORD '{scram}'")
            connection.execute(sa.text(f"GRANT {group} TO {user}"))
    except ProgrammingError as error:
        raise StoreError(
            f"cannot make the user {name!r} at {place_of(engine.url)}: {error.orig}; "
            "log in as a user who may make roles (CREATEROLE)"
        ) from error
    return is_new


def verifier(connection: sa.Connection, name: str, password: str) -> str:
    """What PostgreSQL keeps of a role's password (SCRAM-SHA-256); the password stays here."""
    server = connection.connection.cursor().connection.pgconn
    told = server.encrypt_password(password.encode(), name.encode(), b"scram-sha-256")
    return told.decode()


def _there(connection: sa.Connection) -> list[Group]:
    return [
        group
        for group in Group
        if connection.execute(sa.text(_IS_ROLE), {"name": group}).scalar_one()
    ]


def _is_mighty(connection: sa.Connection, name: str) -> bool:
    return connection.execute(sa.text(_IS_MIGHTY), {"name": name}).scalar_one()


def _quoted(name: str) -> str:
    return postgresql.dialect().identifier_preparer.quote_identifier(name)


_OWNS = """
    SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), false) FROM pg_class
    WHERE oid = to_regclass('ledger')
"""
_MAY_MAKE = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
# Another database's migration may make it at the same moment.
_MAKE = """
    DO $$
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{group}') THEN
            CREATE ROLE {group} NOLOGIN;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END $$
"""
_IS_ROLE = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :name)"
_IS_MIGHTY = """
    SELECT rolsuper OR rolcreaterole OR pg_has_role(oid, (
        SELECT relowner FROM pg_class WHERE oid = to_regclass('ledger')
    ), 'MEMBER')
    FROM pg_roles WHERE rolname = :name
"""
