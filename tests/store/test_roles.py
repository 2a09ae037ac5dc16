"""Who may do what in PostgreSQL: what is written for good is changed by nobody but its owner."""

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from rul_core.errors import StoreError
from rul_store import roles
from rul_store.database import begin, connect, current_revision, migrate
from rul_store.rights import RIGHTS, Group
from tests.conftest import as_member_of

TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
"""
GUARDED = """
    SELECT tgrelid::regclass::text FROM pg_trigger
    WHERE tgfoid = 'refuse_change'::regproc AND NOT tgisinternal
"""
HELD = """
    SELECT relname, privilege_type FROM pg_class, aclexplode(relacl)
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
    AND grantee = CAST(:group AS regrole)
"""
FORBIDDEN = (
    "UPDATE {table} SET {column} = {column}",
    "DELETE FROM {table}",
    "TRUNCATE {table}",
    "TRUNCATE {table} CASCADE",
    "ALTER TABLE {table} ADD COLUMN more text",
    "ALTER TABLE {table} DISABLE TRIGGER ALL",
    "ALTER TABLE {table} OWNER TO CURRENT_USER",
    "DROP TABLE {table}",
    "CREATE TRIGGER mine BEFORE INSERT ON {table} EXECUTE FUNCTION refuse_change()",
)


def rows(engine: sa.Engine, query: str, **given: object) -> list[sa.Row]:
    with begin(engine) as connection:
        return list(connection.execute(sa.text(query), given))


def test_every_table_of_the_catalogue_says_what_each_group_may_do(engine):
    assert {row.relname for row in rows(engine, TABLES)} == set(RIGHTS)


@pytest.mark.parametrize("group", Group)
def test_each_group_has_the_rights_it_is_said_to_have_and_no_others(engine, group):
    said = {
        (table, right)
        for table, rights in RIGHTS.items()
        for right in rights.of(group)
        if "(" not in right
    }
    assert {tuple(row) for row in rows(engine, HELD, group=group)} == said


@pytest.mark.parametrize("group", Group)
def test_nobody_changes_what_is_written_for_good(engine, database_url, group):
    guarded = {row[0] for row in rows(engine, GUARDED)}
    assert {"ledger", "audit", "advisory_events", "verdicts"} <= guarded
    assert all("UPDATE" not in RIGHTS[table].of(group) for table in guarded)
    member = connect(as_member_of(group, database_url))
    for table in sorted(guarded):
        column = sa.inspect(engine).get_columns(table)[0]["name"]
        for statement in FORBIDDEN:
            with pytest.raises(ProgrammingError) as refused, begin(member) as connection:
                connection.execute(sa.text(statement.format(table=table, column=column)))
            assert isinstance(refused.value.orig, psycopg.errors.InsufficientPrivilege), statement
            assert "is never changed" not in str(refused.value), statement  # not by the trigger
    member.dispose()


@pytest.mark.parametrize("group", Group)
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (a int)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RETURN NULL; END'",
        "DROP FUNCTION refuse_change CASCADE",
        "SET ROLE postgres",
        "SET session_replication_role = 'replica'",
        "UPDATE rul_version SET version_num = '0001'",
        "CREATE ROLE mine",
    ],
)
def test_no_group_goes_round_what_guards_the_tables(database_url, group, statement):
    member = connect(as_member_of(group, database_url))
    with pytest.raises(ProgrammingError) as refused, begin(member) as connection:
        connection.execute(sa.text(statement))
    member.dispose()
    assert isinstance(refused.value.orig, psycopg.errors.InsufficientPrivilege)


def test_a_migration_gives_back_the_rights_that_were_changed_by_hand(engine):
    with begin(engine) as connection:
        connection.execute(sa.text("GRANT ALL ON ledger TO rul_serving"))
        connection.execute(sa.text("REVOKE ALL ON units FROM rul_serving"))
    migrate(engine)
    held = {tuple(row) for row in rows(engine, HELD, group=Group.SERVING)}
    assert {right for table, right in held if table == "ledger"} == {"SELECT", "INSERT"}
    assert {right for table, right in held if table == "units"} == {"SELECT", "INSERT", "UPDATE"}


def test_a_member_finds_the_tables_up_to_date_and_cannot_bring_them_there(engine, serving_url):
    member = connect(serving_url)
    assert migrate(member) == current_revision(engine)
    with begin(engine) as connection:
        connection.execute(sa.text("UPDATE rul_version SET version_num = '0005'"))
    with pytest.raises(StoreError, match=r"rul_serving_test.* migrate as their owner"):
        migrate(member)
    member.dispose()


def test_a_user_gets_a_new_password_of_which_no_log_has_the_text(engine):
    assert roles.make_user(engine, "an 'odd\" name", Group.ASSETS, "first")
    query = "SELECT rolpassword FROM pg_authid WHERE rolname = :name"
    ((first,),) = rows(engine, query, name="an 'odd\" name")
    assert not roles.make_user(engine, "an 'odd\" name", Group.ASSETS, "it's another")
    ((second,),) = rows(engine, query, name="an 'odd\" name")
    assert first != second
    assert first.startswith("SCRAM-SHA-256$")
    with begin(engine) as connection:
        connection.execute(sa.text("""DROP ROLE "an 'odd"" name" """))


@pytest.mark.parametrize(
    ("name", "password", "told"),
    [
        ("someone", "", "the password is empty"),
        ("postgres", "a password", "give the name of another user"),
    ],
)
def test_a_user_that_cannot_be_is_refused(engine, name, password, told):
    with pytest.raises(StoreError, match=told):
        roles.make_user(engine, name, Group.SERVING, password)


def test_only_who_may_make_roles_makes_a_user(serving_url):
    member = connect(serving_url)
    with pytest.raises(StoreError, match="CREATEROLE"):
        roles.make_user(member, "someone", Group.SERVING, "a password")
    member.dispose()


def test_an_owner_who_may_not_make_roles_migrates_without_the_groups(engine, monkeypatch):
    monkeypatch.setattr(roles, "_MAY_MAKE", "SELECT false")
    monkeypatch.setattr(roles, "_there", lambda _: [])
    assert migrate(engine) == current_revision(engine)
    with pytest.raises(StoreError, match="has no group rul_serving; run `rul database migrate`"):
        roles.make_user(engine, "someone", Group.SERVING, "a password")
