"""The track record beside the outcomes: in one step, and quick to read."""

import polars as pl
import pytest

from rul_core import track_record, watch
from rul_core.errors import StoreError
from rul_store import outcomes
from rul_store.lake import Lake

EMPTY = pl.DataFrame(schema=watch.OUTCOMES_SCHEMA)
ENDED = EMPTY.with_columns(outcome=pl.lit("failed"))


def test_the_record_is_read_with_its_moment(tmp_path):
    lake = Lake(tmp_path)
    assert outcomes.read(lake, "pumps") is None
    record = track_record.of(EMPTY, ENDED, cap_cycles=9.0)
    ticket = lake.ticket(outcomes.ASSET, "pumps")
    outcomes.write(lake, "pumps", "run", EMPTY, record, ticket=ticket)
    known, table = outcomes.read(lake, "pumps"), lake.current(outcomes.ASSET, "pumps")
    assert known is not None
    assert table is not None
    assert (known.record, known.as_of) == (record, table.written_at)


@pytest.mark.parametrize("notes", [{}, {"track_record": "{}"}])
def test_a_record_that_cannot_be_read_is_named_with_the_remedy(tmp_path, notes):
    Lake(tmp_path).write(outcomes.ASSET, "pumps", "run", EMPTY, notes=notes)
    with pytest.raises(
        StoreError, match=r"track record of fleet 'pumps' .* make realised_outcomes"
    ):
        outcomes.read(Lake(tmp_path), "pumps")
