"""A first description of a fleet, guessed from one of its tables, with the reasons in plain words.

What belongs here: what columns and lengths of lives say of a fleet. What does not: which column is
what (``columns``), reading by a description that stands (``readers``).

A guess is made to be read and corrected: every choice is a remark.
"""

import glob
import re

import msgspec
import numpy as np
import polars as pl

from rul_core.columns import Key, Roles, find_key, find_roles, key_frame, look
from rul_core.errors import FleetError, ReadingsError
from rul_core.formats import CMAPSS_COLUMNS
from rul_core.naming import UNIT_OF_LIFE_BY_WORD, words_of
from rul_core.schema import (
    Columns,
    FileRule,
    Fleet,
    Learning,
    Maintenance,
    Outcome,
    read_fleet,
    write_fleet,
)

_CMAPSS_LABEL_CAP = 125.0
"""What the literature on C-MAPSS caps labels at, so that figures can be compared."""


class Guess(msgspec.Struct, frozen=True, kw_only=True):
    """A description to start from, and what was guessed."""

    fleet: Fleet
    remarks: tuple[str, ...]
    """One sentence a choice, for a person."""


def describe(table: pl.DataFrame, name: str, file_name: str) -> Guess:
    """Guesses a fleet's description from one table of run-to-failure readings.

    Args:
        table: As ``readers.parse_file`` gives it, or typed.
        name: What the fleet shall be called.
        file_name: Where the table is from: its name may say whether its lives have ended.

    Raises:
        FleetError: The name cannot be a fleet's, or no column can name the unit, count the cycle
            or be a sensor; the message says what to add.
        ReadingsError: The table has no rows.
    """
    if table.is_empty():
        raise ReadingsError("there are no rows to look at; give a file with data", source=file_name)
    looked = look(table)
    key = find_key(looked, file_name)
    roles = find_roles(looked, key)
    if not roles.sensors:
        raise FleetError(
            f"{file_name}: no column of numbers that vary is left to be a sensor; it has "
            f"{table.columns}; add the sensors' columns"
        )
    lives = _lives(key_frame(looked, key))
    unit_of_life, learning, lead_time, about_lives = _lengths(
        lives, key.cycle, is_cmapss=tuple(table.columns) == CMAPSS_COLUMNS
    )
    files, about_files = _files(file_name, roles.outcome)
    fleet = Fleet(
        name=name,
        columns=Columns(
            unit=key.unit,
            cycle=key.cycle,
            life=key.life,
            time=roles.time,
            outcome=roles.outcome,
            settings=tuple(roles.settings),
            sensors=tuple(roles.sensors),
        ),
        unit_of_life=unit_of_life,
        files=files,
        learning=learning,
        maintenance=Maintenance(lead_time_cycles=lead_time),
    )
    unit_count = lives["unit"].n_unique()
    return Guess(
        fleet=read_fleet(write_fleet(fleet), f"the description guessed from {file_name}"),
        remarks=(
            f"unit: {key.unit!r}, of which there are {unit_count}",
            *about_lives,
            *_about_columns(key, roles),
            about_files,
        ),
    )


def _about_columns(key: Key, roles: Roles) -> list[str]:
    remarks = [
        f"{role}: {name!r}"
        for role, name in (("life", key.life), ("time", roles.time), ("outcome", roles.outcome))
        if name is not None
    ]
    why = "by name" if roles.settings_by_name else "by their few values, the same at any age"
    settings = f"{', '.join(roles.settings)} ({why})" if roles.settings else "none found"
    return [
        *remarks,
        f"settings: {settings}",
        f"sensors: {len(roles.sensors)}: {', '.join(roles.sensors)}",
        *(f"left out: {', '.join(names)}: {reason}" for reason, names in roles.left_out.items()),
    ]


def _lives(rows: pl.DataFrame) -> pl.DataFrame:
    """unit, life, first, last, readings, step: one row a life; step is its usual one."""
    step = pl.col("cycle").diff()
    return rows.group_by("unit", "life", maintain_order=True).agg(
        first=pl.first("cycle"),
        last=pl.last("cycle"),
        readings=pl.len(),
        step=step.filter(step > 0).median(),
    )


def _lengths(
    lives: pl.DataFrame, cycle: str, *, is_cmapss: bool
) -> tuple[str, Learning, float, list[str]]:
    """The unit of life, how to learn, the lead time, and why."""
    known = {UNIT_OF_LIFE_BY_WORD[word] for word in words_of(cycle) & UNIT_OF_LIFE_BY_WORD.keys()}
    unit_of_life = known.pop() if len(known) == 1 else "cycles"
    steps = lives["step"].drop_nulls().to_numpy()
    step = float(f"{np.median(steps):.6g}") if steps.size else 1.0
    begins, readings = np.median(lives["first"].to_numpy()), np.median(lives["readings"].to_numpy())
    length = np.median((lives["last"] - lives["first"]).to_numpy()) + step
    from_new = bool(begins <= max(5 * step, 0.05 * length))
    cap = _CMAPSS_LABEL_CAP if is_cmapss else _two_digits(0.6 * length)
    lead_time = _two_digits(0.15 * length)
    why = "as is usual for C-MAPSS" if is_cmapss else "six tenths of a median life"
    remarks = [
        f"cycle: {cycle!r}, taken to count {unit_of_life}, {step:g} from one reading to the next",
        f"lives: {lives.height}; in the median {length:g} {unit_of_life} and {readings:g} readings",
        f"label cap: {cap:g}, {why}; RUL above it is not told apart",
        f"lead time: {lead_time:g}, three twentieths of a median life; put in your own",
    ]
    if not from_new:
        remarks.append(
            f"age is no feature: {cycle!r} begins at {begins:g}, so it is not counted from new"
        )
    learning = Learning(
        label_cap_cycles=cap,
        cycles_per_reading=step,
        minimum_readings=max(1, min(5, int(readings // 4))),
        uses_age=from_new,
    )
    return unit_of_life, learning, lead_time, remarks


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _files(file_name: str, outcome: str | None) -> tuple[tuple[FileRule, ...], str]:
    """What file names say of lives, and why."""
    base = file_name.rpartition("/")[2]
    parted = re.match(r"(?:train|test)([_-])", base)
    if parted:
        train, test = f"train{parted[1]}*", f"test{parted[1]}*"
        rules = (
            FileRule(glob=train, outcome=Outcome.FAILED, unit_prefix="train-"),
            FileRule(glob=test, outcome=Outcome.RUNNING, unit_prefix="test-"),
        )
        return rules, (
            f"files: lives in {train} ended in failure, those in {test} still run; units of the "
            "same name in the two are different machines"
        )
    if outcome is not None:
        return (), f"files: {outcome!r} says how each life ended, so their names say nothing"
    return (FileRule(glob=glob.escape(base), outcome=Outcome.FAILED),), (
        f"files: every life in {base} is taken to have ended in failure, those in other files to "
        "be running; change [[files]], or name an outcome column, where that is wrong"
    )
