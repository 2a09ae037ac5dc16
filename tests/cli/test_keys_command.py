"""``rul keys`` and ``rul audit`` on a real PostgreSQL."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from rul_cli.main import app
from rul_core.errors import Conflict, StoreError
from rul_store import audit, keys
from rul_store.database import begin


@pytest.fixture(autouse=True)
def _servers(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def run(*arguments: str) -> Result:
    """A call that must do well."""
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result


def test_a_new_key_is_alone_on_standard_output_and_shown_once(engine: sa.Engine):
    made = run("keys", "create", "line 1", "--role", "viewer", "--role", "planner", "--fleet", "a")
    secret = made.stdout.strip()
    assert keys.KEY.fullmatch(secret)
    assert "not shown again" in made.stderr
    assert secret not in made.stderr
    (kept,) = keys.every(engine)
    assert (kept.roles, kept.fleets, kept.created_by) == (("planner", "viewer"), ("a",), "cli:ann")
    listed = run("keys", "list")
    assert kept.prefix in listed.stderr
    assert secret[13:] not in listed.output


def test_json_tells_the_same(engine: sa.Engine):
    made = json.loads(
        run("keys", "create", "a", "--role", "admin", "--expires-in-days", "1", "--json").stdout
    )
    assert keys.KEY.fullmatch(made["api_key"])
    assert made["key"]["expires_at"] is not None
    listed = json.loads(run("keys", "list", "--json").stdout)
    assert listed == [made["key"]]
    assert json.loads(run("keys", "revoke", made["key"]["key_id"], "--json").stdout)["state"] == (
        "revoked"
    )


def test_without_keys_the_list_says_how_to_make_one():
    assert "rul keys create NAME --role ROLE" in run("keys", "list").stderr


def test_a_key_is_known_by_its_prefix_and_replaced_with_an_overlap(engine: sa.Engine):
    old = run("keys", "create", "a", "--role", "viewer").stdout.strip()
    new = run("keys", "rotate", old[:12], "--overlap-hours", "2").stdout.strip()
    first, second = keys.every(engine)
    assert (first.key_id, second.key_id, second.replaces) == (old[4:12], new[4:12], old[4:12])
    assert first.state == "active"
    assert first.expires_at is not None
    assert "rul_" in run("keys", "revoke", old).stderr
    assert [key.state for key in keys.every(engine)] == ["revoked", "active"]
    assert isinstance(call("keys", "rotate", old[:12]).exception, Conflict)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create", "a", "--role", "seer"], "'seer' is no role; give one of viewer"),
        (["create", "a"], "--role"),
        (["revoke", "rul_nobody00"], "there is no key 'nobody00'"),
        (["rotate", "nobody00"], "there is no key 'nobody00'"),
    ],
)
def test_what_cannot_be_done_is_told(arguments, told, engine: sa.Engine):
    result = call("keys", *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())
    assert keys.every(engine) == []


def test_a_key_given_by_mistake_is_not_repeated():
    secret = keys.generate()
    assert secret[13:] not in call("keys", "revoke", secret).output


def test_a_generated_key_can_be_the_first_admin_key(engine: sa.Engine):
    made = run("keys", "generate").stdout.strip()
    assert keys.problem_of(made) == ""
    assert keys.every(engine) == []


def test_the_audit_is_walked_and_its_end_can_be_noted(engine: sa.Engine):
    run("keys", "create", "a", "--role", "viewer")
    noted = run("audit", "verify").stdout.strip()
    run("keys", "create", "b", "--role", "viewer")
    end = json.loads(run("audit", "verify", "--noted", noted, "--json").stdout)
    (newest, _) = audit.page(engine, limit=9).entries
    assert end == {"entries": 2, "hash": newest.hash}
    assert noted.startswith("1:")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "UPDATE audit SET principal = 'bob' WHERE position = 1",
            "was changed at entry 1: its con",
        ),
        ("DELETE FROM audit WHERE position = 2", "its hash is none: it is missing"),
    ],
)
def test_who_goes_round_the_trigger_is_found_out(engine: sa.Engine, change: str, told: str):
    run("keys", "create", "a", "--role", "viewer")
    run("keys", "create", "b", "--role", "viewer")
    noted = run("audit", "verify").stdout.strip()
    with begin(engine) as connection:
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(sa.text(change))
    error = call("audit", "verify", "--noted", noted).exception
    assert isinstance(error, StoreError)
    assert told in str(error)


def test_an_empty_audit_is_whole_and_a_note_of_no_form_is_refused():
    assert run("audit", "verify").stdout == "0:\n"
    assert call("audit", "verify", "--noted", "nonsense").exit_code == 2
