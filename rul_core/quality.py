"""What is wrong with readings, as typed issues; nothing is dropped in silence.

What belongs here: the rules that judge one fleet's readings by themselves. What does not: the kinds
of issue (``issues``), turning a source's cells into numbers (``readers``), operating conditions
that training has not seen (``conditions``), slow change of a whole fleet (``drift``).

The rules, in the order in which they act:

out of order    the cycle goes back within a life of one source; the readings are sorted and used
duplicate       a reading repeats unit, life, cycle and every value of an earlier one; set aside
conflict        it repeats unit, life and cycle, but not the values; the first one stays
not a number    a value is NaN, infinite or beyond ``LARGEST``; it becomes null, the reading stays
out of range    a value is outside the fleet's ``ranges``; it becomes null, the reading stays
gap             the step to the next cycle is more than ``GAP_STEPS`` of the usual ones
stuck           a sensor that varies repeats one value longer than by chance; kept as it is

Neighbouring readings with the same fault make one issue, whose detail says how many they are.
"""

from collections.abc import Mapping
from math import ceil, log

import msgspec
import numpy as np
import polars as pl

from rul_core.issues import (
    ISSUES_SCHEMA,
    ROW,
    SET_ASIDE_SCHEMA,
    SOURCE,
    IssueKind,
    as_issues,
    row_content,
    sentence,
)
from rul_core.schema import CYCLE, KEY, LIFE, TIME, UNIT, Fleet

__all__ = [
    "GAP_STEPS",
    "ISSUES_SCHEMA",
    "LARGEST",
    "SET_ASIDE_SCHEMA",
    "STUCK_READINGS",
    "Inspected",
    "IssueKind",
    "inspect",
    "usual_repeats",
    "within_limits",
]

LARGEST = 1e100
"""No measurement is larger; squares of such values are no numbers."""
GAP_STEPS = 3.0
"""A step of more usual steps than this is a gap."""
STUCK_READINGS = 20
"""Fewer equal readings in a row are never called stuck."""
_VARIES = 0.5
"""A sensor whose every other reading repeats the one before, or more, is too coarse to be stuck."""
_BY_CHANCE = 1e-3
"""How many runs of a length chance may be expected to give before such a run is stuck."""


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """Readings after judgement."""

    usable: pl.DataFrame
    """In the fleet's ``readings_schema``, sorted by unit, life, cycle, which are unique."""
    set_aside: pl.DataFrame
    """In ``SET_ASIDE_SCHEMA``."""
    issues: pl.DataFrame
    """In ``ISSUES_SCHEMA``, sorted by unit, life, cycle."""


def inspect(
    readings: pl.DataFrame, fleet: Fleet, usual: Mapping[str, float] | None = None
) -> Inspected:
    """Judges readings.

    Args:
        readings: The fleet's ``readings_schema``, with ``source`` and ``row``, in the order in
            which they came; ``readers.conform`` gives it.
        fleet: Its description.
        usual: What ``usual_repeats`` says of many lives; give it with the readings of a few, since
            without it what is usual is taken from these readings alone.
    """
    issues = [_out_of_order(readings)]
    kept, set_aside, repeats = _first_of_each(readings.sort(KEY, maintain_order=True), fleet)
    issues.append(repeats)
    kept, found = _without_non_finite(kept, fleet.channels)
    issues.extend(found)
    kept, found = _without_out_of_range(kept, fleet.ranges)
    issues.extend(found)
    issues.append(_gaps(kept, fleet.learning.cycles_per_reading))
    issues.extend(_stuck(kept, fleet.columns.sensors, usual or usual_repeats(kept, fleet)))
    return Inspected(
        usable=kept.select(fleet.readings_schema.names()),
        set_aside=set_aside,
        issues=pl.concat(issues).sort(*KEY, "kind", "column", maintain_order=True),
    )


def within_limits(readings: pl.DataFrame, fleet: Fleet) -> pl.DataFrame:
    """The readings with null for every value outside its physical limits."""
    return readings.with_columns(
        pl.when(pl.col(name).is_between(low, high)).then(name)
        for name, (low, high) in fleet.ranges.items()
    )


def usual_repeats(readings: pl.DataFrame, fleet: Fleet) -> dict[str, float]:
    """How often each sensor repeats the value before it: the median over lives of the share.

    Args:
        readings: Usable readings, sorted by unit, life, cycle.
        fleet: Its description.

    Returns:
        0 to 1 for each sensor; 1 where no life has two values.
    """
    lives = _starts_life(readings).cum_sum()
    usual = {}
    for name in fleet.columns.sensors:
        shares = _repeats(readings, lives, name).group_by("life").agg(pl.mean("same"))
        known = shares["same"].drop_nulls().to_numpy()
        usual[name] = float(np.median(known)) if known.size else 1.0
    return usual


def _runs(readings: pl.DataFrame, flag: pl.Series, value: pl.Series) -> pl.DataFrame:
    """Stretches of flagged neighbours within a life: where each starts, and what it holds.

    Columns: the first reading's key, source, row and value; ``last_cycle``, ``readings``, ``low``
    and ``high``.
    """
    flagged = readings.select(
        *KEY, SOURCE, ROW, position=pl.int_range(pl.len()), value=value, flag=flag
    ).filter("flag")
    return flagged.group_by(
        UNIT, LIFE, run=pl.col("position") - pl.int_range(pl.len()), maintain_order=True
    ).agg(
        pl.first(CYCLE, SOURCE, ROW, "value"),
        last_cycle=pl.last(CYCLE),
        readings=pl.len(),
        low=pl.min("value"),
        high=pl.max("value"),
    )


def _starts_life(readings: pl.DataFrame) -> pl.Series:
    """True at the first reading of each life, in sorted readings."""
    starts = (pl.col(UNIT) != pl.col(UNIT).shift(1)) | (pl.col(LIFE) != pl.col(LIFE).shift(1))
    return readings.select(starts.fill_null(value=True)).to_series()


def _out_of_order(readings: pl.DataFrame) -> pl.DataFrame:
    """One issue a life and source: the first place where its cycle goes back."""
    backwards = (
        readings.select(*KEY, SOURCE, ROW, before=pl.col(CYCLE).shift(1).over(SOURCE, UNIT, LIFE))
        .filter(pl.col(CYCLE) < pl.col("before"))
        .group_by(SOURCE, UNIT, LIFE, maintain_order=True)
        .agg(pl.first(CYCLE, ROW, "before"), places=pl.len())
    )
    detail = sentence(
        "comes after cycle {}; the cycle goes back in {} places of this life; sorted",
        "before",
        "places",
    )
    return as_issues(
        backwards.with_columns(detail=detail, value=pl.lit(None)), IssueKind.OUT_OF_ORDER, CYCLE
    )


def _first_of_each(
    ordered: pl.DataFrame, fleet: Fleet
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The first reading of every key; the others set aside; one issue a life, source and kind."""
    same_key = pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in KEY)
    repeated = ordered.select(same_key.fill_null(value=False)).to_series()
    kept, later = ordered.filter(~repeated), ordered.filter(repeated)
    first = kept[(~repeated).cum_sum().filter(repeated).cast(pl.Int64) - 1]

    differs = {name: later[name].ne_missing(first[name]) for name in (TIME, *fleet.channels)}
    judged = later.select(
        *KEY,
        SOURCE,
        ROW,
        column=pl.coalesce(pl.when(where).then(pl.lit(name)) for name, where in differs.items()),
        value=pl.coalesce(
            pl.when(where).then(pl.col(name).cast(pl.String)) for name, where in differs.items()
        ),
        content=row_content(later),
        first_row=first[ROW],
        first_source=first[SOURCE],
    ).with_columns(
        first=sentence("row {} of {}", "first_row", "first_source"),
        reason=pl.when(pl.col("column").is_null())
        .then(pl.lit(IssueKind.DUPLICATE.value))
        .otherwise(pl.lit(IssueKind.CONFLICT.value)),
    )
    is_duplicate = pl.col("reason") == IssueKind.DUPLICATE.value
    set_aside = judged.with_columns(
        detail=pl.when(is_duplicate)
        .then(sentence("repeats {}", "first"))
        .otherwise(sentence("differs from {}, which stays", "first"))
    ).select(SET_ASIDE_SCHEMA.names())
    issues = (
        judged.group_by(SOURCE, UNIT, LIFE, "reason", maintain_order=True)
        .agg(pl.first(CYCLE, ROW, "column", "value", "first"), readings=pl.len())
        .with_columns(
            pl.col("column").fill_null(CYCLE),
            pl.col("value").cast(pl.Float64, strict=False),
            kind=pl.col("reason"),
            detail=pl.when(is_duplicate)
            .then(sentence("repeats {}; {} such readings of this life", "first", "readings"))
            .otherwise(
                sentence(
                    "differs from {}, which stays; {} such readings of this life",
                    "first",
                    "readings",
                )
            ),
        )
    )
    return kept, set_aside, issues.select(ISSUES_SCHEMA.names())


def _without_non_finite(
    readings: pl.DataFrame, channels: tuple[str, ...]
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    found = []
    for name in channels:
        values = readings[name]
        finite = values.abs() <= LARGEST  # NaN is greater than any number here
        if finite.all():
            continue
        runs = _runs(readings, ~finite, values)
        detail = sentence(
            "{} instead of a number in {} readings in a row, to cycle {}; now null",
            "value",
            "readings",
            "last_cycle",
        )
        issues = runs.with_columns(detail=detail).with_columns(value=pl.lit(None))
        found.append(as_issues(issues, IssueKind.NOT_A_NUMBER, name))
        readings = readings.with_columns(pl.when(finite).then(name))
    return readings, found


def _without_out_of_range(
    readings: pl.DataFrame, ranges: dict[str, tuple[float, float]]
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    found = []
    for name, (low, high) in ranges.items():
        values = readings[name]
        outside = ~values.is_between(low, high)
        if not outside.any():
            continue
        detail = sentence(
            "{} readings in a row outside {} to {} (from {} to {}), to cycle {}; now null",
            "readings",
            pl.lit(low),
            pl.lit(high),
            "low",
            "high",
            "last_cycle",
        )
        runs = _runs(readings, outside, values).with_columns(detail=detail)
        found.append(as_issues(runs, IssueKind.OUT_OF_RANGE, name))
        readings = readings.with_columns(pl.when(~outside).then(name))
    return readings, found


def _gaps(readings: pl.DataFrame, usual_step: float) -> pl.DataFrame:
    steps = readings[CYCLE].diff()
    wide = (steps > GAP_STEPS * usual_step) & ~_starts_life(readings)
    detail = sentence(
        "comes {} after the reading before, where {} is usual; {} such steps, to cycle {}",
        "value",
        pl.lit(usual_step),
        "readings",
        "last_cycle",
    )
    runs = _runs(readings, wide, steps).with_columns(detail=detail)
    return as_issues(runs, IssueKind.GAP, CYCLE)


def _repeats(readings: pl.DataFrame, lives: pl.Series, sensor: str) -> pl.DataFrame:
    """The sensor's values that are there: position, life, value, and ``same`` as the one before.

    ``same`` is null at the first value of a life.
    """
    same_life = pl.col("life") == pl.col("life").shift(1)
    return (
        readings.select(position=pl.int_range(pl.len()), life=lives, value=pl.col(sensor))
        .drop_nulls("value")
        .with_columns(
            same=pl.when(same_life).then(pl.col("value") == pl.col("value").shift(1)),
        )
    )


def _stuck(
    readings: pl.DataFrame, sensors: tuple[str, ...], usual: Mapping[str, float]
) -> list[pl.DataFrame]:
    """Runs of one value that chance does not explain, in sensors that vary; nulls are passed over.

    Where a reading equals the one before with probability p, N readings hold N p**(k-1) runs of k
    equal values: a run is stuck where that is below ``_BY_CHANCE``.
    """
    lives = _starts_life(readings).cum_sum()
    found = []
    for name in sensors:
        if usual[name] > _VARIES:
            continue
        rows = _repeats(readings, lives, name)
        least = STUCK_READINGS
        if usual[name] > 0 and len(rows):
            least = max(least, ceil(1 + log(_BY_CHANCE / len(rows)) / log(usual[name])))
        runs = (
            rows["same"]
            .fill_null(value=False)
            .rle()
            .struct.unnest()
            .with_columns(end=pl.col("len").cum_sum())
            .filter(pl.col("value") & (pl.col("len") + 1 >= least))
        )
        first = rows["position"][runs["end"] - runs["len"] - 1]
        last = rows["position"][runs["end"] - 1]
        at = readings.select(*KEY, SOURCE, ROW, value=pl.col(name))[first].with_columns(
            readings=runs["len"] + 1, last_cycle=readings[CYCLE][last]
        )
        detail = sentence(
            "the same in {} readings in a row, to cycle {}, where fewer than {} would be usual",
            "readings",
            "last_cycle",
            pl.lit(least),
        )
        found.append(as_issues(at.with_columns(detail=detail), IssueKind.STUCK, name))
    return found
