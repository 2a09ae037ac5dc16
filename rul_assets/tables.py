"""The tables that the assets keep in the lake, and the notes beside them.

What belongs here: names that more than one asset or sensor uses. What does not: what is in the
tables (each asset says so).
"""

RAW_SET_ASIDE = "raw_set_aside"
CORE = "core_readings"
CORE_SET_ASIDE, CORE_ISSUES = "set_aside", "issues"
"""Beside ``CORE``, of the same run."""
FEATURES = "features"
CANDIDATES = "rul_model"
"""One row a trained model, released or not."""
PROGNOSES = "fleet_prognoses"
DRIFT = "drift"
"""One row a window of raw readings that was compared with what a champion learnt from."""

WATERMARK = "watermark"
"""Of ``RAW`` and ``CORE``: how far the rows that were sent over HTTP were taken in."""
BEGUN_AT = "begun_at"
"""Of ``CORE``: when making it began; what became known later may not be in it."""
RAW_ROWS = "raw_rows"
"""Of ``CORE`` and ``DRIFT``: up to which raw reading it was made."""
CORE_GENERATION = "core_generation"
"""Of ``FEATURES``: the core readings that they were computed from."""
PIPELINE = "pipeline"
"""Of ``FEATURES``: what computed them, as JSON."""
VERSION, TRAINED_AT, LIVES = "version", "trained_at", "failed_lives"
"""Of ``CANDIDATES``: the newest, without opening its bundle. ``DRIFT`` notes the version too."""
