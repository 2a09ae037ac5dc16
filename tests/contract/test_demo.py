"""The main job, from a file in the landing folder to a retrained model that is served."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import psutil
import pytest

from rul_assets.retraining import Policy
from rul_cli.demo_data import DemoData, from_folder
from rul_core.errors import FleetError, NotEnoughData, ReadingsError
from rul_core.formats import parse_file
from rul_core.model import LEAST_LIVES
from rul_core.readers import conform
from rul_core.schema import write_fleet
from rul_core.simulator import Simulation, simulate, simulated_fleet

RUL = str(Path(sys.executable).parent / "rul")


def test_the_demonstration_learns_serves_retrains_checks_itself_and_leaves_nothing_running(
    tmp_path: Path,
):
    root = tmp_path / "demo"
    # A visitor's machine has no settings of ours.
    environment = {name: v for name, v in os.environ.items() if not name.startswith("RUL_")}
    done = subprocess.run(
        [RUL, "demo", "--once", "--json", "--root", str(root)],
        capture_output=True,
        text=True,
        timeout=1200,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["first_version"] != outcome["second_version"]
    assert outcome["units"] > 0
    assert "reason: ended_lives" in done.stderr
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if any(str(root) in part for part in process.info["cmdline"] or ())
    ]
    assert not left


def failed_units(data: DemoData, files: dict[str, bytes]) -> set[str]:
    """What the landing files say to whoever reads them by the fleet's description."""
    lives = pl.concat(
        conform(parse_file(content, name), data.fleet, source=name).lives
        for name, content in files.items()
    )
    return {*lives.filter(pl.col("outcome") == "failed")["unit"]}


@pytest.mark.parametrize("with_outcome", [True, False])
def test_the_visitors_own_files_are_described_and_some_lives_held_back(
    tmp_path: Path, with_outcome: bool
):
    table = simulate(Simulation(units=20, running_units=0, sensors=4, mean_life_cycles=60)).table
    (table if with_outcome else table.drop("outcome")).write_csv(tmp_path / "pumps.csv")
    data = from_folder(tmp_path, "pumps")
    first, later = failed_units(data, data.first), failed_units(data, data.later)
    assert (len(first), len(later), first & later) == (17, 3, set())
    assert "3 units, of those that failed, land later" in data.remarks
    rows = [parse_file(content, name) for name, content in {**data.first, **data.later}.items()]
    assert sum(part.height for part in rows) == table.height


def test_units_are_held_back_whole_however_they_are_spread_over_files(tmp_path: Path):
    """A file a machine, and a second file for the rest of each life."""
    spec = Simulation(units=20, running_units=0, sensors=4, mean_life_cycles=60)
    for (unit,), table in simulate(spec).table.group_by("unit"):
        table.filter(pl.col("cycle") <= 30).write_parquet(tmp_path / f"{unit}.parquet")
        table.filter(pl.col("cycle") > 30).write_csv(tmp_path / f"{unit}.csv")
    (tmp_path / "pumps.toml").write_text(write_fleet(simulated_fleet(spec, "pumps")))
    data = from_folder(tmp_path, "pumps")
    landed = {
        which: pl.concat(
            conform(parse_file(content, name), data.fleet, source=name).readings
            for name, content in files.items()
        )["unit"].value_counts()
        for which, files in (("first", data.first), ("later", data.later))
    }
    assert [landed["first"].height, landed["later"].height] == [17, 3]
    whole = simulate(spec).table["unit"].value_counts()
    assert pl.concat(landed.values()).sort("unit").equals(whole.sort("unit"))


def test_enough_lives_are_held_back_to_be_a_reason_to_learn_anew(tmp_path: Path):
    past = simulate(Simulation(units=LEAST_LIVES + 3, running_units=0, sensors=4))
    past.table.write_csv(tmp_path / "pumps.csv")
    data = from_folder(tmp_path, "pumps")
    first, later = failed_units(data, data.first), failed_units(data, data.later)
    assert len(first) == LEAST_LIVES
    assert len(later) >= Policy().lives_needed(len(first))


def test_a_file_that_the_description_does_not_name_is_told_of(tmp_path: Path):
    table = simulate(Simulation(units=20, running_units=0, sensors=4)).table.drop("outcome")
    table.write_csv(tmp_path / "pumps.csv")
    table.head(5).write_csv(tmp_path / "pumps_more.csv")
    remarks = from_folder(tmp_path, "pumps").remarks
    assert "left out: pumps_more.csv: no [[files]] of the description names them" in remarks


def test_a_folder_without_readings_is_refused_with_what_to_do(tmp_path: Path):
    with pytest.raises(ReadingsError, match="name the folder that holds the readings"):
        from_folder(tmp_path, "pumps")


def test_too_few_units_to_hold_some_back_are_counted(tmp_path: Path):
    past = simulate(Simulation(units=8, running_units=0, sensors=4, mean_life_cycles=60))
    past.table.drop("outcome").write_csv(tmp_path / "pumps.csv")
    with pytest.raises(NotEnoughData, match=rf"8 units failed, at least {LEAST_LIVES + 3} are"):
        from_folder(tmp_path, "pumps")


def test_a_description_beside_the_files_must_bear_the_fleets_name(tmp_path: Path):
    spec = Simulation(units=20, running_units=0, sensors=4, mean_life_cycles=60)
    simulate(spec).table.write_csv(tmp_path / "pumps.csv")
    (tmp_path / "pumps.toml").write_text(write_fleet(simulated_fleet(spec, "fans")))
    with pytest.raises(FleetError, match="give it the name 'pumps'"):
        from_folder(tmp_path, "pumps")
