"""``rul benchmark``: accuracy on the C-MAPSS benchmark, with every scoring of a test set logged."""

import csv
import statistics
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from rul_cli.console import console, print_json
from rul_core import cmapss, model
from rul_core.cmapss import Result
from rul_core.errors import NotEnoughData, ReadingsError
from rul_core.formats import parse_file
from rul_core.metrics import Coverage
from rul_core.model import Recipe
from rul_core.readers import Conformed, conform
from rul_core.resampling import Figure
from rul_core.schema import Fleet
from rul_core.scoring import Regimes
from rul_store.files import write

app = typer.Typer(no_args_is_help=True, help="How good the models are, by public benchmarks.")

VARIANTS = {"": Recipe(), "without_age": cmapss.without_age(Recipe())}


@app.callback()
def benchmark() -> None:
    """How good the models are, by public benchmarks."""


@app.command("cmapss")
def run_cmapss(
    data: Annotated[Path, typer.Option(help="folder with train_FD001.txt and so on")],
    subsets: Annotated[str, typer.Option(help="comma-separated")] = ",".join(cmapss.SUBSETS),
    seeds: Annotated[int, typer.Option(min=1, help="models a subset; their mean is scored")] = 5,
    out: Annotated[Path | None, typer.Option(help="folder for predictions and metrics")] = None,
    log: Annotated[
        Path | None, typer.Option(help="append every scoring of a test set to this CSV file")
    ] = None,
    variants: Annotated[bool, typer.Option(help="also without cycles since new")] = True,
    json: Annotated[bool, typer.Option("--json", help="print the metrics as JSON")] = False,
) -> None:
    """Train on each subset, predict its test engines, score what has a truth file."""
    names = [name.strip() for name in subsets.split(",") if name.strip()]
    unknown = sorted(set(names) - set(cmapss.SUBSETS))
    if unknown:
        raise typer.BadParameter(f"{unknown}: choose from {', '.join(cmapss.SUBSETS)}")
    chosen = VARIANTS if variants else {"": VARIANTS[""]}
    report: dict[str, dict] = {}
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
    )
    with bar:
        for subset in names:
            for variant, recipe in chosen.items():
                title = f"{subset} {variant}".strip()
                task = bar.add_task(title, total=float(seeds))
                started = time.perf_counter()
                watched = _Watched(bar, task, title)
                result = _one(data, subset, recipe, seeds, watched)
                entry = _entry(result, time.perf_counter() - started, seeds)
                report.setdefault(subset, {})[variant or "with_age"] = entry
                if out is not None:
                    folder = out / "variants" / variant if variant else out
                    write(folder / subset / "predictions.csv", result.predictions.write_csv())
                if log is not None and result.test is not None:
                    _append(log, subset, variant or "with_age", seeds, entry)
    if out is not None:
        write(out / "metrics.json", msgspec.json.format(msgspec.json.encode(report)).decode())
    if json:
        print_json(report)
    else:
        _print(report)


class _Watched:
    """Progress of several trainings on one bar, one unit of it a training."""

    def __init__(self, bar: Progress, task: TaskID, title: str) -> None:
        self._bar, self._task, self._title, self._done = bar, task, title, 0.0

    def __call__(self, what: str, share: float) -> None:
        self._bar.update(
            self._task, completed=self._done + share, description=f"{self._title}: {what}"
        )
        if share >= 1.0:
            self._done += 1.0


def _one(data: Path, subset: str, recipe: Recipe, seeds: int, progress: model.Progress) -> Result:
    fleet = cmapss.fleet(subset)
    train = _read(data / f"train_{subset}.txt", fleet)
    test = _read(data / f"test_{subset}.txt", fleet)
    truth_file = data / f"RUL_{subset}.txt"
    truth = np.loadtxt(truth_file, ndmin=1) if truth_file.is_file() else None
    engines = test.readings["unit"].n_unique()
    if truth is not None and len(truth) != engines:
        raise ReadingsError(
            f"{len(truth)} values for {engines} test engines; fetch the file again",
            source=str(truth_file),
        )
    return cmapss.predict(
        (train.readings, train.lives),
        test.readings,
        truth,
        recipe,
        range(seeds),
        fleet,
        progress,
    )


def _read(path: Path, fleet: Fleet) -> Conformed:
    if not path.is_file():
        raise ReadingsError(
            "no such file; `rul fetch cmapss --to DIR` gets the data set", source=str(path)
        )
    table = parse_file(path.read_bytes(), path.name)
    return conform(table, fleet, source=path.name, rule=fleet.rule_for(path.name))


def _entry(result: Result, seconds: float, seeds: int) -> dict:
    """What is published of one subset and variant."""
    entry = {
        "seeds": seeds,
        "seconds": round(seconds, 1),
        "cross_validation_rmse_cycles": statistics.fmean(map(_rmse, result.cross_validation)),
        "cross_validation": msgspec.to_builtins(result.cross_validation[0]),
    }
    if result.test is not None:
        by_seed = [_rmse(scored) for scored in result.test_by_seed]
        entry["test"] = msgspec.to_builtins(result.test)
        entry["test_rmse_cycles_by_seed"] = by_seed
        entry["test_rmse_cycles_mean_of_seeds"] = statistics.fmean(by_seed)
        entry["test_rmse_cycles_sd_of_seeds"] = statistics.stdev(by_seed) if seeds > 1 else 0.0
    return entry


def _rmse(scored: Regimes) -> float:
    value = scored.clipped.rmse_cycles.value
    if value is None:
        raise NotEnoughData("no engine to take an RMSE of; the test file has none")
    return value


def _append(log: Path, subset: str, variant: str, seeds: int, entry: dict) -> None:
    """One line a scoring of a test set, so that nobody can look often and tell once."""
    new = not log.exists()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(
                ["date", "commit", "subset", "variant", "seeds", "cv_rmse", "test_rmse"]
            )
        writer.writerow(
            [
                datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
                _commit(),
                subset,
                variant,
                seeds,
                f"{entry['cross_validation_rmse_cycles']:.3f}",
                f"{entry['test']['clipped']['rmse_cycles']['value']:.3f}",
            ]
        )


def _commit() -> str:
    """The commit that was measured, with a plus where the tree differs from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run(  # noqa: S603
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    if head.returncode:
        return "unknown"
    changed = subprocess.run(  # noqa: S603
        [*git, "status", "--porcelain", "--untracked-files=no"],
        capture_output=True,
        text=True,
        check=False,
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _print(report: dict[str, dict]) -> None:
    """Three tables: errors in both regimes, bands, and cross-validation beside the test."""
    errors = Table(title="Errors in cycles, with 95 % intervals over engines")
    for heading in ("", "regime", "CV RMSE", "RMSE", "near end", "bias", "PHM08", "late", "early"):
        errors.add_column(heading, justify="left" if heading in ("", "regime") else "right")
    errors.add_column("α–λ", justify="right")
    errors.add_column("CRPS", justify="right")
    bands = Table(title="Bands: coverage with its binomial 95 % interval, and mean width in cycles")
    for heading in ("", "regime", "level", "overall", "true RUL ≤ 30", "width", "promise"):
        bands.add_column(heading)
    for subset, variants in report.items():
        for variant, entry in variants.items():
            title = f"{subset} {variant.replace('_', ' ')}"
            source = "test" if "test" in entry else "cross_validation"
            shown = msgspec.convert(entry[source], Regimes)
            for regime in (shown.clipped, shown.unclipped):
                errors.add_row(
                    title,
                    regime.regime + ("" if source == "test" else " (CV: no truth file)"),
                    f"{entry['cross_validation_rmse_cycles']:.2f}",
                    *(
                        _figure(getattr(regime, name), digits)
                        for name, digits in (
                            ("rmse_cycles", 2),
                            ("rmse_near_end_cycles", 2),
                            ("bias_cycles", 2),
                            ("phm08_score", 0),
                            ("late_share", 2),
                            ("early_share", 2),
                            ("alpha_lambda", 2),
                            ("crps_cycles", 2),
                        )
                    ),
                )
                for band in regime.bands:
                    bands.add_row(
                        title,
                        regime.regime,
                        f"{band.level:.0%}",
                        _coverage(band.overall),
                        _coverage(band.near_end) if band.near_end else "–",
                        _figure(band.mean_width_cycles, 1),
                        "kept" if band.promise_kept else "broken",
                    )
    console.print(errors)
    console.print(bands)


def _figure(figure: Figure | None, digits: int) -> str:
    if figure is None or figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.{digits}f}"
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"


def _coverage(coverage: Coverage) -> str:
    return f"{coverage.share:.3f} [{coverage.low:.3f}, {coverage.high:.3f}]"
