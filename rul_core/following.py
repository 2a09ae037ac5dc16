"""What is remembered of a life between its readings, and how it goes on.

What belongs here: a life as far as it was followed, and taking it further, one reading or thousands
of lives at a time. What does not: the loops (``kernel``), what is said of a life (``prognose``),
where it is kept meanwhile.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
import numpy as np
import polars as pl

from rul_core import conditions as operating
from rul_core.features import Compiled, life_starts
from rul_core.schema import CYCLE, LIFE, TIME, UNIT, Fleet

VERSION = 1
"""Of the form of a state; one of another version cannot be followed further."""


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """A life, as far as its readings were followed.

    Whoever follows it further from here comes to the same as who follows it from the start.
    """

    unit: str
    life: int
    readings: int
    """How many were followed."""
    first_cycle: float
    cycle: float
    """Of the last reading."""
    time: datetime | None
    """Of the last reading, UTC."""
    values: np.ndarray
    """(channels,) float64: the last reading as it came, in the fleet's order; NaN where not
    read."""
    state: np.ndarray
    """(size,) float64: the kernel's."""
    features: np.ndarray
    """(features,) float32 at the last reading."""


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """The next readings of some lives (L), in all n, each life's in the order of its cycles."""

    cycles: np.ndarray
    """(n,) float64."""
    values: np.ndarray
    """(n, channels) float64 in the fleet's order, NaN where not read."""
    starts: np.ndarray
    """(L + 1,) int64, where each life's readings begin, and n; none is empty."""
    times: Sequence[datetime | None]
    """(L,) of each life's last reading, UTC."""


class Follower:
    """Follows the lives of a fleet's units with one model's features.

    Args:
        compiled: The model's pipeline.
        fleet: Its fleet.
    """

    def __init__(self, compiled: Compiled, fleet: Fleet) -> None:
        self._compiled, self._channels = compiled, fleet.channels
        found = compiled.pipeline.conditions
        self._settings = [fleet.channels.index(name) for name in found.settings]
        self._sensors = [fleet.channels.index(name) for name in found.sensors]
        limits = [fleet.ranges.get(name, (-np.inf, np.inf)) for name in fleet.channels]
        self.lowest, self.highest = np.array(limits, dtype=np.float64).reshape(-1, 2).T
        """(channels,) float64 each: the fleet's physical limits."""

    def start(self, unit: str, life: int) -> Followed:
        """A life before its first reading."""
        return Followed(
            unit=unit,
            life=life,
            readings=0,
            first_cycle=np.nan,
            cycle=-np.inf,
            time=None,
            values=np.full(len(self._channels), np.nan),
            state=self._compiled.start(),
            features=np.full(len(self._compiled.pipeline.names), np.nan, dtype=np.float32),
        )

    def follow(self, lives: Sequence[Followed], following: Next) -> list[Followed]:
        """The same lives after their next readings, which come after all that were followed."""
        if not lives:
            return []
        states = np.stack([life.state for life in lives])
        settings, sensors = self.split(following.values)
        features = self._compiled.follow(
            states, settings, sensors, np.array(following.cycles), following.starts
        )
        counts = np.diff(following.starts).tolist()
        first, last = following.starts[:-1], following.starts[1:] - 1
        first_cycles, cycles = following.cycles[first].tolist(), following.cycles[last].tolist()
        values = following.values[last]
        return [
            Followed(
                unit=life.unit,
                life=life.life,
                readings=life.readings + counts[i],
                first_cycle=life.first_cycle if life.readings else first_cycles[i],
                cycle=cycles[i],
                time=following.times[i],
                values=values[i],
                state=states[i],
                features=features[i],
            )
            for i, life in enumerate(lives)
        ]

    def follow_frame(self, readings: pl.DataFrame) -> list[Followed]:
        """The lives of a readings frame that is sorted by unit, life, cycle, from their starts."""
        starts = life_starts(readings)
        ends = readings[starts[1:] - 1].select(UNIT, LIFE, TIME)
        following = Next(
            cycles=readings[CYCLE].to_numpy(),
            values=operating.matrix(readings, self._channels),
            starts=starts,
            times=ends[TIME].to_list(),
        )
        lives = [self.start(unit, life) for unit, life in ends.select(UNIT, LIFE).iter_rows()]
        return self.follow(lives, following)

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Settings and sensors of the pipeline's conditions, from the fleet's channels.

        A value outside its physical limits cannot be, and is as good as not read.

        Args:
            values: (n, channels) float64.

        Returns:
            (n, settings) and (n, sensors) float64, NaN where not read.
        """
        outside = (values < self.lowest) | (values > self.highest)
        possible = np.where(outside, np.nan, values) if outside.any() else values
        return (
            np.ascontiguousarray(possible[:, self._settings]),
            np.ascontiguousarray(possible[:, self._sensors]),
        )

    def held(self, lives: Iterable[Followed]) -> tuple[np.ndarray, np.ndarray]:
        """For how many readings each sensor of the conditions stood still, and was not read.

        Returns:
            Two of (lives, sensors) float64: how often in a row the last value was read, whatever
            lay between; and how many readings up to the last lacked the sensor.
        """
        return self._compiled.held(np.stack([life.state for life in lives]))
