"""A platform that is restored over itself says what it said before, to the last bit."""

import json
import os
import re
import shlex
import shutil
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from rul_backup import (
    golden,
    keeping,
    live,
    reading,
    recovery,
    runs,
    snapshots,
    wal,
)
from rul_backup.live import LiveRestore
from rul_backup.reading import LOCAL, BackupSettings
from rul_backup.stores import FolderStore
from rul_cli.backup import app, backups_of
from rul_cli.laptop import opened
from rul_core.errors import RulError, StoreError
from rul_store import backup_rows, champions, files, ledger, tables
from rul_store.database import begin, connect, create_database, migrate
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
    # The newest run is of the state to be got rid of now, and nobody who names none means it.
    told = run("restore", "--over-live", "--despite-golden")
    assert "was made before a restore of" in told
    assert "golden.json differs" in told
    (first, second) = json.loads(run("list", "--json"))[:2]
    assert f"{first['manifest']['run']} is live." in told
    assert second["manifest"]["made_before_restore_of"] == first["manifest"]["run"]
    assert f"{second['manifest']['run']} was made before a restore of" in run("list")


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


def test_behind_many_that_cannot_be_computed_again_others_are_found(served: Platform):
    with begin(served.engine) as connection:
        before = connection.execute(sa.text("SELECT count(*) FROM ledger")).scalar_one()
    land(served, "first", unit_of(served)[:30])
    with served.client() as client:
        for cycle in range(30, 30 + golden.TRIED + 1):
            send(client, body(served, unit_of(served)[cycle : cycle + 1]))
    (served.root / "lake").rename(served.root / "lake that is lost")
    (found,) = golden.check(served.engine, served.root, served.root)
    assert found.compared == before > 0
    assert found.looked_at > golden.TRIED
    assert found.told.endswith("is equal to the last bit")


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
    elsewhere = ("--database", "postgresql://nobody@127.0.0.1:9/x", "--files", "new")
    for where in (("--over-live",), elsewhere):
        told = refused("restore", *where, "--run", "2")
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
    told = run("export", "--to", "x.tar", "--before", "latest", code=2)
    assert "--before is for --with-log" in told


def test_a_damaged_manifest_of_another_run_hinders_no_restore_and_nobody_moves_backups_away(
    served: Platform,
):
    for _ in range(3):
        run("now")
    (served.root / "backups" / "manifests" / "00000001").write_text("spoilt")
    told = run("restore", "--over-live", "--run", "2")
    assert "Backups here" not in told
    assert "is live." in told
    assert "manifests/00000001 (of " in (told := run("mend"))
    assert "00000002" not in told


def test_a_line_that_is_damaged_elsewhere_hinders_no_restore_and_what_to_do_is_told(
    served: Platform, tmp_path: Path
):
    run("now")
    run("now")
    here, beyond = served.root / "backups", tmp_path / "beyond"
    here.rename(beyond)
    (beyond / "manifests" / "00000001").write_text("spoilt")
    told = run("restore", "--over-live", "--store", str(beyond))
    assert "Backups here do not go on with that line" in told
    assert "manifests/00000001" in told
    assert "Once it is restored, `rul backup mend` says what becomes of them." in told
    assert "is live." in told


def lose_rows(platform: Platform) -> None:
    """Let the database know no backup, as that of a new machine."""
    with begin(platform.engine) as connection:
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(sa.text("DELETE FROM backup_runs"))


def make_new(platform: Platform) -> None:
    """Let the platform have nothing, as on a new machine."""
    with begin(platform.engine) as connection:
        connection.execute(sa.text("SET session_replication_role = replica"))
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(sa.delete(table))
    for folder in ("models", "fleets"):
        shutil.rmtree(platform.root / folder)


def beyond_of(platform: Platform, tmp_path: Path) -> Path:
    """Two runs in a store elsewhere, whose name has to be quoted, and one of another line here."""
    run("now")
    run("now")
    here, beyond = platform.root / "backups", tmp_path / "be yond"
    here.rename(beyond)
    lose_rows(platform)
    run("now")
    return beyond


def test_until_a_restore_has_come_to_its_end_no_run_is_made_mended_brought_or_let_go(
    served: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    beyond = beyond_of(served, tmp_path)
    moved, move = [], FolderStore.move

    def broken(self: FolderStore, name: str, target: FolderStore) -> None:
        if len(moved) == 5:
            interrupt()
        moved.append(name)
        move(self, name, target)

    with monkeypatch.context() as full:
        full.setattr(FolderStore, "move", broken)
        full.chdir(beyond.parent)
        told = refused("restore", "--over-live", "--store", beyond.name)
    assert told.startswith("all but the backups is restored, and the same command goes on: what ")
    assert "no space left" in told
    with monkeypatch.context() as offsite:
        offsite.setenv("RUL_BACKUP_OFFSITE", "s3://bucket/backups")
        for asked in (("now",), ("mend",), ("prune", "--apply"), ("bring",)):
            told = refused(*asked)
            assert "is on its way, or was interrupted there; let `rul backup restore" in told
    named = re.search(r"let `rul backup (restore [^`]*)` go on first", told)
    assert named is not None
    told = run(*shlex.split(named[1]))
    assert "Backups that were made here before, that of now too, are in " in told
    assert "all as they were written" in run("verify")
    for asked in (("now",), ("prune", "--apply")):
        run(*asked)


def test_a_run_that_was_begun_before_a_restore_is_not_sealed_until_that_ends(served: Platform):
    with opened(served.root) as laptop:
        backups = backups_of(laptop)
        begun = backups.begin(datetime.now(UTC))
        for kind in backups.kinds:
            backups.keep(begun, kind)
        journal = live.Journal(run="another", sha256="0", is_ready=True)
        files.write_json(served.root / live.JOURNAL, journal)
        with pytest.raises(StoreError, match="a restore of another is on its way"):
            backups.seal(begun)
        assert backups.store.sizes("manifests/") == {}
        (served.root / live.JOURNAL).unlink()
        backups.seal(begun)


def test_who_restores_of_the_store_itself_after_one_that_was_killed_keeps_the_line_that_is_here(
    served: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    beyond = beyond_of(served, tmp_path)
    here, own = served.root / "backups", run("list", "--json")
    with monkeypatch.context() as killed:
        killed.setattr(LiveRestore, "_prepare", interrupt)
        killed.setattr(keeping.Backups, "unstage", lambda _: None)  # by one that is killed
        asked = ["restore", "--over-live", "--store", str(beyond)]
        with pytest.raises(OSError, match="no space left"):
            CliRunner().invoke(app, asked, catch_exceptions=False)
    assert (here / ".rul_restoring" / "manifests").exists()
    told = run("restore", "--over-live")
    assert "Backups that were made here before" not in told
    assert not [*here.glob(".rul_*")]
    assert json.loads(run("list", "--json"))[0] == json.loads(own)[0]


def test_interrupted_once_it_is_ready_the_line_beside_is_there_for_the_same_command(
    served: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    beyond = beyond_of(served, tmp_path)
    sync = files._sync

    def interrupted(path: Path) -> None:
        sync(path)
        if path == served.root and (journal := live.interrupted(path)) and journal.is_ready:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, "_sync", interrupted)
        asked = ["restore", "--over-live", "--store", str(beyond)]
        assert CliRunner().invoke(app, asked).exit_code == 130
    told = run(*asked)
    assert "Backups that were made here before, that of now too, are in " in told
    assert "all as they were written" in run("verify")
    assert "number 3." in run("now")


def test_who_has_the_keys_of_the_safe_alone_restores_rescued_backups_to_the_end(
    served: Platform, tmp_path: Path
):
    run("now")
    keys, safe = served.root / "backup-keys", tmp_path / "safe"
    keys.rename(safe)
    make_new(served)
    told = run(
        "restore", "--over-live", "--identity", str(safe / "backup_escrow_identity"),
        "--verify-key", str(safe / "backup_verify_key"),
    )  # fmt: skip
    assert "is live." in told
    assert live.interrupted(served.root) is None
    safe.rename(keys)
    assert "number 2." in run("now")
    assert "all as they were written" in run("verify")


def test_what_is_forgotten_is_told_also_where_the_line_beside_cannot_be_removed(
    served: Platform, monkeypatch: pytest.MonkeyPatch
):
    run("now")
    run("restore", "--over-live")

    def refuse(_: object) -> None:
        raise StoreError("it cannot be removed")

    with monkeypatch.context() as patched:
        patched.setattr(keeping.Backups, "unstage", refuse)
        result = CliRunner().invoke(app, ["restore", "--forget"])
    assert str(result.exception) == "it cannot be removed"
    assert "is gone" in result.output


def test_without_a_signing_key_a_new_platform_is_restored_and_its_backups_do_not_go_on(
    served: Platform, tmp_path: Path
):
    run("now")
    here, beyond = served.root / "backups", tmp_path / "beyond"
    here.rename(beyond)
    make_new(served)
    (served.root / "backup-keys" / "backup_signing_key").unlink()
    told = run("restore", "--over-live", "--store", str(beyond))
    assert "Backups here do not go on with that line: the key file " in told
    assert "backup_signing_key cannot be read" in told
    assert "is live." in told


def test_without_a_signing_key_a_platform_whose_store_has_the_line_is_restored_to_the_end(
    served: Platform, tmp_path: Path
):
    run("now")
    shutil.copytree(served.root / "backups", tmp_path / "beyond")
    make_new(served)
    (served.root / "backup-keys" / "backup_signing_key").unlink()
    told = run("restore", "--over-live", "--store", str(tmp_path / "beyond"))
    assert "Not all runs here are written down: the key file " in told
    assert live.interrupted(served.root) is None


def test_what_is_made_ready_leaves_room_for_the_backup_of_what_lives_and_for_the_restore(
    served: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run("now")
    run("now")
    here, beyond = served.root / "backups", tmp_path / "beyond"
    here.rename(beyond)
    lose_rows(served)
    need, real = [20_000_000], shutil.disk_usage

    def free(path: Path) -> Any:
        """So much, but for what the folder of backups has."""
        if not Path(path).is_relative_to(served.root):
            return real(path)
        has = sum(each.stat().st_size for each in here.rglob("*") if each.is_file())
        return SimpleNamespace(free=need[0] - has)

    with monkeypatch.context() as small:
        small.setattr(keeping.Backups, "_first_bytes", lambda _: need[0] - 1000)
        small.setattr(shutil, "disk_usage", free)
        told = run("restore", "--over-live", "--store", str(beyond))
    assert "Backups here do not go on with that line: " in told
    assert "MB free, and going on with that line of backups needs" in told
    assert "is live." in told
    run("restore", "--forget")
    shutil.rmtree(here)
    lose_rows(served)
    models = snapshots.models_bytes(served.root)
    with monkeypatch.context() as small:
        small.setattr(keeping.Backups, "_first_bytes", lambda _: 0)
        small.setattr(shutil, "disk_usage", free)
        need[0] = 3 * models + 50_000
        told = refused("restore", "--over-live", "--store", str(beyond))
    assert "restoring models needs" in told
    assert not [*here.rglob("*/*")]
    assert "is live." in run("restore", "--over-live", "--store", str(beyond))


def test_where_runs_that_were_lost_cannot_be_given_up_that_is_told_and_it_is_restored(
    served: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(3):
        run("now")
    here, beyond = served.root / "backups", tmp_path / "beyond"
    here.rename(beyond)
    (beyond / "manifests" / "00000003").unlink()  # it was not brought any more
    putting = FolderStore.putting

    def full(self: FolderStore, name: str) -> Any:
        return interrupt() if name.startswith("lost/") else putting(self, name)

    rows = backup_rows.known(served.engine, LOCAL)  # as a database that its log brings back
    with monkeypatch.context() as patched:
        patched.setattr(FolderStore, "putting", full)
        patched.setattr(backup_rows, "known", lambda _, store: rows if store == LOCAL else [])
        told = run("restore", "--over-live", "--store", str(beyond))
    assert re.search("written down: .*backups cannot be written: .*no space left", told)
    assert "`rul backup mend` says how they stand." in told
    assert live.interrupted(served.root) is None


def test_backups_that_a_new_machine_made_before_it_was_restored_make_way_for_those_of_before(
    served: Platform, tmp_path: Path
):
    here, beyond = served.root / "backups", beyond_of(served, tmp_path)
    with pytest.MonkeyPatch.context() as full:
        full.setattr(FolderStore, "move", interrupt)
        told = refused("restore", "--over-live", "--store", str(beyond))
    assert "has cannot be exchanged for the line beside it" in told
    assert "[Errno 28] no space left" in told
    told = run("restore", "--over-live", "--store", str(beyond))
    assert "The restore of " in told
    (aside,) = here.glob(".rul_before_*")
    assert f"Backups that were made here before, that of now too, are in {aside}." in told
    assert "all as they were written" in run("verify")
    assert "number 3." in run("now")
    assert "all as they were written" in run("verify")
    own = json.loads(run("list", "--json", "--store", str(aside)))
    assert [one["manifest"]["number"] for one in own] == [1, 2]
    assert own[1]["manifest"]["made_before_restore_of"] in told
    assert f"{aside} has backups that were made here before; remove it once" in run(
        "restore", "--forget"
    )
    assert "all as they were written" in run("verify", "--store", str(aside))
    # Whoever regrets it has these again, and those of before stay aside.
    told = run("restore", "--over-live", "--store", str(aside), "--run", "1")
    (other,) = {*here.glob(".rul_before_*")} - {aside}
    assert f"that of now too, are in {other}." in told
    assert "all as they were written" in run("verify")
    kept = json.loads(run("list", "--json", "--store", str(other)))
    assert [one["manifest"]["number"] for one in kept] == [2, 3, 4]  # it went on after the second


def test_a_line_that_the_database_does_not_know_is_not_written_over_by_what_mends(
    served: Platform, tmp_path: Path
):
    run("now")
    here = served.root / "backups"
    here.rename(tmp_path / "known")
    with begin(served.engine) as connection:
        connection.execute(sa.text("SET session_replication_role = replica"))
        known = connection.execute(sa.text("DELETE FROM backup_runs RETURNING *")).mappings().one()
    run("now")
    lose_rows(served)
    with begin(served.engine) as connection:
        connection.execute(sa.insert(tables.backup_runs), [dict(known)])
    assert "is another than the one that is known elsewhere" in run("verify", code=1)
    there = [*here.rglob("*")]
    assert "these backups are of another time of this platform" in refused("mend", "--apply")
    assert [*here.rglob("*")] == there
    here.rename(tmp_path / "own")
    assert "manifests/00000001 (of " in run("mend", "--apply")
    assert "number 2." in run("now")
    assert "all as they were written" in run("verify")


# --- a moment between two runs
@pytest.fixture
def archived(
    served: Platform, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Generator[Platform]:
    """Its log is received."""
    monkeypatch.setenv("RUL_BACKUP_REPLICATION_URL", database_url)
    with receiving(served, database_url):
        yield served


@contextmanager
def receiving(served: Platform, database_url: str) -> Generator[None]:
    """Receive the log; ends what holds it back."""
    stop, settings = threading.Event(), BackupSettings()
    archiver = keeping.archiver_of(
        served.root, settings, database_url, served.root / "spool",
        tell=lambda **_: None, archive_timeout_seconds=1.0,
    )  # fmt: skip
    thread = threading.Thread(target=archiver.run, args=(stop,), kwargs={"look_seconds": 0.2})
    thread.start()
    yield
    stop.set()
    thread.join()
    with begin(served.engine) as connection:
        drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        connection.execute(sa.text(drop))


def moment_of(platform: Platform) -> str:
    with begin(platform.engine) as connection:
        return connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one().isoformat()


def wait_until_sealed(platform: Platform, moment: str) -> None:
    """Until the archiver says that all until then is in the store."""
    store = reading.local_store_of(platform.root, BackupSettings())
    keys = reading.reading_keys_of(platform.root, BackupSettings()).verify_keys()
    until = datetime.fromisoformat(moment)
    for _ in range(1200):
        noted = [wal.read(store, name, keys) for name in wal.names(store)]
        if (reached := wal.reached(noted)) and reached >= until:
            return
        time.sleep(0.1)
    raise AssertionError(f"{moment} was never sealed")


def prognoses_of(platform: Platform) -> int:
    with begin(platform.engine) as connection:
        return connection.execute(sa.text("SELECT count(*) FROM ledger")).scalar_one()


def test_a_moment_between_two_runs_comes_back_with_what_was_said_until_then(archived: Platform):
    run("now")
    with archived.client() as client:
        send(client, body(archived, unit_of(archived)[12:20]))
        wanted = prognoses_of(archived)
        moment = moment_of(archived)
        send(client, body(archived, unit_of(archived)[20:24]))
    assert prognoses_of(archived) > wanted
    wait_until_sealed(archived, moment_of(archived))
    told = run("restore", "--over-live", "--to", moment)
    assert f"it has all that was committed until {moment}" in told
    for step in (
        "the server recovered by its log",
        "the copy compared",
        "is equal to the last bit",
    ):
        assert step in told
    assert "the dump restored" not in told
    assert prognoses_of(archived) == wanted
    assert "all as they were written" in run("verify")
    # All there is, of which the newest run knows nothing: what was put aside is in the log too.
    run("restore", "--forget")
    moment = moment_of(archived)
    time.sleep(1.1)  # of the last second the archiver promises nothing
    with begin(archived.engine) as connection:
        connection.execute(sa.text("SELECT txid_current()"))
    wait_until_sealed(archived, moment)
    run("restore", "--over-live", "--to", "latest", "--run", "1")
    assert prognoses_of(archived) == wanted


def test_a_drill_recovers_all_that_the_log_leads_to_and_tells_what_it_lost(archived: Platform):
    run("now")
    with archived.client() as client:
        send(client, body(archived, unit_of(archived)[12:20]))
    moment = moment_of(archived)
    wait_until_sealed(archived, moment)
    told = json.loads(run("drill", "--json"))
    assert told["proof"]["differences"] == []
    assert told["log_reaches_at"] >= moment.replace("+00:00", "Z")
    assert told["proof"]["log_reaches_at"] == told["log_reaches_at"]
    with archived.client() as client:
        (local,) = client.get("/v1/system/backups").json()["stores"]
    assert local["last_drill"]["log_reaches_at"] == told["log_reaches_at"]
    assert local["last_drill"] == told["proof"]
    steps = [
        "a server made for platform.dump", "platform.dump restored", "platform.dump compared",
        "models brought and champions tried", "the base brought", "its log brought",
        "the log replayed", "what the log leads to read to its end",
    ]  # fmt: skip
    assert [one["step"] for one in told["steps"]] == steps
    assert 0 < sum(one["seconds"] for one in told["steps"]) <= told["proof"]["seconds"]
    told = run("drill")
    assert "The log leads until 20" in told
    assert f" s {steps[0]}" in told
    # A run that had more than the log brings back, as where somebody cut the log short.
    store = reading.local_store_of(archived.root, BackupSettings())
    keys = reading.reading_keys_of(archived.root, BackupSettings()).verify_keys()
    (sealed,) = runs.there(store, keys)
    (dump,) = [one for one in sealed.manifest.artefacts if one.name == "platform.dump"]
    found = {name: dict(facts) for name, facts in dump.facts["tables"].items()}
    assert recovery._lost(sealed, found) == []
    found["public.ledger"]["rows"] -= 1
    found["public.leases"]["rows"] = -1  # these may go
    (told,) = recovery._lost(sealed, found)
    assert told.startswith("by the log the table public.ledger has 0 rows where 1 were kept")
    noted = [wal.read(store, name, keys) for name in wal.names(store)]
    store.remove(noted[-1].content)
    told = run("drill", code=1)
    assert "the log does not lead to a server" in told
    assert noted[-1].note.segment in told


def test_a_moment_to_which_nothing_leads_changes_nothing(archived: Platform):
    run("now")
    for moment in ("2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z"):
        told = refused("restore", "--over-live", "--to", moment)
        assert "has no base from before" in told or "does not lead to" in told
        assert not (archived.root / ".restoring.json").exists()
    told = run("restore", "--over-live", "--to", "2026-01-01T00:00:00", code=2)
    assert "has no zone" in told
    told = run("restore", "--forget", "--to", "latest", code=2)
    assert "--to is for --over-live" in told


def test_an_archive_with_the_log_brings_a_moment_to_another_machine(
    archived: Platform, tmp_path: Path
):
    run("now")
    with archived.client() as client:
        send(client, body(archived, unit_of(archived)[12:20]))
    wanted, moment = prognoses_of(archived), moment_of(archived)
    wait_until_sealed(archived, moment)
    told = refused(
        "export", "--with-log", "--before", "2026-01-01T00:00:00Z", "--to", str(tmp_path / "x.tar")
    )
    assert "has no base from before 2026-01-01T00:00:00+00:00 from which the log leads on" in told
    # What is damaged of another run stands in no moment's way.
    run("now")
    (archived.root / "backups" / "manifests" / "00000001").write_text("spoilt")
    told = run("export", "--with-log", "--before", moment, "--to", str(tmp_path / "with.tar"))
    assert "passed over: " in told
    assert "manifests/00000001" in told
    run("export", "--to", str(tmp_path / "without.tar"))
    with begin(archived.engine) as connection:
        connection.execute(sa.text("UPDATE units SET unit = 'spoilt'"))
    told = refused(
        "restore", "--over-live", "--to", moment, "--store", str(tmp_path / "without.tar")
    )
    assert "is not archived" in told
    told = run("restore", "--over-live", "--to", moment, "--store", str(tmp_path / "with.tar"))
    assert "manifests/00000001" in told
    assert prognoses_of(archived) == wanted
    with begin(archived.engine) as connection:
        units = connection.execute(sa.text("SELECT unit FROM units")).scalars().all()
    assert units == ["unit-000001"]


def interrupt(*_: object, **__: object) -> None:
    raise OSError(28, "no space left")


def test_a_run_that_was_lost_with_its_machine_and_is_known_by_the_log_is_given_up(
    served: Platform, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RUL_BACKUP_REPLICATION_URL", database_url)
    here, beyond = served.root / "backups", tmp_path / "beyond"
    with receiving(served, database_url):
        run("now")
        shutil.copytree(here, beyond)
        run("now")
        wait_until_sealed(served, moment_of(served))
    shutil.copytree(here / "wal", beyond / "wal", dirs_exist_ok=True)
    lost = backup_rows.known(served.engine, LOCAL)[1].run
    for folder in (here, served.root / "models", served.root / "fleets"):
        shutil.rmtree(folder)
    name = sa.make_url(database_url).database
    other = sa.make_url(database_url).set(database="postgres").render_as_string(False)
    admin = connect(other).execution_options(isolation_level="AUTOCOMMIT")
    with begin(admin) as connection:
        connection.execute(sa.text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()
    create_database(other, str(name))
    migrate(served.engine)
    # Broken off once after the line has been brought: asked again it is given up all the same.
    with monkeypatch.context() as broken:
        broken.setattr(LiveRestore, "restore", interrupt)
        with pytest.raises(OSError, match="no space left"):
            CliRunner().invoke(
                app, ["restore", "--over-live", "--to", "latest", "--store", str(beyond)],
                catch_exceptions=False,
            )  # fmt: skip
    told = run("restore", "--over-live", "--to", "latest", "--store", str(beyond))
    assert f"{lost}, number 2, was lost with its machine: given up." in told
    assert "all as they were written" in run("verify")
    assert "number 3." in run("now")
    assert "all as they were written" in run("verify")
    run("prune", "--apply")
