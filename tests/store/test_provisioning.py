"""Roles and databases of a server of one's own: made once, passwords set as often as wanted."""

import base64
import hashlib
import hmac
from collections.abc import Generator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from rul_core.errors import SettingsError
from rul_store.database import begin, connect, migrate
from rul_store.embedded import EmbeddedServers
from rul_store.provisioning import ProvisioningSettings, provision

ROLES = (
    "rul_migrator", "rul_serving", "rul_assets", "rul_operator", "rul_backup", "rul_drill",
    "rul_archiver", "dagster", "postgres_exporter",
)  # fmt: skip
FIRST = {role: f"first password of {role}" for role in ROLES}


@pytest.fixture(scope="module")
def admin_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with EmbeddedServers(tmp_path_factory.mktemp("own"), durable=False) as servers:
        provision(servers.database_url, FIRST)
        yield servers.database_url


def as_role(url: str, role: str, database: str = "rul") -> sa.Engine:
    return connect(make_url(url).set(username=role, database=database).render_as_string(False))


def fits(verifier: str, password: str) -> bool:
    """Whether a SCRAM verifier of PostgreSQL is of the password."""
    _, iterations_salt, keys = verifier.split("$")
    iterations, salt = iterations_salt.split(":")
    salted = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), base64.b64decode(salt), int(iterations)
    )
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return keys.split(":")[0] == base64.b64encode(stored).decode()


def verifiers(url: str) -> dict[str, str]:
    engine = connect(url)
    with begin(engine) as connection:
        rows = connection.execute(sa.text("SELECT rolname, rolpassword FROM pg_authid"))
        found = {row.rolname: row.rolpassword for row in rows if row.rolname in ROLES}
    engine.dispose()
    return found


def test_passwords_are_kept_as_verifiers_and_set_anew_each_time(admin_url):
    assert {
        role: fits(v, FIRST[role]) for role, v in verifiers(admin_url).items()
    } == dict.fromkeys(ROLES, True)
    second = {role: f"second of {role}" for role in ROLES}
    provision(admin_url, second)
    found = verifiers(admin_url)
    assert all(fits(found[role], second[role]) for role in ROLES)
    assert not any(fits(found[role], FIRST[role]) for role in ROLES)


def test_no_role_is_more_than_it_must_be(admin_url):
    engine = connect(admin_url)
    with begin(engine) as connection:
        query = sa.text(
            "SELECT rolname FROM pg_roles WHERE (rolsuper OR rolcreatedb OR rolcreaterole"
            " OR rolreplication OR rolbypassrls) AND rolname = ANY(:roles)"
        )
        roles = [role for role in ROLES if role != "rul_archiver"]
        assert connection.execute(query, {"roles": roles}).all() == []
    engine.dispose()


def test_the_archiver_receives_the_log_and_ends_segments_and_reads_no_table(admin_url):
    engine = as_role(admin_url, "rul_archiver", "postgres")
    with begin(engine) as connection:
        may = "SELECT rolreplication, rolsuper, rolcreatedb FROM pg_roles WHERE rolname = user"
        assert connection.execute(sa.text(may)).one() == (True, False, False)
        slot = "SELECT pg_create_physical_replication_slot('tried', true)"
        connection.execute(sa.text(slot))
        connection.execute(sa.text("SELECT pg_switch_wal()"))
        connection.execute(sa.text("SELECT pg_drop_replication_slot('tried')"))
    engine.dispose()
    elsewhere = as_role(admin_url, "rul_archiver")
    with pytest.raises(Exception, match="permission denied for database"), begin(elsewhere):
        pass
    elsewhere.dispose()


def test_the_owner_makes_the_tables_and_others_use_them(admin_url):
    owner = as_role(admin_url, "rul_migrator")
    migrate(owner)
    owner.dispose()
    for role in ("rul_serving", "rul_assets"):
        engine = as_role(admin_url, role)
        with begin(engine) as connection:
            assert connection.execute(sa.text("SELECT count(*) FROM units")).scalar() == 0
        with pytest.raises(ProgrammingError), begin(engine) as connection:
            connection.execute(sa.text("DELETE FROM ledger"))
        with pytest.raises(ProgrammingError), begin(engine) as connection:
            connection.execute(sa.text("CREATE TABLE mine (a int)"))
        engine.dispose()


@pytest.mark.parametrize(
    ("role", "database"),
    [
        ("dagster", "rul"),
        *((role, "dagster") for role in ("rul_serving", "rul_assets", "rul_operator", "rul_drill")),
    ],
)
def test_a_role_connects_to_its_own_database_alone(admin_url, role, database):
    engine = as_role(admin_url, role, database)
    with pytest.raises(Exception, match="permission denied for database"), begin(engine):
        pass
    engine.dispose()


def test_the_operator_may_what_serving_and_the_assets_may_and_no_more(admin_url):
    engine = as_role(admin_url, "rul_operator")
    with begin(engine) as connection:
        connection.execute(sa.text("UPDATE api_keys SET name = name"))  # serving's
        connection.execute(sa.text("UPDATE rulings SET why = why"))  # the assets'
    with pytest.raises(ProgrammingError), begin(engine) as connection:
        connection.execute(sa.text("DELETE FROM audit"))
    engine.dispose()


def test_the_exporter_may_look_and_nothing_else(admin_url):
    engine = as_role(admin_url, "postgres_exporter", "rul")
    with begin(engine) as connection:
        assert connection.execute(sa.text("SELECT pg_has_role('pg_monitor', 'member')")).scalar()
        assert connection.execute(sa.text("SELECT count(*) FROM pg_stat_user_tables")).scalar()
    with pytest.raises(Exception, match="permission denied"), begin(engine) as connection:
        connection.execute(sa.text("SELECT * FROM readings"))
    engine.dispose()


def test_settings_name_the_owner_and_keep_passwords_to_themselves(monkeypatch, tmp_path):
    roles = tmp_path / "roles"
    roles.write_text('{"rul_serving": "hunter2"}')
    monkeypatch.setenv("RUL_DATABASE_ADMIN_URL", "postgresql://root:hunter2@h/postgres")
    monkeypatch.setenv("RUL_DATABASE_ROLES_FILE", str(roles))
    settings = ProvisioningSettings()
    assert settings.database_roles["rul_serving"].get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings)
    roles.write_text("{")
    with pytest.raises(SettingsError, match="RUL_DATABASE_ROLES is not JSON"):
        ProvisioningSettings()
