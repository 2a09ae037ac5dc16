"""``rul ledger``: whether the ledger is as it was written, and its entries computed again."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from rul_cli.console import console, print_json
from rul_cli.fleet import Root
from rul_cli.laptop import DEFAULT_ROOT, Laptop, opened
from rul_cli.noted import Noted

if TYPE_CHECKING:  # they take a second, which ``rul --help`` does without
    from rul_store.ledger import Recorded

app = typer.Typer(
    no_args_is_help=True, help="Whether the ledger is as it was written, entry by entry."
)

LedgerId = Annotated[UUID, typer.Argument(help="as a prognosis says it: provenance.ledger_id")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command("verify")
def verify(
    fleet: Annotated[
        str | None, typer.Option(help="this one alone; every one unless given")
    ] = None,
    root: Root = DEFAULT_ROOT,
    noted: Annotated[
        str,
        typer.Option(
            help="POSITION:HASH of that fleet, as an earlier walk told it", show_default=False
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Walk the chain of each fleet to its end. Ends with 1 where an entry is not what was written.

    An entry removed from the end leaves a chain without a fault: note the last position and hash
    elsewhere, and give them to a later walk of that fleet (--noted).
    """
    from rul_core.errors import StoreError
    from rul_store import ledger

    earlier = Noted.parse(noted)
    if earlier and fleet is None:
        raise typer.BadParameter("--noted is of one fleet's chain; say which with --fleet")
    with opened(root) as laptop:
        known = ledger.fleets(laptop.engine)
        if fleet is not None and fleet not in known:
            others = ", ".join(known) or "none"
            raise StoreError(f"the ledger has no entry of a fleet {fleet!r} (fleets: {others})")
        found = [_verified(laptop, name) for name in (known if fleet is None else (fleet,))]
        if earlier and fleet is not None:
            there = ledger.since(laptop.engine, fleet, earlier.position - 1, limit=1)
            earlier.refuse_other(there[0].hash if there else "", f"the ledger of {fleet}")
    if json:
        print_json(found)
    else:
        table = Table("fleet", "entries", "last hash", "")
        for each in found:
            told = (
                f"broken at entry {each['broken_at']}: {each['reason']}" if each["reason"] else ""
            )
            table.add_row(
                each["fleet"], str(each["entries"]), each["last_hash"][:16], told or "as written"
            )
        console.print(table if found else "The ledger is empty.")
    if any(each["reason"] for each in found):
        raise typer.Exit(1)


@app.command("show")
def show(ledger_id: LedgerId, root: Root = DEFAULT_ROOT) -> None:
    """An entry as it was recorded, as JSON."""
    with _entry(root, ledger_id) as (_, entry):
        print_json(entry)


@app.command("replay")
def replay(ledger_id: LedgerId, root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """Compute an entry again and compare it bit for bit. Ends with 1 unless they are equal."""
    from rul_store import replay as again
    from rul_store.lake import Lake

    with _entry(root, ledger_id) as (laptop, entry):
        versions = again.Versions(laptop.root)
        found = again.replay(laptop.engine, Lake(laptop.root), versions, entry)
    if json:
        print_json(found)
    elif found.verdict is again.ReplayVerdict.DIFFERENT:
        table = Table("field", "recorded", "computed again")
        for each in found.differences:
            table.add_row(each.field, each.recorded, each.recomputed)
        console.print(table)
    elif found.verdict is again.ReplayVerdict.IMPOSSIBLE:
        console.print(f"It cannot be computed again: {found.reason}", markup=False, soft_wrap=True)
    else:
        console.print("Equal to the last bit.")
    if found.verdict is not again.ReplayVerdict.EQUAL:
        raise typer.Exit(1)


def _verified(laptop: Laptop, fleet: str) -> dict[str, Any]:
    """How far the fleet's chain is right, told while it is walked."""
    from rul_store import ledger
    from rul_store.chain import Break

    right, broken = 0, Break(position=0, reason="")
    with console.status(fleet) as status:
        total = ledger.head(laptop.engine, fleet)
        for step in ledger.verify(laptop.engine, fleet):
            if isinstance(step, Break):
                broken = step
            else:
                right = step
                status.update(f"{fleet}: {right} of {total} entries")
    if broken.reason:
        right = broken.position - 1
    last = ledger.since(laptop.engine, fleet, right - 1, limit=1) if right else ()
    return {
        "fleet": fleet,
        "entries": right,
        "last_hash": last[0].hash if last else "",
        "broken_at": broken.position or None,
        "reason": broken.reason,
    }


@contextmanager
def _entry(root: Path, ledger_id: UUID) -> Generator[tuple[Laptop, "Recorded"]]:
    from rul_core.errors import StoreError
    from rul_store import ledger

    with opened(root) as laptop:
        entry = ledger.entry(laptop.engine, ledger_id)
        if entry is None:
            raise StoreError(
                f"the ledger has no entry {ledger_id}; take provenance.ledger_id of a prognosis"
            )
        yield laptop, entry
