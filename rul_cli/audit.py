"""``rul audit``: whether the audit is what was written."""

from typing import Annotated

import typer

from rul_cli.console import console, print_json
from rul_cli.fleet import Root
from rul_cli.laptop import DEFAULT_ROOT, opened
from rul_cli.noted import Noted

app = typer.Typer(no_args_is_help=True, help="Whether the audit is what was written.")


@app.callback()
def _audit() -> None:
    """A group, though it has one command."""


@app.command("verify")
def verify(
    root: Root = DEFAULT_ROOT,
    noted: Annotated[
        str, typer.Option(help="POSITION:HASH that an earlier walk printed", show_default=False)
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Walk along the chain of entries, and print its end: note that in another place.

    Whoever owns the database could write the whole chain anew, or cut its end off; against that, a
    hash noted elsewhere stands.
    """
    from rul_core.errors import StoreError
    from rul_store import audit
    from rul_store.chain import Break

    earlier = Noted.parse(noted)
    entries, end, found = 0, "", ""
    with opened(root) as laptop:
        for link in audit.verify(laptop.engine):
            if isinstance(link, Break):
                raise StoreError(f"the audit was changed at entry {link.position}: {link.reason}")
            entries, end = link.position, link.hash.hex()
            if earlier and link.position == earlier.position:
                found = end
    if earlier:
        earlier.refuse_other(found, "the audit")
    if json:
        print_json({"entries": entries, "hash": end})
    else:
        typer.echo(f"{entries}:{end}")
        console.print(f"All {entries} entries are what was written.", highlight=False)
