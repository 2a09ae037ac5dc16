"""``rul database``: the owner's work: tables brought up to date, users with least rights."""

from pathlib import Path
from typing import Annotated

import typer

from rul_cli.console import console
from rul_cli.fleet import Root
from rul_cli.laptop import DEFAULT_ROOT, opened
from rul_store.rights import Group

app = typer.Typer(no_args_is_help=True, help="The database: migrated, and its users.")


@app.command("migrate")
def migrate(root: Root = DEFAULT_ROOT) -> None:
    """Bring the tables up to date, and give the groups rul_serving and rul_assets their rights.

    RUL_DATABASE_URL names the owner of the tables. With RUL_DATABASE_ADMIN_URL, a superuser's, the
    roles of RUL_DATABASE_ROLES (JSON, a password by role) and the databases are made first, and the
    passwords are set. Safe to run again.
    """
    from rul_store import database
    from rul_store.provisioning import ProvisioningSettings, provision

    settings = ProvisioningSettings()
    if settings.database_admin_url is not None:
        passwords = {
            role: password.get_secret_value() for role, password in settings.database_roles.items()
        }
        provision(settings.database_admin_url.get_secret_value(), passwords)
        console.print(f"Roles: {', '.join(passwords)}.", highlight=False)
    with opened(root) as laptop:
        console.print(f"The database is at revision {database.current_revision(laptop.engine)}.")


@app.command("user")
def user(
    name: Annotated[str, typer.Argument(help="the user of PostgreSQL")],
    group: Annotated[Group, typer.Option(help="what it may do")],
    password_file: Annotated[
        Path, typer.Option(help="a file with the password", exists=True, dir_okay=False)
    ],
    root: Root = DEFAULT_ROOT,
) -> None:
    """Make a user who may log in, or give one a new password."""
    from rul_store import roles

    password = password_file.read_text().rstrip("\r\n")
    with opened(root) as laptop:
        is_new = roles.make_user(laptop.engine, name, group, password)
    console.print(f"{name} is {'made' if is_new else 'there, with this password'}: {group.value}")
