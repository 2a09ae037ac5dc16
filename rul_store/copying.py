"""Readings on their way to PostgreSQL: many as ``COPY`` takes them in binary, few as JSON.

What belongs here: the form of the bytes. What does not: the table (``tables``), which readings are
written (``readings``).

The server reads text twice as long as this, and making text of numbers takes longer than everything
else that is done for a reading. https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4
"""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import msgspec
import numpy as np

_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_FIELDS = 7
_FLOAT8 = 701
"""PostgreSQL's number of the type of measured values."""
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_VALUE = np.dtype([("size", ">i4"), ("value", ">f8")])


class NewReadings(msgspec.Struct, frozen=True, kw_only=True):
    """Readings (n) by column."""

    units: Sequence[str]
    lives: Sequence[int]
    cycles: np.ndarray
    """(n,) float64."""
    times: Sequence[datetime | None]
    values: np.ndarray
    """(n, channels) float64 in the fleet's order, NaN where not read."""


def as_json(given: NewReadings) -> str:
    """The rows as ``json_to_recordset`` takes them; each with a finite cycle."""
    rows = zip(
        given.units, given.lives, given.cycles.tolist(), given.times, given.values.tolist(),
        strict=True,
    )  # fmt: skip
    # A NaN is a null in JSON.
    return msgspec.json.encode(
        [
            {"unit": unit, "life": life, "cycle": cycle, "time": time, "measured": measured}
            for unit, life, cycle, time, measured in rows
        ]
    ).decode()


def binary(fleet: str, layout: int, given: NewReadings) -> bytes:
    """The rows of ``COPY readings (fleet, unit, life, cycle, time, layout, measured)``.

    Args:
        fleet: Its name.
        layout: Of the channels.
        given: Each with a finite cycle.
    """
    count, channels = given.values.shape
    if count == 0:
        return _HEAD + _END
    rows = np.zeros(count, dtype=_row(channels))
    for name in ("cycle_size", "time_size", "layout_size"):
        rows[name] = 8
    rows["cycle"], rows["layout"] = given.cycles, layout
    rows["dimensions"], rows["type"], rows["first"] = 1, _FLOAT8, 1
    rows["channels"] = channels
    rows["measured"]["size"], rows["measured"]["value"] = 8, given.values
    # A null has the size -1 and no bytes: they are made for all, and left out.
    written = np.ones((count, rows.itemsize), dtype=bool)
    unread = np.isnan(given.values)
    if unread.any():
        rows["has_nulls"] = unread.any(axis=1)
        rows["measured"]["size"][unread] = -1
        for channel in np.flatnonzero(unread.any(axis=0)).tolist():
            at = _at(rows, "measured") + _VALUE.itemsize * channel + 4
            written[unread[:, channel], at : at + 8] = False
    untimed = np.array([time is None for time in given.times], dtype=bool)
    rows["time"] = [0 if time is None else (time - _EPOCH) // _MICROSECOND for time in given.times]
    if untimed.any():
        rows["time_size"][untimed] = -1
        at = _at(rows, "time")
        written[untimed, at : at + 8] = False
    rows["measured_size"] = written[:, _at(rows, "dimensions") :].sum(axis=1)
    content = rows.view(np.uint8).reshape(count, rows.itemsize)[written].tobytes()
    ends = np.cumsum(written.sum(axis=1)).tolist()
    begin = struct.pack(">h", _FIELDS) + _text(fleet)
    of_life = {
        (unit, life): begin + _text(unit) + struct.pack(">iq", 8, life)
        for unit, life in set(zip(given.units, given.lives, strict=True))
    }
    keys = map(of_life.__getitem__, zip(given.units, given.lives, strict=True))
    numbers = (content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True))
    return b"".join(chain((_HEAD,), chain.from_iterable(zip(keys, numbers, strict=True)), (_END,)))


def _row(channels: int) -> np.dtype:
    """What follows the key's names; a size goes before each field, as it does in the array."""
    return np.dtype(
        [
            ("cycle_size", ">i4"), ("cycle", ">f8"),
            ("time_size", ">i4"), ("time", ">i8"),
            ("layout_size", ">i4"), ("layout", ">i8"),
            ("measured_size", ">i4"), ("dimensions", ">i4"), ("has_nulls", ">i4"),
            ("type", ">i4"), ("channels", ">i4"), ("first", ">i4"),
            ("measured", _VALUE, (channels,)),
        ]
    )  # fmt: skip


def _at(rows: np.ndarray, name: str) -> int:
    """Where in a row's bytes a field begins."""
    fields: Any = rows.dtype.fields
    return fields[name][1]


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack(">i", len(content)) + content
