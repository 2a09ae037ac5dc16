"""``rul dev``: Dagster on this laptop, with embedded servers and every sensor on."""

import time
from typing import Annotated

import typer

from rul_cli import programs
from rul_cli.backup import plant_keys
from rul_cli.console import console
from rul_cli.fleet import Root
from rul_cli.laptop import DEFAULT_ROOT, opened


def dev(
    root: Root = DEFAULT_ROOT,
    dagster_port: Annotated[int, typer.Option(min=1, max=65535, help="of Dagster's pages")] = 3000,
    api_port: Annotated[int, typer.Option(min=1, max=65535, help="of the HTTP API")] = 8000,
) -> None:
    """Run Dagster and the API on this laptop until Ctrl-C."""
    with opened(root) as laptop:
        keys = plant_keys(laptop)
        environment, logs = laptop.environment(), laptop.root / "logs"
        ports = programs.free_port(dagster_port), programs.free_port(api_port)
        with (
            programs.dagster(environment, ports[0], logs / "dagster.log") as dagster,
            programs.api(environment, ports[1], logs / "api.log") as api,
        ):
            api.wait_until_it_answers(f"http://127.0.0.1:{ports[1]}/livez", 60)
            dagster.wait_until_it_answers(f"http://127.0.0.1:{ports[0]}/server_info", 120)
            console.print(f"Dagster  http://127.0.0.1:{ports[0]}")
            console.print(f"API      http://127.0.0.1:{ports[1]}/schema")
            console.print(f"Data     {laptop.root}  (logs in {logs}); Ctrl-C stops everything.")
            console.print(
                f"Backups  every half hour, by the keys in {keys}; "
                "move backup_escrow_identity into a safe.",
                soft_wrap=True,
            )
            try:
                while True:
                    dagster.check()
                    api.check()
                    time.sleep(1)
            except KeyboardInterrupt:
                console.print("Stopping.")
