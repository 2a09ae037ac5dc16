"""``rul fetch``: get public data sets.

What belongs here: progress and words. What does not: the download (``rul_store.download``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from rul_cli.console import console, print_json

app = typer.Typer(no_args_is_help=True, help="Get public data sets.")


@app.callback()
def fetch() -> None:
    """Get public data sets."""


@app.command("cmapss")
def cmapss(
    url: Annotated[
        str | None,
        typer.Option(
            help="another address of NASA's archive; file:///… for one downloaded by hand",
            show_default="NASA's repository",
        ),
    ] = None,
    to: Annotated[Path, typer.Option(help="the folder for the files")] = Path("data/cmapss"),
    json: Annotated[bool, typer.Option("--json", help="print what was done as JSON")] = False,
) -> None:
    """NASA's C-MAPSS turbofan engines: twelve text files, each checked by its SHA-256.

    A download that broke goes on where it stopped. A complete folder is left as it is.
    """
    from rul_store.download import CMAPSS_SHA256, CMAPSS_URL

    fetch_and_tell(to, url or CMAPSS_URL, CMAPSS_SHA256, json=json)


def fetch_and_tell(folder: Path, url: str, sums: Mapping[str, str], *, json: bool) -> None:
    """Fetch with progress shown, then say what was done.

    Args:
        folder: Where to.
        url: Of the archive.
        sums: SHA-256 by file name.
        json: Say it to a program.
    """
    from rul_store.download import fetch_cmapss

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done_bytes: int, total_bytes: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total_bytes)
            progress.update(tasks[what], completed=done_bytes, total=total_bytes)

        found = fetch_cmapss(folder, url=url, sums=sums, progress=tell)
    if json:
        print_json(
            {
                "folder": str(found.folder),
                "fetched": found.fetched,
                "kept": found.kept,
                "set_aside": found.set_aside,
            }
        )
        return
    if not found.fetched:
        console.print(f"{folder} is complete already: {len(found.kept)} files.", highlight=False)
        return
    console.print(f"Put {len(found.fetched)} files into {folder}.", highlight=False)
    for name in found.set_aside:
        console.print(f"  A file of other content is kept as {name}.", highlight=False)
