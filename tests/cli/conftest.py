"""The command finds its data and servers by the environment."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def data_root(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root: the environment names it and the test's database, and nothing else."""
    for name in list(os.environ):
        if name.startswith("RUL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RUL_ROOT", str(tmp_path))
    monkeypatch.setenv("RUL_DATABASE_URL", database_url)
    return tmp_path
