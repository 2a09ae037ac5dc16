"""A run of the C-MAPSS benchmark: files in, predictions, metrics and tables out.

What belongs here: the reading of the data set, what is written and logged of a run, the tables for
people. What does not: the protocol (``rul_core.cmapss``), the command (``benchmark``), which
imports this when it runs, for CatBoost takes its time.
"""

import csv
import shutil
import statistics
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from rich.progress import Progress, TaskID
from rich.table import Table

from rul_cli.console import console
from rul_core import cmapss, model
from rul_core.cmapss import Result
from rul_core.errors import NotEnoughData, ReadingsError
from rul_core.formats import parse_file
from rul_core.metrics import Coverage
from rul_core.model import Recipe
from rul_core.readers import Conformed, conform
from rul_core.resampling import Figure
from rul_core.schema import Fleet
from rul_core.scoring import Evaluation, Regimes

WITH_AGE, WITHOUT_AGE = "with_age", "without_age"
VARIANTS = {WITH_AGE: Recipe(), WITHOUT_AGE: cmapss.without_age(Recipe())}


class Watched:
    """Progress of several trainings on one bar, one unit of it a training."""

    def __init__(self, bar: Progress, task: TaskID, title: str) -> None:
        self._bar, self._task, self._title, self._done = bar, task, title, 0.0

    def __call__(self, what: str, share: float) -> None:
        """Show what is done, and which share of the training."""
        self._bar.update(
            self._task, completed=self._done + share, description=f"{self._title}: {what}"
        )
        if share >= 1.0:
            self._done += 1.0


def run(
    data: Path, subset: str, recipe: Recipe, seeds: int, progress: model.Progress = model.silent
) -> Result:
    """Train on one subset's training file, predict its test file, score where there is a truth.

    Args:
        data: The folder with ``train_FD001.txt`` and so on.
        subset: One of ``cmapss.SUBSETS``.
        recipe: How.
        seeds: Models; their mean is predicted.
        progress: Told of every fit.

    Raises:
        ReadingsError: A file is not there, or a row of it cannot be read.
    """
    fleet = cmapss.fleet(subset)
    train = _read(data / f"train_{subset}.txt", fleet)
    test = _read(data / f"test_{subset}.txt", fleet)
    return cmapss.predict(
        (train.readings, train.lives),
        test.readings,
        _truth(data / f"RUL_{subset}.txt", test.readings["unit"].n_unique()),
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
    found = conform(table, fleet, source=path.name, rule=fleet.rule_for(path.name))
    for row in found.set_aside.head(1).iter_rows(named=True):
        raise ReadingsError(
            f"{row['detail']}: {row['value']!r}; fetch the file again",
            source=str(path),
            row=row["row"],
            column=row["column"],
        )
    return found


def _truth(path: Path, engines: int) -> np.ndarray | None:
    """(engines,) RUL in cycles, in the file's order; None where there is no file."""
    if not path.is_file():
        return None
    try:
        truth = np.array([float(word) for word in path.read_text().split()])
    except ValueError as error:
        raise ReadingsError(f"{error}; fetch the file again", source=str(path)) from error
    if len(truth) != engines:
        raise ReadingsError(
            f"{len(truth)} values for {engines} test engines; fetch the file again",
            source=str(path),
        )
    return truth


def entry_of(result: Result, seconds: float, seeds: int) -> dict:
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


def append_to_log(log: Path, subset: str, variant: str, seeds: int, entry: dict) -> None:
    """One line a scoring of a test set, so that nobody can look often and tell once."""
    new = not log.exists() or not log.stat().st_size
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
                _commit(log),
                subset,
                variant,
                seeds,
                f"{entry['cross_validation_rmse_cycles']:.3f}",
                f"{entry['test']['clipped']['rmse_cycles']['value']:.3f}",
            ]
        )


def _commit(log: Path) -> str:
    """The commit that was measured; with a plus where the tree differs from it, log aside."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    here = [git, "-C", str(Path(__file__).parent)]
    head = _output([*here, "rev-parse", "--short", "HEAD"])
    if not head:
        return "unknown"
    but_for_log = f":(exclude,top)**/{log.name}"
    changed = _output(
        [*here, "status", "--porcelain", "--untracked-files=no", "--", ":/", but_for_log]
    )
    return head + ("+" if changed else "")


def _output(command: list[str]) -> str:
    """What a command says; nothing when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else ""


def print_tables(report: dict[str, dict]) -> None:
    """A table a subset and variant: every figure with its 95 % interval, in both regimes."""
    for subset, variants in report.items():
        for variant, entry in variants.items():
            source = "test" if "test" in entry else "cross_validation"
            shown = msgspec.convert(entry[source], Regimes)
            table = Table(
                title=f"{subset} {variant.replace('_', ' ')}: {source.replace('_', '-')}",
                caption=f"RMSE by cross-validation {entry['cross_validation_rmse_cycles']:.2f}",
            )
            table.add_column("in cycles")
            for regime in (shown.clipped, shown.unclipped):
                table.add_column(regime.regime, justify="right")
            for rows in zip(_rows(shown.clipped), _rows(shown.unclipped), strict=True):
                table.add_row(rows[0][0], *(told for _, told in rows))
            console.print(table)


def _rows(regime: Evaluation) -> list[tuple[str, str]]:
    """What a figure is called, and the figure."""
    near = f"true RUL ≤ {regime.near_end_cycles:g}"
    rows = [
        ("RMSE", _figure(regime.rmse_cycles, 2)),
        (f"RMSE at {near}", _figure(regime.rmse_near_end_cycles, 2)),
        ("bias", _figure(regime.bias_cycles, 2)),
        ("PHM08 score", _figure(regime.phm08_score, 0)),
        ("late share", _figure(regime.late_share, 2)),
        ("early share", _figure(regime.early_share, 2)),
        ("α–λ accuracy", _figure(regime.alpha_lambda, 2)),
        ("CRPS", _figure(regime.crps_cycles, 2)),
    ]
    for band in regime.bands:
        rows += [
            (f"{band.level:.0%} band holds", _coverage(band.overall)),
            (f"… at {near}", _coverage(band.near_end) if band.near_end else "–"),
            ("… mean width", _figure(band.mean_width_cycles, 1)),
            ("… promise", "kept" if band.promise_kept else "broken"),
        ]
    return rows


def _figure(figure: Figure | None, digits: int) -> str:
    if figure is None or figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.{digits}f}"
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"


def _coverage(coverage: Coverage) -> str:
    return f"{coverage.share:.3f} [{coverage.low:.3f}, {coverage.high:.3f}]"
