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

    fleets.path_of(root, name)  # refuses a name that cannot be one
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
    from rul_core.errors import RulError
    from rul_store import champions, fleets

    listed, spoilt = [], []
    for name in fleets.names(root):
        try:
            fleet, live = fleets.load(root, name), champions.read_live(root, name)
        except RulError as error:  # the other fleets are listed all the same
            spoilt.append({"fleet": name, "error": str(error)})
            continue
        listed.append(
            {
                "fleet": name,
                "sensors": len(fleet.columns.sensors),
                "unit_of_life": fleet.unit_of_life,
                "label_cap_cycles": fleet.learning.label_cap_cycles,
                "live_version": live.version if live else None,
            }
        )
    if json:
        print_json([*listed, *spoilt])
        return
    if not listed and not spoilt:
        _say(f"No fleet under {root}; `rul fleet init NAME FILE` describes one.")
        return
    table = Table("fleet", "sensors", "life in", "label cap", "live version")
    for name, sensors, unit_of_life, cap, version in (row.values() for row in listed):
        table.add_row(name, str(sensors), unit_of_life, f"{cap:g}", version or "none yet")
    console.print(table)
    for one in spoilt:
        _say(f"Fleet {one['fleet']} cannot be read: {one['error']}")


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
