"""Readings in a body: the good rows, and what is wrong with each of the others.

What belongs here: JSON, NDJSON and CSV to arrays, row by row. What does not: windows of a what-if
question (``windows``), what is known of units and kept readings (``ingest``).
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import compress
from typing import Annotated, Any

import msgspec
import numpy as np
import polars as pl
from msgspec import Meta

from rul_core.schema import CYCLE, LIFE, TIME, UNIT, Fleet
from rul_serving import bodies
from rul_serving.problems import Flaw, Kind, Reason, Refusal
from rul_serving.windows import LONGEST_UNIT, UNIT_CHARACTERS, UNIT_PATTERN, UnitName, UtcTime

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
MOST_ROWS = 10_000
LARGE_BYTES = 64 * 1024
"""A larger body is read beside the event loop."""
LIFE_NUMBER = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the settings and sensors of a unit said at one cycle."""

    unit: UnitName
    """The machine's name."""
    life: LIFE_NUMBER | None = None
    """Which life of the unit, counted from 1; without it, the one that runs."""
    cycle: float
    """The count of use within the life, in the fleet's unit of life."""
    time: UtcTime | None = None
    """When it was read, with its offset from UTC."""
    values: dict[str, float | None]
    """One number for every setting and sensor of the fleet; null where nothing was read."""


@dataclass(frozen=True)
class Rows:
    """The good rows (n) of a body, in its order, and the flaws of the others."""

    units: list[str]
    lives: list[int | None]
    cycles: list[float]
    times: list[datetime | None]
    values: np.ndarray
    """(n, channels) float64 in the fleet's order, NaN where not read."""
    places: list[int]
    """Which row of the body each is, from 0."""
    flaws: list[Flaw] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.units)


def parse(content_type: str, body: bytes, fleet: Fleet) -> Rows:
    """The rows of a body.

    Args:
        content_type: One of ``JSON`` (an array of readings, or one), ``NDJSON``, ``CSV``.
        body: As it came.
        fleet: Its channels are what each row must bring.

    Raises:
        Refusal: The type is another, the body as a whole cannot be read, or it has too many rows.
    """
    if content_type == CSV:
        return _of_csv(body, fleet)
    if content_type not in (JSON, NDJSON):
        given = content_type or "missing"
        detail = f"the content type is {given}; send readings as {JSON}, {NDJSON} or {CSV}"
        raise Refusal(Kind.UNSUPPORTED_MEDIA_TYPE, detail)
    lines = content_type == NDJSON
    whole = all_good(body, fleet, lines=lines)
    if whole is not None:
        return whole
    flaws: list[Flaw] = []
    found = list(_read(body, flaws, lines=lines))
    return _checked(found, fleet, flaws)


def all_good(body: bytes, fleet: Fleet, *, lines: bool = False) -> Rows | None:
    """The rows of a JSON body in which all are good, quickly; none where one may be bad.

    Args:
        body: As it came.
        fleet: Its channels are what each row must bring.
        lines: Whether it is NDJSON.

    Raises:
        Refusal: The body has too many rows.
    """
    array, line = _decoders(fleet.channels)
    try:
        decoded = line.decode_lines(body) if lines else array.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # which row it is, is told row by row
    found = decoded if isinstance(decoded, list) else [decoded]
    _refuse_too_many(len(found))
    units = [row.unit for row in found]
    if not all(_is_name(unit) for unit in set(units)):
        return None
    cycles = [row.cycle for row in found]
    table = [msgspec.structs.astuple(row.values) for row in found]
    values = np.array(table, dtype=np.float64).reshape(-1, len(fleet.channels))
    if not (np.isfinite(cycles).all() and not np.isinf(values).any()):
        return None
    try:
        times = [row.time and row.time.astimezone(UTC) for row in found]
    except OverflowError:
        return None
    return Rows(
        units=units,
        lives=[row.life for row in found],
        cycles=cycles,
        times=times,
        values=values,
        places=list(range(len(found))),
    )


def _is_name(unit: str) -> bool:
    return len(unit) <= LONGEST_UNIT and _UNIT.match(unit) is not None


_UNIT = re.compile(UNIT_PATTERN)


@lru_cache(maxsize=64)
def _decoders(
    channels: tuple[str, ...],
) -> tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]:
    """Of an array of readings with just these channels or of one, and of a line.

    Each channel is a field, so that there is no dictionary and no check a row.
    """
    fields = [f"channel_{place}" for place in range(len(channels))]
    values = msgspec.defstruct(
        "Values",
        [(name, float | None) for name in fields],
        rename=dict(zip(fields, channels, strict=True)),
        forbid_unknown_fields=True,
        gc=False,
    )
    row = msgspec.defstruct(
        "Row",
        [
            ("unit", str),
            ("cycle", float),
            ("values", values),
            ("life", LIFE_NUMBER | None, None),
            ("time", UtcTime | None, None),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )
    either: Any = list[row] | row  # ty: ignore[invalid-type-form]
    return msgspec.json.Decoder(either), msgspec.json.Decoder(row)


def _read(body: bytes, flaws: list[Flaw], *, lines: bool) -> Iterator[tuple[int, Reading]]:
    """The readings that can be read as such, with their places."""
    try:
        if lines:
            raw: list[msgspec.Raw] = [
                msgspec.Raw(line) for line in body.splitlines() if line.strip()
            ]
        else:
            either = msgspec.json.decode(body, type=list[msgspec.Raw] | dict[str, msgspec.Raw])
            raw = either if isinstance(either, list) else [msgspec.Raw(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        detail = f"the body is no array of readings and no reading: {error}"
        raise Refusal(Kind.INVALID_REQUEST, detail) from error
    _refuse_too_many(len(raw))
    for place, row in enumerate(raw):
        try:
            yield place, bodies.parsed(row, Reading)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            flaws.append(_flaw(place, None, None, str(error)))


def _refuse_too_many(count: int) -> None:
    if count > MOST_ROWS:
        detail = f"{count} readings in one body, at most {MOST_ROWS} are taken; send several"
        raise Refusal(Kind.TOO_LARGE, detail)


def _checked(found: Sequence[tuple[int, Reading]], fleet: Fleet, flaws: list[Flaw]) -> Rows:
    channels = fleet.channels
    expected = frozenset(channels)
    good, times = [], []
    for place, reading in found:
        try:
            time = reading.time and reading.time.astimezone(UTC)
            message = _contradiction(reading, expected)
        except (OverflowError, ValueError):
            message = "time is outside the years 1 to 9999 in UTC"
        if message:
            flaws.append(_flaw(place, reading.unit, reading.cycle, message))
        else:
            good.append((place, reading))
            times.append(time)
    table = [[reading.values[name] for name in channels] for _, reading in good]
    return Rows(
        units=[reading.unit for _, reading in good],
        lives=[reading.life for _, reading in good],
        cycles=[reading.cycle for _, reading in good],
        times=times,
        values=np.array(table, dtype=np.float64).reshape(-1, len(channels)),
        places=[place for place, _ in good],
        flaws=flaws,
    )


def _contradiction(reading: Reading, channels: frozenset[str]) -> str:
    if reading.values.keys() != channels:
        unknown = sorted(reading.values.keys() - channels)
        missing = sorted(channels - reading.values.keys())
        told = [f"{name!r} is no channel of the fleet" for name in unknown[:3]]
        told += [f"{name!r} is missing; give its value, or null" for name in missing[:3]]
        return "; ".join(told)
    if not math.isfinite(reading.cycle):
        return f"cycle is {reading.cycle}; give a finite number"
    for name, value in reading.values.items():
        if value is not None and not math.isfinite(value):
            return f"{name} is {value}; give a finite number, or null where nothing was read"
    return ""


def _flaw(place: int, unit: str | None, cycle: float | None, message: str) -> Flaw:
    return Flaw(
        at=f"[{place}]",
        message=message,
        unit=unit if unit is None else unit[:LONGEST_UNIT],
        index=place,
        cycle=cycle if cycle is not None and math.isfinite(cycle) else None,
        reason=Reason.NOT_A_READING,
    )


def _of_csv(body: bytes, fleet: Fleet) -> Rows:
    try:
        text, places, flaws = _cells(body)
    except (pl.exceptions.PolarsError, csv.Error, UnicodeDecodeError) as error:
        detail = f"the body is no CSV with a header: {' '.join(str(error).split())[:300]}"
        raise Refusal(Kind.INVALID_REQUEST, detail) from error
    known = [UNIT, CYCLE, LIFE, TIME, *fleet.channels]
    unknown = [name for name in text.columns if name not in known]
    missing = [name for name in (UNIT, CYCLE, *fleet.channels) if name not in text.columns]
    if unknown or missing:
        told = [f"{name!r} is no column of readings" for name in unknown[:3]]
        told += [f"the column {name!r} is missing" for name in missing[:3]]
        detail = (
            f"{'; '.join(told)}; the columns are {', '.join(known)}, of which {LIFE} and {TIME} "
        )
        detail += "may be left out"
        raise Refusal(Kind.INVALID_REQUEST, detail)
    _refuse_too_many(text.height + len(flaws))
    absent = [pl.lit(None, pl.String).alias(name) for name in known if name not in text.columns]
    text = text.with_columns(absent).select(pl.col(known).replace("", None))
    table = text.select(
        UNIT,
        pl.col(LIFE).cast(pl.Int64, strict=False),
        pl.col(TIME).str.to_datetime("%+", time_unit="us", strict=False),
        *(pl.col(name).cast(pl.Float64, strict=False) for name in (CYCLE, *fleet.channels)),
    )
    bad = pl.DataFrame(_wrong(text, table))
    wrong = bad.select(pl.any_horizontal(pl.all())).to_series()
    good = table.filter(~wrong)
    flaws += [_csv_flaw(row, places[row], bad, text, table) for row in wrong.arg_true()]
    return Rows(
        units=good[UNIT].to_list(),
        lives=good[LIFE].to_list(),
        cycles=good[CYCLE].to_list(),
        times=good[TIME].to_list(),
        values=good.select(pl.col(fleet.channels).fill_null(math.nan)).to_numpy(),
        places=list(compress(places, ~wrong)),
        flaws=sorted(flaws, key=lambda flaw: flaw.index or 0),
    )


def _cells(body: bytes) -> tuple[pl.DataFrame, Sequence[int], list[Flaw]]:
    """The cells of a CSV body as text, the place of each row, and the rows that are no rows.

    Polars takes a short row for one whose last cells are empty, and refuses the whole body for a
    long one. So where rows are not all as wide as the header they are read one by one.
    """
    widths = {line.count(b",") for line in body.splitlines()}
    if len(widths) == 1 and b'"' not in body and _is_text(body):
        text = pl.read_csv(body, infer_schema=False)
        return text, range(text.height), []
    lines = csv.reader(io.StringIO(body.decode(errors="surrogateescape"), newline=""), strict=True)
    header = next(lines, [])
    if not _is_text("".join(header)):
        raise csv.Error("its first line is not in UTF-8")
    rows, places, flaws = [], [], []
    for place, row in enumerate(filter(None, lines)):
        if len(row) != len(header):
            message = f"it has {len(row)} fields and the header {len(header)}; send it whole"
            flaws.append(_flaw(place, None, None, message))
        elif not _is_text("".join(row)):
            flaws.append(_flaw(place, None, None, "it is not in UTF-8"))
        else:
            rows.append(row)
            places.append(place)
    schema = dict.fromkeys(header, pl.String)
    if len(schema) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise csv.Error(f"the column {twice!r} is there twice")
    return pl.DataFrame(rows, schema=schema, orient="row"), places, flaws


def _is_text(given: bytes | str) -> bool:
    try:
        given.decode() if isinstance(given, bytes) else given.encode()
    except UnicodeError:
        return False
    return True


_REMEDIES = {
    UNIT: f"give a name of 1 to {LONGEST_UNIT} characters, without control characters",
    CYCLE: "give a finite number",
    LIFE: "give a whole number from 1",
    TIME: "give a time like 2026-11-23T12:00:00Z, with its offset from UTC",
}


def _wrong(text: pl.DataFrame, table: pl.DataFrame) -> dict[str, pl.Series]:
    """By column: in which rows it holds something else than it should."""
    unit = table[UNIT].fill_null("")
    wrong = {
        UNIT: ~unit.str.contains(f"^{UNIT_CHARACTERS}$") | (unit.str.len_chars() > LONGEST_UNIT),
        LIFE: ~table[LIFE].is_between(1, 2**31 - 1),
        TIME: pl.repeat(False, table.height, eager=True),
        **{name: ~table[name].is_finite() for name in table.columns[3:]},
    }
    unread = {name: text[name].is_not_null() & table[name].is_null() for name in table.columns}
    unread[CYCLE] = table[CYCLE].is_null()
    return {name: wrong[name].fill_null(False) | unread[name] for name in table.columns}


def _csv_flaw(
    row: int, place: int, bad: pl.DataFrame, text: pl.DataFrame, table: pl.DataFrame
) -> Flaw:
    name = next(name for name in bad.columns if bad[name][row])
    remedy = _REMEDIES.get(name, "give a finite number, or nothing where nothing was read")
    message = f"{name} is {text[name][row]!r}; {remedy}"
    return _flaw(place, text[UNIT][row], table[CYCLE][row], message)
