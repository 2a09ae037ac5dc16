"""``rul leakage-gate`` judges tables made elsewhere and says so by its exit code."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from catboost import CatBoostRegressor
from typer.testing import CliRunner

from rul_cli.leakage import leakage_gate

app = typer.Typer()
app.command()(leakage_gate)


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def words(text: str) -> str:
    """Without the frame and the line breaks of a table."""
    return " ".join("".join(" " if c in "│┃━─┏┓┗┛├┤┼╇╈┡┩└┴┘┬" else c for c in text).split())


def table(**extra: pl.Expr) -> pl.DataFrame:
    """Twenty machines with a wear sensor, honestly."""
    generator = np.random.default_rng(3)
    lives = []
    for number in range(20):
        length = int(generator.integers(60, 140))
        cycle = np.arange(1, length + 1)
        wear = (cycle / length) ** 3 * generator.normal(1, 0.2) + generator.normal(0, 0.1, length)
        lives.append(
            pl.DataFrame({"unit": f"u{number}", "cycle": cycle, "wear": wear, "age": cycle})
        )
    remaining = pl.col("cycle").max().over("unit") - pl.col("cycle")
    return pl.concat(lives).with_columns(
        remaining.clip(0, 60).alias("rul_cycles"),
        pl.when(pl.col("unit").str.len_chars() == 2)
        .then(pl.lit("train"))
        .otherwise(pl.lit("test"))
        .alias("part"),
        **extra,
    )


LEAK = (pl.col("cycle") / pl.col("cycle").max().over("unit")).alias("share")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_an_honest_table_passes_with_exit_code_0(tmp_path: Path, suffix: str):
    path = tmp_path / f"features{suffix}"
    table().write_parquet(path) if suffix == ".parquet" else table().write_csv(path)
    result = run(path, "--split", "part")
    assert result.exit_code == 0, result.output
    said = words(result.stderr)
    assert "Passed: nothing here knows the future" in said
    assert "label permutation not run" in said
    assert "unit disjoint passed" in said


def test_a_table_with_semicolons_decimal_commas_and_gaps_is_read_as_what_it_means(tmp_path: Path):
    path = tmp_path / "features.csv"
    gaps = pl.when(pl.col("cycle") != 7).then("wear").cast(pl.String)
    commas = table().with_columns(gaps.str.replace(".", ",", literal=True).fill_null("NA"))
    path.write_bytes(b"\xef\xbb\xbf" + commas.write_csv(separator=";").encode())
    result = run(path, "--split", "part")
    assert result.exit_code == 0, result.output


def test_a_leak_is_told_with_exit_code_1(tmp_path: Path):
    path = tmp_path / "features.parquet"
    table().with_columns(LEAK).write_parquet(path)
    result = run(path, "--ignore", "part")
    assert result.exit_code == 1, result.output
    said = words(result.stderr)
    assert "Failed: single feature canary. It catches one feature that alone" in said
    assert "share already ranks the lives" in said


def test_an_ignored_column_is_no_feature(tmp_path: Path):
    path = tmp_path / "features.parquet"
    table().with_columns(LEAK).write_parquet(path)
    assert run(path, "--ignore", "part", "--ignore", "share").exit_code == 0


def test_a_program_reads_json_on_standard_output(tmp_path: Path):
    path = tmp_path / "features.parquet"
    table().with_columns(LEAK).write_parquet(path)
    result = run(path, "--json", "--ignore", "part")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["passed"] is False
    (failed,) = [f for f in report["findings"] if f["outcome"] == "failed"]
    assert failed["name"] == "single_feature_canary"
    assert set(failed["figures"]) == {"share"}


def test_columns_may_have_other_names(tmp_path: Path):
    path = tmp_path / "features.csv"
    renamed = table().rename({"unit": "engine", "cycle": "hours", "rul_cycles": "left"})
    renamed.with_columns(pl.lit(1).alias("run")).write_csv(path)
    names = ("--unit", "engine", "--cycle", "hours", "--label", "left", "--life", "run")
    result = run(path, *names, "--split", "part", "--json")
    assert result.exit_code == 0, result.output
    findings = {f["name"]: f for f in json.loads(result.stdout)["findings"]}
    assert findings["label"]["figures"]["lives"] == 20


def test_a_model_that_leans_on_a_leak_is_found_out(tmp_path: Path):
    leaky = table(copy=pl.col("cycle").max().over("unit") - pl.col("cycle"))
    path, model = tmp_path / "features.parquet", tmp_path / "model.cbm"
    leaky.write_parquet(path)
    fitted = CatBoostRegressor(
        iterations=80, learning_rate=0.3, verbose=False, thread_count=1, allow_writing_files=False
    )
    fitted.fit(leaky.select("copy", "wear").to_pandas(), leaky["rul_cycles"].to_numpy())
    fitted.save_model(str(model))
    result = run(path, "--model", model, "--split", "part", "--json")
    assert result.exit_code == 1, result.output
    failed = {f["name"] for f in json.loads(result.stdout)["findings"] if f["outcome"] == "failed"}
    assert failed == {"single_feature_canary", "model_dominance"}


def test_text_with_brackets_is_printed_as_it_is(tmp_path: Path):
    path = tmp_path / "features.parquet"
    table().with_columns(LEAK.alias("[red]share")).write_parquet(path)
    assert "[red]share already ranks" in words(run(path, "--ignore", "part").stderr)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("features.csv", None, "there is no such file"),
        ("features.xlsx", b"PK", "give a .parquet or .csv file"),
        ("features.parquet", b"no parquet at all", "not readable as Parquet"),
        ("features.csv", b"", "the file is empty"),
        ("features.csv", b"unit,cycle\na,1\n", "columns ['rul_cycles'] are missing"),
    ],
)
def test_a_table_that_cannot_be_judged_gives_exit_code_2(
    tmp_path: Path, name: str, content: bytes | None, said: str
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    result = run(path)
    assert result.exit_code == 2
    assert said in words(result.stderr)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no model file"), (b"no model", "is no CatBoost model")],
)
def test_a_model_that_cannot_be_loaded_gives_exit_code_2(
    tmp_path: Path, content: bytes | None, said: str
):
    path, model = tmp_path / "features.parquet", tmp_path / "model.cbm"
    table().write_parquet(path)
    if content is not None:
        model.write_bytes(content)
    result = run(path, "--model", model)
    assert result.exit_code == 2
    assert said in words(result.stderr)
