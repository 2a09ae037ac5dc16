"""How the world asks: the Litestar application.

What belongs here: routes, their types, the served model. What does not: science (``rul_core``),
tables and files (``rul_store``), anything of Dagster.
"""
