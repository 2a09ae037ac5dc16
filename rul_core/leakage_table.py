"""A table of features made anywhere, in the gate's terms; its labels and its splits.

What belongs here: sorting and naming rows and lives, refusing tables that mean nothing, and the
tests of labels and splits. What does not: the features' values (``leakage_canary``).
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from rul_core.errors import ReadingsError
from rul_core.leakage_canary import Lives
from rul_core.leakage_report import GateTest, failed, not_run, passed

MOST_ROWS = 300_000
"""The canaries look at whole lives, drawn at random, up to this many rows."""


class Table(NamedTuple):
    """A table in the gate's terms, sorted by life and cycle."""

    frame: pl.DataFrame
    """As given, with ``__life`` (0 … lives - 1)."""
    lives: Lives
    """``rul`` is the label until it is known to be sound."""
    label: np.ndarray
    """(n,) float64."""
    names: list[str]
    """(lives,) the lives, for people."""


def prepare(table: pl.DataFrame, unit: str, cycle: str, label: str, life: str | None) -> Table:
    """Labelled rows by life and cycle.

    Raises:
        ReadingsError: A cycle or label is no number, a key is empty, a reading appears twice.
    """
    who = [unit, *([life] if life else [])]
    for name in (cycle, label):
        if not table.schema[name].is_numeric():
            raise ReadingsError(f"holds {table.schema[name]}; give numbers", column=name)
    for name in (*who, cycle):
        empty = table[name].null_count()
        if empty:
            raise ReadingsError(f"is empty in {empty} of {table.height} rows", column=name)
    frame = (
        table.filter(pl.col(label).cast(pl.Float64).is_finite())
        .sort(*who, cycle)
        .with_columns((pl.struct(who).rle_id()).cast(pl.Int64).alias("__life"))
    )
    twice = frame.filter(pl.struct("__life", cycle).is_duplicated())
    if not twice.is_empty():
        raise ReadingsError(
            f"unit {twice[unit][0]!r} has cycle {twice[cycle][0]} more than once; if it has "
            "several lives, name the column that tells them apart",
            column=cycle,
        )
    lives = Lives(
        frame["__life"].to_numpy(),
        frame[cycle].cast(pl.Float64).to_numpy(),
        frame[label].cast(pl.Float64).to_numpy(),
    )
    first = frame.unique("__life", keep="first", maintain_order=True)
    names = [" life ".join(str(part) for part in row) for row in first.select(who).iter_rows()]
    return Table(frame, lives, lives.rul, names)


def sampled(table: Table, seed: int) -> Table:
    """Whole lives at random, as many as make MOST_ROWS."""
    if len(table.label) <= MOST_ROWS:
        return table
    order = np.random.default_rng(seed).permutation(table.lives.number)
    rows = np.bincount(table.lives.life)[order].cumsum()
    kept = np.isin(table.lives.life, order[rows <= max(MOST_ROWS, rows[0])])
    life = np.unique(table.lives.life[kept], return_inverse=True)[1]
    lives = Lives(life, table.lives.cycle[kept], table.lives.rul[kept])
    return Table(table.frame.filter(kept), lives, table.label[kept], table.names)


def check_label(table: Table, column: str) -> tuple[Lives, GateTest]:
    """Whether label + cycle is one end a life below the cap; with the lives' true remaining."""
    life, cycle, label = table.lives.life, table.lives.cycle, table.label
    if not len(label):
        return table.lives, not_run("label", f"no row has a {column}; give labelled rows")
    # A value that is the greatest in many rows is a cap, not a coincidence.
    greatest = label.max()
    capped = label >= greatest
    if np.count_nonzero(capped) == 1:
        capped = np.zeros(len(label), dtype=bool)
    end = label + cycle
    count = table.lives.number
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, life[~capped], end[~capped])
    np.maximum.at(high, life[~capped], end[~capped])
    # Labels often are float32.
    tolerance = 1e-5 * max(1.0, float(np.abs(end).max()))
    known = low < np.inf
    # A capped row must have at least the cap left; without a known end it may have any more.
    least = np.full(count, -np.inf)
    np.maximum.at(least, life[capped], end[capped])
    short = known & (least > high + tolerance)
    apart = known & (high - low > tolerance)
    for wrong, what in (
        (np.unique(life[label < -tolerance]), "is below 0"),
        (np.flatnonzero(apart), f"+ cycle is not one end in every life below {greatest:g}"),
        (np.flatnonzero(short), f"is capped at {greatest:g} with less than that left"),
    ):
        if len(wrong):
            one = int(wrong[0])
            between = f" (there from {low[one]:g} to {high[one]:g})" if known[one] else ""
            return table.lives, failed(
                "label",
                (
                    f"{column} {what} in {len(wrong)} of {count} lives, the first is "
                    f"{table.names[one]}{between}; a label is the life's last cycle less the "
                    "reading's, in cycles, capped or not"
                ),
                {"lives": float(len(wrong))},
            )
    remaining = np.where(known[life], high[life] - cycle, np.nan)
    cap = f", capped at {greatest:g}" if capped.any() else ""
    return table.lives._replace(rul=remaining), passed(
        "label",
        f"{column} is the cycles left until one end in each of {count} lives{cap}",
        {"lives": float(count), "ends_known": float(known.sum())},
    )


def check_splits(
    table: pl.DataFrame,
    unit: str,
    split: str | None,
    splits: Mapping[str, Collection[str]] | None,
) -> GateTest:
    """Whether every machine is in one split."""
    parts = {name: {str(u) for u in units} for name, units in (splits or {}).items()}
    if split is not None:
        assigned = table.select(pl.col(split).cast(pl.String), pl.col(unit).cast(pl.String))
        for (name,), rows in assigned.drop_nulls().partition_by(split, as_dict=True).items():
            parts.setdefault(str(name), set()).update(rows[unit])
    if len(parts) < 2:
        return not_run("unit_disjoint", "needs two splits or more: a column or sets of machines")
    seen: dict[str, list[str]] = {}
    for name, units in sorted(parts.items()):
        for one in units:
            seen.setdefault(one, []).append(name)
    shared = sorted(one for one, names in seen.items() if len(names) > 1)
    sizes = ", ".join(f"{name} {len(units)}" for name, units in sorted(parts.items()))
    if shared:
        return failed(
            "unit_disjoint",
            (
                f"{len(shared)} of {len(seen)} machines are in more than one split, the first is "
                f"{shared[0]!r} in {' and '.join(seen[shared[0]])}; split by machine, not by row"
            ),
            {"shared_units": float(len(shared))},
        )
    return passed("unit_disjoint", f"no machine is in two splits (machines: {sizes})", {})
