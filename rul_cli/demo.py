"""``rul demo``: the main job from beginning to end, on this laptop, to look at."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from rul_cli.console import print_json
from rul_cli.laptop import opened

Port = Annotated[int, typer.Option(min=1, max=65535)]


def demo(
    root: Annotated[
        Path | None, typer.Option(help="the data root; .rul/demo, made anew, unless given")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="a folder with your own files")] = None,
    fleet: Annotated[str, typer.Option(help="the fleet's name, with --data")] = "",
    once: Annotated[
        bool, typer.Option("--once", help="check the outcome and exit (so without a terminal)")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="of the simulated fleet")] = 7,
    dagster_port: Port = 3000,
    api_port: Port = 8000,
    json: Annotated[bool, typer.Option("--json", help="print the outcome as JSON")] = False,
) -> None:
    """Learn a fleet, rank it by risk, then watch new data retrain and replace the model."""
    from rul_cli import demo_data, demo_story

    if (data is None) != (not fleet):
        raise typer.BadParameter("--data and --fleet go together")
    started = time.monotonic()
    material = demo_data.simulated(seed) if data is None else demo_data.from_folder(data, fleet)
    with opened(root or demo_story.own_folder()) as laptop:
        outcome = demo_story.tell(
            laptop,
            material,
            (dagster_port, api_port),
            started,
            once=once or not sys.stdout.isatty(),
        )
    if json:
        print_json(outcome)
