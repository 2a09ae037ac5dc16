"""Readings come in: files that were dropped, rows that were sent.

What belongs here: the order of the steps, each of which may be the last before a kill. What does
not: finding files (``rul_store.landing``), parsing (``rul_core.readers``), judging values.

Every step is known by the content it takes in, and repeating it changes nothing: rows go into the
lake under the file's checksum or the watermark they follow, lives are updated, and only then is a
file marked as taken. So a run that was killed is simply run again. Where the lake was lost, or
restored to an earlier day, what it lacks is taken again from the files that still lie in the
landing folder, in the order in which they first came, and then from PostgreSQL.
"""

import hashlib
from pathlib import Path

import msgspec
import polars as pl
import sqlalchemy as sa

from rul_assets.tables import RAW_SET_ASIDE, WATERMARK
from rul_core import readers
from rul_core.errors import ReadingsError, StoreError
from rul_core.issues import ROW, SET_ASIDE_SCHEMA, SOURCE, IssueKind, sentence
from rul_core.schema import LIFE, LIVES_SCHEMA, UNIT, Fleet, Outcome
from rul_store import landing, lives, readings
from rul_store.histories import FILE_RUN, RAW, SENT, SENT_RUN, with_source
from rul_store.lake import Lake
from rul_store.landing import LandedFile, Landing

MOST_UNREADABLE = 0.5
"""Share of a file's rows; with more, the file is broken and none of it is taken."""
SETTLE_SECONDS = landing.SETTLE_SECONDS


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What came in."""

    files: dict[str, int]
    """Rows by file."""
    repeated: tuple[str, ...]
    """Files whose content was taken before."""
    broken: dict[str, str]
    """Files that were set aside, with the error."""
    changing: dict[str, str]
    """Files that were left for the next look, with the reason."""
    sent_rows: int


def landing_of(engine: sa.Engine, root: Path, fleet: str) -> Landing:
    """The fleet's landing folder."""
    return Landing(engine, root, fleet, settle_seconds=SETTLE_SECONDS)


def take(engine: sa.Engine, root: Path, lake: Lake, fleet: Fleet) -> Taken:
    """Take in all that is new, and leave the broken where people find it.

    Args:
        engine: Remembers files and lives; holds the rows that were sent.
        root: The data root.
        lake: Where the rows go.
        fleet: Its description.

    Raises:
        Unavailable: PostgreSQL does not answer; what was taken so far stays.
    """
    if lake.current(RAW, fleet.name) is None:
        lake.append(
            RAW, fleet.name, "nothing", with_source(pl.DataFrame(schema=fleet.readings_schema))
        )
    folder = landing_of(engine, root, fleet.name)
    lost = _lost(folder, lake)
    look = folder.look(again=lost)
    files, repeated, broken = {}, [], {}
    changing = {path.name: "changed a moment ago" for path in look.unsettled}
    order = {path: place for place, path in enumerate(lost.values())}
    for path in sorted(look.ready, key=lambda path: order.get(path, len(order))):
        try:
            file = folder.read(path)
        except StoreError as error:
            changing[path.name] = str(error)
            continue
        if file.sha256 not in lost and folder.was_taken(file):
            repeated.append(file.name)
            continue
        try:
            files[file.name] = _take_file(engine, lake, fleet, file)
        except ReadingsError as error:
            folder.set_aside(file, str(error))
            broken[file.name] = str(error)
            continue
        folder.mark_taken(file, files[file.name])
        lost.pop(file.sha256, None)
    return Taken(
        files=files,
        repeated=tuple(repeated),
        broken=broken,
        changing=changing,
        sent_rows=_take_sent(engine, lake, fleet),
    )


def watermark(lake: Lake, fleet: str) -> str:
    """How far the rows that were sent are in the lake; empty before the first."""
    table = lake.current(RAW, fleet)
    return table.notes.get(WATERMARK, "") if table else ""


def set_aside(lake: Lake, fleet: str) -> pl.DataFrame:
    """Rows of files that never became readings, in ``SET_ASIDE_SCHEMA``."""
    if lake.current(RAW_SET_ASIDE, fleet) is None:
        return pl.DataFrame(schema=SET_ASIDE_SCHEMA)
    return lake.scan(RAW_SET_ASIDE, fleet).collect()


def _lost(folder: Landing, lake: Lake) -> dict[str, Path]:
    """SHA-256 and path of files that were taken, and whose rows a lake that was lost had."""
    table = lake.current(RAW, folder.fleet)
    kept = {run.run_id for run in table.runs} if table else set()
    taken = folder.contents().items()
    return {content: path for content, path in taken if _run_of(content) not in kept}


def _run_of(content: str) -> str:
    """What the lake calls the rows of a file of that SHA-256."""
    return f"{FILE_RUN}{content[:40]}"


def _take_file(engine: sa.Engine, lake: Lake, fleet: Fleet, file: LandedFile) -> int:
    """How many readings the file gave."""
    table = readers.parse_file(file.data, file.name)
    conformed = readers.conform(table, fleet, source=file.name)
    _refuse_mostly_unreadable(conformed.set_aside, table.height, file.name)
    name = _run_of(file.sha256)
    if conformed.set_aside.height:
        lake.append(RAW_SET_ASIDE, fleet.name, name, conformed.set_aside)
    lake.append(RAW, fleet.name, name, conformed.readings)
    conflicts = lives.upsert(engine, fleet.name, conformed.lives, source=file.name)
    if conflicts.height:
        told = _other_ends(conflicts, file.name)
        lake.append(RAW_SET_ASIDE, fleet.name, f"lives-{file.sha256[:40]}", told)
    return conformed.readings.height


def _refuse_mostly_unreadable(unreadable: pl.DataFrame, rows: int, source: str) -> None:
    """A file that is for the most part no readings is not what its fleet's description means."""
    if unreadable.height <= MOST_UNREADABLE * rows:
        return
    first = unreadable.row(0, named=True)
    raise ReadingsError(
        f"{unreadable.height} of {rows} rows cannot be read; the first has {first['value']!r} in "
        f"column {first['column']!r}: {first['detail']}; correct the file or the description",
        source=source,
        row=first["row"],
        column=first["column"],
    )


def _take_sent(engine: sa.Engine, lake: Lake, fleet: Fleet) -> int:
    """How many readings the table had that the lake had not."""
    rows, more = 0, True
    while more:
        since = watermark(lake, fleet.name)
        taken = readings.take_after(engine, fleet, since)
        more = taken.more
        if taken.readings.is_empty():
            continue
        name = f"{SENT_RUN}{hashlib.sha256(since.encode()).hexdigest()[:40]}"
        notes = {WATERMARK: taken.watermark}
        lake.append(RAW, fleet.name, name, with_source(taken.readings), notes=notes)
        running = taken.readings.select(UNIT, LIFE).unique(maintain_order=True)
        running = running.with_columns(
            outcome=pl.lit(Outcome.RUNNING.value), end_cycle=pl.lit(None)
        )
        lives.upsert(
            engine, fleet.name, running.cast(dict(LIVES_SCHEMA)).sort(UNIT, LIFE), source=SENT
        )
        rows += taken.readings.height
    return rows


def _other_ends(conflicts: pl.DataFrame, source: str) -> pl.DataFrame:
    """Lives that a source says ended otherwise than is known."""
    detail = sentence(
        "life {} is kept as {}, ended at cycle {}; this source says otherwise",
        LIFE,
        "kept_outcome",
        "kept_end_cycle",
    )
    return conflicts.select(
        pl.lit(source).alias(SOURCE),
        pl.lit(None).alias(ROW),
        UNIT,
        pl.col("end_cycle").alias("cycle"),
        pl.lit("outcome").alias("column"),
        pl.col("outcome").alias("value"),
        pl.lit(IssueKind.CONFLICT.value).alias("reason"),
        detail.alias("detail"),
        pl.struct(pl.all().cast(pl.String)).struct.json_encode().alias("content"),
    ).cast(dict(SET_ASIDE_SCHEMA))
