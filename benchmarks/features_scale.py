"""Features of millions of readings: is time linear, does memory stay flat?

What belongs here: a simulated fleet streamed shard by shard through the kernel, each size in a
process of its own so that its peak memory is its own; the table and the picture.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rul_core.labels import label
from rul_core.model import Recipe, fit_pipeline
from rul_core.simulator import Simulation, simulate_shards, simulated_fleet

LIFE_CYCLES = 200
UNITS_A_SHARD = 2_500
"""About half a million readings."""


def measure(millions: tuple[int, ...]) -> list[dict[str, Any]]:
    """One run a size, smallest first."""
    return [
        json.loads(
            subprocess.run(  # noqa: S603 - this very interpreter
                [sys.executable, "-m", "benchmarks.features_scale", str(size * 1_000_000)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for size in millions
    ]


def run(readings: int) -> dict[str, Any]:
    """Simulates about so many readings, computes the model's features of all, and keeps none."""
    simulation = Simulation(
        units=readings // LIFE_CYCLES,
        running_units=0,
        sensors=21,
        conditions=6,
        fault_modes=2,
        mean_life_cycles=LIFE_CYCLES,
    )
    fleet = simulated_fleet(simulation, "simulated")
    compiled = None
    done, simulating, computing = 0, 0.0, 0.0
    last = time.perf_counter()
    for shard in simulate_shards(simulation, UNITS_A_SHARD):
        simulating += time.perf_counter() - last
        if compiled is None:
            few = shard.lives.head(100)
            compiled = fit_pipeline(label(shard.readings, few), fleet, Recipe()).compiled()
            compiled.matrix(shard.readings.head(100))
        started = time.perf_counter()
        rows = compiled.matrix(shard.readings)
        computing += time.perf_counter() - started
        done += rows.shape[0]
        last = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "readings": done,
        "simulate_seconds": simulating,
        "feature_seconds": computing,
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as Markdown."""
    lines = [
        "| readings | features, seconds | seconds a million | simulation, seconds | peak memory |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {run['readings']:,} | {run['feature_seconds']:.1f} "
        f"| {1e6 * run['feature_seconds'] / run['readings']:.2f} "
        f"| {run['simulate_seconds']:.0f} | {run['peak_memory_bytes'] / 2**30:.2f} GiB |"
        for run in runs
    ]
    return "\n".join(lines) + "\n"


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Time and memory over the number of readings, as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "rul"
    millions = [run["readings"] / 1e6 for run in runs]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    seconds = [run["feature_seconds"] for run in runs]
    time_axes.loglog(millions, seconds, "o-", label="features")
    rate = seconds[0] / millions[0]
    time_axes.loglog(
        millions, [rate * m for m in millions], ":", color="grey", label="in proportion"
    )
    time_axes.set(xlabel="million readings", ylabel="seconds")
    time_axes.legend(frameon=False)
    memory_axes.semilogx(millions, [run["peak_memory_bytes"] / 2**30 for run in runs], "o-")
    memory_axes.axhline(3.0, color="grey", linestyle=":", label="limit")
    memory_axes.set(xlabel="million readings", ylabel="peak memory, GiB", ylim=(0, 3.3))
    memory_axes.legend(frameon=False)
    for axes in (time_axes, memory_axes):
        axes.set_xticks(millions, [f"{m:.0f}" for m in millions])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]))))
