"""``rul fleet``: describe, list, show; what is wrong is said with a remedy."""

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from rul_cli.fleet import app
from rul_core.errors import FleetError, ReadingsError, RulError, StoreError
from rul_core.readers import conform
from rul_core.schema import Fleet, read_fleet
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_store import champions, files, fleets
from rul_store.champions import Action, Champion


def run(root: Path, *arguments: object) -> Result:
    """A call that must do well."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--root", str(root)])
    assert result.exit_code == 0, result.output
    return result


def refused(root: Path, *arguments: object) -> RulError:
    """The error that a call ends with; nothing is written on standard output."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--root", str(root)])
    assert result.stdout == ""
    assert isinstance(result.exception, RulError)
    return result.exception


@pytest.fixture
def table(tmp_path: Path) -> Path:
    made = simulate(Simulation(units=6, running_units=2, sensors=4, mean_life_cycles=30))
    path = tmp_path / "history.csv"
    made.table.write_csv(path)
    return path


def test_a_description_is_written_from_a_table_and_every_guess_is_told(tmp_path, table):
    result = run(tmp_path, "init", "pumps", table)
    fleet = fleets.load(tmp_path, "pumps")
    assert (fleet.columns.unit, fleet.columns.outcome) == ("unit", "outcome")
    assert fleet.columns.sensors[:2] == ("sensor_1", "sensor_2")
    remarks = [line for line in result.stderr.splitlines() if line.startswith("  • ")]
    assert any(line.startswith("  • unit: 'unit', of which there are 8") for line in remarks)
    assert any(line.startswith("  • label cap: ") for line in remarks)
    assert f"Wrote {tmp_path / 'fleets' / 'pumps.toml'}. Read it" in result.stderr
    assert not (tmp_path / "landing").exists()


def test_the_description_is_printed_as_json_with_its_remarks(tmp_path, table):
    told = json.loads(run(tmp_path, "init", "pumps", table, "--json").stdout)
    assert msgspec.convert(told["fleet"], Fleet) == fleets.load(tmp_path, "pumps")
    assert all(isinstance(remark, str) for remark in told["remarks"])


def test_the_file_is_landed_when_asked_for(tmp_path, table):
    result = run(tmp_path, "init", "pumps", table, "--land")
    landed = tmp_path / "landing" / "pumps" / "history.csv"
    assert landed.read_bytes() == table.read_bytes()
    assert f"Landed {landed}." in result.stderr
    run(tmp_path, "init", "pumps", table, "--land", "--replace")


def test_another_file_of_the_same_name_in_the_landing_folder_is_kept(tmp_path, table):
    landed = tmp_path / "landing" / "pumps" / "history.csv"
    files.write(landed, b"unit,cycle\n")
    error = refused(tmp_path, "init", "pumps", table, "--land")
    assert isinstance(error, StoreError)
    assert str(error) == (f"{landed} is there with other content; rename {table} and land it again")
    assert landed.read_bytes() == b"unit,cycle\n"
    assert fleets.names(tmp_path) == ()


def test_a_description_that_exists_is_kept_unless_it_shall_be_replaced(tmp_path, table):
    run(tmp_path, "init", "pumps", table)
    path = fleets.path_of(tmp_path, "pumps")
    path.write_text(path.read_text().replace("lead_time_cycles = ", "lead_time_cycles = 1"))
    edited = path.read_text()
    error = refused(tmp_path, "init", "pumps", table)
    assert isinstance(error, FleetError)
    assert str(error) == f"{path} exists; edit it, or write a new one with --replace"
    assert path.read_text() == edited
    run(tmp_path, "init", "pumps", table, "--replace")
    assert path.read_text() != edited


def test_a_missing_file_is_named(tmp_path):
    error = refused(tmp_path, "init", "pumps", tmp_path / "none.csv")
    assert isinstance(error, ReadingsError)
    assert str(error) == (
        f"{tmp_path / 'none.csv'}: no such file; name a .txt, .csv or .parquet file"
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.xlsx", b"1", "the suffix .xlsx is unknown"),
        ("empty.csv", b"", "the file is empty"),
        ("words.csv", b"a,b\nx,y\n", "words.csv"),
    ],
)
def test_a_file_that_is_no_table_of_readings_is_refused(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    assert said in str(refused(tmp_path, "init", "pumps", path))
    assert fleets.names(tmp_path) == ()


@pytest.mark.parametrize("name", ["../pumps", "a b", ".hidden", "x" * 64])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path, table, name):
    assert f"fleet {name!r} cannot be a file name" in str(refused(tmp_path, "init", name, table))
    assert not (tmp_path / "fleets").exists()
    assert f"fleet {name!r} cannot be a file name" in str(refused(tmp_path, "show", name))


def described(root: Path, *names: str) -> None:
    for name in names:
        fleets.save(root, simulated_fleet(Simulation(sensors=3, mean_life_cycles=50), name))


def live(root: Path, fleet: str, version: str) -> None:
    """As the release of a version leaves it."""
    champion = Champion(
        fleet=fleet,
        version=version,
        generation=1,
        promoted_at=datetime(2026, 11, 23, tzinfo=UTC),
        promoted_by="run 1",
        reason="first_model",
        action=Action.RELEASE,
    )
    files.write_json(root / "models" / fleet / champions.LIVE, champion)


def test_fleets_are_listed_with_the_version_that_is_live(tmp_path):
    described(tmp_path, "pumps", "mills")
    live(tmp_path, "pumps", "20261123T000000Z-abc123")
    assert json.loads(run(tmp_path, "list", "--json").stdout) == [
        {
            "fleet": "mills",
            "sensors": 3,
            "unit_of_life": "cycles",
            "label_cap_cycles": 30.0,
            "live_version": None,
        },
        {
            "fleet": "pumps",
            "sensors": 3,
            "unit_of_life": "cycles",
            "label_cap_cycles": 30.0,
            "live_version": "20261123T000000Z-abc123",
        },
    ]
    told = run(tmp_path, "list").stderr
    assert "20261123T000000Z-abc123" in told
    assert "none yet" in told


def test_without_a_fleet_the_way_to_describe_one_is_told(tmp_path):
    told = run(tmp_path, "list").stderr
    assert told == f"No fleet under {tmp_path}; `rul fleet init NAME FILE` describes one.\n"
    assert json.loads(run(tmp_path, "list", "--json").stdout) == []


def test_the_data_root_may_come_from_the_environment(tmp_path, monkeypatch):
    described(tmp_path, "pumps")
    monkeypatch.setenv("RUL_ROOT", str(tmp_path))
    result = CliRunner().invoke(app, ["list", "--json"])
    assert [fleet["fleet"] for fleet in json.loads(result.stdout)] == ["pumps"]


def test_a_description_is_shown_as_the_toml_it_is_or_as_json(tmp_path):
    described(tmp_path, "pumps")
    fleet = fleets.load(tmp_path, "pumps")
    assert read_fleet(run(tmp_path, "show", "pumps").stdout) == fleet
    assert msgspec.convert(json.loads(run(tmp_path, "show", "pumps", "--json").stdout), Fleet) == (
        fleet
    )


def test_an_unknown_fleet_is_refused_with_those_that_are_known(tmp_path):
    described(tmp_path, "pumps", "mills")
    error = refused(tmp_path, "show", "fans")
    assert isinstance(error, FleetError)
    assert "fleets with a description: mills, pumps" in str(error)
    assert "rul fleet init fans FILE" in str(error)


def test_a_broken_description_is_named_with_its_key(tmp_path):
    described(tmp_path, "pumps")
    path = fleets.path_of(tmp_path, "pumps")
    path.write_text(path.read_text().replace("label_cap_cycles = 30.0", "label_cap_cycles = -1.0"))
    assert "label_cap_cycles" in str(refused(tmp_path, "show", "pumps"))


def test_one_broken_description_does_not_hide_the_other_fleets(tmp_path):
    described(tmp_path, "pumps", "mills")
    fleets.path_of(tmp_path, "mills").write_text("name = 'mills")
    told = run(tmp_path, "list").stderr
    assert "none yet" in told
    assert f"Fleet mills cannot be read: {fleets.path_of(tmp_path, 'mills')} is not valid" in told
    listed = json.loads(run(tmp_path, "list", "--json").stdout)
    assert [fleet["fleet"] for fleet in listed] == ["pumps", "mills"]
    assert "is not valid TOML" in listed[1]["error"]


def test_a_guessed_description_reads_the_very_table_it_was_guessed_from(tmp_path, table):
    run(tmp_path, "init", "pumps", table)
    fleet = fleets.load(tmp_path, "pumps")
    found = conform(pl.read_csv(table), fleet, source="history.csv")
    assert found.set_aside.is_empty()
    assert found.lives["outcome"].value_counts().sort("outcome").rows() == [
        ("failed", 6),
        ("running", 2),
    ]
