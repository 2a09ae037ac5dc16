"""What one cell of a source's table means: a number, a unit's name, a time, an outcome.

What belongs here: expressions over one column, whatever its dtype. What does not: which column is
what (``readers``, ``discovery``).
"""

import polars as pl

from rul_core.errors import ReadingsError
from rul_core.schema import Outcome

_MISSING_TEXTS = ("", "na", "n/a", "null", "none")
"""What a text source writes where it has nothing; ``nan`` is a value, which ``quality`` judges."""
_LATEST_EPOCH_SECONDS = 1e11
"""The year 5138; a larger number counts milliseconds."""


def _text(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars()


def is_missing(table: pl.DataFrame, column: str) -> pl.Expr:
    """Whether there is nothing in a cell."""
    if table.schema[column] != pl.String:
        return pl.col(column).is_null()
    return pl.col(column).is_null() | _text(column).str.to_lowercase().is_in(_MISSING_TEXTS)


def number(table: pl.DataFrame, column: str) -> pl.Expr:
    """Float64; null where the cell is missing or no number."""
    cell = _text(column) if table.schema[column] == pl.String else pl.col(column)
    return cell.cast(pl.Float64, strict=False)


def unit_name(table: pl.DataFrame, column: str) -> pl.Expr:
    """A unit's name: ``1`` for 1, 1.0 and ``1.0`` alike; null where there is none."""
    cell = pl.col(column)
    if table.schema[column].is_float():
        cell = cell.fill_nan(None)
    text = cell.cast(pl.String).str.strip_chars().str.replace(r"^(-?\d+)\.0+$", "${1}")
    return pl.when(text != "").then(text)


def utc_time(table: pl.DataFrame, column: str | None) -> pl.Expr:
    """UTC; null where the cell is missing or no time. Without a zone it is taken for UTC."""
    utc = pl.Datetime("us", "UTC")
    if column is None:
        return pl.lit(None, utc)
    dtype, cell = table.schema[column], pl.col(column)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return cell.dt.convert_time_zone("UTC").cast(utc)
    if dtype in (pl.Date, pl.Datetime):
        return cell.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    seconds = number(table, column)
    epoch = (
        pl.when(seconds.abs() < _LATEST_EPOCH_SECONDS)
        .then(seconds * 1e6)
        .round()
        .cast(pl.Int64, strict=False)
        .cast(utc)
    )
    if dtype != pl.String:
        return epoch
    iso = (
        _text(column)
        .str.replace(" ", "T", literal=True)
        .str.replace(r"^(\d{4}-\d{2}-\d{2})$", "${1}T00:00:00Z")
        .str.replace(r"T(\d{2}:\d{2})($|Z|[+-])", "T${1}:00${2}")
        .str.replace(r"(T[\d:.]+)$", "${1}Z")
        .str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="us", strict=False)
    )
    return pl.coalesce(iso, epoch)


def outcome_word(table: pl.DataFrame, column: str | None, source: str) -> pl.Expr:
    """An ``Outcome``'s value; null where the cell is empty or there is no such column."""
    if column is None:
        return pl.lit(None, pl.String)
    words = pl.col(column).cast(pl.String).str.strip_chars().str.to_lowercase()
    said = pl.when(words != "").then(words)
    unknown = table.select(
        (said.is_not_null() & ~said.is_in([outcome.value for outcome in Outcome])).arg_true()
    ).to_series()
    if len(unknown):
        raise ReadingsError(
            f"{table[column][unknown[0]]!r} is no outcome; write one of "
            f"{', '.join(Outcome)}, or nothing for a life that still runs",
            source=source,
            row=unknown[0] + 1,
            column=column,
        )
    return said
