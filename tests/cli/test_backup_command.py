"""``rul backup`` on a real PostgreSQL."""

import json
import shutil
import subprocess
import sys
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from rul_backup import fingerprints, golden, keeping, retention
from rul_backup.golden import Golden
from rul_backup.reading import BackupSettings
from rul_backup.stores import FolderStore
from rul_cli.backup import app
from rul_core.errors import RulError
from rul_store import backup_rows
from rul_store.database import begin, connect, create_database
from tests.backup.s3 import S3, s3, s3_server

__all__ = ["s3", "s3_server"]


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    return result


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, RulError), result.output
    return str(result.exception)


@pytest.fixture
def root(data_root: Path) -> Path:
    bundle = data_root / "models" / "pumps" / "v1"
    bundle.mkdir(parents=True)
    (bundle / "model.cbm").write_bytes(bytes(range(256)) * 100)
    (data_root / "models" / "pumps" / ".v2.tmp").mkdir()
    (data_root / "fleets").mkdir()
    (data_root / "fleets" / "pumps.toml").write_text("name = 'pumps'\n")
    return data_root


@pytest.fixture
def with_keys(root: Path) -> Path:
    told = run("keys", "plant").output
    assert "Move backup_escrow_identity into a safe" in told
    return root


@pytest.fixture
def elsewhere(database_url: str) -> Generator[str]:
    admin = connect(database_url).execution_options(isolation_level="AUTOCOMMIT")
    drop = sa.text("DROP DATABASE IF EXISTS restored WITH (FORCE)")
    with begin(admin) as connection:
        connection.execute(drop)
    yield create_database(database_url, "restored")
    with begin(admin) as connection:
        connection.execute(drop)
    admin.dispose()


def test_without_keys_the_way_to_them_is_told(root: Path):
    assert "backup_system cannot be read" in refused("now")
    assert "backup_verify_key cannot be read" in refused("list")


def test_keys_are_each_for_their_owner_alone_and_never_written_over(with_keys: Path):
    found = {
        path.name: path.stat().st_mode & 0o777 for path in (with_keys / "backup-keys").iterdir()
    }
    assert set(found.values()) == {0o600}
    before = (with_keys / "backup-keys" / "backup_identity").read_text()
    assert "is there already" in refused("keys", "plant")
    assert (with_keys / "backup-keys" / "backup_identity").read_text() == before
    for name in set(found) - {"backup_identity"}:
        (with_keys / "backup-keys" / name).unlink()
    assert "backup_identity is there already" in refused("keys", "plant")
    assert [path.name for path in (with_keys / "backup-keys").iterdir()] == ["backup_identity"]


def test_it_is_kept_looked_at_proved_and_comes_back(
    with_keys: Path, engine: sa.Engine, elsewhere: str
):
    assert "no backup yet" in run("list").output
    assert "has no backup yet" in refused("drill")
    with begin(engine) as connection:
        connection.execute(sa.text("INSERT INTO units (fleet, unit) VALUES ('pumps', 'a')"))
    first = json.loads(run("now", "--json").output)
    second = run("now").output
    assert "number 2." in second
    assert [kept["name"] for kept in first["artefacts"]] == ["platform.dump", "models.tar"]
    assert first["artefacts"][1]["facts"]["files"] == 2
    assert first["versions"].keys() == {"rul", "schema", "postgresql", "pg_dump"}
    assert first["versions"]["pg_dump"].startswith("pg_dump (PostgreSQL) ")
    assert "all as they were written" in run("verify", "--level", "structure").output
    told = run("drill", "--run", first["run"]).output
    assert "every table has what was kept" in told
    assert "No fleet has a champion, so no prognosis was compared." in told
    listed = json.loads(run("list", "--json").output)
    assert [bool(each["proof"]) for each in listed] == [True, False]
    assert first["run"] in run("list").output
    back = with_keys / "back"
    told = run(
        "restore", "--run", first["run"], "--database", elsewhere, "--files", str(back)
    ).output
    steps = ("platform.dump restored and compared", "it migrated", "champions tried")
    assert [step for step in steps if step in told] == [*steps]
    kept = {path.relative_to(back).as_posix() for path in back.rglob("*") if path.is_file()}
    assert kept == {"models/pumps/v1/model.cbm", "fleets/pumps.toml"}
    assert (back / "models/pumps/v1/model.cbm").read_bytes() == bytes(range(256)) * 100
    restored = connect(elsewhere)
    with begin(restored) as connection:
        assert connection.execute(sa.text("SELECT unit FROM units")).scalars().all() == ["a"]
    restored.dispose()
    assert "is there already" in refused("restore", "--database", elsewhere, "--files", str(back))
    told = refused("restore", "--database", elsewhere, "--files", str(with_keys / "new"))
    assert "is not empty" in told
    assert not (with_keys / "new").exists()
    assert "has no run 'x'; the newest is" in refused("drill", "--run", "x")


def test_from_beyond_the_machine_all_comes_back_when_the_machine_is_lost(
    with_keys: Path, s3: S3, elsewhere: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
):
    assert "RUL_BACKUP_OFFSITE is not set" in refused("bring")
    monkeypatch.setenv("RUL_BACKUP_OFFSITE", "s3://backups/command")
    monkeypatch.setenv("RUL_BACKUP_OFFSITE_OPTIONS", s3.options())
    assert "s3://backups/command has no backup yet" in refused("drill", "--store", "off-site")
    with begin(engine) as connection:
        connection.execute(sa.text("INSERT INTO units (fleet, unit) VALUES ('pumps', 'a')"))
    run("now")
    assert "1 runs, " in run("bring").output
    assert json.loads(run("bring", "--json").output) == {"runs": 0, "bytes": 0, "segments": 0}
    assert len(backup_rows.known(engine, keeping.OFF_SITE)) == 1
    for lost in ("backups", "models", "fleets"):
        (with_keys / lost).rename(with_keys / f"{lost} that are lost")
    assert "no backup yet" in run("list").output
    assert len(json.loads(run("list", "--store", "off-site", "--json").output)) == 1
    told = run("verify", "--store", "off-site", "--level", "content").output
    assert "in s3://backups/command: all as they were written" in told
    assert "every table has what was kept" in run("drill", "--store", "off-site").output
    run("restore", "--store", "off-site", "--database", elsewhere, "--files",
        str(with_keys / "back"))  # fmt: skip
    assert (with_keys / "back/models/pumps/v1/model.cbm").read_bytes() == bytes(range(256)) * 100
    assert "is none of local, off-site" in run("list", "--store", "x", code=2).output
    assert "is none of local, off-site" in run("drill", "--store", "x", code=2).output
    run("export", "--store", "off-site", "--to", str(with_keys / "far.tar"))
    told = run("verify", "--store", str(with_keys / "far.tar"), "--level", "structure").output
    assert "1 runs, 3 objects" in told


def test_an_archive_and_the_escrow_identity_bring_a_run_back_without_the_platform(
    with_keys: Path, elsewhere: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
):
    with begin(engine) as connection:
        connection.execute(sa.text("INSERT INTO units (fleet, unit) VALUES ('pumps', 'a')"))
    first = json.loads(run("now", "--json").output)["run"]
    run("now")
    target = with_keys / "out" / "first.tar"
    assert "has no run '3'" in refused("export", "--run", "3", "--to", str(target))
    told = run("export", "--run", "manifests/00000001", "--to", str(target)).output
    assert f"{first} is in" in told
    assert "is there already" in refused("export", "--to", str(target))
    safe = with_keys / "safe"
    (with_keys / "backup-keys").rename(safe)
    (with_keys / "backups").rename(with_keys / "folder")
    monkeypatch.setenv("RUL_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
    key = ("--verify-key", str(safe / "backup_verify_key"))
    keys = (*key, "--identity", str(safe / "backup_escrow_identity"))
    (listed,) = json.loads(run("list", "--store", str(target), "--json", *key).output)
    assert listed["manifest"]["run"] == first
    assert "unknown here" in run("list", "--store", str(target), *key).output
    assert "all as they were written" in run(
        "verify", "--store", str(target), "--level", "structure", *keys
    ).output  # fmt: skip
    assert "2 runs" in run("verify", "--store", str(with_keys / "folder"), *keys).output
    back = with_keys / "back"
    run("restore", "--store", str(target), "--database", elsewhere, "--files", str(back), *keys)
    assert (back / "models/pumps/v1/model.cbm").read_bytes() == bytes(range(256)) * 100
    restored = connect(elsewhere)
    with begin(restored) as connection:
        assert connection.execute(sa.text("SELECT unit FROM units")).scalars().all() == ["a"]
    restored.dispose()
    assert "backup_verify_key cannot be read" in refused("list", "--store", str(target))


def test_the_run_that_a_restore_would_take_is_told_by_its_name_alone(
    with_keys: Path, monkeypatch: pytest.MonkeyPatch
):
    first = json.loads(run("now", "--json").output)
    second = json.loads(run("now", "--json").output)["run"]
    monkeypatch.setenv("RUL_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
    assert run("which").output == f"{second}\n"
    assert run("which", "--run", "manifests/00000001").output == f"{first['run']}\n"
    assert run("which", "--to", first["started_at"]).output == f"{first['run']}\n"
    assert "has no run '3'" in refused("which", "--run", "3")
    dump = first["artefacts"][0]["sums"]["plain_bytes"]
    assert run("needs", "--run", "1").output == f"{3 * dump}\n"
    assert run("needs", "--run", "1", "--to", first["started_at"]).output == f"{3 * dump}\n"
    # One that was interrupted goes on.
    (with_keys / ".restoring.json").write_text(json.dumps({"run": first["run"], "sha256": ""}))
    assert run("which").output == f"{first['run']}\n"
    assert run("which", "--run", "2").output == f"{second}\n"
    assert run("needs", "--run", "1").output == f"{3 * dump}\n"
    journal = {"run": first["run"], "sha256": "", "is_ready": True}
    (with_keys / ".restoring.json").write_text(json.dumps(journal))
    assert run("needs", "--run", "1").output == "0\n"


def test_the_same_content_is_kept_as_the_same_bytes(with_keys: Path):
    fleet = with_keys / "fleets" / "pumps.toml"
    made = [json.loads(run("now", "--json").output)]
    fleet.touch()  # written anew, with the same content
    made.append(json.loads(run("now", "--json").output))
    assert f"as in {made[1]['run']}" in " ".join(run("now").output.split())  # nothing was written
    sums = [each["artefacts"][1]["sums"] for each in made]
    assert sums[0]["plain_sha256"] == sums[1]["plain_sha256"]
    assert sums[0] != sums[1]  # encrypted anew
    fleet.write_text("name = 'pumps' # changed\n")
    made.append(json.loads(run("now", "--json").output))
    assert made[2]["artefacts"][1]["run"] == ""
    assert made[2]["artefacts"][1]["sums"]["plain_sha256"] != sums[0]["plain_sha256"]
    assert "4 runs" in run("verify", "--level", "content").output


def test_redis_is_kept_where_there_is_one(
    with_keys: Path, redis_url: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RUL_REDIS_URL", redis_url)
    made = json.loads(run("now", "--json").output)
    assert [kept["name"] for kept in made["artefacts"]] == [
        "platform.dump", "redis.rdb", "models.tar"
    ]  # fmt: skip
    run("drill")
    told = run("restore", "--database", elsewhere, "--files", str(with_keys / "back")).output
    assert (with_keys / "back" / "redis.rdb").read_bytes().startswith(b"REDIS")
    assert f"restores the run {made['run']}, number 1, of " in told
    for step in ("redis.rdb brought", "models.tar brought", "platform.dump restored and compared"):
        assert f" s  {step}\n" in told


@pytest.fixture
def dagster_url(database_url: str) -> Generator[str]:
    """Dagster's database, with a run, on the platform's server."""
    admin = connect(database_url).execution_options(isolation_level="AUTOCOMMIT")

    def drop() -> None:
        with begin(admin) as connection:
            connection.execute(sa.text("DROP DATABASE IF EXISTS dagster WITH (FORCE)"))
            connection.execute(sa.text("DROP ROLE IF EXISTS dagster"))

    drop()
    with begin(admin) as connection:
        connection.execute(sa.text("CREATE ROLE dagster"))
    url = create_database(database_url, "dagster")
    made = connect(url)
    with begin(made) as connection:
        connection.execute(sa.text("CREATE TABLE runs (run_id text)"))
        connection.execute(sa.text("CREATE TABLE run_tags (run_id text, key text)"))
        connection.execute(sa.text("INSERT INTO runs VALUES ('a')"))
    made.dispose()
    yield url
    drop()
    admin.dispose()


def test_what_a_stack_has_is_kept_where_there_is_one_and_comes_back_where_it_is_asked_for(
    with_keys: Path, dagster_url: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch
):
    into = with_keys / "back"
    assert "give --into, or --dagster" in run("restore-stack", code=2).output
    run("now")
    assert "kept nothing of a stack" in run("restore-stack", "--into", str(into)).output
    assert not into.exists()
    assert "RUL_DATABASE_ADMIN_URL is not set" in refused("restore-stack", "--dagster")
    monkeypatch.setenv("RUL_DATABASE_ADMIN_URL", elsewhere)
    assert "kept nothing of Dagster" in run("restore-stack", "--dagster").output
    (with_keys / "stack" / "dagster_logs").mkdir(parents=True)
    (with_keys / "stack" / "dagster_logs" / "a.log").write_text("said")
    monkeypatch.setenv("RUL_BACKUP_STACK", str(with_keys / "stack"))
    monkeypatch.setenv("RUL_BACKUP_DAGSTER_URL", dagster_url)
    made = json.loads(run("now", "--json").output)
    assert {"dagster.dump", "stack.tar"} < {kept["name"] for kept in made["artefacts"]}
    run("drill")
    assert made["run"] in run("restore-stack", "--into", str(into)).output
    assert (into / "dagster_logs" / "a.log").read_text() == "said"
    assert (into / "dagster.dump").read_bytes().startswith(b"PGDMP")
    assert "is there already" in refused("restore-stack", "--into", str(into))
    run("restore", "--database", elsewhere, "--files", str(with_keys / "platform"))
    assert sorted(path.name for path in (with_keys / "platform").iterdir()) == ["fleets", "models"]
    assert "dagster has 1 runs and stays" in refused("restore-stack", "--dagster")
    emptied = connect(dagster_url)
    with begin(emptied) as connection:
        connection.execute(sa.text("TRUNCATE runs"))
    emptied.dispose()
    assert "is back, with 1 runs" in run("restore-stack", "--dagster").output


def test_what_a_stack_had_is_not_unpacked_where_it_does_not_fit(
    with_keys: Path, monkeypatch: pytest.MonkeyPatch
):
    (with_keys / "stack" / "grafana").mkdir(parents=True)
    monkeypatch.setenv("RUL_BACKUP_STACK", str(with_keys / "stack"))
    run("now")
    usage = shutil.disk_usage(with_keys)._replace(free=1000)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage)
        told = refused("restore-stack", "--into", str(with_keys / "back"))
    assert "has 0 MB free, and restoring into back needs" in told
    assert not (with_keys / "back").exists()


def test_damage_ends_with_1_and_names_the_object(with_keys: Path, engine: sa.Engine):
    made = json.loads(run("now", "--json").output)
    (path,) = (with_keys / "backups" / "runs" / made["run"]).glob("models*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "all as they were written" in run("verify", "--level", "exists").output
    told = run("verify", code=1).output
    assert f"{made['run']}/models.tar.zst.age: is not what was written" in told
    assert json.loads(run("verify", "--json", code=1).output)["findings"]
    assert (
        "is none of exists, stored, content, structure"
        in run("verify", "--level", "x", code=2).output
    )
    # A store as it was before the run: PostgreSQL knows better.
    path.unlink()
    for left in (with_keys / "backups").rglob("*"):
        left.unlink() if left.is_file() else None
    assert "is known elsewhere" in run("verify", code=1).output
    assert len(backup_rows.known(engine, keeping.LOCAL)) == 1


def test_a_drill_that_cannot_restore_at_all_is_written_down_as_one_that_failed(
    with_keys: Path, engine: sa.Engine
):
    run("now")
    run("drill")
    (dump,) = (with_keys / "backups").rglob("platform.dump.zst.age")
    dump.write_bytes(dump.read_bytes()[:-1] + b"x")
    assert "platform.dump.zst.age" in refused("drill")
    before, last = backup_rows.proofs(engine, keeping.LOCAL)
    assert before.differences == ()
    assert last.differences[0].startswith("it cannot be restored: ")


def test_a_damaged_manifest_of_before_stops_neither_what_is_kept_nor_what_is_brought(
    with_keys: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RUL_BACKUP_OFFSITE", "s3://backups/damaged")
    monkeypatch.setenv("RUL_BACKUP_OFFSITE_OPTIONS", s3.options())
    run("now")
    run("now")
    run("bring")
    damaged = with_keys / "backups" / "manifests" / "00000001"
    damaged.write_text("spoilt")
    run("now")
    assert "1 runs, " in run("bring").output
    assert "manifests/00000001" in run("verify", code=1).output
    run("now")
    run("now")
    (with_keys / "backups" / "manifests" / "00000004").write_text("spoilt")
    assert "manifests/00000004" in refused("bring")  # nobody else has it


def test_a_manifest_that_is_damaged_comes_back_or_is_given_up_when_it_is_said(
    with_keys: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
):
    run("now")
    run("now")
    assert "Every manifest is there and can be read." in run("mend").output
    second = with_keys / "backups" / "manifests" / "00000002"
    whole = second.read_bytes()
    with monkeypatch.context() as beyond:
        beyond.setenv("RUL_BACKUP_OFFSITE", "s3://backups/mended")
        beyond.setenv("RUL_BACKUP_OFFSITE_OPTIONS", s3.options())
        run("bring")
        second.write_text("spoilt")
        assert "manifests/00000002" in refused("now")
        told = run("mend").output
        assert told.startswith("manifests/00000002 (of ")
        assert "comes back from beyond the machine" in told
        assert second.read_text() == "spoilt"
        assert "--apply" not in run("mend", "--apply").output
        assert second.read_bytes() == whole
    second.unlink()
    assert "nobody has said where: see that RUL_BACKUP_OFFSITE" in run("mend", code=1).output
    assert "is nowhere: it is given up" in run("mend", "--lost-beyond").output
    assert not second.exists()
    second.write_bytes(whole)
    run("now")
    (third := second.with_name("00000003")).unlink()
    told = run("mend").output
    assert "is nowhere: it is given up, and what its run kept" in told
    assert "--apply does it" in told
    assert "manifests/00000003" in run("verify", code=1).output
    assert "number 4." in run("now").output  # nobody takes its number meanwhile
    assert "`rul backup mend` says what becomes of it" in refused("prune")
    run("mend", "--apply")
    run("verify")
    run("prune")
    assert not third.exists()
    (with_keys / "backups" / "lost" / "00000003").unlink()
    assert "manifests/00000003: is missing" in run("verify", code=1).output


def test_a_drill_that_finds_a_difference_ends_with_1(
    with_keys: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
):
    run("now")
    true = fingerprints.differences
    monkeypatch.setattr(
        fingerprints, "differences", lambda *both: [*true(*both), "table x has 1 where 2 was kept"]
    )
    assert "table x has 1 where 2 was kept" in run("drill", code=1).output
    assert "differs" in run("list").output
    (proof,) = backup_rows.proofs(engine, keeping.LOCAL)
    assert proof.differences == ("table x has 1 where 2 was kept",)


def test_what_may_go_is_told_first_and_goes_when_it_is_said(
    with_keys: Path, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(3):
        run("now")
    short = retention.Policy(all_for=timedelta(0), daily_for=timedelta(0))
    monkeypatch.setattr(keeping, "Policy", lambda **_: short)
    told = run("prune").output
    assert told.splitlines() == ["3 stays: the newest", "1 may go", "2 may go"]
    assert len(json.loads(run("list", "--json").output)) == 3
    assert "1 went" in run("prune", "--apply").output
    (left,) = json.loads(run("list", "--json").output)
    assert left["manifest"]["number"] == 3
    assert "1 runs" in run("verify", "--level", "content").output
    run("now")
    assert json.loads(run("list", "--json").output)[-1]["manifest"]["number"] == 4
    killed = with_keys / "backups" / "runs" / "20260101T000000Z-aaaaaa" / "platform.dump.zst.age"
    killed.parent.mkdir()
    killed.write_bytes(b"half")
    name = "runs/20260101T000000Z-aaaaaa/platform.dump.zst.age"
    assert f"{name} is of no run that stays; it may be removed" in " ".join(
        run("prune").output.split()
    )
    assert killed.exists()
    run("prune", "--apply")
    assert not killed.exists()


def test_for_how_many_weeks_and_months_runs_stay_is_set_and_may_be_said_instead(
    with_keys: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
):
    def asked(weeks: int | None = None, months: int | None = None) -> tuple[int, int]:
        found = keeping.Backups(with_keys, BackupSettings(), engine, None).policy(weeks, months)
        assert (found.all_for, found.daily_for) == retention.Policy()[:2]
        return found.weekly_for.days, found.monthly_for.days

    assert asked() == (0, 0)
    monkeypatch.setenv("RUL_BACKUP_WEEKS", "4")
    monkeypatch.setenv("RUL_BACKUP_MONTHS", "6")
    assert asked() == (28, 186)
    assert asked(weeks=0) == (0, 186)
    assert asked(months=1) == (28, 31)
    planned, plan = [], retention.plan

    def noted(runs, policy, *more):
        planned.append(policy)
        return plan(runs, policy, *more)

    monkeypatch.setattr(retention, "plan", noted)
    run("now")
    run("prune")
    run("prune", "--weeks", "1", "--months", "0")
    assert [(one.weekly_for.days, one.monthly_for.days) for one in planned] == [(28, 186), (7, 0)]
    monkeypatch.setenv("RUL_BACKUP_WEEKS", "-1")
    assert "RUL_BACKUP_WEEKS" in refused("prune")


def test_where_the_clock_jumped_nothing_goes_until_a_person_says_that_it_is_right(
    with_keys: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
):
    assert "has no backup yet" in refused("prune", "--apply", "--clock-is-right")
    for _ in range(2):
        run("now")

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=40)

    monkeypatch.setattr("rul_cli.backup.datetime", Later)
    assert "the clock was set forward; nothing is let go" in refused("prune", "--apply")
    told = run("prune", "--clock-is-right").output
    assert told.splitlines() == ["2 stays: the newest", "1 may go"]
    assert "nothing is let go" in refused("prune")  # it was told and not applied
    assert "1 went" in run("prune", "--apply", "--clock-is-right").output
    assert run("prune", "--apply").output.splitlines() == ["2 stays: the newest"]
    confirmed = backup_rows.clock_confirmed(engine)
    assert confirmed is not None
    run("prune", "--apply", "--clock-is-right")
    again = backup_rows.clock_confirmed(engine)
    assert again is not None
    assert (again.number, confirmed.number) == (2, 2)
    assert again.confirmed_at > confirmed.confirmed_at


def test_a_full_disk_is_found_before_anything_is_written(
    with_keys: Path, monkeypatch: pytest.MonkeyPatch
):
    run("now")
    before = sorted((with_keys / "backups").rglob("*"))
    monkeypatch.setattr(FolderStore, "free_bytes", lambda _: 10)
    assert "make room, or let runs go" in refused("now")
    assert sorted((with_keys / "backups").rglob("*")) == before


def test_a_run_that_a_drill_restored_from_beyond_the_machine_stays_here_too(
    with_keys: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(3):
        run("now")
    for number, differences in ((1, ()), (2, ("table x is missing",))):
        backup_rows.record_proof(
            engine,
            keeping.OFF_SITE,
            backup_rows.RestoreProof(
                number=number, proven_at=datetime.now(UTC), seconds=1.0, differences=differences
            ),
        )
    short = retention.Policy(all_for=timedelta(0), daily_for=timedelta(0))
    monkeypatch.setattr(keeping, "Policy", lambda **_: short)
    told = run("prune").output.splitlines()
    assert told == [
        "1 stays: among the newest that a drill restored", "3 stays: the newest", "2 may go",
    ]  # fmt: skip


def test_a_run_is_found_also_where_other_manifests_are_damaged(with_keys: Path):
    made = [json.loads(run("now", "--json").output)["run"] for _ in range(3)]
    first, second, third = sorted((with_keys / "backups" / "manifests").iterdir())
    whole = first.read_bytes()
    first.write_bytes(b"x" + whole[1:])
    assert json.loads(run("drill", "--json").output)["run"] == made[2]
    assert json.loads(run("drill", "--run", "2", "--json").output)["run"] == made[1]
    told = refused("drill", "--run", made[0])
    assert f"has no run '{made[0]}'; the newest is {made[2]}" in told
    assert f"{first}: it is not signed by this platform's key" in told
    assert f"{first}: it is not signed" in refused("list")
    first.write_bytes(whole)
    third.write_bytes(b"x" + third.read_bytes()[1:])
    told = refused("drill")
    assert f"{third}: it is not signed by this platform's key, or was changed afterwards; name" in (
        told
    )
    assert json.loads(run("drill", "--run", made[1], "--json").output)["run"] == made[1]
    assert second.exists()


def test_damaged_files_leave_the_database_empty_and_an_unreachable_one_leaves_no_files(
    with_keys: Path, elsewhere: str
):
    first = json.loads(run("now", "--json").output)["run"]
    (with_keys / "fleets" / "pumps.toml").write_text("name = 'pumps' # changed\n")
    second = json.loads(run("now", "--json").output)["run"]
    (path,) = (with_keys / "backups" / "runs" / second).glob("models*")
    path.write_bytes(path.read_bytes()[:-1])
    back = with_keys / "back"
    into = ("--database", elsewhere, "--files", str(back))
    assert "models.tar.zst.age is damaged" in refused("restore", *into)
    assert not back.exists()
    nowhere = ("--database", "postgresql://127.0.0.1:9/nothing", "--files", str(back))
    assert "127.0.0.1:9" in refused("restore", "--run", first, *nowhere)
    assert not back.exists()
    run("restore", "--run", first, *into)


def test_files_that_do_not_fit_are_found_before_the_database_is_restored(
    with_keys: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
):
    run("now")
    into = ("--database", elsewhere, "--files", str(with_keys / "back"))
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
        assert "MB free, and restoring into back needs" in refused("restore", *into)
    run("restore", *into)


def test_another_platforms_store_is_not_written_to(with_keys: Path):
    run("now")
    (with_keys / "backup-keys" / "backup_system").write_text("another\n")
    assert "has backups of the platform plant, not of another" in refused("now")
    assert "1 runs" in run("verify").output


@pytest.fixture
def slotless(database_url: str) -> Generator[str]:
    """The database of a server which holds nothing back afterwards."""
    yield database_url
    engine = connect(database_url)
    with begin(engine) as connection:
        drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        connection.execute(sa.text(drop))
    engine.dispose()


def test_the_log_is_archived_in_the_foreground_and_recovered_without_a_database(
    with_keys: Path, slotless: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RUL_BACKUP_REPLICATION_URL", slotless)
    run("now")
    assert "does not lead to any moment" in refused(
        "recover", "--to", "latest", "--into", str(tmp_path / "back")
    )
    with Archiving(with_keys, tmp_path / "spool") as archiver:
        archiver.line()  # of the first segment: so the slot is there
        told = json.loads(run("now", "--json").output)
        (base,) = [one for one in told["artefacts"] if one["kind"] == "base"]
        while json.loads(archiver.line()).get("sealed", "") < base["facts"]["end_segment"]:
            pass
    assert archiver.process.returncode == 0
    assert "all as they were written" in run("verify", "--level", "content").output
    monkeypatch.setenv("RUL_DATABASE_URL", "postgresql://nowhere.invalid/lost")
    into = tmp_path / "back"
    assert f"{into} has all that was committed until 20" in run(
        "recover", "--to", "latest", "--into", str(into)
    ).output.replace("\n", " ")
    assert (into / "PG_VERSION").read_text() == "16\n"
    assert "has no base from before" in refused(
        "recover", "--to", "2026-01-01T00:00:00Z", "--into", str(tmp_path / "other")
    )
    for text, problem in (("yesterday", "is no moment"), ("2026-01-01T00:00:00", "has no zone")):
        told = run("recover", "--to", text, "--into", str(tmp_path / "other"), code=2).output
        assert problem in told


def test_a_restore_that_was_killed_before_its_folder_was_there_goes_on(
    with_keys: Path, elsewhere: str
):
    run("now")
    back = with_keys / "back"
    into = ("--database", elsewhere, "--files", str(back))
    run("restore", *into)
    half = with_keys / f".back.{'0a' * 16}.tmp"
    back.rename(half)  # as a kill leaves it
    assert "its database is back already" in run("restore", *into).output
    assert (back / "models").is_dir()
    assert not half.exists()
    back.rename(half)
    engine = connect(elsewhere)
    with begin(engine) as connection:
        connection.execute(sa.text("INSERT INTO units (fleet, unit) VALUES ('pumps', 'new')"))
    engine.dispose()
    assert "is not empty" in refused("restore", *into)
    assert half.exists()


def test_what_is_restored_otherwise_than_it_was_kept_is_told_and_so_is_a_champion_that_errs(
    with_keys: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
):
    run("now")
    into = ("--database", elsewhere, "--files", str(with_keys / "back"))
    with monkeypatch.context() as otherwise:
        otherwise.setattr(fingerprints, "differences", lambda *_: ["table units has one more"])
        told = refused("restore", *into)
    assert "was restored otherwise than it was kept: table units has one more" in told
    assert not (with_keys / "back").exists()
    engine = connect(elsewhere)
    with begin(engine) as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    engine.dispose()
    said = [Golden("pumps", "v1", is_sound=False, told="it says 4")]
    monkeypatch.setattr(golden, "check", lambda *_: said)
    told = refused("restore", *into)
    assert (
        "is restored, and the champion of fleet pumps does not answer as it did: it says 4" in told
    )
    assert (with_keys / "back" / "models").is_dir()


class Archiving:
    """``rul backup archive`` in a process of its own."""

    def __init__(self, root: Path, spool: Path) -> None:
        command = [str(Path(sys.executable).with_name("rul")), "backup", "archive"]
        options = ["--root", str(root), "--spool", str(spool), "--timeout", "1.5"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the archiver ended"
        return line
