"""Descriptions of fleets are kept as files of their own name."""

from pathlib import Path

import pytest

from rul_core.errors import FleetError, StoreError
from rul_core.schema import Columns, Fleet
from rul_store import fleets

PUMPS = Fleet(name="pumps", columns=Columns(unit="id", cycle="t", sensors=("p1", "p2")))


def test_a_saved_fleet_is_loaded_equal_and_listed(tmp_path: Path):
    assert fleets.names(tmp_path) == ()
    assert fleets.save(tmp_path, PUMPS) == tmp_path / "fleets" / "pumps.toml"
    (tmp_path / "fleets" / ".pumps.toml.tmp").write_text("left behind")
    assert fleets.load(tmp_path, "pumps") == PUMPS
    assert fleets.names(tmp_path) == ("pumps",)


def test_a_description_is_replaced_only_on_request(tmp_path: Path):
    fleets.save(tmp_path, PUMPS)
    other = Fleet(name="pumps", columns=Columns(unit="id", cycle="t", sensors=("p9",)))
    with pytest.raises(FleetError, match=r"pumps\.toml exists"):
        fleets.save(tmp_path, other)
    fleets.save(tmp_path, other, replace=True)
    assert fleets.load(tmp_path, "pumps") == other


def test_a_missing_description_names_the_command_that_writes_one(tmp_path: Path):
    fleets.save(tmp_path, PUMPS)
    with pytest.raises(FleetError, match=r"description: pumps\).*rul fleet init fans FILE"):
        fleets.load(tmp_path, "fans")


def test_a_file_that_names_another_fleet_is_refused(tmp_path: Path):
    fleets.save(tmp_path, PUMPS).rename(tmp_path / "fleets" / "fans.toml")
    with pytest.raises(FleetError, match=r"fans\.toml says name = 'pumps'"):
        fleets.load(tmp_path, "fans")


def test_a_damaged_description_names_its_file(tmp_path: Path):
    path = fleets.save(tmp_path, PUMPS)
    path.write_text("name = ")
    with pytest.raises(FleetError, match=r"pumps\.toml is not valid TOML"):
        fleets.load(tmp_path, "pumps")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FleetError, match="must be UTF-8"):
        fleets.load(tmp_path, "pumps")


def test_a_fleet_cannot_leave_its_folder(tmp_path: Path):
    with pytest.raises(StoreError, match=r"fleet '\.\./x' cannot be a file name"):
        fleets.load(tmp_path, "../x")
