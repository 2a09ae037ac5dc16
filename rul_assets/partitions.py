"""The partitions that all assets share.

A partition is a slice of *work*: one fleet, added by a sensor when its description appears. Units
and lives are rows, never partitions: there may be thousands of them.
Concept: https://docs.dagster.io/guides/build/partitions-and-backfills
"""

import dagster as dg

FLEETS = dg.DynamicPartitionsDefinition(name="fleet")
