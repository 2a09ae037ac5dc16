"""The data of a demonstration: what lands at first, and what lands later.

What belongs here: preparing files for the landing folder, simulated or the visitor's own. What
does not: running anything on them (``demo``).
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rul_core.discovery import describe
from rul_core.errors import FleetError, NotEnoughData, ReadingsError
from rul_core.formats import SUFFIXES, parse_file
from rul_core.model import LEAST_LIVES
from rul_core.schema import UNIT, Fleet, Outcome, read_fleet
from rul_core.simulator import Simulation, simulate, simulated_fleet

SIMULATED = "demo"
UNITS, RUNNING, ENDING = 60, 24, 12
"""Machines whose lives ended, machines in service, and those of them that fail later."""
HELD_BACK = 0.15
"""Share of the visitor's failed units that lands later."""


@dataclass(frozen=True)
class DemoData:
    """A fleet and its files, by name."""

    fleet: Fleet
    first: dict[str, bytes]
    later: dict[str, bytes]
    remarks: tuple[str, ...]
    """What a person should know of how they were made."""


def simulated(seed: int) -> DemoData:
    """A simulated fleet, half of whose running machines fail later."""
    spec = Simulation(units=UNITS, running_units=RUNNING, sensors=8, conditions=3, seed=seed)
    past = simulate(spec)
    whole = simulate(
        Simulation(units=UNITS + RUNNING, running_units=0, sensors=8, conditions=3, seed=seed)
    )
    running = past.lives.filter(pl.col("outcome") == Outcome.RUNNING)[UNIT]
    ending = running.sort().head(ENDING)
    seen = past.table.group_by("unit").agg(pl.col("cycle").max().alias("seen"))
    future = (
        whole.table.filter(pl.col("unit").is_in(ending.implode()))
        .join(seen, on="unit", maintain_order="left")
        .filter(pl.col("cycle") > pl.col("seen"))
        .drop("seen")
    )
    return DemoData(
        fleet=simulated_fleet(spec, SIMULATED),
        first={"history.csv": past.table.write_csv().encode()},
        later={"later.csv": future.write_csv().encode()},
        remarks=(
            f"{UNITS} simulated machines that ran to failure and {RUNNING} in service; "
            f"{ENDING} of these fail later (seed {seed})",
        ),
    )


def from_folder(folder: Path, name: str) -> DemoData:
    """The visitor's own files: those whose names hold the fleet's, or else all.

    ``NAME.toml`` beside them describes the fleet; without it the description is guessed.

    Raises:
        ReadingsError: There is no file to read, or one cannot be read.
        FleetError: The description is wrong or cannot be guessed.
        NotEnoughData: Too few units failed to hold some back.
    """
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    files = [p for p in files if name in p.name] or files
    described = folder / f"{name}.toml"
    if not files:
        raise ReadingsError(
            f"no {', '.join(SUFFIXES)} file; name the folder that holds the readings",
            source=str(folder),
        )
    remarks: tuple[str, ...] = ()
    if described.is_file():
        fleet = read_fleet(described.read_text(), str(described))
    else:
        largest = max(files, key=lambda p: p.stat().st_size)
        guess = describe(parse_file(largest.read_bytes(), largest.name), name, largest.name)
        fleet, remarks = guess.fleet, guess.remarks
    if fleet.name != name:
        raise FleetError(f"{described} describes {fleet.name!r}; give it the name {name!r}")
    if fleet.files:
        files = [p for p in files if any(p.match(rule.glob) for rule in fleet.files)]
    first: dict[str, bytes] = {}
    later: dict[str, bytes] = {}
    for path in files:
        table = parse_file(path.read_bytes(), path.name)
        if fleet.rule_for(path.name).outcome is not Outcome.FAILED:
            first[path.name] = path.read_bytes()
            continue
        unit = pl.col(fleet.columns.unit).cast(pl.String)
        units = table.select(unit.unique(maintain_order=True)).to_series()
        held = units.tail(max(1, round(HELD_BACK * len(units))))
        if len(units) - len(held) < LEAST_LIVES:
            raise NotEnoughData(
                f"{path}: {len(units)} units, at least {LEAST_LIVES + len(held)} are needed to "
                "learn from some and hold others back"
            )
        kept = table.filter(~unit.is_in(held.implode()))
        first[f"{path.stem}.first.csv"] = kept.write_csv().encode()
        later[f"{path.stem}.later.csv"] = (
            table.filter(unit.is_in(held.implode())).write_csv().encode()
        )
        remarks += (f"{len(held)} of the {len(units)} units of {path.name} land later",)
    return DemoData(fleet=fleet, first=first, later=later, remarks=remarks)
