"""From raw readings to core readings, some units at a time.

What belongs here: walking through a fleet so that memory stays bounded, and counting what is
found. What does not: the rules (``rul_core.quality``), the table (``defs.manipulation``).
"""

from collections.abc import Iterator

import polars as pl

from rul_core import quality, watch
from rul_core.conditions import Conditions
from rul_core.issues import ISSUES_SCHEMA, ROW, SOURCE, IssueKind
from rul_core.schema import KEY, UNIT, Fleet

BATCH_READINGS = 500_000
MOST_SET_ASIDE = 0.2
"""Share of the readings that may be unusable before training and prognoses are held back."""


def batches(readings: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The readings of whole units, about ``BATCH_READINGS`` at a time, units in order.

    Args:
        readings: With ``unit``; a lazy scan, of which one batch is in memory.
    """
    counted = readings.group_by(UNIT).agg(readings=pl.len()).sort(UNIT).collect()
    parts = portions(counted)
    if len(parts) == 1:
        yield readings.collect()
        return
    for units in parts:
        yield readings.filter(pl.col(UNIT).is_in(units[UNIT].implode())).collect()


def portions(counted: pl.DataFrame) -> list[pl.DataFrame]:
    """The rows of a frame in order, shared out so that each part has ``BATCH_READINGS`` or so.

    Args:
        counted: With ``readings``, how many each row stands for.
    """
    before = counted["readings"].cum_sum() - counted["readings"]
    number = (before // BATCH_READINGS).rle_id().alias("part")
    return [part for _, part in counted.group_by(number, maintain_order=True)]


class Inspection:
    """One walk through a fleet's raw readings; what was found is known once it is over.

    Args:
        fleet: Its description.
        raw: Raw readings, in the order in which they came.
        unreadable: Rows that never became readings, in ``SET_ASIDE_SCHEMA``.
        conditions: Those that the champion learnt; none before the first release.
    """

    def __init__(
        self,
        fleet: Fleet,
        raw: pl.LazyFrame,
        unreadable: pl.DataFrame,
        conditions: Conditions | None,
    ) -> None:
        self._fleet, self._conditions = fleet, conditions
        known = raw.collect_schema()
        # A sensor that the description has gained since is null in what came before.
        self._raw = raw.select(
            *(
                pl.col(name) if name in known else pl.lit(None, dtype).alias(name)
                for name, dtype in fleet.readings_schema.items()
            ),
            SOURCE,
            ROW,
        )
        self._set_aside = [unreadable]
        self._issues = [pl.DataFrame(schema=ISSUES_SCHEMA)]
        self._read = dict.fromkeys(fleet.channels, 0)
        self.usable, self.repeated_keys, self.units, self.lives = 0, 0, 0, 0

    def shards(self) -> Iterator[pl.DataFrame]:
        """Core readings, batch by batch; at least one, be it empty."""
        yield pl.DataFrame(schema=self._fleet.readings_schema)
        usual = None
        for batch in batches(self._raw):
            found = quality.inspect(batch, self._fleet, usual)
            # What is usual for a sensor is taken from the first lives, which are many.
            usual = usual or quality.usual_repeats(found.usable, self._fleet)
            self._count(found.usable)
            self._set_aside.append(found.set_aside)
            self._issues.append(found.issues)
            if self._conditions is not None:
                self._issues.append(watch.unseen_conditions(found.usable, self._conditions))
            yield found.usable

    @property
    def set_aside(self) -> pl.DataFrame:
        """Every row of a source that is not used, in ``SET_ASIDE_SCHEMA``."""
        return pl.concat(self._set_aside)

    @property
    def issues(self) -> pl.DataFrame:
        """Every issue, in ``ISSUES_SCHEMA``."""
        return pl.concat(self._issues)

    @property
    def never_read(self) -> tuple[str, ...]:
        """Settings and sensors without a single value."""
        return tuple(name for name, count in self._read.items() if not count)

    @property
    def unusable_share(self) -> float:
        """Share of the readings that are lost.

        A row that repeats or contradicts another is no loss: exports overlap, and the first stays.
        """
        repeats = [IssueKind.DUPLICATE.value, IssueKind.CONFLICT.value]
        lost = self.set_aside.filter(~pl.col("reason").is_in(repeats)).height
        return lost / max(1, lost + self.usable)

    def _count(self, usable: pl.DataFrame) -> None:
        self.usable += usable.height
        self.units += usable[UNIT].n_unique()
        self.lives += usable.select(pl.struct(KEY[:2]).n_unique()).item()
        self.repeated_keys += usable.height - usable.select(pl.struct(KEY).n_unique()).item()
        for name in self._read:
            self._read[name] += usable[name].count()
