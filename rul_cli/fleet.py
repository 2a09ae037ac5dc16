"""``rul fleet``: describe fleets, list them, show one."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from rul_cli.console import console, print_json
from rul_cli.laptop import DEFAULT_ROOT

app = typer.Typer(no_args_is_help=True, help="Describe fleets, list them, show one.")

Root = Annotated[
    Path, typer.Option(envvar="RUL_ROOT", help="the data root", show_default=str(DEFAULT_ROOT))
]


@app.command("init")
def init(
    name: Annotated[str, typer.Argument(help="what the fleet shall be called")],
    file: Annotated[Path, typer.Argument(help="a run-to-failure table: .txt, .csv or .parquet")],
    root: Root = DEFAULT_ROOT,
    land: Annotated[bool, typer.Option(help="also copy FILE into the landing folder")] = False,
    replace: Annotated[bool, typer.Option(help="overwrite a description that exists")] = False,
    json: Annotated[bool, typer.Option("--json", help="print the description as JSON")] = False,
) -> None:
    """Write fleets/NAME.toml by looking at FILE, and say what was guessed."""
    from rul_core.discovery import describe
    from rul_core.errors import ReadingsError, StoreError
    from rul_core.formats import parse_file
    from rul_store import files, fleets
    from rul_store.landing import FOLDER

    if not file.is_file():
        raise ReadingsError("no such file; name a .txt, .csv or .parquet file", source=str(file))
    data = file.read_bytes()
    guess = describe(parse_file(data, file.name), name, file.name)
    target = root / FOLDER / name / file.name
    if land and target.exists() and target.read_bytes() != data:
        raise StoreError(f"{target} is there with other content; rename {file} and land it again")
    path = fleets.save(root, guess.fleet, replace=replace)
    for remark in guess.remarks:
        _say(f"  • {remark}")
    _say(f"Wrote {path}. Read it and correct what is guessed wrong.")
    if land:
        files.write(target, data)
        _say(f"Landed {target}.")
    if json:
        print_json(msgspec.to_builtins(guess))


@app.command("list")
def list_fleets(
    root: Root = DEFAULT_ROOT,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """The fleets that have a description, and which version of their model is live."""
    from rul_store import champions, fleets

    described = [fleets.load(root, name) for name in fleets.names(root)]
    live = {fleet.name: champions.read_live(root, fleet.name) for fleet in described}
    versions = {name: champion.version if champion else None for name, champion in live.items()}
    if json:
        print_json(
            [
                {
                    "fleet": fleet.name,
                    "sensors": len(fleet.columns.sensors),
                    "unit_of_life": fleet.unit_of_life,
                    "label_cap_cycles": fleet.learning.label_cap_cycles,
                    "live_version": versions[fleet.name],
                }
                for fleet in described
            ]
        )
        return
    if not described:
        _say(f"No fleet under {root}; `rul fleet init NAME FILE` describes one.")
        return
    table = Table("fleet", "sensors", "life in", "label cap", "live version")
    for fleet in described:
        table.add_row(
            fleet.name,
            str(len(fleet.columns.sensors)),
            fleet.unit_of_life,
            f"{fleet.learning.label_cap_cycles:g}",
            versions[fleet.name] or "none yet",
        )
    console.print(table)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="the fleet")],
    root: Root = DEFAULT_ROOT,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """One fleet's description."""
    from rul_core.schema import write_fleet
    from rul_store import fleets

    fleet = fleets.load(root, name)
    if json:
        print_json(msgspec.to_builtins(fleet))
    else:
        typer.echo(write_fleet(fleet), nl=False)


def _say(line: str) -> None:
    """A line as it is: paths are neither broken nor taken for markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
