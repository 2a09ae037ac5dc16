"""The kinds of fault that readings have, and the frames in which they are told.

What belongs here: kinds, schemas, and the making of such frames. What does not: the rules that find
faults (``quality``, ``readers``, ``conditions``).
"""

from enum import StrEnum
from itertools import chain

import polars as pl

from rul_core.schema import CYCLE, LIFE, UNIT


class IssueKind(StrEnum):
    """What is wrong with a reading; also the reason for which a row is set aside."""

    GAP = "gap"
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out_of_order"
    STUCK = "stuck"
    OUT_OF_RANGE = "out_of_range"
    UNSEEN_CONDITION = "unseen_condition"
    MISSING_COLUMN = "missing_column"
    """A column that every reading needs has nothing in this row."""
    NOT_A_NUMBER = "not_a_number"
    CONFLICT = "conflict"
    """Two readings of the same unit, life and cycle differ."""


SOURCE, ROW = "source", "row"

ISSUES_SCHEMA = pl.Schema(
    {
        "kind": pl.String,
        UNIT: pl.String,
        LIFE: pl.Int64,
        CYCLE: pl.Float64,
        "column": pl.String,
        "value": pl.Float64,
        SOURCE: pl.String,
        ROW: pl.Int64,
        "detail": pl.String,
    }
)
"""One row an issue: the first reading that has it. ``value`` is null where no number is meant."""

SET_ASIDE_SCHEMA = pl.Schema(
    {
        SOURCE: pl.String,
        ROW: pl.Int64,
        UNIT: pl.String,
        CYCLE: pl.Float64,
        "column": pl.String,
        "value": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "content": pl.String,
    }
)
"""One row a row that is not used: ``reason`` is an ``IssueKind``, ``content`` the row as JSON."""


def row_content(rows: pl.DataFrame) -> pl.Series:
    """Each row as a JSON object whose cells are texts, so that ``inf`` and ``007`` survive.

    Args:
        rows: Any frame.
    """
    cells = [
        pl.col(name).bin.encode("hex")
        if dtype == pl.Binary
        else pl.col(name)
        if dtype.is_nested()
        else pl.col(name).cast(pl.String)
        for name, dtype in rows.schema.items()
    ]
    return rows.select(content=pl.struct(cells).struct.json_encode())["content"]


def sentence(template: str, *columns: str | pl.Expr) -> pl.Expr:
    """Text with the columns in the places of ``{}``; null where one of them is null.

    ``pl.format`` does the same, but panics on filtered frames (polars issue 25525).
    """
    texts = [pl.lit(text) for text in template.split("{}")]
    values = [
        (pl.col(column) if isinstance(column, str) else column).cast(pl.String)
        for column in columns
    ]
    return pl.concat_str([*chain.from_iterable(zip(texts, values, strict=False)), texts[-1]])


def as_issues(at: pl.DataFrame, kind: IssueKind, column: str | None = None) -> pl.DataFrame:
    """Issues from a frame that has whatever the kind does not say: one issue a row."""
    constants = {"kind": pl.lit(kind.value)} | (
        {} if column is None else {"column": pl.lit(column)}
    )
    return at.with_columns(**constants).select(
        pl.col(name).cast(dtype) for name, dtype in ISSUES_SCHEMA.items()
    )
