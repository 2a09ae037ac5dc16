"""A process that is killed at any moment leaves the old state or the new one, never half of one.

``tests/store`` kills the lake at every step; here whole runs are killed where assets meet it.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from rul_core.schema import KEY
from rul_core.simulator import Simulation, simulate

MORE = Simulation(
    units=2, running_units=0, sensors=4, settings=1, mean_life_cycles=40, seed=5, first_unit=41
)
RUN = """
import signal
import sys
from pathlib import Path

import dagster as dg

from rul_assets import intake
from rul_assets.definitions import defs
from {module} import {owner}

asset, started, when = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
ordinary = {owner}.{method}

def stop_here(*arguments, **named):
    if when == "after":
        ordinary(*arguments, **named)
    started.touch()
    signal.pause()

{owner}.{method} = stop_here
intake.SETTLE_SECONDS = 0.0
with dg.DagsterInstance.ephemeral() as instance:
    instance.add_dynamic_partitions("fleet", ["pumps"])
    defs().resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, partition_key="pumps", asset_selection=[dg.AssetKey(asset)]
    )
"""
PLACES = {
    "after the shards and before the table names them": (
        "core_readings",
        {
            "module": "rul_store",
            "owner": "lake",
            "method": "_publish",
        },
    ),
    "after the rows of a file were kept and before it was marked": (
        "raw_readings",
        {
            "module": "rul_store.landing",
            "owner": "Landing",
            "method": "mark_taken",
        },
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_is_killed_leaves_the_old_state_and_the_next_completes_it(
    lived_in, tmp_path, place
):
    asset, where = PLACES[place]
    lived_in.drop(simulate(MORE).table, "more.parquet")
    if asset == "core_readings":
        lived_in.make("raw_readings")
    old = lived_in.lake.scan("core_readings", "pumps").collect()
    _kill_when(tmp_path / "started", asset, where)

    found = lived_in.lake.scan("core_readings", "pumps").collect()
    lived_in.lake.verify("core_readings", "pumps")
    assert found.equals(old)

    lived_in.make("raw_readings", "core_readings")
    again = lived_in.lake.scan("core_readings", "pumps").collect()
    assert again.height == old.height + simulate(MORE).table.height
    assert again.select(KEY).is_duplicated().sum() == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_readings_and_what_was_left_out_of_them_are_always_of_one_run(lived_in, tmp_path, when):
    table = simulate(MORE).table
    lived_in.drop(
        pl.concat([table, table.tail(3)]), "more.parquet"
    )  # three rows of a unit come twice
    lived_in.make("raw_readings")

    def found() -> tuple[int, int, int]:
        lake = lived_in.lake
        frames = (
            lake.scan("core_readings", "pumps"),
            lake.scan_beside("core_readings", "pumps", "set_aside"),
            lake.scan_beside("core_readings", "pumps", "issues"),
        )
        readings, aside, issues = (frame.select(pl.len()).collect().item() for frame in frames)
        return readings, aside, issues

    old = found()
    where = {"module": "rul_store", "owner": "lake", "method": "_publish"}
    _kill_when(tmp_path / "started", "core_readings", where, when)
    left = found()
    lived_in.make("core_readings")
    new = found()
    assert left == (old if when == "before" else new)
    assert all(more > less for more, less in zip(new, old, strict=True))


def _kill_when(started: Path, asset: str, where: dict[str, str], when: str = "before") -> None:
    command = [sys.executable, "-c", RUN.format(**where), asset, str(started), when]
    log = started.with_suffix(".log")
    with log.open("wb") as told, subprocess.Popen(command, stdout=told, stderr=told) as run:
        while not started.exists():
            assert run.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
