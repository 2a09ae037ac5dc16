"""``rul benchmark cmapss`` on small files of the data set's shape."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from rul_cli import benchmark_cmapss
from rul_cli.benchmark import app
from rul_core.cmapss import without_age
from rul_core.errors import ReadingsError
from rul_core.model import Recipe
from rul_core.simulator import Simulation, simulate

QUICK = Recipe(iterations=10, learning_rate=0.2, depth=3, folds=3, threads=1)
TRAINED, TESTED = 15, 11


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    """The three files of a subset, by the part of their names before the underscore."""
    fleet = simulate(
        Simulation(
            units=TRAINED,
            running_units=TESTED,
            sensors=21,
            settings=3,
            mean_life_cycles=30,
            seed=4,
        )
    )

    def text(readings: pl.DataFrame) -> bytes:
        numbers = (readings["unit"].rle_id() + 1).alias("number")
        values = readings.select(
            numbers, pl.col("cycle").cast(pl.Int64), pl.col(r"^(setting|sensor)_.*$")
        )
        return "".join(" ".join(map(str, row)) + "  \n" for row in values.rows()).encode()

    runs = fleet.lives.filter(pl.col("outcome") == "running")["unit"]
    tested = fleet.readings.filter(pl.col("unit").is_in(runs.implode()))
    ends = fleet.true_end_cycles.filter(pl.col("unit").is_in(runs.implode()))["end_cycle"]
    left = ends - tested.group_by("unit", maintain_order=True).len()["len"]
    return {
        "train": text(fleet.readings.filter(~pl.col("unit").is_in(runs.implode()))),
        "test": text(tested),
        "RUL": "".join(f"{cycles:.0f} \n" for cycles in left).encode(),
    }


@pytest.fixture
def data(made: dict[str, bytes], tmp_path: Path) -> Path:
    """The subset FD001."""
    folder = tmp_path / "cmapss"
    folder.mkdir()
    for kind, content in made.items():
        (folder / f"{kind}_FD001.txt").write_bytes(content)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes that fit in no time; what they give is as the real ones give it."""
    monkeypatch.setitem(benchmark_cmapss.VARIANTS, "with_age", QUICK)
    monkeypatch.setitem(benchmark_cmapss.VARIANTS, "without_age", without_age(QUICK))


def rul_benchmark(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["cmapss", *map(str, arguments)])


def test_a_run_writes_predictions_metrics_and_a_line_in_the_log(data, quick, tmp_path):
    out, log = tmp_path / "out", tmp_path / "logs" / "scorings.csv"
    result = rul_benchmark(
        "--data", data, "--subsets", " FD001, FD001", "--seeds", 2, "--out", out, "--log", log,
        "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert json.loads((out / "metrics.json").read_text()) == report
    assert list(report) == ["FD001"]
    assert list(report["FD001"]) == ["with_age", "without_age"]
    for variant, folder in (("with_age", out), ("without_age", out / "variants" / "without_age")):
        text = (folder / "FD001" / "predictions.csv").read_text()
        header, *rows = text.splitlines()
        assert header == "unit,rul_cycles,lower_90,upper_90,lower_50,upper_50,safe"
        assert [row.split(",")[0] for row in rows] == [str(n) for n in range(1, TESTED + 1)]
        entry = report["FD001"][variant]
        assert entry["seeds"] == 2
        assert entry["seconds"] > 0
        assert len(entry["test_rmse_cycles_by_seed"]) == 2
        assert entry["test"]["clipped"]["units"] == entry["test"]["unclipped"]["units"] == TESTED
        assert entry["test"]["clipped"]["rmse_cycles"]["low"] is not None
        assert entry["cross_validation"]["clipped"]["units"] == TRAINED
    with_age, without = (
        (folder / "FD001" / "predictions.csv").read_text()
        for folder in (out, out / "variants" / "without_age")
    )
    assert with_age != without
    lines = list(csv.DictReader(log.read_text().splitlines()))
    assert [(line["subset"], line["variant"], line["seeds"]) for line in lines] == [
        ("FD001", "with_age", "2"),
        ("FD001", "without_age", "2"),
    ]
    for line in lines:
        entry = report["FD001"][line["variant"]]
        assert float(line["test_rmse"]) == pytest.approx(
            entry["test"]["clipped"]["rmse_cycles"]["value"], abs=1e-3
        )
        assert float(line["cv_rmse"]) == pytest.approx(
            entry["cross_validation_rmse_cycles"], abs=1e-3
        )
        assert line["date"].endswith("Z")
        assert line["commit"]


def test_every_further_scoring_is_another_line_under_one_header(data, quick, tmp_path):
    log = tmp_path / "scorings.csv"
    for _ in range(2):
        result = rul_benchmark("--data", data, "--subsets", "FD001", "--seeds", 1, "--log", log)
        assert result.exit_code == 0, result.output
    lines = log.read_text().splitlines()
    assert len(lines) == 1 + 2 * 2
    assert [line.startswith("date,commit,subset") for line in lines] == [True, *[False] * 4]


def test_without_a_truth_there_are_predictions_and_nothing_is_logged(data, quick, tmp_path):
    (data / "RUL_FD001.txt").unlink()
    out, log = tmp_path / "out", tmp_path / "scorings.csv"
    result = rul_benchmark(
        "--data", data, "--subsets", "FD001", "--seeds", 1, "--no-variants", "--out", out,
        "--log", log,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (out / "FD001" / "predictions.csv").is_file()
    assert not (out / "variants").exists()
    assert not log.exists()
    entry = json.loads((out / "metrics.json").read_text())["FD001"]["with_age"]
    assert "test" not in entry
    assert entry["cross_validation_rmse_cycles"] > 0


def test_people_read_both_regimes_with_intervals_and_whether_promises_hold(data, quick):
    result = rul_benchmark("--data", data, "--subsets", "FD001", "--seeds", 1, "--no-variants")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    lines = [[cell.strip() for cell in line.split("│")] for line in result.stderr.splitlines()]
    told = {cells[1]: cells[2:4] for cells in lines if len(cells) == 5}
    assert "clipped ┃ unclipped" in " ".join(result.stderr.split())
    assert "RMSE by cross-validation" in result.stderr
    for figure in ("RMSE", "RMSE at true RUL ≤ 30", "PHM08 score", "CRPS", "90% band holds"):
        for cell in told[figure]:
            assert re.fullmatch(r"[0-9.]+ \[[0-9.]+, [0-9.]+\]", cell)
    assert set(told["… promise"]) <= {"kept", "broken"}


@pytest.mark.parametrize(
    ("subsets", "said"), [("FD001,FD005", "['FD005']"), ("", "none given"), (" , ", "none given")]
)
def test_an_unknown_subset_or_none_is_refused_with_the_choice(data, subsets, said):
    result = rul_benchmark("--data", data, "--subsets", subsets)
    assert result.exit_code == 2
    words = " ".join(result.stderr.replace("│", " ").split())
    assert f"{said}: choose from FD001, FD002, FD003, FD004" in words


def test_a_missing_file_is_named_with_the_way_to_get_it(data):
    with pytest.raises(ReadingsError) as caught:
        benchmark_cmapss.run(data, "FD002", QUICK, 1)
    assert str(caught.value) == (
        f"{data / 'train_FD002.txt'}: no such file; `rul fetch cmapss --to DIR` gets the data set"
    )


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        (b"1 2 3", "3 values for 11 test engines"),
        (b"", "0 values for 11 test engines"),
        (b"1\n" * 10 + b"many", "could not convert string to float: 'many'"),
    ],
)
def test_a_truth_that_does_not_fit_the_test_engines_is_refused(data, truth, said):
    (data / "RUL_FD001.txt").write_bytes(truth)
    with pytest.raises(ReadingsError) as caught:
        benchmark_cmapss.run(data, "FD001", QUICK, 1)
    assert str(caught.value) == f"{data / 'RUL_FD001.txt'}: {said}; fetch the file again"


def test_a_row_that_cannot_be_read_is_no_silent_loss(data):
    path = data / "test_FD001.txt"
    lines = path.read_text().splitlines()
    cells = lines[4].split()
    cells[7] = "n.a.x"
    path.write_text("\n".join([*lines[:4], " ".join(cells), *lines[5:]]))
    with pytest.raises(ReadingsError) as caught:
        benchmark_cmapss.run(data, "FD001", QUICK, 1)
    assert (caught.value.row, caught.value.column) == (5, "sensor_3")
    assert str(caught.value) == (
        f"{path}, row 5, column 'sensor_3': text instead of a number: 'n.a.x'; fetch the file again"
    )


def test_the_truth_is_read_in_the_files_order(data):
    result = benchmark_cmapss.run(data, "FD001", QUICK, 1)
    truth = np.array([float(word) for word in (data / "RUL_FD001.txt").read_text().split()])
    d = result.predictions["rul_cycles"].to_numpy() - np.minimum(truth, 125.0)
    assert result.test is not None
    assert result.test.clipped.rmse_cycles.value == pytest.approx(np.sqrt((d**2).mean()))
