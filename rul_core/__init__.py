"""The science of remaining useful life: pure functions over Polars frames and NumPy arrays.

What belongs here: what a fleet is, what its readings mean, features, models, intervals, prognoses,
and how good they are. What does not: files, databases, clocks, networks, Dagster, Litestar.
Everything here can be used in a notebook with nothing running.
"""
