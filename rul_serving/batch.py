"""Rows on their way into the readings table: whose they are, and what becomes of each.

What belongs here: finding each row's life, telling new rows from repeated and contradicting ones,
writing them. What does not: what is said of the units (``ingest``), reading bodies (``rows``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import polars as pl
import sqlalchemy as sa

from rul_core.following import Next
from rul_core.prognosis import Prognosis
from rul_core.schema import CYCLE, LIFE, TIME, UNIT, Fleet, Outcome
from rul_serving.problems import Flaw, Reason
from rul_serving.rows import Rows
from rul_store import histories, lives, readings
from rul_store.copying import NewReadings
from rul_store.lives import Standing
from rul_store.readings import Outcome as Fate

Life = tuple[str, int]


@dataclass(frozen=True)
class Sent:
    """What one request sent."""

    rows: Rows
    trace_id: str


@dataclass
class Receipt:
    """What became of what one request sent."""

    new: int = 0
    repeated: int = 0
    conflicts: int = 0
    flaws: list[Flaw] = field(default_factory=list)
    """Of each row that was not kept, in order."""
    prognoses: list[Prognosis] = field(default_factory=list)
    """Of each unit that has a new reading."""


@dataclass(slots=True)
class Row:
    """A good row on its way."""

    request: int
    place: int
    life: Life
    cycle: float
    time: datetime | None
    values: np.ndarray

    def equals(self, other: "Row") -> bool:
        """Whether both say the same."""
        return self.time == other.time and np.array_equal(self.values, other.values, equal_nan=True)


class Batch:
    """Rows on their way, and what is known of their lives."""

    def __init__(
        self,
        connection: sa.Connection,
        fleet: Fleet,
        receipts: list[Receipt],
        landed_rows: int,
    ) -> None:
        self.connection, self.fleet, self.receipts = connection, fleet, receipts
        self.landed_rows = landed_rows
        self.standing: dict[Life, Standing] = {}
        self.running: dict[str, int] = {}
        """By unit: its newest life, if that runs."""
        self.begun: set[Life] = set()
        """Lives that these rows began."""
        self.rows: dict[Life, list[Row]] = {}
        """The good rows by life, each life's in the order of cycles and of arrival."""
        self.grown: dict[Life, list[Row]] = {}
        """The rows that were new, by life."""
        self.late: set[Life] = set()
        """Lives with a new row that does not simply follow where they are known to stand."""
        self.conflicts: list[Row] = []

    def place(self, sent: Sequence[Sent]) -> None:
        """Lock the units' lives, and find each row's."""
        units = sorted({unit for each in sent for unit in each.rows.units})
        found = lives.lock(self.connection, self.fleet.name, units)
        wanted = _unknown_lives(sent, found)
        if wanted and self.fleet.unknown_units == "refuse":
            heard_of = lives.known_units(self.connection, self.fleet.name, units)
            wanted = {life for life in wanted if life[0] in heard_of}
        if wanted:
            self.begun = lives.start(
                self.connection, self.fleet.name, sorted(wanted), source=histories.SENT
            )
            found = lives.lock(self.connection, self.fleet.name, units)
        self.units = found.keys()
        for unit, of_unit in found.items():
            newest = max(of_unit)
            if of_unit[newest].outcome is Outcome.RUNNING:
                self.running[unit] = newest
            self.standing.update({(unit, life): how for life, how in of_unit.items()})
        for request, each in enumerate(sent):
            self._sort_out(request, each.rows)
        for rows in self.rows.values():
            rows.sort(key=lambda row: row.cycle)

    def _sort_out(self, request: int, rows: Rows) -> None:
        for i, unit in enumerate(rows.units):
            number, cycle = rows.lives[i] or self.running.get(unit), rows.cycles[i]
            row = Row(
                request, rows.places[i], (unit, number or 0), cycle, rows.times[i], rows.values[i]
            )
            standing = self.standing.get(row.life)
            if standing is None and unit not in self.units:
                self._refuse(
                    row,
                    Reason.UNKNOWN_UNIT,
                    f"nobody has heard of a unit {unit!r}, and fleet {self.fleet.name!r} takes "
                    "none by itself; correct the name, or begin a life of it first",
                )
            elif standing is None:
                self._refuse(
                    row,
                    Reason.LIFE_ENDED,
                    f"no life of unit {unit!r} runs; begin the next one, or name the life",
                )
            elif standing.end_cycle is not None and cycle > standing.end_cycle:
                self._refuse(
                    row,
                    Reason.LIFE_ENDED,
                    f"life {row.life[1]} of unit {unit!r} ended at cycle {standing.end_cycle:g} "
                    f"({standing.outcome}); begin the next one, or correct the cycle",
                )
            else:
                self.rows.setdefault(row.life, []).append(row)

    def keep(self, followed_to: Mapping[Life, float]) -> None:
        """Write the rows; those beyond where a life is known to stand cannot be there yet.

        Args:
            followed_to: By life: the cycle up to which all its readings are known.
        """
        ahead: list[Row] = []
        others: list[Row] = []
        for life, rows in self.rows.items():
            last = followed_to.get(life)
            before = None
            for row in rows:
                if last is None or row.cycle <= last:
                    others.append(row)
                elif before is not None and row.cycle == before.cycle:
                    self._decide(row, Fate.REPEATED if row.equals(before) else Fate.CONFLICT)
                else:
                    ahead.append(row)
                    before = row
        fates: list[Fate] = []
        if ahead:
            readings.append_new(self.connection, self.fleet, self._columns(ahead))
        if others:
            fates = readings.insert_many(self.connection, self.fleet, self._frame(others))
        for row in ahead:
            self._decide(row, Fate.NEW)
        for row, fate in zip(others, fates, strict=True):
            self._decide(row, fate)
            if fate is Fate.NEW:
                self.late.add(row.life)

    def set_conflicts_aside(self, sent: Sequence[Sent]) -> None:
        """Keep the rows that contradict a kept one where people find them."""
        if self.conflicts:
            traces = [sent[row.request].trace_id for row in self.conflicts]
            frame = self._frame(self.conflicts)
            readings.set_aside(self.connection, self.fleet, frame, traces)

    def following(self, onward: Sequence[Life], channels: Sequence[str]) -> Next:
        """The new rows of lives, which come after all that is known of them.

        Args:
            onward: The lives.
            channels: What is wanted of each reading; not read where the fleet has no such.
        """
        rows = [self.grown[life] for life in onward]
        flat = [row for of_life in rows for row in of_life]
        known = {name: at for at, name in enumerate(self.fleet.channels)}
        beside = np.full((len(flat), 1), np.nan)
        values = np.hstack([_values(flat, len(known)), beside])
        return Next(
            cycles=np.array([row.cycle for row in flat]),
            values=values[:, [known.get(name, -1) for name in channels]],
            starts=np.cumsum([0, *map(len, rows)]),
            times=[of_life[-1].time for of_life in rows],
        )

    def _columns(self, rows: Sequence[Row]) -> NewReadings:
        return NewReadings(
            units=[row.life[0] for row in rows],
            lives=[row.life[1] for row in rows],
            cycles=[row.cycle for row in rows],
            times=[row.time for row in rows],
            values=_values(rows, len(self.fleet.channels)),
        )

    def _frame(self, rows: Sequence[Row]) -> pl.DataFrame:
        values = _values(rows, len(self.fleet.channels))
        return pl.DataFrame(
            {
                UNIT: [row.life[0] for row in rows],
                LIFE: [row.life[1] for row in rows],
                CYCLE: [row.cycle for row in rows],
                TIME: [row.time for row in rows],
                **dict(zip(self.fleet.channels, values.T, strict=True)),
            },
            schema=self.fleet.readings_schema,
        ).with_columns(pl.col(self.fleet.channels).fill_nan(None))

    def _decide(self, row: Row, fate: Fate) -> None:
        receipt = self.receipts[row.request]
        if fate is Fate.NEW:
            receipt.new += 1
            self.grown.setdefault(row.life, []).append(row)
        elif fate is Fate.REPEATED:
            receipt.repeated += 1
        else:
            receipt.conflicts += 1
            self.conflicts.append(row)
            self._refuse(
                row,
                Reason.CONFLICT,
                f"other values are kept of cycle {row.cycle:g} of life {row.life[1]} of unit "
                f"{row.life[0]!r}; they stay, and these are set aside",
            )

    def _refuse(self, row: Row, reason: Reason, message: str) -> None:
        flaw = Flaw(
            at=f"[{row.place}]",
            message=message,
            unit=row.life[0],
            index=row.place,
            cycle=row.cycle,
            reason=reason,
        )
        self.receipts[row.request].flaws.append(flaw)


def _unknown_lives(sent: Sequence[Sent], found: Mapping[str, Mapping[int, Standing]]) -> set[Life]:
    """The lives that rows name, or mean, and that nobody has heard of."""
    wanted = set()
    for each in sent:
        for unit, number in zip(each.rows.units, each.rows.lives, strict=True):
            if unit not in found:
                wanted.add((unit, number or 1))
            elif number is not None and number not in found[unit]:
                wanted.add((unit, number))
    return wanted


def _values(rows: Sequence[Row], channels: int) -> np.ndarray:
    """(rows, channels) float64."""
    return np.array([row.values for row in rows]).reshape(-1, channels)
