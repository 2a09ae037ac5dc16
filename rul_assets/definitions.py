"""The code location: every definition under ``defs/`` is found by itself."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Assets, checks, automation, jobs and resources."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
