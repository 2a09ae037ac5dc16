"""``rul models``: which models there are, what is live, and the way back."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Column, Table

from rul_cli.console import console, print_json
from rul_cli.fleet import Root
from rul_cli.laptop import DEFAULT_ROOT, opened, user

if TYPE_CHECKING:
    from rul_store.champions import Champion

app = typer.Typer(no_args_is_help=True, help="Which models there are, what is live, and back.")

FleetName = Annotated[str, typer.Argument(help="the fleet")]


@app.command("list")
def list_models(
    fleet: FleetName,
    root: Root = DEFAULT_ROOT,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Every version of the fleet's model, and what it is: live, earlier, held back, damaged."""
    from rul_store import fleets, versions
    from rul_store.registry import BundleStore

    fleets.load(root, fleet)
    with opened(root) as laptop:
        about = versions.known(laptop.engine, fleet)
        found = versions.Inspector(BundleStore(laptop.root)).every(fleet, about)
    if json:
        print_json(msgspec.to_builtins(found))
        return
    table = Table(Column("version", no_wrap=True, overflow="fold"), "standing", "")
    for model in found:
        against = [*([model.damage] if model.damage else []), *model.held_back]
        table.add_row(model.version, model.standing.replace("_", " "), "; ".join(against))
    console.print(table if found else f"Fleet {fleet} has no model yet.")


@app.command("show")
def show(
    fleet: FleetName,
    version: Annotated[str | None, typer.Argument(help="the live one unless given")] = None,
    root: Root = DEFAULT_ROOT,
    json: Annotated[bool, typer.Option("--json", help="print the manifest as JSON")] = False,
) -> None:
    """One version's model card."""
    from rul_core.errors import BundleError
    from rul_store import champions, fleets
    from rul_store.registry import BundleStore

    fleets.load(root, fleet)
    if version is None:
        live = champions.read_live(root, fleet)
        if live is None:
            raise BundleError(
                f"fleet {fleet!r} has no released model; name a version of "
                f"`rul models list {fleet}`"
            )
        version = live.version
    bundle = BundleStore(root).open(fleet, version)
    if json:
        print_json(bundle.manifest)
    else:
        typer.echo(bundle.read("card.md").decode())


@app.command("history")
def history(
    fleet: FleetName,
    root: Root = DEFAULT_ROOT,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Every move of the champion: what was live from when, who moved it, why."""
    from rul_store import champions

    with opened(root) as laptop:
        moves = champions.history(laptop.engine, fleet)
    if json:
        print_json(msgspec.to_builtins(moves))
        return
    # Half a version is no version.
    version = Column("version", no_wrap=True, overflow="fold")
    table = Table("#", version, "from", "action", "by", "reason")
    for move in moves:
        table.add_row(
            str(move.generation),
            move.version,
            f"{move.promoted_at:%Y-%m-%d %H:%M:%S}",
            move.action,
            move.promoted_by,
            move.reason,
        )
    console.print(table if moves else f"Fleet {fleet} never had a released model.")


@app.command("promote")
def promote(
    fleet: FleetName,
    version: Annotated[str, typer.Argument(help="of `rul models list`")],
    reason: Annotated[str, typer.Option(help="for people, later")],
    root: Root = DEFAULT_ROOT,
    despite_gate: Annotated[
        bool, typer.Option("--despite-gate", help="also where the release gate speaks against it")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print the new champion as JSON")] = False,
) -> None:
    """Make a version live that a person chose."""
    from rul_store import versions

    with opened(root) as laptop:
        champion = versions.promote(
            laptop.engine,
            laptop.root,
            fleet,
            version,
            by=f"cli:{user()}",
            reason=reason,
            despite_gate=despite_gate,
            redis_client=laptop.redis_client,
        )
    _tell(champion, json=json)


@app.command("rollback")
def rollback(
    fleet: FleetName,
    reason: Annotated[str, typer.Option(help="for people, later")],
    root: Root = DEFAULT_ROOT,
    json: Annotated[bool, typer.Option("--json", help="print the new champion as JSON")] = False,
) -> None:
    """Make the version before the live one live again."""
    from rul_store import champions

    with opened(root) as laptop:
        champion = champions.rollback(
            laptop.engine,
            laptop.root,
            fleet,
            by=f"cli:{user()}",
            reason=reason,
            redis_client=laptop.redis_client,
        )
    _tell(champion, json=json)


@app.command("nominate")
def nominate(
    fleet: FleetName,
    version: Annotated[str, typer.Argument(help="of `rul models list`")],
    reason: Annotated[str, typer.Option(help="for people, later")],
    root: Root = DEFAULT_ROOT,
) -> None:
    """Let a version speak in the shadow of the live one."""
    from rul_store import shadow

    with opened(root) as laptop:
        by = f"cli:{user()}"
        shadow.nominate(laptop.engine, laptop.root, fleet, version, by=by, reason=reason)
    console.print(f"{version} speaks in the shadow of fleet {fleet}'s model now.", highlight=False)


@app.command("withdraw")
def withdraw(
    fleet: FleetName,
    reason: Annotated[str, typer.Option(help="for people, later")],
    root: Root = DEFAULT_ROOT,
) -> None:
    """End the challenger's time in the shadow."""
    from rul_store import shadow

    with opened(root) as laptop:
        nominee = shadow.withdraw(laptop.engine, fleet, by=f"cli:{user()}", reason=reason)
    console.print(f"{nominee.version} is no challenger of fleet {fleet} any more.", highlight=False)


def _tell(champion: "Champion", *, json: bool) -> None:
    if json:
        print_json(msgspec.to_builtins(champion))
    else:
        told = f"Fleet {champion.fleet} is served by {champion.version} now."
        console.print(told, highlight=False)
