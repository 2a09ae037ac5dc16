"""Faults put into readings on purpose, so that tests and demos can see them found.

What belongs here: changes to frames of readings and lives, simulated or real. What does not: the
wear of a life (``simulator``), finding faults (``quality``, ``conditions``, ``drift``).
"""

from collections.abc import Iterable, Mapping

import msgspec
import polars as pl

from rul_core.errors import ReadingsError
from rul_core.schema import CYCLE, KEY, LIFE, UNIT, Outcome


class _Stretch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag=True):
    """Which readings of which life a fault touches, both cycles included."""

    unit: str
    from_cycle: float
    to_cycle: float = float("inf")
    life: int = 1


class StuckSensor(_Stretch, frozen=True, kw_only=True):
    """The sensor repeats the first value of the stretch."""

    sensor: str


class DriftingSensor(_Stretch, frozen=True, kw_only=True):
    """The sensor moves away from the truth at a steady rate."""

    sensor: str
    per_cycle: float


class MissingRows(_Stretch, frozen=True, kw_only=True):
    """The readings of the stretch never came."""


class NewCondition(_Stretch, frozen=True, kw_only=True):
    """The unit works at settings that the fleet has not seen, which also move its sensors."""

    settings: Mapping[str, float]
    """The value that each setting takes."""
    sensor_shifts: Mapping[str, float] = {}
    """What is added to each sensor."""


class EarlyFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag=True):
    """The life fails at ``cycle``, whatever its sensors said."""

    unit: str
    cycle: float
    life: int = 1


Fault = StuckSensor | DriftingSensor | MissingRows | NewCondition | EarlyFailure


def inject(readings: pl.DataFrame, faults: Iterable[Fault]) -> pl.DataFrame:
    """The readings with the faults in them, applied in the order given.

    Args:
        readings: A readings frame, sorted by unit, life, cycle.
        faults: An ``EarlyFailure`` takes away what the unit would have said later; see
            ``end_early`` for its life.

    Raises:
        ReadingsError: A fault names a column or a stretch that the readings do not have.
    """
    for fault in faults:
        touched = _touched(fault)
        if readings.filter(touched).is_empty():
            raise ReadingsError(f"{fault} touches no reading; name a unit, life and cycle of them")
        _refuse_unknown_columns(fault, readings.columns)
        match fault:
            case StuckSensor(sensor=sensor):
                held = readings.filter(touched)[sensor][0]
                readings = readings.with_columns(_where(touched, pl.lit(held), sensor))
            case DriftingSensor(sensor=sensor, per_cycle=rate, from_cycle=start):
                drifted = pl.col(sensor) + rate * (pl.col(CYCLE) - start)
                readings = readings.with_columns(_where(touched, drifted, sensor))
            case MissingRows() | EarlyFailure():
                readings = readings.filter(~touched)
            case NewCondition(settings=settings, sensor_shifts=shifts):
                readings = readings.with_columns(
                    *(_where(touched, pl.lit(value), name) for name, value in settings.items()),
                    *(_where(touched, pl.col(name) + by, name) for name, by in shifts.items()),
                )
    return readings


def end_early(lives: pl.DataFrame, faults: Iterable[Fault]) -> pl.DataFrame:
    """The lives with every ``EarlyFailure`` among the faults come true.

    Args:
        lives: A lives frame.
        faults: The other kinds leave lives as they are.

    Raises:
        ReadingsError: A fault names a life that is not there.
    """
    for fault in faults:
        if not isinstance(fault, EarlyFailure):
            continue
        hit = (pl.col(UNIT) == fault.unit) & (pl.col(LIFE) == fault.life)
        if lives.filter(hit).is_empty():
            raise ReadingsError(f"{fault} names a life that is not there; name one of the lives")
        lives = lives.with_columns(
            _where(hit, pl.lit(Outcome.FAILED.value), "outcome"),
            _where(hit, pl.lit(fault.cycle), "end_cycle"),
        )
    return lives


def _touched(fault: Fault) -> pl.Expr:
    same_life = (pl.col(UNIT) == fault.unit) & (pl.col(LIFE) == fault.life)
    if isinstance(fault, EarlyFailure):
        return same_life & (pl.col(CYCLE) > fault.cycle)
    return same_life & pl.col(CYCLE).is_between(fault.from_cycle, fault.to_cycle)


def _where(condition: pl.Expr, then: pl.Expr, column: str) -> pl.Expr:
    return pl.when(condition).then(then).otherwise(pl.col(column)).alias(column)


def _refuse_unknown_columns(fault: Fault, columns: list[str]) -> None:
    match fault:
        case StuckSensor(sensor=sensor) | DriftingSensor(sensor=sensor):
            named = {sensor}
        case NewCondition(settings=settings, sensor_shifts=shifts):
            named = {*settings, *shifts}
        case _:
            named = set()
    unknown = sorted(named.difference(set(columns).difference(KEY)))
    if unknown:
        raise ReadingsError(f"{fault} names {unknown}; the readings have the columns {columns}")
