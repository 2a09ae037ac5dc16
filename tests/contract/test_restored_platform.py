"""A platform that is restored over itself says what it said before, to the last bit."""

import json
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from rul_backup import golden
from rul_backup.reading import LOCAL
from rul_cli.backup import app
from rul_core.errors import RulError
from rul_store import backup_rows, champions, ledger
from rul_store.database import begin
from tests.serving.conftest import Platform
from tests.serving.test_ledger import land
from tests.serving.test_readings import body, life_of, send


@pytest.fixture
def served(
    platform: Platform, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Generator[Platform]:
    """With a champion, a prognosis of it, and the keys of backups."""
    for name in list(os.environ):
        if name.startswith("RUL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RUL_ROOT", str(platform.root))
    monkeypatch.setenv("RUL_DATABASE_URL", database_url)
    platform.release()
    with platform.client() as client:
        send(client, body(platform, unit_of(platform)[:12]))
    run("keys", "plant")
    yield platform
    run("restore", "--forget")


def unit_of(platform: Platform) -> pl.DataFrame:
    return life_of(platform, "unit-000001")


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join(result.output.split())


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, RulError), result.output
    return str(result.exception)


def test_the_champion_speaks_as_before_and_what_came_since_stays_beside(served: Platform):
    run("now")
    then = champions.current(served.engine, "pumps")
    assert then is not None
    (served.root / "models" / "pumps" / then.version / "card.md").write_text("spoilt")
    later = served.release()
    with served.client() as client:
        send(client, body(served, unit_of(served)[12:20]))
    with begin(served.engine) as connection:
        readings = sa.text("SELECT count(*) FROM readings")
        assert connection.execute(readings).scalar_one() == 20
    told = run("restore", "--over-live")
    served.engine.dispose()
    said = ledger.newest(served.engine, "pumps", then.version, limit=1)[0]
    assert f"prognosis {said.ledger_id}, computed again, is equal to the last bit" in told
    assert "is live. Start the web service and Dagster anew." in told
    assert champions.current(served.engine, "pumps") == then
    assert champions.read_live(served.root, "pumps") == then
    with begin(served.engine) as connection:
        assert connection.execute(readings).scalar_one() == 12
    assert not served.bundle(later.version).exists()
    with served.client() as client:  # and it goes on
        send(client, body(served, unit_of(served)[12:14]))
    assert ledger.newest(served.engine, "pumps", later.version, limit=1) == ()
    assert "2 runs" in run("verify")
    assert "_before_" in run("restore", "--forget")
    assert "Nothing was there before a restore" in run("restore", "--forget")


def test_a_champion_that_does_not_answer_as_it_did_is_refused(
    served: Platform, monkeypatch: pytest.MonkeyPatch
):
    (served.root / "models" / "pumps" / current(served) / "golden.json").write_text("{}")
    run("now")
    told = refused("restore", "--over-live")
    assert "the champion of fleet pumps does not answer as it did" in told
    assert "golden.json differs" in told
    assert "golden.json differs" in run("restore", "--over-live", "--despite-golden")


def current(platform: Platform) -> str:
    champion = champions.current(platform.engine, "pumps")
    assert champion is not None
    return champion.version


def test_what_cannot_be_computed_again_is_told_and_no_fault(served: Platform):
    land(served, "first", unit_of(served)[:30])
    with served.client() as client:
        send(client, body(served, unit_of(served)[30:32]))
    with begin(served.engine) as connection:
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(sa.text("DELETE FROM ledger WHERE position = 1"))
    (found,) = golden.check(served.engine, served.root, served.root)
    assert found.told.endswith("is equal to the last bit")
    (served.root / "lake").rename(served.root / "lake that is lost")
    (found,) = golden.check(served.engine, served.root, served.root)
    assert found.is_sound
    assert "none of its last prognoses can be computed again" in found.told


def test_a_prognosis_that_comes_out_otherwise_is_a_fault_and_a_silent_champion_is_none(
    served: Platform,
):
    with begin(served.engine) as connection:
        connection.execute(sa.text("UPDATE readings SET measured[1] = measured[1] + 1"))
    (found,) = golden.check(served.engine, served.root, served.root)
    assert not found.is_sound
    assert "computed again, differs in " in found.told
    served.release()
    (found,) = golden.check(served.engine, served.root, served.root)
    assert found == golden.Golden(
        "pumps", current(served), is_sound=True,
        told="its golden windows answer as before; it has said nothing yet",
    )  # fmt: skip


def test_one_that_broke_off_goes_on_without_being_told_which(
    served: Platform, monkeypatch: pytest.MonkeyPatch
):
    run("now")
    first = run("list", "--json")
    with monkeypatch.context() as patched:

        def full(*_: object) -> None:
            raise OSError(28, "no space left")

        patched.setattr(champions, "repair_projection", full)
        with pytest.raises(OSError, match="no space left"):
            CliRunner().invoke(app, ["restore", "--over-live"], catch_exceptions=False)
    assert first != run("list", "--json")  # the newest is the backup of what was there
    told = run("restore", "--over-live")
    assert "goes on." in told
    assert "bundles added" in told
    assert "kept" not in told
    assert "is live." in told


def test_one_whose_tables_are_of_a_newer_version_goes_back_to_a_run_of_before(served: Platform):
    run("now")
    with begin(served.engine) as connection:
        connection.execute(sa.text("UPDATE rul_version SET version_num = '9999'"))
    assert "is at revision 9999" in refused("list")
    assert "is live." in run("restore", "--over-live")
    (before, since) = json.loads(run("list", "--json"))
    assert before["manifest"]["versions"]["schema"] != "9999"
    assert since["manifest"]["versions"]["schema"] == "9999"
    told = refused("restore", "--over-live", "--run", "2")
    assert "is at revision 9999, and this version of the platform knows none after" in told


def drilled(code: int = 0) -> dict[str, Any]:
    run("now")
    return json.loads(run("drill", "--json", code=code))


def test_a_drill_loads_the_champion_and_computes_again_what_it_said(
    served: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with served.client() as client:
        send(client, body(served, unit_of(served)[12:14]))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    scratch.chmod(0o711)
    monkeypatch.setenv("RUL_BACKUP_SCRATCH", str(scratch))
    told = drilled()
    (found,) = told["champions"]
    assert (found["fleet"], found["version"]) == ("pumps", current(served))
    assert found["compared"] == len(
        ledger.newest(served.engine, "pumps", current(served), limit=golden.TRIED)
    )
    assert found["compared"] > 1
    assert found["told"].endswith("is equal to the last bit")
    assert told["proof"]["differences"] == []
    assert [*scratch.iterdir()] == []
    assert found["told"] in run("drill")


def test_a_drill_finds_a_model_whose_file_is_another(served: Platform):
    (served.root / "models" / "pumps" / current(served) / "model.cbm").write_bytes(b"spoilt")
    (found,) = drilled(code=1)["proof"]["differences"]
    assert found.startswith(f"the champion of fleet pumps, {current(served)}, does not answer as")
    assert "model.cbm differs" in found
    assert backup_rows.proofs(served.engine, LOCAL)[-1].differences == (found,)


def test_a_drill_finds_a_champion_without_a_model(served: Platform):
    shutil.rmtree(served.root / "models" / "pumps" / current(served))
    (found,) = drilled(code=1)["proof"]["differences"]
    assert f"{current(served)} is not there" in found


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE readings SET measured[1] = measured[1] + 1",
        "UPDATE ledger SET prognosis = regexp_replace(prognosis::text, "
        "'\"safe_cycles\":[^,]+', '\"safe_cycles\": 0.5')::json",
    ],
)
def test_a_drill_finds_a_prognosis_that_comes_out_otherwise(served: Platform, change: str):
    with begin(served.engine) as connection:
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(sa.text(change))
    (found,) = drilled(code=1)["proof"]["differences"]
    assert "computed again, differs in " in found


def test_a_drill_passes_and_tells_where_nothing_can_be_computed_again(served: Platform):
    land(served, "first", unit_of(served)[:30])
    with served.client() as client:
        send(client, body(served, unit_of(served)[30:32]))
    with begin(served.engine) as connection:
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(sa.text("DELETE FROM ledger WHERE position = 1"))
    told = drilled()
    (found,) = told["champions"]
    assert found["compared"] == 0
    assert "none of its last prognoses can be computed again" in found["told"]
    served.release()
    (found,) = drilled()["champions"]
    assert found["compared"] == 0
    assert found["told"].endswith("it has said nothing yet")


def test_how_it_is_restored_must_be_said(served: Platform):
    for given in ((), ("--over-live", "--forget"), ("--database", "x"), ("--files", "x")):
        told = run("restore", *given, code=2)
        assert "give --database and --files" in told
