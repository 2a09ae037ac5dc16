"""How fast features are computed, beside pandas, Polars and tsfresh in one run.

``python -m benchmarks.features [--quick] [--data DIR] [--json FILE|-]``

What belongs here: the cases, the race and its report. What does not: how the peers compute
(``peers_*``), the run over millions of readings (``features_scale``).

Everybody starts from the same raw readings in memory, in the frame that suits them, and ends with
every declared feature at every reading; everybody may use the same cores. Before the race the
results are compared: a peer that computes something else is an error, not a rival. In every round
each has a turn, in changing order, so that whatever else the machine does slows everyone. A turn
begins with a call that is not timed, then lasts a quarter of a second or one call, whichever is
longer, and gives the mean time of a call. A ratio is taken within each round, and the median over
rounds is reported with the lowest and the highest.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from benchmarks import features_scale, peers_pandas, peers_polars, peers_tsfresh
from rul_core import cmapss
from rul_core.features import Pipeline, Windows, declare
from rul_core.labels import label
from rul_core.model import Recipe, fit_pipeline
from rul_core.readers import conform, parse_file
from rul_core.schema import KEY, Fleet
from rul_core.simulator import Simulation, simulate, simulated_fleet

EVERY_SENSOR = Windows(
    means=(5, 15, 30, 60),
    stds=(15, 30),
    trends=(15, 30),
    spans=(5, 10, 30),
    deviations=(10,),
    spreads=(10,),
    baseline=20,
)
"""What the literature's gradient boosting on C-MAPSS is fed with, for each sensor."""
KERNEL, PANDAS, POLARS = "kernel", "pandas", "Polars"
TOLERANCE = 1e-5
TURN_SECONDS = 0.25
TSFRESH_SENSORS = 4


@dataclass(frozen=True)
class Case:
    """Readings, and what is to be computed of them."""

    data: str
    declared: str
    readings: pl.DataFrame
    pipeline: Pipeline


def main() -> None:
    """Runs the benchmark and reports."""
    options = _options()
    report = sys.stderr if options.json == "-" else sys.stdout
    result = measure(options.data, quick=options.quick, say=lambda text: print(text, file=report))
    if options.picture:
        features_scale.draw(result["details"]["scale"], options.picture)
    if options.json == "-":
        print(json.dumps(result, indent=2))
    elif options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features")
    parser.add_argument("--quick", action="store_true", help="small sizes, under two minutes")
    parser.add_argument("--data", type=Path, help="folder with train_FD004.txt")
    parser.add_argument("--json", help="write the figures to a file, or to standard output: -")
    parser.add_argument("--picture", type=Path, help="draw the run over millions as SVG")
    return parser.parse_args()


def measure(data: Path | None, *, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures.

    Args:
        data: The folder of C-MAPSS, or None to measure on simulated fleets alone.
        quick: Small sizes.
        say: Told every table, as Markdown.

    Returns:
        The headline of the first case, and ``details``.
    """
    say(f"{_machine()}\n")
    cold = cold_start()
    say(
        f"First call: {cold['compile_seconds']:.1f} s to compile, once a machine; "
        f"{cold['load_seconds']:.2f} s in each later process.\n"
    )
    races = []
    everything = cases(data, quick)
    for case in everything:
        check_agreement(case.data, contestants(case))
        races.append({**describe(case), **race(case, rounds=3 if quick else 9)})
        say(_table(races[-1]))
    headline = races[0]
    tsfresh = race_tsfresh(everything[0], windows=16 if quick else 64, kernel=headline)
    say(_tsfresh_text(tsfresh))
    scale = features_scale.measure((1, 3) if quick else (1, 3, 10, 30))
    say(features_scale.table(scale))
    return {
        "vs_pandas": headline["vs"][PANDAS]["median"],
        "vs_polars": headline["vs"][POLARS]["median"],
        "vs_tsfresh_per_feature": tsfresh["ratio"],
        "readings_per_second": headline["readings"] / headline["seconds"][KERNEL]["median"],
        "peak_memory_bytes": max(run["peak_memory_bytes"] for run in scale),
        "details": {
            "machine": _machine(),
            "threads": threads(),
            "first_call": cold,
            "races": races,
            "tsfresh": tsfresh,
            "scale": scale,
        },
    }


def cases(data: Path | None, quick: bool) -> list[Case]:
    """The data sets, each with both sets of declarations; the first case is the headline."""
    fleets: list[tuple[str, pl.DataFrame, pl.DataFrame, Fleet]] = []
    if data is not None:
        fleets.append(("FD004", *fd004(data / "train_FD004.txt")))
    short = Simulation(
        units=125 if quick else 250,
        running_units=0,
        sensors=21,
        conditions=6,
        fault_modes=2,
        mean_life_cycles=245,
    )
    simulations = {"simulated": short}
    if not quick:
        simulations["simulated, long lives, gaps"] = msgspec.structs.replace(
            short, units=30, mean_life_cycles=2000.0, missing_share=0.02
        )
    for name, simulation in simulations.items():
        made = simulate(simulation)
        fleets.append((name, made.readings, made.lives, simulated_fleet(simulation, "simulated")))
    return [case for fleet in fleets for case in cases_of(*fleet)]


def cases_of(data: str, readings: pl.DataFrame, lives: pl.DataFrame, fleet: Fleet) -> list[Case]:
    """One data set with both sets of declarations."""
    learnt = fit_pipeline(label(readings, lives), fleet, Recipe())
    declared = declare(learnt.conditions.sensors, EVERY_SENSOR, age=True)
    full = msgspec.structs.replace(
        learnt,
        projections=(),
        names=tuple(feature.name for feature in declared),
        baseline=EVERY_SENSOR.baseline,
    )
    return [
        Case(data, "every sensor", readings, full),
        Case(data, "as the model declares", readings, learnt),
    ]


def fd004(path: Path) -> tuple[pl.DataFrame, pl.DataFrame, Fleet]:
    """Readings, lives and the fleet of C-MAPSS' largest training file."""
    fleet = cmapss.fleet("FD004")
    conformed = conform(
        parse_file(path.read_bytes(), path.name),
        fleet,
        source=path.name,
        rule=fleet.rule_for(path.name),
    )
    readings = conformed.readings.select(fleet.readings_schema.names()).sort(KEY)
    return readings, conformed.lives, fleet


def contestants(case: Case) -> dict[str, Callable[[], Any]]:
    """Who computes the case's features, each from readings in its own frame."""
    compiled = case.pipeline.compiled()
    lazy, table = case.readings.lazy(), case.readings.to_pandas()
    return {
        KERNEL: lambda: compiled.matrix(case.readings),
        PANDAS: lambda: peers_pandas.features(
            peers_pandas.channels(table, case.pipeline), table, case.pipeline
        ),
        POLARS: lambda: peers_polars.features(
            peers_polars.channels(lazy, case.pipeline), case.pipeline
        ).collect(),
    }


def given_channels(case: Case) -> dict[str, Callable[[], Any]]:
    """The peers once more, with conditions, normalisation and projections done for them."""
    table = case.readings.to_pandas()
    normalised = peers_pandas.channels(table, case.pipeline)
    channels = peers_polars.channels(case.readings.lazy(), case.pipeline).collect().lazy()
    return {
        f"{PANDAS}, given channels": lambda: peers_pandas.features(
            normalised, table, case.pipeline
        ),
        f"{POLARS}, given channels": lambda: peers_polars.features(
            channels, case.pipeline
        ).collect(),
    }


def check_agreement(data: str, everyone: dict[str, Callable[[], Any]]) -> None:
    """Raises AssertionError where a peer's numbers are not the kernel's, nulls included."""
    computed = {name: compute() for name, compute in everyone.items()}
    expected = computed.pop(KERNEL)
    for name, table in computed.items():
        got = np.asarray(table.to_numpy(), dtype=np.float64)
        np.testing.assert_allclose(
            got, expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{name} on {data}"
        )


def race(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of everyone, and how many times the kernel's seconds the others take."""
    everyone = contestants(case) | given_channels(case)
    seconds: dict[str, list[float]] = {name: [] for name in everyone}
    order = list(everyone)
    for _ in range(rounds):
        for name in order:
            seconds[name].append(_turn(everyone[name]))
        order = order[1:] + order[:1]
    ratios = {
        name: [theirs / ours for theirs, ours in zip(own, seconds[KERNEL], strict=True)]
        for name, own in seconds.items()
        if name != KERNEL
    }
    return {
        "rounds": rounds,
        "seconds": {name: _spread(own) for name, own in seconds.items()},
        "vs": {name: _spread(own) for name, own in ratios.items()},
    }


def race_tsfresh(case: Case, windows: int, kernel: dict[str, Any]) -> dict[str, Any]:
    """Seconds for one value of one feature: tsfresh on a sample of windows, the kernel on all.

    A value is one feature of one sensor at one moment. tsfresh computes them window by window, so
    a sample costs what the whole would, in proportion.
    """
    sensors = case.pipeline.conditions.sensors[:TSFRESH_SENSORS]
    table = peers_tsfresh.windows(case.readings, sensors, windows)
    processes = threads()["tsfresh"]
    started = time.perf_counter()
    values = peers_tsfresh.extract(table, processes).size
    seconds = time.perf_counter() - started
    ours = kernel["seconds"][KERNEL]["median"] / (kernel["readings"] * kernel["features"])
    return {
        "data": case.data,
        "windows": windows,
        "window_readings": peers_tsfresh.WINDOW,
        "sensors": len(sensors),
        "processes": processes,
        "values": values,
        "seconds_per_value": seconds / values,
        "kernel_seconds_per_value": ours,
        "ratio": seconds / values / ours,
    }


def cold_start() -> dict[str, float]:
    """Seconds of the first call of all, and of the first call in a new process after it."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        code = "from benchmarks.features import first_call; print(first_call())"
        compiling, loading = (
            float(
                subprocess.run(  # noqa: S603 - this very interpreter
                    [sys.executable, "-c", code],
                    env=environment,
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for _ in range(2)
        )
    return {"compile_seconds": compiling, "load_seconds": loading}


def first_call() -> float:
    """Seconds of a process' first batch, on hardly any readings."""
    simulation = Simulation(units=2, running_units=0, mean_life_cycles=20)
    made = simulate(simulation)
    fleet = simulated_fleet(simulation, "simulated")
    started = time.perf_counter()
    fit_pipeline(label(made.readings, made.lives), fleet, Recipe())
    return time.perf_counter() - started


def threads() -> dict[str, int]:
    """How many each may use: all cores; pandas has no use for more than one."""
    return {
        KERNEL: pl.thread_pool_size(),
        POLARS: pl.thread_pool_size(),
        PANDAS: 1,
        "tsfresh": pl.thread_pool_size(),
    }


def describe(case: Case) -> dict[str, Any]:
    """What a race is about."""
    return {
        "data": case.data,
        "declared": case.declared,
        "readings": case.readings.height,
        "features": len(case.pipeline.names),
    }


def _turn(compute: Callable[[], object]) -> float:
    """Seconds a call."""
    compute()
    gc.collect()
    calls, elapsed = 0, 0.0
    started = time.perf_counter()
    while elapsed < TURN_SECONDS:
        compute()
        calls += 1
        elapsed = time.perf_counter() - started
    return elapsed / calls


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def _machine() -> str:
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"Polars {pl.__version__}; threads: "
        + ", ".join(f"{name} {count}" for name, count in threads().items())
    )


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['data']}, {result['declared']}: {result['readings']:,} readings, "
        f"{result['features']} features, {result['rounds']} rounds\n",
        "| who | milliseconds, median (lowest to highest) | times the kernel's |",
        "| --- | ---: | ---: |",
    ]
    for name, own in result["seconds"].items():
        middle, low, high = (1000 * own[key] for key in ("median", "lowest", "highest"))
        ratio = result["vs"].get(name)
        times = (
            f"{ratio['median']:.1f} ({ratio['lowest']:.1f} to {ratio['highest']:.1f})"
            if ratio
            else ""
        )
        lines.append(f"| {name} | {middle:.0f} ({low:.0f} to {high:.0f}) | {times} |")
    return "\n".join(lines) + "\n"


def _tsfresh_text(result: dict[str, Any]) -> str:
    return (
        f"tsfresh, {result['windows']} windows of {result['window_readings']} readings x "
        f"{result['sensors']} sensors, {result['processes']} processes: "
        f"{1e6 * result['seconds_per_value']:.1f} µs a value; the kernel "
        f"{1e9 * result['kernel_seconds_per_value']:.1f} ns: {result['ratio']:,.0f} times.\n"
    )


if __name__ == "__main__":
    main()
