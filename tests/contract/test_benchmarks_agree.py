"""A race is only worth something between programs that compute the same."""

import json
import subprocess
import sys

import msgspec
import numpy as np
import polars as pl
import pytest

from benchmarks import features, features_scale, peers_tsfresh
from benchmarks.features import Case, cases_of, check_agreement, contestants
from rul_core.features import KINDS, Feature
from rul_core.simulator import Simulation, simulate, simulated_fleet

SMALL = Simulation(
    units=12,
    running_units=0,
    lives_per_unit=2,
    sensors=6,
    conditions=3,
    fault_modes=2,
    mean_life_cycles=40,
    missing_share=0.1,
)


@pytest.fixture(scope="module")
def small() -> list[Case]:
    """Both sets of declarations on short lives with gaps, some of them in the settings."""
    made = simulate(SMALL)
    readings = made.readings.with_columns(
        pl.when(pl.int_range(pl.len()) % 17 != 5).then("setting_1").alias("setting_1"),
        *(
            pl.when(pl.col("unit") != made.readings["unit"][0]).then(name).alias(name)
            for name in ("sensor_1", "sensor_2")
        ),
    )
    return cases_of("small", readings, made.lives, simulated_fleet(SMALL, "small"))


@pytest.mark.parametrize("place", [0, 1])
def test_pandas_and_polars_compute_what_the_kernel_computes(small, place):
    check_agreement("small", contestants(small[place]))


def test_they_agree_on_every_kind_of_feature(small):
    learnt = small[1]
    channels = [*learnt.pipeline.conditions.sensors]
    channels += [projection.name for projection in learnt.pipeline.projections]
    names = [f"{channels[0]}__value", f"{channels[-1]}__value", "age__age"]
    names += [
        Feature(channel, kind, window).name
        for channel in (channels[0], channels[-1])
        for kind in ("mean", "std", "trend", "ewm", "deviation")
        for window in (3, 8)
    ]
    names += [Feature("all_sensors", "spread", 4).name]
    assert {Feature.parse(name).kind for name in names} == KINDS
    pipeline = msgspec.structs.replace(learnt.pipeline, names=tuple(names), baseline=5)
    check_agreement("small", contestants(Case("small", "", learnt.readings, pipeline)))


def test_a_peer_that_computes_something_else_is_found_out(small):
    everyone = contestants(small[1])
    polars = everyone[features.POLARS]
    with pytest.raises(AssertionError, match="Polars on small"):
        check_agreement("small", everyone | {features.POLARS: lambda: polars() * 1.001})


def test_a_race_times_everyone_and_puts_the_kernel_beside_each(small):
    result = features.race(small[0], rounds=2)
    assert set(result["vs"]) == set(result["seconds"]) - {features.KERNEL}
    for spread in (*result["seconds"].values(), *result["vs"].values()):
        assert 0 < spread["lowest"] <= spread["median"] <= spread["highest"]


def test_windows_for_tsfresh_lie_within_a_life(small):
    readings = small[0].readings
    sensors = ("sensor_3", "sensor_4")
    table = peers_tsfresh.windows(readings, sensors, count=9)
    assert len(table) == 9 * peers_tsfresh.WINDOW
    for _, window in table.groupby("window"):
        assert (np.diff(window["cycle"]) == 1.0).all()


def test_a_run_over_many_readings_reports_time_and_peak_memory():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.features_scale", "4000"],
        check=True,
        capture_output=True,
        text=True,
    )
    run = json.loads(done.stdout)
    assert 3000 < run["readings"] < 5000
    assert run["feature_seconds"] > 0.0
    assert 50e6 < run["peak_memory_bytes"] < 3 * 2**30
    assert f"| {run['readings']:,} |" in features_scale.table([run])


def test_the_picture_is_small_and_the_same_for_the_same_figures(tmp_path):
    runs = [
        {"readings": m * 10**6, "feature_seconds": 0.5 * m, "peak_memory_bytes": 10**9}
        for m in (1, 3, 10)
    ]
    for name in ("one.svg", "two.svg"):
        features_scale.draw(runs, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert len((tmp_path / "one.svg").read_bytes()) < 200_000
