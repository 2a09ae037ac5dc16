"""What the backup benchmark says is only worth something if it spoils what it says it does, counts
as lost what was acknowledged, and leaves no figure out."""

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks import backups_losses as losses
from benchmarks.backups import FULL, QUICK, REQUIRED, headline
from benchmarks.backups_faults import FAULTS, KINDS
from benchmarks.backups_recovery import draw
from benchmarks.backups_writer import FLEET, Writer
from rul_store.database import begin

SPREAD = {"median": 2.0, "lowest": 1.0, "highest": 3.0}


def recovered(scale: int) -> dict[str, Any]:
    return {
        "scale": scale, "readings": 10 * scale, "seconds": 4.0 * scale,
        "last_volume_seconds": 3.0 * scale, "backup_seconds": 5.0 * scale,
        "bringing_seconds": 1.0, "steps": {"fetched": 3.0 * scale, "first prognosis": scale},
    }  # fmt: skip


DETAILS = {
    "faults": {"injected": 240, "found": 239},
    "log_recovery_point": {"lost_seconds": SPREAD, "drills": 21},
    "recovery_point": {"lost_seconds": SPREAD, "drills": 20, "cycle_seconds": 15.0},
    "recovery_time": [recovered(1), recovered(100)],
    "load": {"ratio": SPREAD},
}


def test_no_figure_that_is_promised_is_left_out():
    told = headline(DETAILS)
    assert (told["faults_injected"], told["faults_found"]) == (240, 239)
    assert (told["rpo_max_seconds"], told["rto_max_seconds"], told["drills"]) == (3.0, 400.0, 41)
    assert REQUIRED.keys() <= told.keys()


def test_the_figure_of_the_half_hour_is_a_cycle_and_the_slowest_backup_with_its_way():
    assert headline(DETAILS)["rpo_of_dumps_max_seconds"] == pytest.approx(1800 + 500 + 1 + 0.1)


def test_the_whole_run_has_as_much_of_everything_as_was_promised():
    assert len(FAULTS) * len(KINDS) * FULL.faults.each >= 200
    assert FULL.scales == (1, 10, 100)
    for asked in (FULL.of_the_log, FULL.of_dumps):
        assert asked.count >= 20
        assert asked.cycles >= 2
    for name in ("simulation", "recipe"):
        assert getattr(QUICK, name) != getattr(FULL, name)


@pytest.mark.parametrize("asked", [FULL.of_the_log, FULL.of_dumps, QUICK.of_the_log])
def test_every_moment_is_at_another_place_of_its_cycle(asked: losses.Losses):
    moments = losses.spread_over(100.0, asked)
    places = sorted((moment - 100) % asked.cycle_seconds for moment in moments)
    assert len({round(place, 6) for place in places}) == asked.count
    assert moments[-1] - moments[0] < asked.cycles * asked.cycle_seconds


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_spoils_what_it_says_and_nothing_else(fault: Any, tmp_path: Path):
    whole, copy = tmp_path / "whole", tmp_path / "copy"
    (whole / "kind").mkdir(parents=True)
    names = [f"kind/{number}" for number in range(4)]
    for name in names:
        (whole / name).write_bytes(name.encode() * 20)

    def content(folder: Path) -> dict[str, bytes]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    before = content(whole)
    for seed in range(20):
        shutil.copytree(whole, copy, copy_function=os.link)
        spoilt = fault(copy, names[seed % 4], names, random.Random(seed))  # noqa: S311
        after = content(copy)
        changed = {name for name in before | after if before.get(name) != after.get(name)}
        assert spoilt == changed != set()
        assert content(whole) == before
        shutil.rmtree(copy)


def rows_of(engine: sa.Engine) -> set[str]:
    with begin(engine) as connection:
        query = sa.text("SELECT unit FROM units WHERE fleet = :fleet")
        return {*connection.execute(query, {"fleet": FLEET}).scalars()}


def test_a_killed_writer_leaves_all_that_was_acknowledged(engine: sa.Engine, database_url: str):
    writer = Writer(database_url, "a")
    writer.write()
    deadline = time.monotonic() + 60
    while len(rows_of(engine)) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    killed_at, acknowledged = writer.kill()
    assert max(acknowledged.values()) < killed_at
    assert len(acknowledged) >= 4
    assert acknowledged.keys() <= rows_of(engine)

    left = losses.Left(killed_at, set())
    assert losses.lost_of(left, database_url, acknowledged) < 10
    newer = {"b-000000": killed_at - 0.01}
    of_all = losses.lost_of(left, database_url, acknowledged | newer)
    assert of_all == killed_at - max(acknowledged.values())
    with pytest.raises(RuntimeError, match="a-000000x"):
        losses.lost_of(left, database_url, acknowledged | {"a-000000x": killed_at - 1})


def test_the_picture_has_every_step_and_the_last_volume(tmp_path: Path):
    draw([recovered(1), recovered(100)], tmp_path / "times.svg")
    text = (tmp_path / "times.svg").read_text()
    for told in ("fetched", "first prognosis", "the last volume is back"):
        assert f"<!-- {told} -->" in text
