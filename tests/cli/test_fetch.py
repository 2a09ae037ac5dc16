"""``rul fetch cmapss`` says what was done. What it does is tested in the store."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rul_cli.fetch import app, fetch_and_tell
from rul_core.errors import StoreError

FILES = {"train_FD001.txt": b"1 1 0.5\n", "RUL_FD001.txt": b"112\n"}
SUMS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A small archive by hand."""
    path = tmp_path / "cmapss.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in FILES.items():
            opened.writestr(f"somewhere/{name}", content)
    return path.as_uri()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_files_are_put_into_the_folder_and_a_second_call_leaves_them(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "data"
    fetch_and_tell(folder, url, SUMS, json=False)
    assert "Put 2 files into" in said(capsys)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    fetch_and_tell(folder, "https://nobody.invalid/", SUMS, json=False)
    assert "is complete already: 2 files" in said(capsys)


def test_a_program_reads_json_on_standard_output(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "RUL_FD001.txt").write_text("mine")
    fetch_and_tell(tmp_path, url, SUMS, json=True)
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(tmp_path),
        "fetched": list(FILES),
        "kept": [],
        "set_aside": ["RUL_FD001.txt.set-aside-1"],
    }


def test_what_was_in_the_way_is_told(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "RUL_FD001.txt").write_text("mine")
    fetch_and_tell(tmp_path, url, SUMS, json=False)
    assert "kept as RUL_FD001.txt.set-aside-1" in said(capsys)


def test_the_command_knows_the_twelve_files_and_takes_another_address(url: str, tmp_path: Path):
    folder = tmp_path / "data"
    result = CliRunner().invoke(app, ["cmapss", "--url", url, "--to", str(folder)])
    assert isinstance(result.exception, StoreError)
    assert "train_FD001.txt has sha256" in str(result.exception)
    assert "test_FD004.txt is not in the archive" in str(result.exception)
    assert list(folder.iterdir()) == []
