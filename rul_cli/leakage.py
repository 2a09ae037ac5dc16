"""``rul leakage-gate``: the leakage gate for work made elsewhere.

What belongs here: reading the table and the model, telling what was found, the exit code. What does
not: the tests (``rul_core.leakage``).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rul_cli.console import console, print_json

if TYPE_CHECKING:
    import polars as pl
    from catboost import CatBoost

FAILED, CANNOT_RUN = 1, 2
COLOURS = {"passed": "green", "failed": "red", "not_run": "yellow"}


def leakage_gate(
    table: Annotated[
        Path, typer.Argument(help="a .parquet or .csv file, one row a reading: keys and features")
    ],
    unit: Annotated[str, typer.Option(help="the column of machines")] = "unit",
    cycle: Annotated[str, typer.Option(help="the column that counts use within a life")] = "cycle",
    label: Annotated[
        str, typer.Option(help="the column of remaining life, capped or not")
    ] = "rul_cycles",
    life: Annotated[
        str | None,
        typer.Option(
            help="the column that tells a machine's lives apart", show_default="life, if there"
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="the column that says training, validation, calibration or test"),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="a CatBoost model file that predicts the label")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="a column that is no feature; may be repeated")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Look for knowledge of the future in a table of features, and in a model of it.

    Every column is a feature but the named ones; with a model, those that it uses. What needs the
    code that made the features, or a refit, is named as not run.

    Exit code: 0 when nothing was found, 1 when something was, 2 when the gate could not run.
    """
    from rul_core import leakage
    from rul_core.errors import RulError

    try:
        rows = _read(table)
        named = {unit, cycle, label, life or "life", split, *(ignore or ())}
        report = leakage.check_table(
            rows,
            unit=unit,
            cycle=cycle,
            label=label,
            life=life,
            split=split,
            features=None if model else [name for name in rows.columns if name not in named],
            model=_load(model) if model else None,
        )
    except RulError as error:
        console.print(f"The gate cannot run: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(CANNOT_RUN) from error

    if json:
        findings = [
            {"name": f.name, "outcome": f.outcome, "detail": f.detail, "figures": f.figures}
            for f in report.findings
        ]
        print_json({"passed": report.passed, "findings": findings})
    else:
        shown = Table("test", "outcome", "what was found", title=f"Leakage gate of {table.name}")
        for finding in report.findings:
            colour = COLOURS[finding.outcome]
            shown.add_row(
                finding.name.replace("_", " "),
                f"[{colour}]{finding.outcome.replace('_', ' ')}[/{colour}]",
                escape(finding.detail),
            )
        console.print(shown)
        for finding in report.failed:
            name = finding.name.replace("_", " ")
            console.print(f"Failed: {name}. It catches {finding.catches}.", highlight=False)
        if report.passed:
            console.print("Passed: nothing here knows the future, as far as was tested.")
    if not report.passed:
        raise typer.Exit(FAILED)


def _read(path: Path) -> "pl.DataFrame":
    from rul_core.errors import ReadingsError
    from rul_core.formats import parse_file

    if path.suffix.lower() not in {".parquet", ".csv"}:
        raise ReadingsError("give a .parquet or .csv file", source=str(path))
    if not path.is_file():
        raise ReadingsError("there is no such file", source=str(path))
    table = parse_file(path.read_bytes(), str(path))
    return table if path.suffix.lower() == ".parquet" else _with_numbers(table)


def _with_numbers(table: "pl.DataFrame") -> "pl.DataFrame":
    """A table of texts with numbers in the columns that hold nothing else."""
    import polars as pl

    from rul_core.cells import is_missing, number

    columns = []
    for name in table.columns:
        found = table.select(number(table, name).alias(name), missing=is_missing(table, name))
        if found[name].null_count() == found["missing"].sum():
            whole = (found[name].is_null() | (found[name] == found[name].round())).all()
            columns.append(found[name].cast(pl.Int64) if whole else found[name])
    return table.with_columns(columns)


def _load(path: Path) -> "CatBoost":
    from catboost import CatBoost, CatBoostError

    from rul_core.errors import ModelError

    if not path.is_file():
        raise ModelError(f"there is no model file {path}")
    try:
        return CatBoost().load_model(str(path))
    except CatBoostError as error:
        raise ModelError(
            f"{path} is no CatBoost model: {error}; save it with model.save_model('model.cbm')"
        ) from error
