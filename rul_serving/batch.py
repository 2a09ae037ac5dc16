"""Rows on their way into the readings table: whose they are, and what becomes of each.

What belongs here: finding each row's life, telling new rows from repeated and contradicting ones,
writing them. What does not: what is said of the units (``ingest``), reading bodies (``rows``).

The rows of all requests lie in columns, each life's together and in the order of cycles and of
arrival: what most rows need is done to whole columns, and only rows with a fault have a turn of
their own.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
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
from rul_store import histories, lives, readings, set_aside
from rul_store.copying import NewReadings
from rul_store.database import Statement
from rul_store.lake import Lake, lake_needed
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


@dataclass(frozen=True)
class _Columns:
    """Good rows (n) of some requests."""

    life: np.ndarray
    """(n,) int64: the place of each row's life."""
    request: np.ndarray
    """(n,) int64: the place of the request that brought it."""
    place: np.ndarray
    """(n,) int64: which row of the request's body it is."""
    cycles: np.ndarray
    """(n,) float64."""
    values: np.ndarray
    """(n, channels) float64 in the fleet's order, NaN where not read."""
    times: list[datetime | None]

    @classmethod
    def of(cls, sent: Sequence[Sent], life: np.ndarray) -> "_Columns":
        """All rows in the order in which they came, of lives that were found."""
        rows = [each.rows for each in sent]
        return cls(
            life=life,
            request=np.repeat(np.arange(len(rows)), [len(each) for each in rows]),
            place=np.array([place for each in rows for place in each.places], dtype=np.int64),
            cycles=np.array([cycle for each in rows for cycle in each.cycles], dtype=np.float64),
            values=np.concatenate([each.values for each in rows]),
            times=[time for each in rows for time in each.times],
        )

    def __len__(self) -> int:
        return len(self.life)

    def take(self, rows: np.ndarray) -> "_Columns":
        """Some of them, by place or by mask."""
        at = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return _Columns(
            life=self.life[at],
            request=self.request[at],
            place=self.place[at],
            cycles=self.cycles[at],
            values=self.values[at],
            times=[self.times[row] for row in at.tolist()],
        )

    def says_the_same(self, row: int, other: int) -> bool:
        """Whether two rows of one cycle do."""
        return self.times[row] == self.times[other] and np.array_equal(
            self.values[row], self.values[other], equal_nan=True
        )


class Batch:
    """Rows on their way, and what is known of their lives."""

    def __init__(
        self,
        connection: sa.Connection,
        lake: Lake,
        fleet: Fleet,
        receipts: list[Receipt],
        landed_rows: int,
    ) -> None:
        self.connection, self.fleet, self.receipts = connection, fleet, receipts
        self._lake, self.landed_rows = lake, landed_rows
        self.standing: dict[Life, Standing] = {}
        self.running: dict[str, int] = {}
        """By unit: its newest life, if that runs."""
        self.begun: set[Life] = set()
        """Lives that these rows began."""
        self.lives: list[Life] = []
        """Those that good rows are of, in the order in which they came."""
        self.grown: list[Life] = []
        """Those that have new rows, in the same order."""
        self.late: set[Life] = set()
        """Lives with a new row that does not simply follow where they are known to stand."""
        self.unsent: tuple[Statement, ...] = ()
        """What must be asked for the rows to be kept."""

    def place(self, sent: Sequence[Sent]) -> None:
        """Lock the units' lives, and find each row's."""
        units = sorted({unit for each in sent for unit in each.rows.units})
        found = lives.lock(self.connection, self.fleet.name, units)
        named = [
            life for each in sent for life in zip(each.rows.units, each.rows.lives, strict=True)
        ]
        wanted = _unknown_lives(dict.fromkeys(named), found)
        if wanted and self.fleet.unknown_units == "refuse":
            heard_of = lives.known_units(self.connection, self.fleet.name, units)
            wanted = {life for life in wanted if life[0] in heard_of}
        if wanted:
            self.begun = lives.start(
                self.connection, self.fleet.name, sorted(wanted), source=histories.SENT
            )
            found = lives.lock(self.connection, self.fleet.name, units)
        if ended := [unit for unit, of_unit in found.items() if not _runs(of_unit)]:
            # Who ended a life may have started the next meanwhile, which only a new look can see.
            found |= lives.lock(self.connection, self.fleet.name, ended)
        for unit, of_unit in found.items():
            if _runs(of_unit):
                self.running[unit] = max(of_unit)
            self.standing.update({(unit, life): how for life, how in of_unit.items()})
        self._sort_out(sent, named, found.keys())

    def _sort_out(
        self,
        sent: Sequence[Sent],
        named: Sequence[tuple[str, int | None]],
        heard_of: Collection[str],
    ) -> None:
        """Refuse rows without a life that takes them; put the others in order."""
        meant = {
            name: (name[0], name[1] or self.running.get(name[0], 0))
            for name in dict.fromkeys(named)
        }
        self.lives = [life for life in dict.fromkeys(meant.values()) if life in self.standing]
        places = {life: place for place, life in enumerate(self.lives)}
        of_name = {name: places.get(life, -1) for name, life in meant.items()}
        rows = _Columns.of(sent, np.array([of_name[name] for name in named], dtype=np.int64))
        ends = [self.standing[life].end_cycle for life in self.lives]
        # The last one is that of rows without a life.
        latest = np.array([np.inf if end is None else end for end in ends] + [-np.inf])
        good = rows.cycles <= latest[rows.life]
        for row in np.flatnonzero(~good).tolist():
            self._refuse_lifeless(rows, row, meant[named[row]], heard_of)
        kept = np.flatnonzero(good)
        self._rows = rows.take(kept[np.lexsort((rows.cycles[kept], rows.life[kept]))])

    def keep(self, followed_to: Mapping[Life, float]) -> None:
        """Write the rows; those beyond where a life is known to stand cannot be there yet.

        Args:
            followed_to: By life: the cycle up to which all its readings are known.
        """
        rows = self._rows
        known = np.array([followed_to.get(life, np.nan) for life in self.lives])
        ahead = rows.cycles > known[rows.life]
        again = np.zeros(len(rows), dtype=bool)
        again[1:] = (rows.life[1:] == rows.life[:-1]) & (rows.cycles[1:] == rows.cycles[:-1])
        again &= ahead
        fates = np.full(len(rows), Fate.NEW, dtype=object)
        if again.any():
            first = np.maximum.accumulate(np.where(again, 0, np.arange(len(rows))))
            for row in np.flatnonzero(again).tolist():
                is_same = rows.says_the_same(row, first[row])
                fates[row] = Fate.REPEATED if is_same else Fate.CONFLICT
        if (ahead & ~again).any():
            given = self._named(rows.take(ahead & ~again))
            self.unsent = readings.append_new(self.connection, self.fleet, given)
        if not ahead.all():
            others = np.flatnonzero(~ahead)
            frame = self._frame(rows.take(others))
            landed = self._landed(np.unique(rows.life[others]).tolist())
            fates[others] = readings.insert_many(self.connection, self.fleet, frame, landed)
            late = np.unique(rows.life[others[fates[others] == Fate.NEW]])
            self.late = {self.lives[place] for place in late.tolist()}
        self._new = rows.take(fates == Fate.NEW)
        self.grown = [self.lives[place] for place in np.unique(self._new.life).tolist()]
        self._conflicts = rows.take(fates == Fate.CONFLICT)
        self._tell(fates)

    def set_conflicts_aside(self, sent: Sequence[Sent]) -> None:
        """Keep the rows that contradict a kept one where people find them."""
        if len(self._conflicts):
            traces = [sent[request].trace_id for request in self._conflicts.request.tolist()]
            frame = self._frame(self._conflicts)
            set_aside.keep(self.connection, self.fleet, frame, traces)

    def requests(self) -> dict[Life, list[int]]:
        """By life: the places of the requests that brought something new of it, in order."""
        found: dict[Life, list[int]] = {}
        pairs = set(zip(self._new.life.tolist(), self._new.request.tolist(), strict=True))
        for life, request in sorted(pairs):
            found.setdefault(self.lives[life], []).append(request)
        return found

    def following(self, channels: Sequence[str]) -> tuple[list[Life], Next]:
        """The grown lives that are not late, and their new rows, which come after all others.

        Args:
            channels: What is wanted of each reading; not read where the fleet has no such.
        """
        new = self._new
        if self.late:
            is_onward = np.array([life not in self.late for life in self.lives])
            new = new.take(is_onward[new.life])
        begins = np.ones(len(new), dtype=bool)
        begins[1:] = new.life[1:] != new.life[:-1]
        starts = np.flatnonzero(begins)
        known = {name: at for at, name in enumerate(self.fleet.channels)}
        beside = np.full((len(new), 1), np.nan)
        values = np.hstack([new.values, beside])
        ends = [*starts[1:].tolist(), len(new)] if len(new) else []
        return [self.lives[place] for place in new.life[starts].tolist()], Next(
            cycles=new.cycles,
            values=values[:, [known.get(name, -1) for name in channels]],
            starts=np.append(starts, len(new)),
            times=[new.times[end - 1] for end in ends],
        )

    def _landed(self, places: Sequence[int]) -> pl.DataFrame | None:
        """What came of some lives in files, where any did."""
        if not self.landed_rows:
            return None
        wanted = [self.lives[place] for place in places]
        with lake_needed():
            return histories.read_landed(self._lake, self.fleet, wanted, self.landed_rows)

    def _named(self, rows: _Columns) -> NewReadings:
        named = [self.lives[place] for place in rows.life.tolist()]
        return NewReadings(
            units=[unit for unit, _ in named],
            lives=[life for _, life in named],
            cycles=rows.cycles,
            times=rows.times,
            values=rows.values,
        )

    def _frame(self, rows: _Columns) -> pl.DataFrame:
        given = self._named(rows)
        return pl.DataFrame(
            {
                UNIT: given.units,
                LIFE: given.lives,
                CYCLE: rows.cycles,
                TIME: rows.times,
                **dict(zip(self.fleet.channels, rows.values.T, strict=True)),
            },
            schema=self.fleet.readings_schema,
        ).with_columns(pl.col(self.fleet.channels).fill_nan(None))

    def _tell(self, fates: np.ndarray) -> None:
        """Count what became of the rows, and refuse those that contradict a kept one."""
        for fate, name in (
            (Fate.NEW, "new"), (Fate.REPEATED, "repeated"), (Fate.CONFLICT, "conflicts"),
        ):  # fmt: skip
            of_fate = self._rows.request[fates == fate]
            for receipt, count in zip(
                self.receipts, np.bincount(of_fate, minlength=len(self.receipts)), strict=True
            ):
                setattr(receipt, name, int(count))
        for row in range(len(self._conflicts)):
            unit, life = self.lives[self._conflicts.life[row]]
            self._refuse(
                self._conflicts,
                row,
                unit,
                Reason.CONFLICT,
                f"other values are kept of cycle {self._conflicts.cycles[row]:g} of life {life} of "
                f"unit {unit!r}; they stay, and these are set aside",
            )

    def _refuse_lifeless(
        self, rows: _Columns, row: int, life: Life, heard_of: Collection[str]
    ) -> None:
        """Refuse a row that no life takes."""
        unit, number = life
        standing = self.standing.get(life)
        reason = Reason.LIFE_ENDED
        if standing is not None:
            message = (
                f"life {number} of unit {unit!r} ended at cycle {standing.end_cycle:g} "
                f"({standing.outcome}); begin the next one, or correct the cycle"
            )
        elif unit in heard_of:
            message = f"no life of unit {unit!r} runs; begin the next one, or name the life"
        else:
            reason = Reason.UNKNOWN_UNIT
            message = (
                f"nobody has heard of a unit {unit!r}, and fleet {self.fleet.name!r} takes none by "
                "itself; correct the name, or begin a life of it first"
            )
        self._refuse(rows, row, unit, reason, message)

    def _refuse(self, rows: _Columns, row: int, unit: str, reason: Reason, message: str) -> None:
        place = int(rows.place[row])
        flaw = Flaw(
            at=f"[{place}]",
            message=message,
            unit=unit,
            index=place,
            cycle=float(rows.cycles[row]),
            reason=reason,
        )
        self.receipts[rows.request[row]].flaws.append(flaw)


def _unknown_lives(
    named: Iterable[tuple[str, int | None]], found: Mapping[str, Mapping[int, Standing]]
) -> set[Life]:
    """The lives that rows name, or mean, and that nobody has heard of."""
    wanted = set()
    for unit, number in named:
        if unit not in found:
            wanted.add((unit, number or 1))
        elif number is not None and number not in found[unit]:
            wanted.add((unit, number))
    return wanted


def _runs(of_unit: Mapping[int, Standing]) -> bool:
    return of_unit[max(of_unit)].outcome is Outcome.RUNNING
