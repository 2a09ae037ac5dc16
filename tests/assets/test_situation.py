"""What is known of a fleet before it is decided whether to learn anew."""

from pathlib import Path

import polars as pl

from rul_assets.situation import under_way
from rul_assets.tables import CORE, CORE_GENERATION, FEATURES, RAW, RAW_ROWS
from rul_store.lake import Lake

ROWS = pl.DataFrame({"unit": ["a", "b"]})


def test_readings_are_under_way_until_features_were_made_of_all_of_them(tmp_path: Path):
    lake = Lake(tmp_path)
    assert under_way(lake, "pumps") == ""
    lake.append(RAW, "pumps", "one", ROWS)
    assert under_way(lake, "pumps") == "core_readings has not caught up with raw_readings"
    lake.write(CORE, "pumps", "one", ROWS, notes={RAW_ROWS: "2"})
    assert under_way(lake, "pumps") == "features has not caught up with core_readings"
    core = lake.current(CORE, "pumps")
    assert core is not None
    lake.write(FEATURES, "pumps", "one", ROWS, notes={CORE_GENERATION: str(core.generation)})
    assert under_way(lake, "pumps") == ""
    lake.append(RAW, "pumps", "two", ROWS)
    assert under_way(lake, "pumps") == "core_readings has not caught up with raw_readings"
