"""The command ``rul``: what it can do, and how it speaks of errors.

What belongs here: the list of commands. What they do is in the other packages, which they import
when they need them, so that ``rul --help`` is quick.
"""

import signal
import sys
from types import FrameType

import typer
from rich.markup import escape

from rul_cli import (
    audit,
    backup,
    benchmark,
    database,
    demo,
    dev,
    fetch,
    fleet,
    keys,
    leakage,
    ledger,
    models,
    secrets,
    stack,
)
from rul_cli.console import console
from rul_core.errors import RulError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Remaining useful life of a fleet of machines: readings in, checked prognoses out.",
)
app.add_typer(fleet.app, name="fleet")
app.add_typer(models.app, name="models")
app.add_typer(ledger.app, name="ledger")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.add_typer(backup.app, name="backup")
app.add_typer(secrets.app, name="secrets")
app.add_typer(stack.app, name="stack")
app.add_typer(database.app, name="database")
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(fetch.app, name="fetch")
app.command("leakage-gate")(leakage.leakage_gate)
app.command("demo")(demo.demo)
app.command("dev")(dev.dev)

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Run the command; an error that was foreseen is one line, not a traceback.

    A closed terminal and a polite kill end it as Ctrl-C does: what it started is stopped.
    """
    for sign in ENDINGS:
        signal.signal(sign, _interrupt)
    try:
        app()
    except (RulError, OSError) as error:  # such as a folder that this user may not write to
        told = f"[red]{type(error).__name__}[/red]: {escape(str(error))}"
        console.print(told, highlight=False, soft_wrap=True)
        sys.exit(1)


def _interrupt(_sign: int, _frame: FrameType | None) -> None:
    # From here on all that was started is being stopped, which an impatient second Ctrl-C, or a
    # terminal that is closed meanwhile, shall not cut short.
    for sign in ENDINGS:
        signal.signal(sign, signal.SIG_IGN)
    raise KeyboardInterrupt
