"""``rul benchmark``: how good the models are, by public benchmarks.

What belongs here: the commands. What does not: what a run reads and writes (``benchmark_cmapss``).
"""

import time
from pathlib import Path
from typing import Annotated

import typer

from rul_cli.console import console, print_json

app = typer.Typer(no_args_is_help=True, help="How good the models are, by public benchmarks.")


@app.callback()
def benchmark() -> None:
    """How good the models are, by public benchmarks."""


@app.command("cmapss")
def run_cmapss(
    data: Annotated[Path, typer.Option(help="folder with train_FD001.txt and so on")],
    subsets: Annotated[
        str | None, typer.Option(help="comma-separated", show_default="all four")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="models a subset; their mean is scored")] = 5,
    out: Annotated[Path | None, typer.Option(help="folder for predictions and metrics")] = None,
    log: Annotated[
        Path | None, typer.Option(help="append every scoring of a test set to this CSV file")
    ] = None,
    variants: Annotated[bool, typer.Option(help="also without cycles since new")] = True,
    json: Annotated[bool, typer.Option("--json", help="print the metrics as JSON")] = False,
) -> None:
    """Train on each subset, predict its test engines, score what has a truth file."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from rul_cli import benchmark_cmapss as runs
    from rul_core.cmapss import SUBSETS
    from rul_store.files import write, write_json

    names = SUBSETS if subsets is None else _named(subsets, SUBSETS)
    report: dict[str, dict] = {}
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
    )
    with bar:
        for subset in names:
            for variant, recipe in runs.VARIANTS.items():
                if variant != runs.WITH_AGE and not variants:
                    continue
                title = f"{subset} {variant}"
                task = bar.add_task(title, total=float(seeds))
                started = time.perf_counter()
                result = runs.run(data, subset, recipe, seeds, runs.Watched(bar, task, title))
                entry = runs.entry_of(result, time.perf_counter() - started, seeds)
                report.setdefault(subset, {})[variant] = entry
                if out is not None:
                    folder = out if variant == runs.WITH_AGE else out / "variants" / variant
                    write(folder / subset / "predictions.csv", result.predictions.write_csv())
                if log is not None and result.test is not None:
                    runs.append_to_log(log, subset, variant, seeds, entry)
    if out is not None:
        write_json(out / "metrics.json", report)
    if json:
        print_json(report)
    else:
        runs.print_tables(report)


def _named(subsets: str, known: tuple[str, ...]) -> list[str]:
    """The subsets of a comma-separated text, each once."""
    names = list(dict.fromkeys(name.strip() for name in subsets.split(",") if name.strip()))
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        raise typer.BadParameter(f"{unknown or 'none given'}: choose from {', '.join(known)}")
    return names
