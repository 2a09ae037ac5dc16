"""``rul secrets``: the secret files of the container stack are made and looked at."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rul_cli import stack_secrets
from rul_cli.console import console
from rul_core.errors import SettingsError

app = typer.Typer(no_args_is_help=True, help="The secret files of the container stack.")


def setting(name: str, otherwise: str) -> Callable[[], str]:
    """What ``.env`` says, which Compose reads too; asked where the environment is silent."""

    def read() -> str:
        from dotenv import dotenv_values

        return dotenv_values(".env").get(name) or otherwise

    return read


def folder_of_secrets(flag: str) -> Any:
    """The option that names the folder of secret files, as the environment or ``.env`` does too."""
    return typer.Option(
        flag,
        envvar="STACK_SECRETS",
        default_factory=setting("STACK_SECRETS", "secrets"),
        show_default="STACK_SECRETS of .env, or secrets",
        help="the folder of secret files",
    )


Folder = Annotated[Path, folder_of_secrets("--to")]
OWNER_IMAGE = "rul-assets:dev"


@app.command("init")
def init(
    folder: Folder,
    image: Annotated[
        str,
        typer.Option(
            envvar="STACK_ASSETS_IMAGE",
            default_factory=setting("STACK_ASSETS_IMAGE", OWNER_IMAGE),
            show_default="STACK_ASSETS_IMAGE of .env, or the one that is built here",
            help="an image with chown; its container sets the owners when you are not root",
        ),
    ],
) -> None:
    """Make the secrets that are missing, each readable by its container alone.

    What is there is never written over. No secret is printed.
    """
    made = stack_secrets.make_missing(folder)
    caller = os.getuid()
    away = stack_secrets.in_a_safe(folder)
    wanted = {
        name: owner for name, owner in stack_secrets.owners(caller).items() if name not in away
    }
    strangers = {
        name: owner for name, owner in wanted.items() if (folder / name).stat().st_uid != owner
    }
    if strangers and caller == 0:
        for name, owner in strangers.items():
            os.chown(folder / name, owner, -1)
    elif strangers:
        _give_away(folder, strangers, image)
    for name in made:
        console.print(f"made {folder / name}, for user {wanted[name]}", highlight=False)
    if not made:
        console.print(f"All {len(wanted)} secrets are in {folder} already.", highlight=False)


@app.command("check")
def check(folder: Folder) -> None:
    """See that every secret is there, and that its container can read it and nobody else."""
    found = stack_secrets.complaints(folder, os.getuid())
    if found:
        raise SettingsError("\n".join(found))
    console.print(f"All secrets in {folder} are as they should be.", highlight=False)


def _give_away(folder: Path, wanted: dict[str, int], image: str) -> None:
    """Set the owners by a container, which may do that and nothing else."""
    script = 'while [ $# -gt 0 ]; do chown "$2" "/secrets/$1"; shift 2; done'
    arguments = [word for name, owner in wanted.items() for word in (name, str(owner))]
    command = [
        "docker", "run", "--rm", "--network=none", "--read-only", "--user=0:0", "--cap-drop=ALL",
        "--cap-add=CHOWN", "--cap-add=DAC_READ_SEARCH", "--security-opt=no-new-privileges:true",
        "--pids-limit=16", "--memory=64m", f"--volume={folder.resolve()}:/secrets",
        "--entrypoint=sh", image, "-ec", script, "chown", *arguments,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError as error:
        raise SettingsError(
            "only root, or a container, can give the secrets to their users, and there is no "
            "docker; install it, or run the command as root"
        ) from error
    if done.returncode:
        raise SettingsError(
            f"the container that gives the secrets in {folder} to their users failed: "
            f"{done.stderr.strip()}; see that the image {image} is built (`make images`), or run "
            "the command as root"
        )
