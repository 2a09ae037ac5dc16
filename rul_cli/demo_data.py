"""The data of a demonstration: what lands at first, and what lands later.

What belongs here: preparing files for the landing folder, simulated or the visitor's own. What
does not: running anything on them (``demo``).
"""

import glob
import io
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl

from rul_assets.retraining import Policy
from rul_core.cells import unit_name
from rul_core.discovery import describe
from rul_core.errors import FleetError, NotEnoughData, ReadingsError
from rul_core.formats import SUFFIXES, parse_file
from rul_core.model import LEAST_LIVES
from rul_core.readers import conform
from rul_core.schema import LIFE, UNIT, Fleet, Outcome, read_fleet
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
        chosen = [p for p in files if any(p.match(rule.glob) for rule in fleet.files)]
        if other := [p.name for p in files if p not in chosen]:
            remarks += (
                f"left out: {', '.join(other)}: no [[files]] of the description names them",
            )
        files = chosen
    return _parted(fleet, files, remarks)


def _parted(fleet: Fleet, files: list[Path], remarks: tuple[str, ...]) -> DemoData:
    """The files without the last of their failed units, and these, to land later.

    Raises:
        ReadingsError: A file cannot be read.
        NotEnoughData: Too few units failed to hold some back.
    """
    tables = {path: parse_file(path.read_bytes(), path.name) for path in files}
    held = _held_back(
        pl.concat(conform(table, fleet, source=path.name).lives for path, table in tables.items()),
        f"{len(files)} files of fleet {fleet.name}",
    )
    first, later, rules = {}, {}, []
    for path, table in tables.items():
        rule = fleet.rule_for(path.name)
        # Also rows that cannot be read move with their unit.
        unit = pl.lit(rule.unit_prefix) + unit_name(table, fleet.columns.unit)
        is_late = unit.is_in(held.implode()).fill_null(value=False)
        if not table.select(is_late.any()).item():
            first[path.name] = path.read_bytes()
            continue
        for part, name, which in ((first, "first", ~is_late), (later, "later", is_late)):
            rows, content = table.filter(which), io.BytesIO()
            if not rows.is_empty():
                rows.write_parquet(content)
                part[f"{path.name}.{name}.parquet"] = content.getvalue()
        # What the file's name says holds of both parts.
        rules.append(msgspec.structs.replace(rule, glob=f"{glob.escape(path.name)}.*"))
    return DemoData(
        fleet=msgspec.structs.replace(fleet, files=(*rules, *fleet.files)),
        first=first,
        later=later,
        remarks=(*remarks, f"{len(held)} units, of those that failed, land later"),
    )


def _held_back(lives: pl.DataFrame, source: str) -> pl.Series:
    """The last of the failed units: some, and enough for the sensor to ask for a training.

    Args:
        lives: Lives frames of all files, in one.
        source: For messages.
    """
    failed = (
        lives.filter(pl.col("outcome") == Outcome.FAILED.value)
        .group_by(UNIT, maintain_order=True)
        .agg(pl.col(LIFE).n_unique())
    )
    units, ended = failed[UNIT], failed[LIFE].to_list()
    count = max(1, round(HELD_BACK * len(units)))
    while count < len(units) and sum(ended[-count:]) < Policy().lives_needed(sum(ended[:-count])):
        count += 1
    if len(units) - count < LEAST_LIVES:
        raise NotEnoughData(
            f"{source}: {len(units)} units failed, at least {LEAST_LIVES + count} are needed to "
            "learn from some and hold others back"
        )
    return units.tail(count)
