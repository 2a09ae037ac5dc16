"""The main job, from a file in the landing folder to a retrained model that is served."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rul_cli.demo_data import from_folder
from rul_core.errors import FleetError, NotEnoughData, ReadingsError
from rul_core.model import LEAST_LIVES
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


def test_the_visitors_own_files_are_described_and_some_lives_held_back(tmp_path: Path):
    past = simulate(Simulation(units=20, running_units=0, sensors=4, mean_life_cycles=60))
    past.table.drop("outcome").write_csv(tmp_path / "pumps.csv")
    data = from_folder(tmp_path, "pumps")
    assert list(data.first) == ["pumps.first.csv"]
    assert list(data.later) == ["pumps.later.csv"]
    first, later = data.first["pumps.first.csv"], data.later["pumps.later.csv"]
    assert len(first.splitlines()) + len(later.splitlines()) - 2 == past.table.height
    assert "3 of the 20 units of pumps.csv land later" in data.remarks


def test_a_folder_without_readings_is_refused_with_what_to_do(tmp_path: Path):
    with pytest.raises(ReadingsError, match="name the folder that holds the readings"):
        from_folder(tmp_path, "pumps")


def test_too_few_units_to_hold_some_back_are_counted(tmp_path: Path):
    past = simulate(Simulation(units=8, running_units=0, sensors=4, mean_life_cycles=60))
    past.table.drop("outcome").write_csv(tmp_path / "pumps.csv")
    with pytest.raises(NotEnoughData, match=rf"8 units, at least {LEAST_LIVES + 1} are needed"):
        from_folder(tmp_path, "pumps")


def test_a_description_beside_the_files_must_bear_the_fleets_name(tmp_path: Path):
    spec = Simulation(units=20, running_units=0, sensors=4, mean_life_cycles=60)
    simulate(spec).table.write_csv(tmp_path / "pumps.csv")
    (tmp_path / "pumps.toml").write_text(write_fleet(simulated_fleet(spec, "fans")))
    with pytest.raises(FleetError, match="give it the name 'pumps'"):
        from_folder(tmp_path, "pumps")
