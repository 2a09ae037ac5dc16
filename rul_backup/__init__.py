"""Backups that restore: what a run keeps, how it is sealed, how it is checked, what is let go.

What belongs here: everything that a machine which has lost all else needs to come back. What does
not: when it happens (``rul_assets``), the command (``rul_cli``).
"""
