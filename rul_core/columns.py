"""Which column of an unknown table is what, by its name and its values.

What belongs here: choosing the columns of unit, life, cycle, time, outcome, settings and sensors,
and the reason for leaving the others out. What does not: how long lives are and what a fleet's
description says of that (``discovery``), the words of names (``naming``).

Names decide first; where they say nothing, the values do.
"""

from math import inf
from typing import NamedTuple

import polars as pl

from rul_core.cells import is_missing, number, unit_name, utc_time
from rul_core.errors import FleetError
from rul_core.naming import (
    ANSWER_WORDS,
    COUNTING_WORDS,
    CYCLE_WORDS,
    FILLING_WORDS,
    LIFE_WORDS,
    NUMBERING_WORDS,
    RUN_WORDS,
    SETTING_WORDS,
    TELLING_WORDS,
    TIME_WORDS,
    UNIT_OF_LIFE_BY_WORD,
    UNIT_WORDS,
    is_named,
    words_of,
)
from rul_core.schema import RESERVED, Outcome

_MOST = 0.95
"""A column is one of numbers, of times, or counts up, when this share of it does."""
_EPOCH = (1e8, 1e11)
"""Seconds since 1970 that mean a moment of our time: from 1973."""
_FEW_LEVELS = 10
"""A setting that no name tells has so many values at most."""
_NO_TREND = 0.1
"""A setting's correlation with age stays below this."""


class Looked(NamedTuple):
    """A table's columns by what can be read in them."""

    table: pl.DataFrame
    numbers: pl.DataFrame
    """Float64, finite; null where a cell is missing or cannot be read."""
    times: list[str]
    texts: list[str]
    empty: list[str]


class Key(NamedTuple):
    """The columns that say which machine was read, and how far in its life."""

    unit: str
    cycle: str
    life: str | None


class Roles(NamedTuple):
    """What the columns beside the key hold."""

    time: str | None
    outcome: str | None
    settings: list[str]
    settings_by_name: bool
    sensors: list[str]
    left_out: dict[str, list[str]]
    """Reason to columns."""


def look(table: pl.DataFrame) -> Looked:
    """Reads every column of a table as what it may be.

    Args:
        table: Texts, as from a text file, or typed.
    """
    table = table.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    looked = Looked(table, pl.DataFrame(), [], [], [])
    numbers: dict[str, pl.Series] = {}
    for name, dtype in table.schema.items():
        there = table.select((~is_missing(table, name)).sum()).item()
        readable = dtype.is_numeric() or dtype in (pl.String, pl.Boolean)
        values = (
            table.select(number(table, name)).to_series()
            if readable
            else pl.Series(name, [], dtype=pl.Float64)
        )
        if there == 0:
            looked.empty.append(name)
        elif dtype in (pl.Date, pl.Datetime) or (
            words_of(name) & TIME_WORDS and values.is_between(*_EPOCH).sum() >= _MOST * there
        ):
            looked.times.append(name)
        elif values.count() >= _MOST * there:
            numbers[name] = values.set(~values.is_finite(), None)
        elif readable and table.select(utc_time(table, name).count()).item() >= _MOST * there:
            looked.times.append(name)
        else:
            looked.texts.append(name)
    return looked._replace(numbers=pl.DataFrame(numbers))


def find_key(looked: Looked, source: str) -> Key:
    """The columns that tell readings apart.

    Args:
        looked: The table.
        source: Its name, for messages.

    Raises:
        FleetError: There is no such column; says what to add.
    """
    units = [name for name in looked.table.columns if _may_name_units(looked, name)]
    named = [
        name
        for words in (UNIT_WORDS, RUN_WORDS, NUMBERING_WORDS)
        for name in units
        if is_named(name, words, NUMBERING_WORDS)
    ]
    for unit in named or [name for name in units if _is_in_blocks(looked.table[name])]:
        cycle = _find_cycle(looked, unit)
        if cycle is not None:
            return Key(unit, cycle, _find_life(looked, unit, cycle))
    if not named:
        raise FleetError(
            f"{source}: no column names the unit; it has {looked.table.columns}; add one that "
            "says on each row which machine was read, called 'unit' say"
        )
    raise FleetError(
        f"{source}: no column of numbers counts up within each {named[0]!r}; it has "
        f"{looked.table.columns}; add one that says how long the machine had run at each reading, "
        "called 'cycle' or 'hours' say"
    )


def key_frame(looked: Looked, key: Key) -> pl.DataFrame:
    """unit, life, cycle of every row, and ``row``, its place in the table; sorted by them.

    Args:
        looked: The table; rows without a key are left out.
        key: Its columns.
    """
    rows = looked.table.select(
        unit_name(looked.table, key.unit).alias("unit"),
        (pl.lit(1.0) if key.life is None else pl.lit(looked.numbers[key.life])).alias("life"),
        cycle=looked.numbers[key.cycle],
        row=pl.int_range(pl.len()),
    )
    return rows.drop_nulls().sort("unit", "life", "cycle")


def find_roles(looked: Looked, key: Key) -> Roles:
    """What every column beside the key holds.

    Args:
        looked: The table.
        key: Its key.
    """
    words = [name for name in looked.texts if looked.table.schema[name] == pl.String]
    outcome = next((name for name in words if _tells_outcomes(looked.table[name])), None)
    time = next(iter(looked.times), None)
    left_out: dict[str, list[str]] = {}
    free = []
    rows = key_frame(looked, key)
    for name in looked.table.columns:
        if name in (key.unit, key.cycle, key.life, outcome, time):
            continue
        reason = _why_not(looked, rows, name)
        if reason is None:
            free.append(name)
        else:
            left_out.setdefault(reason, []).append(name)

    settings = [name for name in free if words_of(name) & SETTING_WORDS]
    settings_by_name = bool(settings)
    if not settings:
        settings = [name for name in free if _looks_set(looked.numbers[name], rows)]
    varying = [name for name in free if looked.numbers[name].drop_nulls().n_unique() > 1]
    constant = [name for name in free if name not in varying and name not in settings]
    if constant:
        left_out["never varies"] = constant
    sensors = [name for name in varying if name not in settings]
    return Roles(time, outcome, settings, settings_by_name, sensors, left_out)


def _may_name_units(looked: Looked, name: str) -> bool:
    """Texts, or whole numbers, each on two rows or more on average."""
    if name in looked.texts and not looked.table.schema[name].is_nested():
        values = looked.table[name].drop_nulls()
    elif name in looked.numbers.columns:
        values = looked.numbers[name].drop_nulls()
        if (values != values.round()).any():
            return False
    else:
        return False
    return 2 * values.n_unique() <= len(values)


def _is_in_blocks(values: pl.Series) -> bool:
    """Whether equal values stand together, and there are two or more."""
    return 1 < values.n_unique() == values.rle().len()


def _find_cycle(looked: Looked, unit: str) -> str | None:
    """By name and a plausible count, or else the most regular count of all columns."""
    units = looked.table.select(unit=unit_name(looked.table, unit)).to_series()
    free = [name for name in looked.numbers.columns if name != unit]
    for words, unique_enough in ((frozenset(UNIT_OF_LIFE_BY_WORD), 0.9), (COUNTING_WORDS, inf)):
        for name in free:
            if is_named(name, words, FILLING_WORDS | COUNTING_WORDS):
                count = _count(units, looked.numbers[name])
                if count.unique >= unique_enough or count.up >= _MOST or count.regular >= 0.5:
                    return name
    counts = {name: _count(units, looked.numbers[name]) for name in free}
    counting = [
        name
        for name, count in counts.items()
        if count.up >= _MOST and not (units.n_unique() > 1 and _runs_through(looked.numbers[name]))
    ]
    return max(counting, key=lambda name: counts[name].regular, default=None)


class _Count(NamedTuple):
    """How far a column counts up within each unit; shares from 0 to 1."""

    up: float
    """Of the steps in the table's order."""
    unique: float
    """Of the values within a unit."""
    regular: float
    """Of the steps between sorted values, that equal the usual one."""


def _count(units: pl.Series, values: pl.Series) -> _Count:
    frame = pl.DataFrame({"unit": units, "value": values}).drop_nulls()
    step = pl.col("value").diff().over("unit")
    steps = frame.select(step).to_series().drop_nulls().to_numpy()
    sorted_steps = frame.sort("unit", "value").select(step).to_series().drop_nulls()
    usual = sorted_steps.median()
    if not isinstance(usual, float) or usual <= 0:
        return _Count(0.0, 0.0, 0.0)
    return _Count(
        up=float((steps > 0).mean()),
        unique=frame.n_unique() / len(frame),
        regular=float((abs(sorted_steps.to_numpy() - usual) <= 1e-6 * usual).mean()),
    )


def _runs_through(values: pl.Series) -> bool:
    """Whether a column rises from each row to the next, whatever the unit, as a row number does."""
    return bool((values.drop_nulls().diff().drop_nulls() > 0).all())


def _find_life(looked: Looked, unit: str, cycle: str) -> str | None:
    for name in looked.numbers.columns:
        if name in (unit, cycle) or not is_named(name, LIFE_WORDS, NUMBERING_WORDS):
            continue
        values = looked.numbers[name].drop_nulls()
        lives = looked.table.select(pl.struct(unit, name).n_unique()).item()
        if ((values >= 1) & (values == values.round())).all() and 2 * lives <= len(values):
            return name
    return None


def _tells_outcomes(values: pl.Series) -> bool:
    words = values.str.strip_chars().str.to_lowercase()
    said = words.filter(words != "").unique()
    return len(said) > 0 and said.is_in([outcome.value for outcome in Outcome]).all()


def _why_not(looked: Looked, rows: pl.DataFrame, name: str) -> str | None:
    """Why a column can be neither setting nor sensor."""
    if name in looked.empty:
        return "is empty"
    if name in looked.times:
        return "is a second clock"
    if name in looked.texts:
        return "holds no numbers"
    values = looked.numbers[name]
    if words_of(name) & TELLING_WORDS or is_named(name, ANSWER_WORDS, FILLING_WORDS | CYCLE_WORDS):
        return "is named like the answer"
    if _foretells(values, rows):
        return "runs to the same end in every life, as an answer does"
    if is_named(name, CYCLE_WORDS, FILLING_WORDS) and _rises(values, rows):
        return "counts use too, and one column of that is enough"
    if (values.diff().drop_nulls() == 1).all() and values.null_count() == 0:
        return "numbers the rows"
    if name in RESERVED:
        return "has a name with a fixed meaning; rename it to use it"
    return None


def _in_lives(values: pl.Series, rows: pl.DataFrame) -> pl.DataFrame:
    """One row a life: its last cycle, last value, and the value's least and greatest step."""
    return (
        rows.with_columns(value=values[rows["row"]])
        .drop_nulls("value")
        .group_by("unit", "life")
        .agg(
            pl.last("cycle", "value"),
            least=pl.col("value").diff().min(),
            greatest=pl.col("value").diff().max(),
        )
    )


def _foretells(values: pl.Series, rows: pl.DataFrame) -> bool:
    """Whether a column gives away where a life ends.

    A remaining life, capped or not, falls to one value at the end of every life; a share of life
    or a flag of failure rises to one; a total life stands at the last cycle all the time.
    """
    lives = _in_lives(values, rows)
    if lives.height < 2 or values.drop_nulls().n_unique() < 2:
        return False
    one_way = (lives["least"] >= 0).all() or (lives["greatest"] <= 0).all()
    stands = bool((lives["least"] == 0).all() and (lives["greatest"] == 0).all())
    if stands:
        return bool((lives["value"] == lives["cycle"]).all())
    return one_way and lives["value"].n_unique() == 1


def _rises(values: pl.Series, rows: pl.DataFrame) -> bool:
    lives = _in_lives(values, rows)
    return bool((lives["least"] >= 0).all() and (lives["greatest"] > 0).any())


def _looks_set(values: pl.Series, rows: pl.DataFrame) -> bool:
    """Whether a column has few values, which most units take, at any age."""
    levels = values.drop_nulls().n_unique()
    if not 1 < levels <= _FEW_LEVELS:
        return False
    read = rows.with_columns(value=values[rows["row"]]).drop_nulls("value")
    units = read["unit"].n_unique()
    takers = read.group_by("value").agg(pl.col("unit").n_unique())["unit"].to_numpy()
    age = pl.col("cycle").rank() / pl.len()
    trend = read.select(pl.corr("value", age.over("unit", "life"))).item()
    return bool(2 * takers.min() >= units and abs(trend) < _NO_TREND)
