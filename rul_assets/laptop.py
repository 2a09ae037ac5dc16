"""The one code location of a laptop, where nobody's rights differ: the main job and its backups."""

import dagster as dg

from rul_assets import definitions
from rul_assets.backup import definitions as backup


@dg.definitions
def defs() -> dg.Definitions:
    """All that the two have."""
    return dg.Definitions.merge(definitions.defs(), backup.defs())
