"""The data of a demonstration: what lands at first, and what lands later.

What belongs here: preparing files for the landing folder, simulated or the visitor's own. What
does not: running anything on them (``demo``).
"""

import glob
import io
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from rul_assets.retraining import Policy
from rul_core.discovery import describe
from rul_core.errors import FleetError, NotEnoughData, ReadingsError
from rul_core.formats import SUFFIXES, parse_file
from rul_core.issues import ROW
from rul_core.model import LEAST_LIVES
from rul_core.readers import conform
from rul_core.schema import CYCLE, LIFE, UNIT, Fleet, Outcome, read_fleet
from rul_core.simulator import Simulation, simulate, simulated_fleet

SIMULATED = "demo"
UNITS, RUNNING, ENDING = 60, 24, 12
"""Machines whose lives ended, machines in service, and those of them that fail later."""
HELD_BACK = 0.15
"""Share of the visitor's failed units whose last readings land later."""


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
    """The files, with the last failed lives cut in two: in service at first, and their ends later.

    Raises:
        ReadingsError: A file cannot be read.
        NotEnoughData: Too few units failed to hold some back.
    """
    tables = {path: parse_file(path.read_bytes(), path.name) for path in files}
    read = {path: conform(table, fleet, source=path.name) for path, table in tables.items()}
    lives = pl.concat(one.lives for one in read.values())
    cuts, remark = _cuts(lives, pl.concat(one.readings for one in read.values()), fleet)
    first, later, rules = {}, {}, []
    for path, table in tables.items():
        rule, name = fleet.rule_for(path.name), glob.escape(path.name)
        rows = read[path].readings.join(cuts, on=[UNIT, LIFE], how="inner")
        if rows.is_empty():
            first[path.name] = path.read_bytes()
            continue
        late = rows.filter(pl.col(CYCLE) > pl.col("cut"))
        # Rows that cannot be read stay with their unit, lest they end its life.
        unread = read[path].set_aside.join(cuts, on=UNIT, how="semi")
        early = [*rows.filter(pl.col(CYCLE) <= pl.col("cut"))[ROW], *unread[ROW]]
        row = pl.int_range(1, pl.len() + 1)
        running = table.filter(row.is_in(early))
        if fleet.columns.outcome is not None:  # it may tell the end in every row
            running = running.with_columns(pl.lit(None, pl.String).alias(fleet.columns.outcome))
        for part, word, content in (
            (first, "ended", table.filter(~row.is_in([*rows[ROW], *unread[ROW]]))),
            (first, "running", running),
            (later, "later", table.filter(row.is_in([*late.filter("ends")[ROW]]))),
        ):
            if not content.is_empty():
                data = io.BytesIO()
                content.write_parquet(data)
                part[f"{path.name}.{word}.parquet"] = data.getvalue()
        # What the file's name says holds of its parts, but for those that run on.
        replace = msgspec.structs.replace
        rules += [
            replace(rule, glob=f"{name}.running.parquet", outcome=Outcome.RUNNING),
            replace(rule, glob=f"{name}.*.parquet"),
        ]
    return DemoData(
        fleet=msgspec.structs.replace(fleet, files=(*rules, *fleet.files)),
        first=first,
        later=later,
        remarks=(*remarks, remark),
    )


def _cuts(lives: pl.DataFrame, readings: pl.DataFrame, fleet: Fleet) -> tuple[pl.DataFrame, str]:
    """Which lives are shown in service at first, up to which cycle, and which of them end later.

    As many end later as make the sensor ask for a training; where no machine of the files is in
    service, as many more stay so.

    Returns:
        unit, life, cut, ends; and a remark for people.
    """
    ends = lives.group_by(UNIT, LIFE, maintain_order=True).agg(
        failed=(pl.col("outcome") == Outcome.FAILED.value).any(),
        running=(pl.col("outcome") == Outcome.RUNNING.value).all(),
    )
    failed = ends.filter("failed").height
    units = ends.filter("failed", pl.col(LIFE) == pl.col(LIFE).max().over(UNIT))
    staying_too = not ends["running"].any()

    def held(ending: int) -> int:
        return ending * (2 if staying_too else 1)

    ending = max(1, round(HELD_BACK * units.height))
    while ending < Policy().lives_needed(failed - held(ending)):
        ending += 1
    if units.height - held(ending) < LEAST_LIVES:
        raise NotEnoughData(
            f"fleet {fleet.name}: {units.height} units failed, at least "
            f"{LEAST_LIVES + held(ending)} are needed to learn from some and hold others back"
        )
    chosen = units.tail(held(ending)).select(UNIT, LIFE)
    # From half of a life to nine tenths, so that the ranking has something to rank.
    share = np.linspace(0.5, 0.9, chosen.height)
    np.random.default_rng(0).shuffle(share)
    begin, end = pl.col(CYCLE).min(), pl.col(CYCLE).max()
    lengths = readings.group_by(UNIT, LIFE).agg(begin.alias("begin"), (end - begin).alias("length"))
    cuts = (
        chosen.with_columns(
            share=pl.Series(share), ends=pl.int_range(pl.len()) >= chosen.height - ending
        )
        .join(lengths, on=[UNIT, LIFE], maintain_order="left")
        .select(UNIT, LIFE, "ends", cut=pl.col("begin") + pl.col("share") * pl.col("length"))
    )
    return cuts, (
        f"{chosen.height} of {units.height} units that failed are shown in service at first; the "
        f"last readings of {ending} of them land later"
    )
