"""A challenger beside the champion, once the machines have failed of which both spoke.

What belongs here: the figures by which a person decides. What does not: matching prognoses with
ended lives (``watch``), the test of training's evidence (``release``), keeping what was said.

Both spoke of the same readings, so errors are compared pair by pair, and units are drawn for the
interval: rows of one life resemble each other, and a life counts once.
"""

import msgspec
import numpy as np
import polars as pl

from rul_core import track_record, watch
from rul_core.resampling import Paired, paired_bootstrap
from rul_core.schema import KEY, LIFE, UNIT
from rul_core.track_record import VersionRecord


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What came of both in lives that have failed since."""

    champion: VersionRecord
    """Of whichever model was the champion when it spoke."""
    challenger: VersionRecord
    paired: Paired | None
    """RMSE of the challenger (a) less that of the champion (b) where both gave a point, with its
    95 % interval over units: below 0 favours the challenger. Null while there is no such pair."""
    pairs: int
    """Readings of which both gave a point."""


def compare(champion: pl.DataFrame, challenger: pl.DataFrame, *, cap_cycles: float) -> Comparison:
    """Hold both against what happened.

    Args:
        champion: What ``watch.match`` takes, of ended lives.
        challenger: The same of the challenger, at the same readings.
        cap_cycles: The label cap.
    """
    known = {}
    records = {}
    for name, said in (("champion", champion), ("challenger", challenger)):
        known[name] = watch.match(said, cap_cycles=cap_cycles)
        records[name] = track_record.of(known[name], said, cap_cycles=cap_cycles).overall
    points = known["challenger"].drop_nulls("error_cycles")
    pairs = points.join(
        known["champion"].drop_nulls("error_cycles"), on=KEY, suffix="_champion"
    ).sort(KEY)
    paired = None
    if not pairs.is_empty():
        weights = 1.0 / pairs.select(pl.len().over(UNIT, LIFE)).to_series().to_numpy()
        paired = paired_bootstrap(
            pairs["error_cycles"].to_numpy(),
            pairs["error_cycles_champion"].to_numpy(),
            weights=np.asarray(weights),
            units=pairs[UNIT].to_numpy(),
        )
    return Comparison(
        champion=records["champion"],
        challenger=records["challenger"],
        paired=paired,
        pairs=pairs.height,
    )
