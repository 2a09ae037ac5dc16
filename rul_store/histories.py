"""All readings of a life, wherever they came from, as they were known at a moment.

What belongs here: putting together what came in files and what was sent over HTTP, so that a unit's
state can be rebuilt and a prognosis computed again. What does not: taking readings in
(``rul_assets``, ``readings``), judging them (``rul_core.quality``).

Both sources only grow, so two numbers name what was known at a moment for good: how many rows of
files there were, and the ingestion number of the last row that was sent (``Seen``). The lake takes
in both, in the order in which they come, so one number does where it alone is read. Where both say
something of one cycle, the file counts.
"""

from collections.abc import Sequence

import msgspec
import polars as pl
import sqlalchemy as sa

from rul_core import quality
from rul_core.errors import StoreError, Unavailable
from rul_core.issues import ROW, SOURCE
from rul_core.prognosis import Seen
from rul_core.schema import LIFE, UNIT, Fleet
from rul_store import landing, readings
from rul_store.lake import Lake, lake_needed

RAW = "raw_readings"
"""The lake's table of every reading that came, in the order in which they came."""
FILE_RUN, SENT_RUN = "file-", "sent-"
"""How the runs of ``RAW`` are called that a file added, or a take of what was sent."""
SENT = "readings table"
"""The source of rows that were not in a file."""


class Landed:
    """How many readings came in files so far, which only ever grows.

    Args:
        lake: Has them.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._least: dict[str, int] = {}

    def rows(self, connection: sa.Connection, fleet: str) -> int:
        """How many of a fleet.

        Raises:
            Unavailable: The lake has lost some of them: it is away, or was restored to an earlier
                day. What would be said without them would be wrong.
        """
        found, known = self._count(fleet), self._least.get(fleet)
        if known is None or found < known:
            # What is known now; asked first, since a file is marked once its rows are in the lake.
            least = landing.taken_rows(connection, fleet)
            found = self._count(fleet)
            if found < least:
                raise Unavailable(
                    f"{least} readings of fleet {fleet!r} came in files, and lake/{RAW}/{fleet} "
                    f"has {found} of them; mount the data root, restore the lake, or materialise "
                    f"{RAW}"
                )
        self._least[fleet] = found
        return found

    def _count(self, fleet: str) -> int:
        with lake_needed():
            table = self._lake.current(RAW, fleet)
        runs = table.runs if table else ()
        return sum(run.rows for run in runs if run.run_id.startswith(FILE_RUN))


def read(
    connection: sa.Connection,
    lake: Lake,
    fleet: Fleet,
    lives: Sequence[tuple[str, int]],
    seen: Seen,
) -> pl.DataFrame:
    """The usable readings of some lives.

    Values outside the fleet's physical limits stay: whoever prognoses tells of them.

    Args:
        connection: An open transaction.
        lake: Has what came in files.
        fleet: Its description.
        lives: Pairs of unit and life.
        seen: What to leave out: rows after these numbers. None of a kind is none of its rows.

    Returns:
        The fleet's readings schema, sorted by unit, life, cycle.

    Raises:
        StoreError: The lake holds fewer rows than had been seen, or a file of it is lost.
    """
    if not lives:
        return pl.DataFrame(schema=fleet.readings_schema)
    wanted = pl.DataFrame(lives, schema={UNIT: pl.String, LIFE: pl.Int64}, orient="row")
    if seen.raw_rows is not None:
        return read_raw(lake, fleet, wanted, seen.raw_rows)
    landed = _scan(lake, fleet, wanted, FILE_RUN, seen.landed_rows or 0)
    sent = readings.of_lives(connection, fleet, wanted, seen.sent_seq or 0)
    return _usable(pl.concat([landed, with_source(sent)]), fleet)


def read_landed(
    lake: Lake, fleet: Fleet, lives: Sequence[tuple[str, int]], rows: int
) -> pl.DataFrame:
    """As ``read``, of what came in the first so many rows of files alone."""
    wanted = pl.DataFrame(lives, schema={UNIT: pl.String, LIFE: pl.Int64}, orient="row")
    return _usable(_scan(lake, fleet, wanted, FILE_RUN, rows), fleet)


def read_raw(lake: Lake, fleet: Fleet, lives: pl.DataFrame, rows: int) -> pl.DataFrame:
    """As ``read``, from the first so many rows of the raw readings alone.

    Args:
        lake: Has them.
        fleet: Its description.
        lives: unit and life.
        rows: That count.
    """
    known = _scan(lake, fleet, lives, "", rows)
    return _usable(known.sort(pl.col(SOURCE) == SENT, maintain_order=True), fleet)


def count_raw(lake: Lake, fleet: Fleet, lives: pl.DataFrame, rows: int) -> pl.DataFrame:
    """How many of the first so many raw readings are of some lives: unit, life, ``readings``."""
    found = _rows(lake, fleet, "", rows).join(lives.lazy(), on=[UNIT, LIFE], how="semi")
    return found.group_by(UNIT, LIFE).agg(readings=pl.len()).sort(UNIT, LIFE).collect()


def lives_since(lake: Lake, fleet: str, rows: int) -> set[tuple[str, int]]:
    """Lives of which a raw reading came after the first so many."""
    table = lake.current(RAW, fleet)
    later, counted = set(), 0
    for run in table.runs if table else ():
        if counted >= rows:
            later.add(run.run_id)
        counted += run.rows
    if not later:
        return set()
    found = lake.scan(RAW, fleet, of=later.__contains__).select(UNIT, LIFE).unique().collect()
    return {(unit, life) for unit, life in found.iter_rows()}


def with_source(sent: pl.DataFrame) -> pl.DataFrame:
    """Readings that were sent, as raw readings with source and row."""
    return sent.with_columns(
        pl.lit(SENT).alias(SOURCE), pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(ROW)
    )


def _usable(known: pl.DataFrame, fleet: Fleet) -> pl.DataFrame:
    return quality.inspect(known, msgspec.structs.replace(fleet, ranges={})).usable


def _scan(
    lake: Lake, fleet: Fleet, wanted: pl.DataFrame, run_prefix: str, rows: int
) -> pl.DataFrame:
    """The first so many rows of the runs that are called so, of the lives that are wanted."""
    schema = pl.Schema({**fleet.readings_schema, SOURCE: pl.String, ROW: pl.Int64})
    if not rows:
        return pl.DataFrame(schema=schema)
    raw = _rows(lake, fleet, run_prefix, rows)
    known = raw.collect_schema()
    # A channel that the description has gained since is null in what came before.
    columns = [
        pl.col(name) if name in known else pl.lit(None, dtype).alias(name)
        for name, dtype in schema.items()
    ]
    return (
        # The filter reaches into the files, so that memory holds these units; the join does not.
        raw.filter(pl.col(UNIT).is_in(wanted[UNIT].unique().implode()))
        .select(columns)
        .join(wanted.lazy(), on=[UNIT, LIFE], how="semi", maintain_order="left")
        .collect()
    )


def _rows(lake: Lake, fleet: Fleet, run_prefix: str, rows: int) -> pl.LazyFrame:
    """The first so many rows of the runs that are called so: whole runs, as they were counted."""
    table = lake.current(RAW, fleet.name)
    runs, counted = set(), 0
    for run in table.runs if table else ():
        if run.run_id.startswith(run_prefix) and counted < rows:
            runs.add(run.run_id)
            counted += run.rows
    if counted != rows:
        raise StoreError(
            f"{rows} raw readings of fleet {fleet.name!r} had been seen, and the runs in the lake "
            f"add up to {counted}; mount or copy back lake/{RAW}/{fleet.name}, "
            "which is in no backup"
        )
    return lake.scan(RAW, fleet.name, of=runs.__contains__)
