"""The body of a what-if question: whole windows of readings, checked and made a readings frame.

What belongs here: the types of the body, and every reason to refuse it. What does not: the answer
(``what_if``), judging values that are numbers (``rul_core.prognose``).
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any, TypeVar

import msgspec
import polars as pl
from msgspec import Meta

from rul_core.schema import CYCLE, KEY, LIFE, TIME, UNIT, Fleet
from rul_serving import bodies
from rul_serving.problems import Flaw, Kind, Refusal

T = TypeVar("T")
MOST_FLAWS = 20
"""As many are told; the rest is likely more of the same."""
UNIT_CHARACTERS = r"[^\x00-\x1f\x7f]+"
UNIT_PATTERN = rf"^{UNIT_CHARACTERS}$(?!\n)"
LONGEST_UNIT = 200

UnitName = Annotated[str, Meta(min_length=1, max_length=LONGEST_UNIT, pattern=UNIT_PATTERN)]
UtcTime = Annotated[datetime, Meta(tz=True)]


class WindowReading(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the settings and sensors of a unit said at one cycle."""

    cycle: float
    """The count of use within the life, in the fleet's unit of life; more than the one before."""
    time: UtcTime | None = None
    """When it was read, with its offset from UTC. Where the fleet has a freshness limit, the last
    reading's time tells stale data."""
    values: dict[str, float | None]
    """One number for every setting and sensor of the fleet; null where nothing was read."""


class UnitWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A unit's readings, from the start of its life."""

    unit: UnitName
    life: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 1
    """Which life of the unit, counted from 1."""
    readings: Annotated[list[WindowReading], Meta(min_length=1)]


class PrognosisRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Windows of one fleet's units, each unit once."""

    fleet: str
    units: Annotated[list[UnitWindow], Meta(min_length=1)]
    explain: bool = False
    """Whether to say how many cycles each sensor moved the point."""


def decode(body: bytes) -> PrognosisRequest:
    """The question that a JSON body is; numbers as text are not taken for numbers.

    Raises:
        Refusal: It is no JSON or not such a question; names the place.
    """
    return bodies.decode(body, PrognosisRequest, _located)


def refuse_too_many(question: PrognosisRequest, max_units: int, max_readings: int) -> None:
    """Refuse more than one question may hold.

    Raises:
        Refusal: Says how many there are and how many there may be.
    """
    readings = sum(len(window.readings) for window in question.units)
    for count, most, what in (
        (len(question.units), max_units, "units"),
        (readings, max_readings, "readings"),
    ):
        if count > most:
            detail = f"{count} {what} in one question, at most {most} are taken; ask several times"
            raise Refusal(Kind.TOO_LARGE, detail)


def to_frame(question: PrognosisRequest, fleet: Fleet) -> pl.DataFrame:
    """The windows as the fleet's readings frame, sorted by unit, life, cycle.

    Raises:
        Refusal: A unit comes twice, a cycle does not increase, or a channel is unknown or missing;
            each flaw names unit, index, cycle and remedy.
    """
    flaws = list(islice(_flaws(question, fleet), MOST_FLAWS))
    if flaws:
        detail = f"{flaws[0].at}: {flaws[0].message}"
        raise Refusal(Kind.INVALID_READINGS, detail, flaws)
    rows = [(window, reading) for window in question.units for reading in window.readings]
    columns: dict[str, list[Any]] = {
        UNIT: [window.unit for window, _ in rows],
        LIFE: [window.life for window, _ in rows],
        CYCLE: [reading.cycle for _, reading in rows],
        TIME: [reading.time and reading.time.astimezone(UTC) for _, reading in rows],
        **{name: [reading.values[name] for _, reading in rows] for name in fleet.channels},
    }
    return pl.DataFrame(columns, schema=fleet.readings_schema).sort(KEY)


def _flaws(question: PrognosisRequest, fleet: Fleet) -> Iterator[Flaw]:
    channels = frozenset(fleet.channels)
    seen: set[str] = set()
    for number, window in enumerate(question.units):
        if window.unit in seen:
            message = f"unit {window.unit!r} comes twice; put all its readings into one window"
            yield Flaw(at=f"units[{number}].unit", message=message, unit=window.unit)
        seen.add(window.unit)
        before = float("-inf")
        for index, reading in enumerate(window.readings):
            for part, message in _contradictions(reading, before, channels, fleet):
                yield Flaw(
                    at=f"units[{number}].readings[{index}].{part}",
                    message=f"unit {window.unit!r}, reading {index}, cycle {reading.cycle:g}: "
                    + message,
                    unit=window.unit,
                    index=index,
                    cycle=reading.cycle,
                )
            before = reading.cycle


def _contradictions(
    reading: WindowReading, before: float, channels: frozenset[str], fleet: Fleet
) -> Iterator[tuple[str, str]]:
    if reading.cycle <= before:
        yield (
            "cycle",
            f"comes after cycle {before:g}; cycles must increase: sort the readings, send each "
            "once, and give a new life a window of its own",
        )
    if reading.values.keys() != channels:
        for name in sorted(reading.values.keys() - channels):
            yield "values", f"{name!r} is no channel; the channels are {', '.join(fleet.channels)}"
        for name in sorted(channels - reading.values.keys()):
            yield "values", f"{name!r} is missing; give its value, or null where nothing was read"
    if reading.time is not None:
        try:
            reading.time.astimezone(UTC)
        except (OverflowError, ValueError):
            yield "time", f"{reading.time.isoformat()} is outside the years 1 to 9999 in UTC"


_READING = re.compile(r"units\[(\d+)\]\.readings\[(\d+)\]")


class _LooseWindow(msgspec.Struct):
    unit: object
    readings: list[msgspec.Raw]


class _Loose(msgspec.Struct):
    units: list[_LooseWindow]


def _located(error: str, body: bytes) -> Flaw:
    """The error of msgspec with what it leaves out: unit, cycle, and which channel it was."""
    flaw = bodies.located(error, body)
    message, path = flaw.message, flaw.at
    at_reading = _READING.match(path)
    if at_reading is None:
        return flaw
    window = msgspec.json.decode(body, type=_Loose).units[int(at_reading[1])]
    index = int(at_reading[2])
    parts = _read(window.readings[index], dict[str, msgspec.Raw]) or {}
    if path.endswith(".values[...]"):
        for name, value in (_read(parts["values"], dict[str, msgspec.Raw]) or {}).items():
            if _read(value, float) is None and bytes(value) != b"null":
                shown = bytes(value)[:40].decode(errors="replace")
                path = path.replace("[...]", f".{name}")
                message += f": {shown}; give a number, or null for none"
                break
    return Flaw(
        at=path,
        message=message,
        unit=str(window.unit)[:LONGEST_UNIT],
        index=index,
        cycle=_read(parts.get("cycle", b""), float),
    )


def _read(raw: msgspec.Raw | bytes, type_: type[T]) -> T | None:
    try:
        return msgspec.json.decode(raw, type=type_)
    except msgspec.DecodeError:
        return None
