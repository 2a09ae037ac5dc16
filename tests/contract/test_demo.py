"""The main job, from a file in the landing folder to a retrained model that is served."""

import fcntl
import json
import os
import pty
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import dagster as dg
import polars as pl
import psutil
import pytest
from rich.progress import Progress

from rul_assets.retraining import Policy
from rul_cli import programs
from rul_cli.demo_data import DemoData, from_folder
from rul_cli.demo_story import DemoFailed, follow, refuse_unreleased
from rul_cli.laptop import opened
from rul_cli.programs import ProgramError
from rul_core.errors import FleetError, NotEnoughData, ReadingsError
from rul_core.formats import parse_file
from rul_core.model import LEAST_LIVES
from rul_core.readers import conform
from rul_core.schema import KEY, write_fleet
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_store import files, fleets

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
    assert f"Backup {outcome['restored_run']} was restored in" in done.stderr
    assert outcome["seconds_to_restore"] > 0
    assert not left_over(root)


def left_over(root: Path) -> list[list[str]]:
    """Processes that have to do with the data root."""
    return [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if any(str(root) in part for part in process.info["cmdline"] or ())
    ]


def test_in_a_terminal_progress_is_shown_and_ctrl_c_stops_everything_at_once(tmp_path: Path):
    root, shown = tmp_path / "demo", b""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("RUL_")}
    ours, its = pty.openpty()
    with subprocess.Popen(
        [RUL, "demo", "--root", str(root)],
        stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as demo:  # fmt: skip
        os.close(its)
        while b"rul_model" not in shown:
            shown += os.read(ours, 65536)
        assert b"realised_outcomes" not in shown, "it was shown when all was over"
        assert left_over(root)
        os.write(ours, b"\x03")
        time.sleep(0.3)
        os.write(ours, b"\x03")  # impatient
        interrupted = time.monotonic()
        with suppress(OSError):  # the other end was closed
            while os.read(ours, 65536):
                pass
        assert demo.wait(30) == 130
    os.close(ours)
    assert time.monotonic() - interrupted < 30
    assert not left_over(root)


def test_a_first_run_that_fails_says_why(tmp_path: Path):
    spec = Simulation(units=4, running_units=0, sensors=4)
    fleets.save(tmp_path, simulated_fleet(spec, "pumps"))
    files.write(tmp_path / "landing" / "pumps" / "a.csv", simulate(spec).table.write_csv())
    with opened(tmp_path) as laptop:
        run = programs.job(laptop.environment(), tmp_path / "log", "everything", "pumps")
        bar = Progress(disable=True)
        with dg.DagsterInstance.from_config(str(laptop.dagster_home)) as instance, run:
            with pytest.raises(ProgramError) as caught:
                follow(instance, bar, run)
            assert [task.description for task in bar.tasks if task.finished] == [
                "raw_readings", "core_readings", "features",
            ]  # fmt: skip
    told = str(caught.value).splitlines()
    assert told[0].startswith("the job everything stopped with code 1; the end of")
    assert told[-1].startswith("rul_model: fleet pumps: 4 units have a failed life, at least")


@pytest.mark.parametrize("released", [True, False])
def test_a_challenger_that_is_not_released_is_told_instead_of_waited_for(released: bool):
    told = {"released": released, "why": "it is worse by 3 cycles", "champion": "v1"}

    @dg.asset
    def released_model() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata=told)

    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([released_model], instance=instance).dagster_run
        if released:
            refuse_unreleased(instance, run)
        else:
            with pytest.raises(DemoFailed, match=r"worse by 3 cycles; so the champion v1 stays"):
                refuse_unreleased(instance, run)


def read(data: DemoData, files: dict[str, bytes]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Readings and lives, for whoever reads the landing files by the fleet's description."""
    found = [
        conform(parse_file(content, name), data.fleet, source=name)
        for name, content in files.items()
    ]
    readings = pl.concat(one.readings for one in found)
    return readings.select(KEY), pl.concat(one.lives for one in found)


def units(lives: pl.DataFrame, outcome: str) -> set[str]:
    return {*lives.filter(pl.col("outcome") == outcome)["unit"]}


@pytest.mark.parametrize("told", ["in the last row", "in every row", "by the file's name"])
def test_some_of_the_visitors_machines_run_at_first_and_fail_later(tmp_path: Path, told: str):
    table = simulate(Simulation(units=24, running_units=0, sensors=4, mean_life_cycles=60)).table
    if told == "in every row":
        table = table.with_columns(outcome=pl.lit("failed"))
    if told == "by the file's name":
        table = table.drop("outcome")
    table.write_csv(tmp_path / "pumps.csv")
    data = from_folder(tmp_path, "pumps")
    readings, lives = read(data, data.first)
    more, ended = read(data, data.later)
    assert len(units(lives, "failed")) == 16
    assert len(units(lives, "running")) == 8
    assert len(units(ended, "failed")) == 4
    assert units(ended, "failed") < units(lives, "running")
    assert ended.height == 4
    lengths = {
        unit: part["cycle"].max() for (unit,), part in pl.concat([readings, more]).group_by("unit")
    }
    whole = {unit: part["cycle"].max() for (unit,), part in table.group_by("unit")}
    shorter = {unit for unit in whole if lengths[unit] != whole[unit]}
    assert shorter == units(lives, "running") - units(ended, "failed")
    assert pl.concat([readings, more]).is_duplicated().sum() == 0
    assert data.remarks[-1] == (
        "8 of 24 units that failed are shown in service at first; the last readings of 4 of them "
        "land later"
    )


def test_where_machines_run_anyhow_all_that_are_held_back_fail_later(tmp_path: Path):
    spec = Simulation(units=20, running_units=3, sensors=4, mean_life_cycles=60)
    simulate(spec).table.write_csv(tmp_path / "pumps.csv")
    (tmp_path / "pumps.toml").write_text(write_fleet(simulated_fleet(spec, "pumps")))
    data = from_folder(tmp_path, "pumps")
    _, lives = read(data, data.first)
    _, ended = read(data, data.later)
    assert len(units(lives, "running")) == 6
    assert len(units(ended, "failed")) == 3


def test_a_machine_is_held_back_whole_however_it_is_spread_over_files(tmp_path: Path):
    """A file a machine, and a second file for the rest of each life."""
    spec = Simulation(units=24, running_units=0, sensors=4, mean_life_cycles=60)
    for (unit,), table in simulate(spec).table.group_by("unit"):
        table.filter(pl.col("cycle") <= 30).write_parquet(tmp_path / f"{unit}.parquet")
        table.filter(pl.col("cycle") > 30).write_csv(tmp_path / f"{unit}.csv")
    (tmp_path / "pumps.toml").write_text(write_fleet(simulated_fleet(spec, "pumps")))
    data = from_folder(tmp_path, "pumps")
    _, lives = read(data, data.first)
    _, ended = read(data, data.later)
    assert len(units(lives, "failed")) == 16
    assert len(units(ended, "failed")) == 4
    assert not units(lives, "failed") & units(ended, "failed")


def test_a_row_that_cannot_be_read_does_not_end_a_life_that_is_held_back(tmp_path: Path):
    table = simulate(Simulation(units=24, running_units=0, sensors=4, mean_life_cycles=60)).table
    last = table["unit"] == table["unit"][-1]
    spoilt = table["sensor_1"].cast(pl.String).set(last & (table["cycle"] == 3), "off")
    table.with_columns(spoilt).drop("outcome").write_csv(tmp_path / "pumps.csv")
    data = from_folder(tmp_path, "pumps")
    assert table["unit"][-1] not in units(read(data, data.first)[1], "failed")


def test_enough_lives_end_later_to_be_a_reason_to_learn_anew(tmp_path: Path):
    past = simulate(Simulation(units=LEAST_LIVES + 6, running_units=0, sensors=4))
    past.table.write_csv(tmp_path / "pumps.csv")
    data = from_folder(tmp_path, "pumps")
    first = units(read(data, data.first)[1], "failed")
    later = units(read(data, data.later)[1], "failed")
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
    with pytest.raises(NotEnoughData, match=rf"8 units failed, at least {LEAST_LIVES + 6} are"):
        from_folder(tmp_path, "pumps")


def test_a_description_beside_the_files_must_bear_the_fleets_name(tmp_path: Path):
    spec = Simulation(units=20, running_units=0, sensors=4, mean_life_cycles=60)
    simulate(spec).table.write_csv(tmp_path / "pumps.csv")
    (tmp_path / "pumps.toml").write_text(write_fleet(simulated_fleet(spec, "fans")))
    with pytest.raises(FleetError, match="give it the name 'pumps'"):
        from_folder(tmp_path, "pumps")
