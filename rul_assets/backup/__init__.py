"""Backups as assets: made by a schedule, looked at every hour, proved by a restore every day.

What belongs here: when it happens, and what Dagster's pages show of it. What does not: how it is
done (``rul_backup``), the assets of the main job (``rul_assets.defs``), which know nothing of it.

It is a code location of its own where its rights differ (the database's whole content, keys), and a
part of the one on a laptop (``rul_assets.laptop``).
"""
