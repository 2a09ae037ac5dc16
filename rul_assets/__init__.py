"""When and where the science runs: Dagster assets, checks, sensors, schedules, resources.

What belongs here: the graph and its automation; an asset loads, calls one pure function, reports.
What does not: science (``rul_core``), tables and files (``rul_store``).
"""
