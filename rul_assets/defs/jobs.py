"""Jobs: what is asked for together.

What belongs here: selections of assets. What does not: when they run (``sensors``).
"""

import dagster as dg

from rul_assets.defs.acquisition import raw_readings
from rul_assets.defs.assessment import released_model, rul_model
from rul_assets.reports import Group
from rul_assets.told import RETRAIN

take_in = dg.define_asset_job(
    "take_in",
    selection=dg.AssetSelection.assets(raw_readings),
    description="Take in what was dropped or sent; all else follows by itself.",
)
retrain = dg.define_asset_job(
    RETRAIN,
    selection=dg.AssetSelection.assets(rul_model, released_model),
    description="Learn a model anew, and release it unless it is worse than the champion.",
)
everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups(Group.BACKUPS),
    description="A fleet's first time: from its files to its prognoses, in one run.",
)
