"""Where things are kept: PostgreSQL tables, the lake, the model registry, Redis keys.

What belongs here: reading and writing, atomically, with errors that say what to do. What does not:
deciding what the data mean (``rul_core``), when things run (``rul_assets``), how the world asks
(``rul_serving``).
"""
