"""How the command speaks: people read standard error and tables, programs read ``--json``."""

from typing import Any

import msgspec
import typer
from rich.console import Console

console = Console(stderr=True)
"""Progress, tables and errors; standard output is left to JSON and results."""


def print_json(value: Any) -> None:
    """Any msgspec-encodable value, indented, on standard output."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
