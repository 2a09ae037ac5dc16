"""What came of prognoses, as the lake has it: the outcomes, and the track record made of them.

What belongs here: keeping the two in one step, reading the record. What does not: the figures
(``rul_core.track_record``), when they are made (``rul_assets``).
"""

from datetime import datetime

import msgspec
import polars as pl

from rul_core.errors import StoreError
from rul_core.track_record import TrackRecord
from rul_store.lake import Lake

ASSET = "realised_outcomes"
RECORD = "track_record"
"""The note beside the table, as JSON: reading it costs the same however long the ledger is."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A track record, and how fresh it is."""

    record: TrackRecord
    as_of: datetime
    """When it was made: of the ledger and the ended lives as they were known then."""


def write(
    lake: Lake, fleet: str, run_id: str, outcomes: pl.DataFrame, record: TrackRecord, *, ticket: int
) -> None:
    """Replace both; arguments and errors as of ``Lake.write``."""
    notes = {RECORD: msgspec.json.encode(record).decode()}
    lake.write(ASSET, fleet, run_id, outcomes, ticket=ticket, notes=notes)


def read(lake: Lake, fleet: str) -> Known | None:
    """The track record; none before the first was made.

    Raises:
        StoreError: It is damaged, or of another version of the platform.
    """
    table = lake.current(ASSET, fleet)
    if table is None:
        return None
    try:
        record = msgspec.json.decode(table.notes[RECORD], type=TrackRecord)
    except (KeyError, msgspec.DecodeError) as error:
        raise StoreError(
            f"the track record of fleet {fleet!r} cannot be read: {error}; make {ASSET} again"
        ) from error
    return Known(record=record, as_of=table.written_at)
