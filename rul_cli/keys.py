"""``rul keys``: API keys are made, listed, replaced and revoked."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rul_cli.console import console, print_json
from rul_cli.fleet import Root
from rul_cli.laptop import DEFAULT_ROOT, opened, user

if TYPE_CHECKING:
    from rul_store.keys import Author, NewKey

app = typer.Typer(no_args_is_help=True, help="API keys: made, listed, replaced, revoked.")

KeyId = Annotated[str, typer.Argument(help="the key's id, or how it begins: rul_ and the id")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="who will ask with it, as it stands in the audit")],
    role: Annotated[list[str], typer.Option(help="what it may do; give several times for more")],
    fleet: Annotated[
        list[str] | None, typer.Option(help="the fleets it may see; all unless given")
    ] = None,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0, help="never, unless given", show_default=False)
    ] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Make a key, and print it this once."""
    from datetime import timedelta

    from rul_store import keys

    known = [each.value for each in keys.Role]
    unknown = [each for each in role if each not in known]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no role; give one of {', '.join(known)}")
    lifetime = None if expires_in_days is None else timedelta(days=expires_in_days)
    with opened(root) as laptop:
        made = keys.create(
            laptop.engine,
            name=name,
            roles=role,
            fleets=fleet or None,
            expires_in=lifetime,
            by=_author(),
        )
    _show(made, json)


@app.command("list")
def list_keys(root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """Every key there ever was; the keys themselves are kept nowhere."""
    from rul_store import keys

    with opened(root) as laptop:
        found = keys.every(laptop.engine)
    if json:
        print_json(found)
        return
    if not found:
        console.print("There is no key yet; `rul keys create NAME --role ROLE` makes one.")
        return
    table = Table("key", "name", "roles", "fleets", "state", "expires", "last used")
    for key in found:
        times = (
            f"{at:%Y-%m-%d %H:%M}" if at else "never" for at in (key.expires_at, key.last_used_at)
        )
        table.add_row(
            key.prefix,
            key.name,
            ", ".join(key.roles),
            ", ".join(key.fleets) if key.fleets else "all",
            key.state,
            *times,
        )
    console.print(table)


@app.command("revoke")
def revoke(key_id: KeyId, root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """End a key now; servers refuse it within seconds."""
    from rul_store import keys

    with opened(root) as laptop:
        key = keys.revoke(laptop.engine, _id_of(key_id), by=_author())
    if key is None:
        raise _unknown(key_id)
    if json:
        print_json(key)
    else:
        console.print(f"{key.prefix} of {key.name} is revoked.", highlight=False)


@app.command("rotate")
def rotate(
    key_id: KeyId,
    overlap_hours: Annotated[
        float, typer.Option(min=0, help="how long the old key stays good")
    ] = 24.0,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Put a new key in the place of one, and print it this once."""
    from datetime import timedelta

    from rul_store import keys

    overlap = timedelta(hours=overlap_hours)
    with opened(root) as laptop:
        made = keys.rotate(laptop.engine, _id_of(key_id), overlap=overlap, by=_author())
    if made is None:
        raise _unknown(key_id)
    _show(made, json)


@app.command("generate")
def generate() -> None:
    """Print a key for the file that RUL_ADMIN_KEY_FILE names; serving makes it at its start."""
    from rul_store import keys

    typer.echo(keys.generate())


def _show(made: "NewKey", json: bool) -> None:
    if json:
        print_json({"api_key": made.secret, "key": made.key})
        return
    typer.echo(made.secret)
    roles = ", ".join(made.key.roles)
    console.print(
        f"The key of {made.key.name} ({roles}); keep it now, it is not shown again.",
        highlight=False,
    )


def _author() -> "Author":
    from rul_store.keys import Author

    return Author(principal=f"cli:{user()}")


def _id_of(given: str) -> str:
    """The id, also of somebody who gives the prefix, or the key itself."""
    from rul_store.keys import ID_LENGTH, PREFIX

    return given.removeprefix(PREFIX)[:ID_LENGTH]


def _unknown(key_id: str) -> typer.BadParameter:
    return typer.BadParameter(f"there is no key {_id_of(key_id)!r}; `rul keys list` shows all")
