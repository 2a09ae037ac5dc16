"""Too little room for a run is found before anything of it is written."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from rul_backup.keeping import Backups
from rul_backup.reading import BackupSettings
from rul_backup.stores import FolderStore
from rul_core.errors import StoreError, Unavailable
from rul_store.database import begin, connect

NOW = datetime(2026, 11, 29, 8, tzinfo=UTC)
MODEL_BYTES = 5_000_000


SPARE_BYTES = 1_000_000
"""Of what autovacuum does meanwhile."""


@pytest.mark.parametrize("has_base", [False, True])
def test_a_first_run_that_may_not_fit_is_refused_and_nothing_is_written(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_base: bool
):
    url = SecretStr("postgresql:///nobody") if has_base else None
    backups = Backups(tmp_path, BackupSettings(backup_replication_url=url), engine, None)
    backups.make_keys("plant")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model").write_bytes(bytes(MODEL_BYTES))
    with begin(engine) as connection:
        size = sa.text("SELECT pg_database_size(current_database())")
        needed = int(connection.execute(size).scalar_one()) + MODEL_BYTES
    too_few, enough = needed - SPARE_BYTES, needed + SPARE_BYTES
    if has_base:  # with the server's other databases, of which tests make and drop some meanwhile
        too_few, enough = enough, 10**15
    monkeypatch.setattr(FolderStore, "free_bytes", lambda _: too_few)
    with pytest.raises(StoreError, match=r"MB free, and a run needs about \d+; make room, or name"):
        backups.begin(NOW)
    assert backups.store.sizes() == {}
    monkeypatch.setattr(FolderStore, "free_bytes", lambda _: enough)
    assert backups.begin(NOW).started_at == NOW


def test_a_first_run_of_a_database_that_does_not_answer_does_not_begin(tmp_path: Path):
    nobody = connect("postgresql+psycopg://nobody@127.0.0.1:9/nothing?connect_timeout=1")
    backups = Backups(tmp_path, BackupSettings(), nobody, None)
    backups.make_keys("plant")
    with pytest.raises(Unavailable):
        backups.begin(NOW)
