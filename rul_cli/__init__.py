"""The command ``rul``: thin, imports the others when it needs them; nothing imports it."""
