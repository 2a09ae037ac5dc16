"""``rul ledger`` on a real PostgreSQL."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from rul_cli.ledger import app
from rul_core.errors import StoreError
from rul_core.prognosis import Prognosis, Provenance, Seen, State
from rul_core.simulator import Simulation, simulated_fleet
from rul_store import fleets, ledger
from rul_store.database import begin

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, StoreError), result.output
    assert result.stdout == ""
    return str(result.exception)


def said(fleet: str, minutes: int = 0) -> Prognosis:
    """That a life had no reading yet."""
    return Prognosis(
        fleet=fleet, unit="u", life=1, state=State.INSUFFICIENT_HISTORY, computed_at=NOON,
        detail="0 of 5 readings collected", cycle=None,
        provenance=Provenance(model_version=f"v{minutes}", seen=Seen(sent_seq=minutes)),
    )  # fmt: skip


@pytest.fixture
def root(data_root: Path) -> Path:
    fleets.save(data_root, simulated_fleet(Simulation(sensors=3), "pumps"))
    return data_root


@pytest.fixture
def written(root: Path, engine: sa.Engine) -> sa.Engine:
    """Two fleets with three entries, and one."""
    ledger.record(engine, "pumps", [said("pumps", minutes) for minutes in range(3)])
    ledger.record(engine, "fans", [said("fans")])
    return engine


def test_an_end_that_was_cut_off_is_found_by_what_was_noted(written):
    (before,) = verified("--fleet", "pumps")
    noted = f"{before['entries']}:{before['last_hash']}"
    assert verified("--fleet", "pumps", "--noted", noted) == [before]
    ledger.record(written, "pumps", [said("pumps", 3)])
    assert verified("--fleet", "pumps", "--noted", noted)[0]["entries"] == 4
    other = refused("verify", "--fleet", "pumps", "--noted", f"2:{before['last_hash']}")
    assert "entry 2 of the ledger of pumps is not the one that was noted (its hash is" in other
    change(written, "DELETE FROM ledger WHERE fleet = 'pumps' AND position > 2")
    assert verified("--fleet", "pumps")[0]["reason"] == ""
    gone = refused("verify", "--fleet", "pumps", "--noted", noted)
    assert "(its hash is none: it is missing); the ledger of pumps was written anew" in gone
    for arguments, message in (
        (("--noted", noted), "say which with --fleet"),
        (("--fleet", "pumps", "--noted", "3"), "give a position, a colon and a hash"),
    ):
        assert message in run("verify", *arguments, code=2).stderr.replace("\n", " ")


def change(engine: sa.Engine, statement: str) -> None:
    """Go round the trigger."""
    with begin(engine) as connection:
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(sa.text(statement))


def verified(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    return json.loads(run("verify", "--json", *arguments, code=code).stdout)


def test_a_ledger_as_it_was_written_is_told_with_its_last_hash(written):
    fans, pumps = verified()
    last = ledger.since(written, "pumps", 2)[0]
    assert (pumps["fleet"], pumps["entries"], pumps["last_hash"]) == ("pumps", 3, last.hash)
    assert (pumps["broken_at"], pumps["reason"]) == (None, "")
    assert (fans["fleet"], fans["entries"]) == ("fans", 1)
    assert verified("--fleet", "pumps") == [pumps]
    told = run("verify").stderr
    assert "as written" in told
    assert last.hash[:16] in told


@pytest.mark.parametrize(
    ("statement", "at", "reason"),
    [
        ("UPDATE ledger SET unit = 'x' WHERE model_version = 'v1'", 2, "not what was written"),
        ("DELETE FROM ledger WHERE model_version = 'v0' AND fleet = 'pumps'", 1, "is missing"),
    ],
)
def test_a_break_is_named_and_ends_with_1_though_the_other_fleets_are_right(
    written, statement, at, reason
):
    change(written, statement)
    fans, pumps = verified(code=1)
    assert (fans["entries"], fans["reason"]) == (1, "")
    assert (pumps["entries"], pumps["broken_at"]) == (at - 1, at)
    assert reason in pumps["reason"]
    told = " ".join(run("verify", code=1).stderr.split())
    assert f"broken at entry {at}" in told
    verified("--fleet", "fans")


def test_a_fleet_without_an_entry_is_refused_and_an_empty_ledger_is_not(root, engine):
    assert run("verify").stderr == "The ledger is empty.\n"
    assert verified() == []
    ledger.record(engine, "pumps", [said("pumps")])
    assert "no entry of a fleet 'fans' (fleets: pumps)" in refused("verify", "--fleet", "fans")


def test_an_entry_is_shown_as_it_was_recorded(written):
    entry = ledger.since(written, "pumps", 1)[0]
    shown = json.loads(run("show", str(entry.ledger_id)).stdout)
    assert (shown["position"], shown["hash"]) == (2, entry.hash)
    assert shown["prognosis"]["provenance"]["ledger_id"] == str(entry.ledger_id)


@pytest.mark.parametrize("command", ["show", "replay"])
def test_an_entry_that_is_not_there_is_refused(written, command):
    assert f"has no entry {UUID(int=1)}" in refused(command, str(UUID(int=1)))
    run(command, "7", code=2)


def test_an_entry_without_its_model_cannot_be_replayed_and_ends_with_1(written):
    entry = ledger.since(written, "pumps", 1)[0]
    told = run("replay", str(entry.ledger_id), code=1).stderr
    assert told.startswith("It cannot be computed again: ")
    assert "v1 is not there" in told
    found = json.loads(run("replay", str(entry.ledger_id), "--json", code=1).stdout)
    assert (found["verdict"], found["position"]) == ("impossible", 2)
