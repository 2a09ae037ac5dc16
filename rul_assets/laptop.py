"""The one code location of a laptop, where nobody's rights differ: main job, backups and drill."""

import dagster as dg

from rul_assets import definitions
from rul_assets.backup import definitions as backup
from rul_assets.backup import drill


@dg.definitions
def defs() -> dg.Definitions:
    """All that the three have."""
    return dg.Definitions.merge(definitions.defs(), backup.defs(), drill.defs())
