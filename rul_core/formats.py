"""The files in which readings come, as tables of the cells that are in them.

What belongs here: formats, by a file's suffix. What does not: opening files (``rul_store``), what
a cell means (``readers``).
"""

import csv
import io
from collections.abc import Callable

import polars as pl

from rul_core.errors import ReadingsError

CMAPSS_COLUMNS = (
    "unit",
    "cycle",
    *(f"setting_{number}" for number in range(1, 4)),
    *(f"sensor_{number}" for number in range(1, 22)),
)
"""The columns of a C-MAPSS text, which has no header."""
SUFFIXES = (".txt", ".csv", ".parquet")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def parse_file(data: bytes, file_name: str) -> pl.DataFrame:
    """The table in a file, by the file's suffix.

    Args:
        data: The whole file.
        file_name: ``.txt`` is C-MAPSS text (26 columns between blanks, no header, columns named
            as in ``CMAPSS_COLUMNS``); ``.csv`` has a header and commas, semicolons or tabs, and
            with the last two may have decimal commas; ``.parquet`` has its own types.

    Returns:
        One row a row of data; blank lines and the header do not count. Texts stay texts.

    Raises:
        ReadingsError: Another suffix, nothing in it, a line with a wrong number of columns, no
            header, or not the format that the suffix promises.
    """
    suffix = "." + file_name.rpartition(".")[2].lower()
    if suffix not in SUFFIXES:
        raise ReadingsError(
            f"the suffix {suffix} is unknown; give one of {', '.join(SUFFIXES)}", source=file_name
        )
    if not data.strip():
        raise ReadingsError("the file is empty; deliver it again", source=file_name)
    if suffix == ".parquet":
        table = _parse_parquet(data, file_name)
    elif suffix == ".txt":
        table = _parse_cmapss(data, file_name)
    else:
        table = _parse_csv(data, file_name)
    if table.is_empty():
        raise ReadingsError("the file has columns but no row; deliver it again", source=file_name)
    return table


def _parse_parquet(data: bytes, file_name: str) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(data))
    # Damaged pages make the Parquet reader panic, which is no PolarsError.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ReadingsError(
            f"not readable as Parquet ({error}); write it again", source=file_name
        ) from error


def _parse_cmapss(data: bytes, file_name: str) -> pl.DataFrame:
    tidy = data.removeprefix(_BYTE_ORDER_MARK).replace(b"\r", b"\n").replace(b"\t", b" ")
    for blanks, one in ((b"  ", b" "), (b" \n", b"\n"), (b"\n ", b"\n"), (b"\n\n", b"\n")):
        while blanks in tidy:
            tidy = tidy.replace(blanks, one)
    tidy = tidy.strip()
    width = len(CMAPSS_COLUMNS)

    def refuse_bad_line() -> None:
        for number, line in enumerate(data.splitlines(), start=1):
            cells = len(line.split())
            if cells not in (0, width):
                raise ReadingsError(
                    f"found {cells} columns, expected {width} as in C-MAPSS; correct the line, or "
                    "give another kind of table as .csv with a header",
                    source=file_name,
                    line=number,
                )

    whole = tidy.count(b" ") == (width - 1) * (tidy.count(b"\n") + 1)
    table = _read_csv(tidy, " ", file_name, refuse_bad_line, whole=whole)
    return table.rename(dict(zip(table.columns, CMAPSS_COLUMNS, strict=True)))


def _parse_csv(data: bytes, file_name: str) -> pl.DataFrame:
    data = data.removeprefix(_BYTE_ORDER_MARK)
    if b"\n" not in data:  # some programs end lines so, as old Macs did
        data = data.replace(b"\r", b"\n")
    tidy = data.strip(b"\r\n")
    header = tidy.partition(b"\n")[0]
    separator = max(",;\t", key=lambda mark: header.count(mark.encode()))

    def refuse_bad_line() -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise ReadingsError(
                f"the byte {data[error.start]:#04x} is no UTF-8; save the file as UTF-8",
                source=file_name,
                line=data.count(b"\n", 0, error.start) + 1,
            ) from error
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        names: list[str] = []
        try:
            for cells in lines:
                names = names or cells
                if cells and len(cells) != len(names):
                    raise ReadingsError(
                        f"found {len(cells)} columns, expected {len(names)} as in the header; "
                        "correct the line",
                        source=file_name,
                        line=lines.line_num,
                    )
        except csv.Error as error:
            raise ReadingsError(
                f"{error}; close the quotes", source=file_name, line=lines.line_num
            ) from error

    # Commas in quotes and blank lines break the count, not the file: then every line is looked at.
    whole = b'"' not in tidy and tidy.count(separator.encode()) == header.count(
        separator.encode()
    ) * (tidy.count(b"\n") + 1)
    table = _read_csv(tidy, separator, file_name, refuse_bad_line, whole=whole)
    names = [(cell or "").strip() for cell in table.row(0)]
    if pl.Series(names).cast(pl.Float64, strict=False).null_count() == 0:
        raise ReadingsError(
            f"there is no header, the first line is {names}; put the columns' names above it",
            source=file_name,
            line=1,
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ReadingsError(
            f"the header names {twice} twice; rename them", source=file_name, line=1
        )
    table = table[1:].rename(dict(zip(table.columns, names, strict=True)))
    table = table.filter(~pl.all_horizontal(pl.all().is_null()))
    return table if separator == "," else _with_decimal_points(table)


def _with_decimal_points(table: pl.DataFrame) -> pl.DataFrame:
    """Decimal commas as points, unless some cell of the table has a decimal point."""
    start, end = r"^(\s*[+-]?\d*)", r"(\d+(?:[eE][+-]?\d+)?\s*)$"
    cells = pl.all().str
    if table.select(pl.any_horizontal(cells.contains(rf"{start}\.{end}").any())).item():
        return table
    return table.with_columns(cells.replace(f"{start},{end}", "${1}.${2}"))


def _read_csv(
    data: bytes,
    separator: str,
    file_name: str,
    refuse_bad_line: Callable[[], None],
    *,
    whole: bool,
) -> pl.DataFrame:
    """A table of texts; the slow search for the line that is wrong is made only when one is."""
    if not whole:
        refuse_bad_line()
    try:
        return pl.read_csv(data, separator=separator, has_header=False, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        refuse_bad_line()
        raise ReadingsError(f"not readable as text ({error})", source=file_name) from error
