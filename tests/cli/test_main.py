"""The command as a person runs it: how it speaks of errors, and what it does not load."""

import subprocess
import sys
from pathlib import Path

RUL = "from rul_cli.main import main; main()"


def test_a_foreseen_error_is_one_line_and_exit_code_1(tmp_path: Path):
    """Though the line is long, and brackets in it look like colours."""
    root = tmp_path / "[red]" / ("x" * 100)
    done = subprocess.run(
        [sys.executable, "-c", RUL, "fleet", "show", "pumps", "--root", root],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"FleetError: {root / 'fleets' / 'pumps.toml'} is not there (fleets with a description: "
        "none); write one from data with `rul fleet init pumps FILE`\n"
    )


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path):
    (tmp_path / "table.csv").write_text("unit,cycle,heat\n" + "p1,1,5\np1,2,9\np2,1,7\np2,2,8\n")
    (tmp_path / "root").write_text("a file in the way")
    arguments = ["fleet", "init", "pumps", tmp_path / "table.csv", "--root", tmp_path / "root"]
    done = subprocess.run(
        [sys.executable, "-c", RUL, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("FileExistsError: ")
    assert str(tmp_path / "root") in done.stderr


def test_commands_load_what_takes_long_only_when_they_run():
    modules = "benchmark, demo, dev, fetch, fleet, leakage, main, models"
    heavy = ["catboost", "dagster", "litestar", "numba", "pandas", "polars", "sqlalchemy"]
    code = (
        f"import sys; from rul_cli import {modules}; print(sorted(set({heavy}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
