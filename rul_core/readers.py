"""From a table of cells to a fleet's readings and lives.

What belongs here: the conversion of a source's columns into those of a readings frame, and setting
aside the rows that cannot be converted. What does not: files (``formats``, ``rul_store``), judging
values that are numbers (``quality``), guessing a description (``discovery``).

Two steps, so that ``discovery`` can look between them: ``parse_file`` keeps every cell of a text
file as text, ``conform`` turns the cells that a fleet's description names into numbers and times.
"""

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import polars as pl

from rul_core.cells import is_missing, number, outcome_word, unit_name, utc_time
from rul_core.errors import ReadingsError
from rul_core.formats import parse_file
from rul_core.issues import ROW, SET_ASIDE_SCHEMA, SOURCE, IssueKind, row_content
from rul_core.schema import CYCLE, LIFE, LIVES_SCHEMA, TIME, UNIT, FileRule, Fleet, Outcome

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Conformed", "conform", "from_pandas", "parse_file", "to_pandas"]


class Conformed(msgspec.Struct, frozen=True, kw_only=True):
    """A source in the fleet's terms, in the source's order."""

    readings: pl.DataFrame
    """The fleet's ``readings_schema``, then ``source`` and ``row``."""
    lives: pl.DataFrame
    """``LIVES_SCHEMA``: what this source says of them, sorted by unit and life."""
    set_aside: pl.DataFrame
    """``SET_ASIDE_SCHEMA``: the rows that ``readings`` lacks."""


def from_pandas(table: "pd.DataFrame", source: str = "pandas frame") -> pl.DataFrame:
    """A pandas frame as a Polars frame, its named index levels as columns.

    Args:
        table: Columns of mixed objects become text, which ``conform`` reads cell by cell.
        source: Its name, for messages.

    Raises:
        ReadingsError: Two columns share a name.
    """
    if any(name is not None for name in table.index.names):
        table = table.reset_index()
    names = [str(name) for name in table.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ReadingsError(f"{twice} name more than one column; rename them", source=source)
    mixed = {
        name: table[name].map(str, na_action="ignore")
        for name in table.columns
        if table[name].dtype == object
    }
    return pl.from_pandas(table.assign(**mixed) if mixed else table)


def to_pandas(frame: pl.DataFrame) -> "pd.DataFrame":
    """Any of the core's frames for pandas: a plain index, NaN for null.

    Args:
        frame: Readings, lives, features, issues.
    """
    return frame.to_pandas()


def conform(
    table: "pl.DataFrame | pd.DataFrame",
    fleet: Fleet,
    *,
    source: str,
    rule: FileRule | None = None,
) -> Conformed:
    """A table in the fleet's terms.

    Args:
        table: One row a reading, in the order in which they were read. Columns that the fleet
            does not name are ignored.
        fleet: Says which column holds what.
        source: The table's name: with the row, counted from 1, it says where a reading is from.
        rule: What the source's name says of its lives; ``fleet.rule_for`` the last part of
            ``source`` where none is given.

    Returns:
        Readings, lives and set-aside rows. A row is set aside when its unit, life, cycle or time
        cannot be read or a value is text. A life that ended has its last cycle, also where that
        row's values are unreadable.

    Raises:
        ReadingsError: A column that the fleet names is not there or can hold no numbers, or an
            outcome is unknown.
    """
    if not isinstance(table, pl.DataFrame):
        table = from_pandas(table, source)
    rule = rule or fleet.rule_for(source.rpartition("/")[2])
    table = table.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    _refuse_unfit_columns(table, fleet, source)
    problems = _problems(table, fleet)
    found = table.select(
        pl.coalesce(
            pl.when(problem.where).then(pl.lit(place, pl.Int32))
            for place, problem in enumerate(problems)
        )
    ).to_series()
    columns = fleet.columns
    read = table.select(
        (pl.lit(rule.unit_prefix) + unit_name(table, columns.unit)).alias(UNIT),
        _life(table, columns.life).cast(pl.Int64, strict=False).alias(LIFE),
        number(table, columns.cycle).alias(CYCLE),
        utc_time(table, columns.time).alias(TIME),
        *(number(table, name).alias(name) for name in fleet.channels),
        outcome_word(table, columns.outcome, source).alias("outcome"),
        pl.lit(source).alias(SOURCE),
        pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(ROW),
    )
    keys_read = sum(problem.in_key for problem in problems)
    return Conformed(
        readings=read.filter(found.is_null()).drop("outcome"),
        lives=_lives(read.filter(found.is_null() | (found >= keys_read)), rule.outcome),
        set_aside=_set_aside(table, read, found, problems),
    )


class _Problem(NamedTuple):
    """One way in which a row of a table cannot be read."""

    column: str
    where: pl.Expr
    kind: IssueKind
    detail: str
    in_key: bool = False
    """Whether the reading cannot be told from others; such problems come first."""


def _problems(table: pl.DataFrame, fleet: Fleet) -> list[_Problem]:
    columns = fleet.columns
    unit, cycle = columns.unit, columns.cycle
    missing, wrong = IssueKind.MISSING_COLUMN, IssueKind.NOT_A_NUMBER
    problems = [
        _Problem(
            unit, unit_name(table, unit).is_null(), missing, "no unit in this row", in_key=True
        )
    ]
    if columns.life is not None:
        life = _life(table, columns.life)
        whole = life.is_finite() & (life >= 1) & (life == life.round(0))
        problems += [
            _Problem(
                columns.life, is_missing(table, columns.life), missing, "no life", in_key=True
            ),
            _Problem(
                columns.life,
                ~whole.fill_null(value=False),
                wrong,
                "a life is a whole number from 1 on",
                in_key=True,
            ),
        ]
    problems += [
        _Problem(cycle, is_missing(table, cycle), missing, "no cycle in this row", in_key=True),
        _Problem(
            cycle,
            ~number(table, cycle).is_finite().fill_null(value=False),
            wrong,
            "a cycle is a finite number",
            in_key=True,
        ),
    ]
    if columns.time is not None:
        unread = ~is_missing(table, columns.time) & utc_time(table, columns.time).is_null()
        detail = "a time is ISO 8601 or seconds since 1970"
        problems.append(_Problem(columns.time, unread, wrong, detail))
    for name in fleet.channels:
        if table.schema[name] == pl.String:
            unread = ~is_missing(table, name) & number(table, name).is_null()
            problems.append(_Problem(name, unread, wrong, "text instead of a number"))
    return problems


def _life(table: pl.DataFrame, column: str | None) -> pl.Expr:
    return pl.lit(1.0) if column is None else number(table, column)


def _set_aside(
    table: pl.DataFrame, read: pl.DataFrame, found: pl.Series, problems: list[_Problem]
) -> pl.DataFrame:
    """Every row that has a problem, with the first one it has."""
    parts = [pl.DataFrame(schema=SET_ASIDE_SCHEMA)]
    for place in found.drop_nulls().unique():
        problem, hit = problems[place], (found == place).fill_null(value=False)
        rows = table.filter(hit)
        parts.append(
            read.filter(hit).select(
                SOURCE,
                ROW,
                UNIT,
                CYCLE,
                column=pl.lit(problem.column),
                value=rows[problem.column].cast(pl.String),
                reason=pl.lit(problem.kind.value),
                detail=pl.lit(problem.detail),
                content=row_content(rows),
            )
        )
    return pl.concat(parts).sort(ROW)


def _lives(read: pl.DataFrame, outcome: Outcome) -> pl.DataFrame:
    """What the last row of each life says, or else the given outcome."""
    said = pl.col("outcome").sort_by(CYCLE, maintain_order=True).last()
    return (
        read.group_by(UNIT, LIFE)
        .agg(said.fill_null(str(outcome)), end_cycle=pl.max(CYCLE))
        .with_columns(pl.when(pl.col("outcome") != Outcome.RUNNING.value).then("end_cycle"))
        .sort(UNIT, LIFE)
        .cast(dict(LIVES_SCHEMA))
    )


def _refuse_unfit_columns(table: pl.DataFrame, fleet: Fleet, source: str) -> None:
    columns = fleet.columns
    optional = [name for name in (columns.life, columns.time, columns.outcome) if name is not None]
    named = [columns.unit, columns.cycle, *optional, *fleet.channels]
    missing = [name for name in named if name not in table.columns]
    if missing:
        raise ReadingsError(
            f"the description of fleet {fleet.name!r} names {missing}, which the table does not "
            f"have; it has {table.columns}; correct the description, or deliver the columns",
            source=source,
            column=missing[0],
        )
    for name in named:
        dtype = table.schema[name]
        text_or_number = dtype in (pl.String, pl.Boolean, pl.Null) or dtype.is_numeric()
        is_time = name == columns.time and dtype in (pl.Date, pl.Datetime)
        if not (text_or_number or is_time):
            raise ReadingsError(
                f"holds {dtype}, which cannot be read here; convert it to numbers or text",
                source=source,
                column=name,
            )
