"""``rul models`` on real bundles and a real PostgreSQL."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from rul_cli.models import app
from rul_core.errors import (
    BundleError,
    Conflict,
    FleetError,
    GateNotPassed,
    RulError,
    StoreError,
    Unavailable,
)
from rul_core.simulator import Simulation, simulated_fleet
from rul_store import audit, champions, fleets, shadow
from rul_store.champions import Action
from rul_store.registry import BundleStore

FLEET = "pumps"


def run(*arguments: str) -> Result:
    """A call that must do well."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: str) -> RulError:
    result = CliRunner().invoke(app, list(arguments))
    assert result.stdout == ""
    assert isinstance(result.exception, RulError)
    return result.exception


@pytest.fixture
def root(data_root: Path) -> Path:
    """A data root with a described fleet, and the servers that the environment names."""
    fleets.save(data_root, simulated_fleet(Simulation(sensors=3), FLEET))
    return data_root


def bundle(root: Path, number: int) -> str:
    """A version whose card says which it is."""
    return BundleStore(root).write(
        FLEET,
        {"card.md": f"# Model {number}\n".encode(), "model.cbm": b"trees" * number},
        {"format": 1, "number": number},
        now=datetime(2026, 11, number, tzinfo=UTC),
    )


@pytest.fixture
def released(root: Path, engine: sa.Engine) -> list[str]:
    """Three versions, released one after another."""
    versions = [bundle(root, number) for number in (1, 2, 3)]
    for generation, version in enumerate(versions):
        champions.move(
            engine,
            root,
            FLEET,
            version,
            expected_generation=generation,
            action=Action.RELEASE,
            by=f"run {generation}",
            reason="ended_lives",
        )
    return versions


def test_versions_are_listed_and_the_live_one_is_marked(released):
    told = json.loads(run("list", FLEET, "--json").stdout)
    assert [one["version"] for one in told] == released
    assert [one["standing"] for one in told] == [*["earlier_champion"] * 2, "champion"]
    lines = run("list", FLEET).stderr.splitlines()
    assert [any(version in line for line in lines) for version in released] == [True] * 3
    assert [
        version
        for version in released
        for line in lines
        if version in line and "│ champion" in line
    ] == [released[2]]


def test_a_fleet_without_a_model_says_so(root):
    assert run("list", FLEET).stderr == "Fleet pumps has no model yet.\n"
    assert json.loads(run("list", FLEET, "--json").stdout) == []
    error = refused("show", FLEET)
    assert isinstance(error, BundleError)
    assert "fleet 'pumps' has no released model; name a version" in str(error)
    assert run("history", FLEET).stderr == "Fleet pumps never had a released model.\n"
    assert json.loads(run("history", FLEET, "--json").stdout) == []


@pytest.mark.parametrize("command", ["list", "show"])
def test_a_fleet_without_a_description_is_refused(root, command):
    error = refused(command, "fans")
    assert isinstance(error, FleetError)
    assert "rul fleet init fans FILE" in str(error)


def test_the_card_of_the_live_version_is_shown_unless_another_is_named(released):
    assert run("show", FLEET).stdout.strip() == "# Model 3"
    assert run("show", FLEET, released[0]).stdout.strip() == "# Model 1"
    assert json.loads(run("show", FLEET, released[1], "--json").stdout) == {
        "format": 1,
        "number": 2,
    }


def test_a_version_that_is_not_there_or_is_damaged_is_named(released, root):
    error = refused("show", FLEET, "20260101T000000Z-abcdef")
    assert isinstance(error, BundleError)
    assert "20260101T000000Z-abcdef is not there" in str(error)
    (root / "models" / FLEET / released[2] / "card.md").write_text("# Model 4")
    assert "card.md" in str(refused("show", FLEET))


def test_a_bundle_without_a_card_says_what_it_has(root):
    version = BundleStore(root).write(FLEET, {"model.cbm": b"trees"}, {"format": 1})
    assert "has no file 'card.md', only" in str(refused("show", FLEET, version))


def test_the_history_tells_what_was_live_from_when_who_moved_it_and_why(released):
    moves = json.loads(run("history", FLEET, "--json").stdout)
    assert [(m["generation"], m["version"], m["promoted_by"]) for m in moves] == [
        (1, released[0], "run 0"),
        (2, released[1], "run 1"),
        (3, released[2], "run 2"),
    ]
    assert {(m["action"], m["reason"]) for m in moves} == {("release", "ended_lives")}
    times = [datetime.fromisoformat(m["promoted_at"]) for m in moves]
    assert times == sorted(times)
    told = run("history", FLEET).stderr
    assert f"{times[0]:%Y-%m-%d}" in told
    assert all(version in told for version in released), "in full, however narrow the terminal"


def test_a_rollback_makes_the_version_before_live_within_seconds(released, root, engine):
    started = time.monotonic()
    told = run("rollback", FLEET, "--reason", "it sees ghosts").stderr
    assert time.monotonic() - started < 5.0
    assert told == f"Fleet pumps is served by {released[1]} now.\n"
    champion = champions.current(engine, FLEET)
    assert champion is not None
    assert (champion.version, champion.generation) == (released[1], 4)
    assert (champion.action, champion.reason) == (Action.ROLLBACK, "it sees ghosts")
    assert champion.promoted_by
    assert champions.read_live(root, FLEET) == champion
    assert run("show", FLEET).stdout.strip() == "# Model 2"


def test_a_person_may_make_any_version_live_and_come_back_from_a_rollback(released, engine):
    run("rollback", FLEET, "--reason", "it sees ghosts")
    told = run("promote", FLEET, released[2], "--reason", "the ghosts were real").stderr
    assert told == f"Fleet pumps is served by {released[2]} now.\n"
    champion = champions.current(engine, FLEET)
    assert champion is not None
    assert (champion.version, champion.generation) == (released[2], 5)
    assert (champion.action, champion.reason) == (Action.PROMOTE, "the ghosts were real")
    shown = json.loads(run("promote", FLEET, released[0], "--reason", "why not", "--json").stdout)
    assert (shown["version"], shown["generation"]) == (released[0], 6)


def test_what_never_passed_the_gate_is_promoted_only_despite_it(released, root, engine):
    never = bundle(root, 4)
    (told,) = [
        one for one in json.loads(run("list", FLEET, "--json").stdout) if one["version"] == never
    ]
    assert (told["standing"], len(told["held_back"])) == ("refused", 1)
    assert "refused" in run("list", FLEET).stderr
    error = refused("promote", FLEET, never, "--reason", "I know better")
    assert isinstance(error, GateNotPassed)
    assert "the bundle has no report of it" in str(error)
    run("promote", FLEET, never, "--reason", "I know better", "--despite-gate")
    assert [move.version for move in champions.history(engine, FLEET)] == [*released, never]
    entry = audit.page(engine, limit=1).entries[0]
    assert (entry.action, entry.target) == ("model.promote", never)
    assert entry.principal.startswith("cli:")
    assert entry.detail["despite"] == told["held_back"]
    again = refused("promote", FLEET, never, "--reason", "again")
    assert "is the champion of fleet 'pumps' already" in str(again)


def test_a_challenger_is_nominated_and_withdrawn(released, engine):
    told = run("nominate", FLEET, released[0], "--reason", "to compare").stderr
    assert told == f"{released[0]} speaks in the shadow of fleet pumps's model now.\n"
    nominee = shadow.nominees(engine)[FLEET]
    assert (nominee.version, nominee.reason) == (released[0], "to compare")
    assert isinstance(refused("nominate", FLEET, released[1], "--reason", "a second"), Conflict)
    told = run("withdraw", FLEET, "--reason", "enough").stderr
    assert told == f"{released[0]} is no challenger of fleet pumps any more.\n"
    assert shadow.nominees(engine) == {}
    actions = [entry.action for entry in audit.page(engine, limit=2).entries]
    assert actions == ["model.withdraw", "model.nominate"]


def test_a_version_that_is_not_there_is_not_promoted(released, engine):
    told = str(refused("promote", FLEET, "20200101T000000Z-000000", "--reason", "a typo"))
    assert "is not there" in told
    assert released[2] in told
    assert [move.version for move in champions.history(engine, FLEET)] == released


def test_a_rollback_asks_for_a_reason(released):
    assert CliRunner().invoke(app, ["rollback", FLEET]).exit_code == 2


def test_two_rollbacks_go_two_versions_back_and_there_is_no_third(released):
    for version in (released[1], released[0]):
        told = json.loads(run("rollback", FLEET, "--reason", "worse", "--json").stdout)
        assert (told["version"], told["action"]) == (version, "rollback")
    error = refused("rollback", FLEET, "--reason", "worse")
    assert isinstance(error, StoreError)
    assert f"fleet 'pumps' has no version before {released[0]}" in str(error)


def test_a_rollback_is_told_to_those_who_listen(released, redis_url, monkeypatch):
    monkeypatch.setenv("RUL_REDIS_URL", redis_url)
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as heard:
        heard.subscribe(champions.CHANNEL)
        assert heard.get_message(timeout=5)["type"] == "subscribe"
        run("rollback", FLEET, "--reason", "worse")
        message = heard.get_message(timeout=5)
    assert json.loads(message["data"])["version"] == released[1]


def test_a_rollback_needs_no_redis(released, tmp_path, monkeypatch):
    monkeypatch.setenv("RUL_REDIS_URL", f"unix://{tmp_path}/nobody.sock")
    assert f"is served by {released[1]} now" in run("rollback", FLEET, "--reason", "worse").stderr


def test_a_rollback_makes_no_database_and_no_folder_for_dagster(released, root, engine):
    run("rollback", FLEET, "--reason", "worse")
    assert not (root / "dagster").exists()
    assert not (root / "servers").exists()


def test_who_has_no_name_is_told_by_number(released, monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    told = json.loads(run("rollback", FLEET, "--reason", "worse", "--json").stdout)
    assert told["promoted_by"] == "cli:user 987654321"


def test_a_database_that_does_not_answer_is_named_without_its_password(root, tmp_path, monkeypatch):
    url = f"postgresql://rul:secret@/rul?host={tmp_path}"
    monkeypatch.setenv("RUL_DATABASE_URL", url)
    error = refused("history", FLEET)
    assert isinstance(error, Unavailable)
    assert str(tmp_path) in str(error)
    assert "secret" not in str(error)
