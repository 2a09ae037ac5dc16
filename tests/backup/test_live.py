"""A run takes the place of what lives: all of it or nothing, and what was there before stays."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import redis
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from rul_backup import fingerprints, golden, keeping, live, runs, scratch, swapping, wal
from rul_backup.golden import Golden
from rul_backup.keeping import Backups
from rul_backup.live import LiveRestore, Platform
from rul_backup.reading import BackupSettings, StoreReader, reading_keys_of
from rul_backup.runs import Sealed
from rul_core.errors import StoreError
from rul_store import files
from rul_store.database import begin, connect

THEN = {
    "fleets/pumps.toml": "then",
    "fleets/gone.toml": "only then",
    "models/pumps/v1/model": "bundle 1",
    "models/pumps/v1/card": "of bundle 1",
    "models/pumps/live.json": "v1",
    "models/gone/v1/model": "only then",
}
NOW = {
    "fleets/pumps.toml": "now",
    "fleets/new.toml": "only now",
    "models/pumps/v1/model": "damaged ",
    "models/pumps/v1/card": "of bundle 1",
    "models/pumps/v2/model": "bundle 2",
    "models/pumps/live.json": "v2",
    "models/new/v1/model": "only now",
}


class House(NamedTuple):
    """A platform that has gone on since a backup of it."""

    root: Path
    url: str
    redis_url: str
    backups: Backups
    run: Sealed
    told: list[tuple[str, float | None]]

    @property
    def admin_url(self) -> str:
        """Of the server's superuser."""
        return sa.make_url(self.url).set(username="postgres").render_as_string(hide_password=False)

    def restorer(self, **others: str | None) -> LiveRestore:
        given = {
            "root": self.root, "url": self.url, "admin_url": self.admin_url,
            "redis_url": self.redis_url, "system": "plant",
        }  # fmt: skip
        platform = Platform(**{**given, **others})  # ty: ignore[invalid-argument-type]
        return LiveRestore(
            platform,
            lambda run: self.backups.make(datetime.now(UTC), before_restore_of=run),
            lambda *step: self.told.append(step),
        )

    def restore(self, run: Sealed | None = None, **others: str | None) -> live.Journal:
        return self.restorer(**others).restore(self.asked(run or self.run))

    def asked(self, run: Sealed) -> live.Asked:
        return live.Asked(self.backups.store, run, self.backups._identities())

    @property
    def reader(self) -> StoreReader:
        settings = BackupSettings(backup_keys=self.backups.keys_folder)
        keys = reading_keys_of(self.root, settings)
        return StoreReader(self.backups.store, keys, lambda *step: self.told.append(step))

    def units(self, name: str | None = None) -> list[str]:
        url = sa.make_url(self.url)
        engine = connect((url.set(database=name) if name else url).render_as_string(False))
        with begin(engine) as connection:
            found = connection.execute(sa.text("SELECT unit FROM units")).scalars().all()
        engine.dispose()
        return sorted(found)

    def databases(self) -> list[str]:
        """The test's own, and what a restore makes beside it."""
        own = str(sa.make_url(self.url).database)
        beside = live._prefix_of(own)
        return [
            name
            for name in self.restorer()._databases()
            if name == own or name.startswith(f"{beside}_")
        ]

    def files(self) -> dict[str, str]:
        return {
            path.relative_to(self.root).as_posix(): path.read_text()
            for folder in ("models", "fleets")
            for path in (self.root / folder).rglob("*")
            if path.is_file() and "/." not in path.relative_to(self.root).as_posix()
        }

    @property
    def is_as_it_was(self) -> bool:
        """Nothing of a restore is left."""
        hidden = [*self.root.glob("*/.rul_*"), *self.root.glob(".restoring.json")]
        return (
            self.units() == ["now"] and self.files() == NOW and not hidden
            and len(self.databases()) == 1
        )  # fmt: skip


def put(root: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def insert(url: str, statement: str) -> None:
    engine = connect(url)
    with begin(engine) as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


@pytest.fixture
def house(tmp_path: Path, database_url: str, redis_url: str) -> Generator[House]:
    root = tmp_path / "data"
    put(root, THEN)
    engine = connect(database_url)
    insert(database_url, "INSERT INTO units (fleet, unit) VALUES ('pumps', 'then')")
    backups = Backups(root, BackupSettings(), engine, redis_url)
    backups.make_keys("plant")
    run = backups.make(datetime.now(UTC))
    insert(database_url, "UPDATE units SET unit = 'now'")
    for name in THEN:
        (root / name).unlink()
    (root / "models/gone/v1").rmdir()
    (root / "models/gone").rmdir()
    put(root, NOW)
    made = House(root, database_url, redis_url, backups, run, [])
    yield made
    engine.dispose()
    live_name = sa.make_url(database_url).database
    for name in made.databases():
        if name != live_name:
            made.restorer()._drop(name)


def test_what_lives_is_exchanged_and_stays_beside_until_it_is_forgotten(house: House):
    with redis.Redis.from_url(house.redis_url) as client:
        client.mset({"rul:life:1:pumps:x:1:a": "state", "rul:limit:read:me": "3"})
    insert(
        house.url,
        f"GRANT CONNECT ON DATABASE {sa.make_url(house.url).database} TO rul_serving_test",
    )
    idle = connect(house.url)
    with idle.connect() as somebody:
        somebody.execute(sa.text("SELECT 1"))
        journal = house.restore()
        with pytest.raises(OperationalError, match=r"terminating|closed"):
            somebody.execute(sa.text("SELECT 1"))
        somebody.invalidate()
    with idle.connect() as somebody:
        assert somebody.execute(sa.text("SELECT unit FROM units")).scalar_one() == "then"
        rights = somebody.execute(sa.text(live._RIGHTS), {"name": idle.url.database}).all()
        assert ("CONNECT", "rul_serving_test") in {tuple(each) for each in rights}
    idle.dispose()
    assert house.files() == THEN
    (before,) = {*house.databases()} - {sa.make_url(house.url).database}
    assert before.endswith(f"_before_{house.run.manifest.run.lower()}")
    assert house.units(before) == ["now"]
    aside = {
        path.relative_to(house.root / top / f".rul_before_{journal.run}").as_posix(): (
            path.read_text()
        )
        for top in ("models", "fleets")
        for path in (house.root / top / f".rul_before_{journal.run}").rglob("*")
        if path.is_file()
    }
    assert aside == {
        "pumps.toml": "now", "new.toml": "only now", "pumps/v1/model": "damaged ",
        "pumps/v1/card": "of bundle 1", "pumps/v2/model": "bundle 2", "pumps/live.json": "v2",
        "new/v1/model": "only now",
    }  # fmt: skip
    with redis.Redis.from_url(house.redis_url) as client:
        assert client.keys() == [b"rul:limit:read:me"]
    steps = [what for what, seconds in house.told if seconds is not None]
    assert steps == [
        "what is here now kept", "an empty database beside", "the dump restored and compared",
        "it migrated", "models and fleets staged", "champions tried", "bundles added",
        "databases exchanged", "the other files exchanged", "champions told to the models' folder",
        "states of units forgotten by Redis",
    ]  # fmt: skip
    # The way back: the backup that was made of it.
    with pytest.raises(StoreError, match="is still there, as the database"):
        house.restore()
    gone = house.restorer().forget()
    assert before in gone
    assert len(gone) == 3
    assert house.databases() == [sa.make_url(house.url).database]
    assert house.restorer().forget() == []
    safety = house.backups.find(journal.safety_run)
    house.restore(safety)
    assert house.units() == ["now"]
    assert house.files() == NOW


def test_over_a_platform_that_has_nothing_yet_no_backup_of_it_is_made(house: House):
    insert(house.url, "DELETE FROM units")
    insert(house.url, "DELETE FROM backup_runs")
    for name in ("models", "fleets"):
        shutil.rmtree(house.root / name)
    assert house.restore().safety_run == ""
    assert ("nothing is here yet, so no backup of it is made", None) in house.told
    assert house.units() == ["then"]
    assert house.files() == THEN


def test_a_run_of_another_platform_or_a_newer_version_is_refused(house: House):
    with pytest.raises(StoreError, match="is of the platform plant, and this is mine"):
        house.restore(system="mine")
    told = house.run.manifest
    newer = msgspec.structs.replace(told, versions={**told.versions, "schema": "9999"})
    with pytest.raises(StoreError, match="is at revision 9999, and this version of the platform"):
        house.restore(house.run._replace(manifest=newer))
    without = msgspec.structs.replace(told, artefacts=told.artefacts[1:])
    with pytest.raises(StoreError, match=r"has no platform\.dump; choose another"):
        house.restore(house.run._replace(manifest=without))
    assert house.told == []
    assert house.is_as_it_was


def test_of_a_run_without_models_those_that_live_stay(house: House):
    told = house.run.manifest
    without = [each for each in told.artefacts if each.name != "models.tar"]
    manifest = msgspec.structs.replace(told, artefacts=tuple(without))
    house.restore(house.run._replace(manifest=manifest))
    assert house.units() == ["then"]
    assert house.files() == NOW


@pytest.mark.parametrize("name", ["landing/a.csv", "models"])
def test_a_run_of_other_files_than_models_and_fleets_is_refused(tmp_path: Path, name: str):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as made:
        made.addfile(tarfile.TarInfo(name))
    packed.seek(0)
    with pytest.raises(StoreError, match=f"has '{name}', which is no model or fleet"):
        swapping.stage(packed, tmp_path)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "fleets", tmp_path / "models"]


@pytest.mark.parametrize("what", ["platform.dump", "models.tar"])
def test_a_damaged_run_changes_nothing(house: House, what: str):
    (path,) = (house.root / "backups" / "runs").rglob(f"{what}*")
    content = path.read_bytes()
    path.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    with pytest.raises(StoreError, match="is damaged"):
        house.restore()
    assert house.is_as_it_was


def test_a_database_that_comes_back_otherwise_is_not_taken(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fingerprints, "differences", lambda *_: ["table x has 1"])
    with pytest.raises(StoreError, match="was restored otherwise than it was kept: table x has 1"):
        house.restore()
    assert house.is_as_it_was


def test_a_champion_that_answers_otherwise_is_not_taken_unless_it_is_asked_for(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    found = [Golden("pumps", "v1", is_sound=False, told="at cycle 3 it says 4")]
    monkeypatch.setattr(golden, "check", lambda *_: found)
    named = house.run.manifest.run
    told = rf"as it did: at cycle 3 it says 4; .* with --run {named} --despite-golden"
    with pytest.raises(StoreError, match=told):
        house.restore()
    assert house.is_as_it_was
    house.restorer().restore(house.asked(house.run), despite_golden=True)
    assert ("fleet pumps, v1: at cycle 3 it says 4", None) in house.told
    assert house.units() == ["then"]


@pytest.mark.parametrize("failure", [StoreError("no room"), KeyboardInterrupt()])
def test_after_one_that_failed_the_same_command_restores_the_same_run_and_not_what_was_there(
    house: House, monkeypatch: pytest.MonkeyPatch, failure: BaseException
):
    def fail(*_: object) -> None:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(swapping, "stage", fail)
        for _ in range(2):
            with pytest.raises(type(failure)):
                house.restorer().restore(house.reader.asked(None))
    assert house.is_as_it_was
    named = house.run.manifest.run
    assert house.told[-1] == (
        f"what lives is as it was; --run {named} asks for the same again",
        None,
    )
    *_, first, second = [one.manifest for one in house.reader.there()]
    assert first.made_before_restore_of == second.made_before_restore_of == named
    house.told.clear()
    assert house.restorer().restore(house.reader.asked(None)).run == named
    assert house.units() == ["then"]
    assert house.told[0] == (
        f"the run {second.run} was made before a restore of {named}, and is passed over "
        f"(--run {second.run} names it)",
        None,
    )
    assert house.told[2] == (
        f"restores the run {named}, number 1, of {house.run.manifest.started_at:%Y-%m-%d %H:%M} "
        "UTC",
        None,
    )
    house.restorer().forget()
    house.restorer().restore(house.reader.asked(first.run))
    assert house.units() == ["now"]


def test_where_every_run_was_made_before_a_restore_one_must_be_named(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    made = house.backups.make(datetime.now(UTC), before_restore_of="another")
    runs.let_go(house.backups.store, house.run, house.backups._maker().signing_key)
    with pytest.raises(StoreError, match=r"no runs but such as were made before restores; name on"):
        house.reader.find(None, to_restore=True)
    assert house.reader.find(None) == made  # to look at, or for a drill


def test_too_little_room_is_found_before_anything_is_unpacked(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    true = live.shutil.disk_usage
    monkeypatch.setattr(
        live.shutil, "disk_usage",
        lambda path: true(path)._replace(free=10) if path == house.root / "models" else true(path),
    )  # fmt: skip
    with pytest.raises(StoreError, match="MB free, and restoring models needs"):
        house.restore()
    assert house.is_as_it_was
    assert house.told == []  # not even a backup of what lives was made


def test_a_database_that_does_not_fit_where_the_server_is_here_is_found_before_anything_is_done(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    true, needed = live.files.shutil.disk_usage, house.asked(house.run).needed_bytes

    def used(path: Path) -> object:
        is_the_servers = (path / "postmaster.pid").exists()
        return true(path)._replace(free=needed - 1) if is_the_servers else true(path)

    monkeypatch.setattr(live.files.shutil, "disk_usage", used)
    with pytest.raises(StoreError, match="MB free, and the database beside the one that lives"):
        house.restore()
    assert house.is_as_it_was
    assert house.told == []


def test_a_user_who_may_make_no_database_is_told(house: House):
    url = sa.make_url(house.url).set(username="rul_serving_test")
    with pytest.raises(StoreError, match=r"'rul_serving_test' may not: CREATE DATABASE.*ADMIN_URL"):
        house.restore(admin_url=url.render_as_string(hide_password=False))
    # Who may not make one may not remove one either: what it began is forgotten by another.
    house.restorer().forget()
    assert house.is_as_it_was


def test_an_owner_who_may_make_nothing_is_helped_by_an_administrator(
    house: House, database_url: str
):
    name = f"{str(sa.make_url(database_url).database)[: live._PREFIX_LENGTH]}_owned"
    owner = sa.make_url(database_url).set(username="rul_owner_test", database=name)
    admin = connect(database_url).execution_options(isolation_level="AUTOCOMMIT")
    with begin(admin) as connection:
        if not connection.execute(
            sa.text("SELECT FROM pg_roles WHERE rolname = 'rul_owner_test'")
        ).all():
            connection.execute(sa.text("CREATE ROLE rul_owner_test LOGIN"))
        connection.execute(sa.text(f"CREATE DATABASE {name} OWNER rul_owner_test"))
        connection.execute(sa.text(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC"))
    admin.dispose()
    url = owner.render_as_string(hide_password=False)
    owned = house._replace(url=url)
    owned.restore()
    assert owned.units() == ["then"]
    engine = connect(url)
    with begin(engine) as connection:
        rights = connection.execute(sa.text(live._RIGHTS), {"name": name}).all()
        owners = connection.execute(
            sa.text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        )
        assert owners.scalars().all() == ["rul_owner_test"]
    engine.dispose()
    assert {each.grantee for each in rights} == {"rul_owner_test"}


def test_where_redis_does_not_answer_the_rest_is_done_and_the_same_command_goes_on(house: House):
    other = house.backups.make(datetime.now(UTC))
    with pytest.raises(StoreError, match=r"Redis does not forget .*by the same command"):
        house.restore(redis_url="redis://127.0.0.1:9")
    assert house.units() == ["then"]
    with pytest.raises(StoreError, match="is on its way, or was interrupted there; let"):
        house.restorer().forget()
    named = house.run.manifest.run
    told = rf"was interrupted, and another is asked .*; let the first go on \(--run {named}\)$"
    with pytest.raises(StoreError, match=told):
        house.restore(other)
    house.told.clear()
    house.restore()
    assert house.told[0][0] == "bundles added"
    assert house.files() == THEN
    assert live.interrupted(house.root) is None


def test_forgetting_that_was_cut_short_goes_on_and_until_then_the_run_is_not_restored_again(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    house.restore()
    with monkeypatch.context() as patched:

        def killed(_: Path) -> None:
            raise KeyboardInterrupt

        patched.setattr(live.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            house.restorer().forget()
    put(house.root, NOW)
    with pytest.raises(StoreError, match="is still there, as the database"):
        house.restore()
    assert len(house.restorer().forget()) == 3
    house.restore()
    assert house.files() == THEN


def test_sessions_that_do_not_end_hinder_it_and_change_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    idle = connect(house.url)
    with monkeypatch.context() as patched, idle.connect() as somebody:
        patched.setattr(live, "_END_SESSIONS", "SELECT CAST(:names AS text[])")
        somebody.execute(sa.text("SELECT 1"))
        with pytest.raises(StoreError, match=r"is being accessed by other users .*; stop who uses"):
            house.restore()
    idle.dispose()
    assert house.units() == ["now"]
    house.restore()
    assert house.units() == ["then"]


@pytest.mark.parametrize("is_ready", [True, False])
def test_another_moment_of_the_run_does_not_go_on_with_the_database_of_the_first(
    house: House, is_ready: bool
):
    first, named = datetime(2026, 11, 29, 8, 30, tzinfo=UTC), house.run.manifest.run
    journal = live.Journal(
        run=named, sha256=house.run.sha256, is_ready=is_ready, to="2026-11-29T08:30:00+00:00"
    )
    files.write_json(house.root / live.JOURNAL, journal)
    told = rf"let the first go on \(--run {named} --to 2026-11-29T08:30:00\+00:00\)" + (
        "$" if is_ready else ", or forget it"
    )
    for moment in (None, live.Moment(None, ()), live.Moment(first + timedelta(seconds=1), ())):
        with pytest.raises(StoreError, match=told):
            house.restorer().restore(house.asked(house.run)._replace(moment=moment))
    assert live.interrupted(house.root) == journal
    if is_ready:
        with pytest.raises(StoreError, match=rf"let `.* --run {named} --to 2026-11-29T08.*` go on"):
            house.restorer().forget()
        there = first.astimezone(timezone(timedelta(hours=1)))  # the same, as told elsewhere
        asked = house.asked(house.run)._replace(moment=live.Moment(there, ()))
        assert house.restorer().restore(asked).to == journal.to


def test_a_journal_that_is_damaged_is_told(house: House):
    (house.root / ".restoring.json").write_text("{")
    with pytest.raises(StoreError, match=r"\.restoring\.json is damaged"):
        house.restore()


def test_one_that_was_killed_early_is_forgotten_or_gone_on_with(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    other = house.backups.make(datetime.now(UTC))
    journal = live.Journal(run=house.run.manifest.run, sha256=house.run.sha256, safety_run="kept")
    files.write_json(house.root / live.JOURNAL, journal)
    with pytest.raises(StoreError, match="or forget it"):
        house.restore(other)
    # The platform has lived on since it was killed, so that is kept anew.
    insert(house.url, "INSERT INTO units (fleet, unit) VALUES ('pumps', 'since')")
    safety = house.backups.find(house.restore().safety_run)
    (dump,) = [one for one in safety.manifest.artefacts if one.name == "platform.dump"]
    assert dump.facts["tables"]["public.units"]["rows"] == 2
    house.restorer().forget()
    files.write_json(house.root / live.JOURNAL, journal)
    house.restorer().forget()
    assert live.interrupted(house.root) is None


def test_a_bundle_that_differs_is_there_until_its_copy_can_take_its_place(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    missing, true = [], shutil.copytree

    def copied(source: Path, target: Path, *, dirs_exist_ok: bool) -> Path:
        if not (house.root / "models/pumps/v1").is_dir():
            missing.append(target)
        return true(source, target, dirs_exist_ok=dirs_exist_ok)

    monkeypatch.setattr(swapping.shutil, "copytree", copied)
    house.restore()
    assert house.files() == THEN
    assert missing == []


@given(st.text("aé漢", max_size=63), st.text("aé漢", max_size=63))
def test_databases_of_a_server_have_names_of_their_own_for_what_is_beside_them(one, other):
    first, second = live._prefix_of(one), live._prefix_of(other)
    assert (first == second) == (one == other)
    assert len(f"{first}_before_20260101t000000z-000000".encode()) <= 63


# Children restore, and are killed where the second half of the script says.
RESTORING = """
    import json, os, signal, sys
    from datetime import UTC, datetime
    from pathlib import Path
    import sqlalchemy as sa
    from rul_backup import drill, live, recovery
    from rul_backup.keeping import Backups
    from rul_backup.reading import BackupSettings, StoreReader, reading_keys_of
    from rul_store.database import begin, connect

    root, url, run, *more = sys.argv[1:]

    def restore(tell=lambda *_: None, until=None):
        engine, settings = connect(url), BackupSettings()
        backups = Backups(Path(root), settings, engine, None)
        reader = StoreReader(backups.store, reading_keys_of(Path(root), settings))
        asked = reader.asked(run, until and reader.moment(until, Path(more[1])))
        platform = live.Platform(Path(root), url, url, None, "plant")
        keep = lambda run: backups.make(datetime.now(UTC), before_restore_of=run)
        live.LiveRestore(platform, keep, tell).restore(asked)

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def ended_in_a_child(work):
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        return os.waitpid(child, 0)[1] != 0

    def seen():
        engine = connect(url)
        with begin(engine) as connection:
            units = connection.execute(sa.text("SELECT unit FROM units")).scalars().all()
        engine.dispose()
        journal = live.interrupted(Path(root))
        return {
            "units": units,
            "is_ready": journal is not None and journal.is_ready,
            "safety": journal and journal.safety_run,
            "files": {
                path.relative_to(root).as_posix(): path.read_text()
                for folder in ("models", "fleets")
                for path in Path(root, folder).rglob("*")
                if path.is_file() and "/." not in path.relative_to(root).as_posix()
            },
        }
"""
# At the k-th change that it makes to files of the data root (its backups are looked at in
# test_killed) or to databases, first while it prepares, then on its way to the end.
AT_EVERY_STEP = """
    kill_at, steps = None, 0

    def step():
        global steps
        if kill_at:
            steps += 1
            if steps == kill_at:
                die()

    def count(event, arguments):
        if event not in EVENTS or not str(arguments[0]).startswith(root):
            return
        if str(arguments[0]).startswith((f"{root}/backup", f"{root}/.restoring.lock")):
            return
        if event != "open" or not str(arguments[1]).startswith("r"):
            step()

    def executed(connection, cursor, statement, *_):
        if " DATABASE " in statement:
            step()

    EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
    sys.addaudithook(count)
    for moment in ("before_cursor_execute", "after_cursor_execute"):
        sa.event.listen(sa.Engine, moment, executed)

    def restore_killed_at():
        global kill_at
        kill_at = at
        restore()

    is_ready = False
    at = 1
    while True:
        killed = ended_in_a_child(restore_killed_at)
        state = seen()
        print(json.dumps({"killed": killed, "at": at, **state}), flush=True)
        if not killed:
            break
        at += 1
        if state["is_ready"] and not is_ready:
            is_ready, at = True, 1
"""
# Once a step is told, or within what takes long.
AT_SOME_STEPS = """
    until = datetime.fromisoformat(more[0])

    def executed(connection, cursor, statement, *_):
        if statement.startswith("ALTER DATABASE"):
            die()

    def restore_killed_at():
        if at == "replaying":
            recovery.PostgresServer.wait_until_ready = die
        if at == "copying":
            drill.shutil.copyfileobj = die
        if at == "exchanging":
            sa.event.listen(sa.Engine, "after_cursor_execute", executed)
        restore(lambda what, _: die() if what == at else None, until)

    for at in more[2:]:
        killed = ended_in_a_child(restore_killed_at)
        print(json.dumps({"killed": killed, "at": at, **seen()}), flush=True)
"""


NEEDED = {
    "now": (
        "models/pumps/v2/model", "models/new/v1/model", "fleets/pumps.toml",
        "models/pumps/live.json",
    ),
    "then": ("models/pumps/v1/model", "models/gone/v1/model"),
}  # fmt: skip
"""What the database of the time names."""


def states_of(house: House, script: str, *more: str) -> list[dict[str, Any]]:
    """What children left, each by what was seen after it."""
    script = textwrap.dedent(RESTORING) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", script, house.root, house.url, house.run.manifest.run, *more],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    states = [json.loads(line) for line in done.stdout.splitlines()]
    assert [state["killed"] for state in states] == [True] * (len(states) - 1) + [False]
    return states


def test_killed_at_any_step_the_old_lives_or_the_new_and_the_same_command_goes_on(house: House):
    states = states_of(house, AT_EVERY_STEP)
    preparing = [state for state in states[:-1] if not state["is_ready"]]
    assert len(preparing) > 25
    for state in preparing:
        assert (state["units"], state["files"]) == (["now"], NOW)
    going = [state for state in states[:-1] if state["is_ready"]]
    assert len(going) > 8
    for state in going:
        (unit,) = state["units"]
        had = NOW if unit == "now" else THEN
        assert {name: had[name] for name in NEEDED[unit]}.items() <= state["files"].items()
    order = [state["units"] for state in states]
    assert order == sorted(order)  # "now", then "then"
    assert len({state["safety"] for state in going}) == 1  # of the last that prepared
    assert states[-1]["files"] == THEN
    assert live.interrupted(house.root) is None
    assert not [*house.root.glob("*/.*rul_restoring*")]


# --- a moment
RECOVERING = (
    "the base brought", "replaying", "the server recovered by its log", "copying",
    "the copy compared", "champions tried",
)  # fmt: skip
GOING_ON = ("bundles added", "exchanging", "databases exchanged", "the other files exchanged")


@pytest.fixture
def archived(house: House, tmp_path: Path) -> tuple[House, datetime]:
    """A moment between what was then and what is now, to which a base and the log lead."""
    settings = BackupSettings(backup_replication_url=SecretStr(house.admin_url))
    engine, stop = connect(house.url), threading.Event()
    archiver = keeping.archiver_of(
        house.root, settings, house.admin_url, tmp_path / "spool",
        tell=lambda **_: None, archive_timeout_seconds=1.0,
    )  # fmt: skip
    thread = threading.Thread(target=archiver.run, args=(stop,), kwargs={"look_seconds": 0.2})
    thread.start()
    try:
        for folder in ("models", "fleets"):
            shutil.rmtree(house.root / folder)
        put(house.root, THEN)
        insert(house.url, "UPDATE units SET unit = 'then'")
        run = Backups(house.root, settings, engine, None).make(datetime.now(UTC))
        insert(house.url, "UPDATE units SET unit = 'moment'")
        moment = now_of(engine)
        insert(house.url, "UPDATE units SET unit = 'now'")
        for folder in ("models", "fleets"):
            shutil.rmtree(house.root / folder)
        put(house.root, NOW)
        store, keys = house.backups.store, house.backups._verify_keys()
        ends = time.monotonic() + 120
        while (
            reached := wal.reached(wal.read(store, name, keys) for name in wal.names(store))
        ) is None or reached < moment:
            assert time.monotonic() < ends, f"{moment} was never sealed"
            time.sleep(0.1)
    finally:
        stop.set()
        thread.join()
        with begin(engine) as connection:
            drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            connection.execute(sa.text(drop))
        engine.dispose()
    return house._replace(run=run), moment


def now_of(engine: sa.Engine) -> datetime:
    with begin(engine) as connection:
        return connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()


def test_killed_on_its_way_to_a_moment_the_old_lives_or_the_new_and_the_same_command_goes_on(
    archived: tuple[House, datetime], tmp_path: Path
):
    house, moment = archived
    scratch_folder = tmp_path / "scratch"
    scratch_folder.mkdir(mode=0o711)
    try:
        states = states_of(
            house, AT_SOME_STEPS, moment.isoformat(), str(scratch_folder), *RECOVERING, *GOING_ON,
            "never",
        )  # fmt: skip
    finally:
        for left in scratch_folder.iterdir():
            scratch._end_servers(left)
    for state in states[: len(RECOVERING)]:
        assert (state["units"], state["files"], state["is_ready"]) == (["now"], NOW, False)
    for state in states[len(RECOVERING) : -1]:
        (unit,) = state["units"]
        assert unit == ("now" if state["at"] in GOING_ON[:2] else "moment")
        had = NOW if unit == "now" else THEN
        needed = NEEDED["now" if unit == "now" else "then"]
        assert {name: had[name] for name in needed}.items() <= state["files"].items()
        assert state["is_ready"]
    assert (states[-1]["units"], states[-1]["files"]) == (["moment"], THEN)
    assert live.interrupted(house.root) is None
    assert not [*house.root.glob("*/.*rul_restoring*")]
    assert len(house.databases()) == 2
