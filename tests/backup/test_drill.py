"""A database that was kept comes back as it was, and whoever finds it otherwise says so."""

import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import msgspec
import pytest
import sqlalchemy as sa

from rul_backup import drill, fingerprints, programs, redis_copy, snapshots
from rul_backup import scratch as scratch_server
from rul_backup.manifest import Kind
from rul_backup.runs import Run, Sealed
from rul_backup.sealing import Sums
from rul_backup.stores import FolderStore
from rul_core.errors import SettingsError, StoreError, Unavailable
from rul_store.database import begin, connect, create_database

from .conftest import Keys

NOW = datetime(2026, 11, 28, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "backups")


def kept(store: FolderStore, plant: Keys, url: str) -> Sealed:
    run = Run(store, plant.maker, NOW)
    snapshots.keep_database(run, url)
    return run.seal({"rul": "0.1.0"}, plant.verify, NOW)


def prove(store: FolderStore, plant: Keys, run: Sealed) -> tuple[str, ...]:
    (proof,) = drill.prove_databases(store, run, plant.identities)
    return proof.differences


def insert(connection: sa.Connection, unit: str) -> None:
    connection.execute(
        sa.text("INSERT INTO units (fleet, unit) VALUES ('pumps', :unit)"), {"unit": unit}
    )


def draw(connection: sa.Connection) -> int:
    """The next number of a sequence, which no snapshot holds back."""
    drawn = "SELECT nextval(pg_get_serial_sequence('readings', 'ingested_seq'))"
    return connection.execute(sa.text(drawn)).scalar_one()


def test_what_is_restored_is_what_was_there_while_others_went_on_writing(
    store: FolderStore, plant: Keys, engine: sa.Engine, database_url: str
):
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with begin(engine) as connection:
                insert(connection, f"unit-{number}")
                draw(connection)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        runs = [kept(store, plant, database_url) for _ in range(3)]
    finally:
        stop.set()
        writer.join()
    rows = [run.manifest.artefacts[0].facts["tables"]["public.units"]["rows"] for run in runs]
    assert 0 <= rows[0] < rows[1] < rows[2]
    for run in runs:
        assert prove(store, plant, run) == ()


@pytest.fixture
def scratch(database_url: str) -> Generator[Callable[[], str]]:
    admin = connect(database_url).execution_options(isolation_level="AUTOCOMMIT")

    def drop() -> None:
        with begin(admin) as connection:
            connection.execute(sa.text("DROP DATABASE IF EXISTS elsewhere WITH (FORCE)"))

    def make() -> str:
        return create_database(database_url, "elsewhere")

    drop()
    yield make
    drop()
    admin.dispose()


def test_a_row_more_or_less_or_another_is_told(
    store: FolderStore, plant: Keys, engine: sa.Engine, database_url: str, scratch
):
    with begin(engine) as connection:
        insert(connection, "a")
        insert(connection, "b")
    run = kept(store, plant, database_url)
    url = scratch()
    drill.restore_database(store, run, run.manifest.artefacts[0], url, plant.escrow)
    restored = connect(url)
    facts = run.manifest.artefacts[0].facts
    with begin(restored) as connection:
        assert fingerprints.differences(facts, fingerprints.of_database(connection)) == []
    for change in (
        "UPDATE units SET unit = 'c' WHERE unit = 'b'",
        "DELETE FROM units WHERE unit = 'c'",
        "INSERT INTO units (fleet, unit) VALUES ('pumps', 'd'), ('pumps', 'e')",
    ):
        with begin(restored) as connection:
            connection.execute(sa.text(change))
        with begin(restored) as connection:
            told = fingerprints.differences(facts, fingerprints.of_database(connection))
        assert len(told) == 1
        assert told[0].startswith("table public.units has")
    with begin(restored) as connection:
        connection.execute(sa.text("DROP TABLE units CASCADE"))
        connection.execute(sa.text("CREATE TABLE another (a int)"))
    with begin(restored) as connection:
        told = fingerprints.differences(facts, fingerprints.of_database(connection))
    restored.dispose()
    assert "table public.units is missing" in told
    assert "table public.another was not in the backup" in told


def test_a_sequence_that_went_on_between_the_figures_and_the_dump_is_as_it_was_kept(
    store: FolderStore, plant: Keys, engine: sa.Engine, database_url: str, monkeypatch
):
    true = programs.started

    @contextmanager
    def later(*arguments, **options):
        with begin(engine) as connection:
            draw(connection)
        with true(*arguments, **options) as process:
            yield process

    with begin(engine) as connection:
        stood = draw(connection)
    monkeypatch.setattr(programs, "started", later)
    run = kept(store, plant, database_url)
    monkeypatch.undo()
    sequences = run.manifest.artefacts[0].facts["sequences"]
    assert sequences["public.readings_ingested_seq_seq"] == stood
    assert prove(store, plant, run) == ()


def test_a_sequence_that_is_behind_is_told():
    def facts(stands: int | None) -> dict:
        return {"tables": {}, "sequences": {"public.seq": stands}}

    for before, after in ((None, None), (None, 1), (7, 7), (7, 9)):
        assert fingerprints.differences(facts(before), facts(after)) == []
    for before, after in ((7, 6), (7, None)):
        (told,) = fingerprints.differences(facts(before), facts(after))
        assert told == f"sequence public.seq has {after} where 7 was kept"


def test_a_database_that_has_something_is_not_restored_over(
    store: FolderStore, plant: Keys, database_url: str
):
    run = kept(store, plant, database_url)
    artefact = run.manifest.artefacts[0]
    with pytest.raises(StoreError, match="is not empty"):
        drill.restore_database(store, run, artefact, database_url, plant.identities)


def test_a_damaged_dump_leaves_nothing_behind(
    store: FolderStore, plant: Keys, engine: sa.Engine, database_url: str, tmp_path: Path, scratch
):
    with begin(engine) as connection:
        connection.execute(
            sa.text(
                "INSERT INTO units (fleet, unit) SELECT 'pumps', 'unit-' || n "
                "FROM generate_series(1, 20000) AS n"
            )
        )
    run = kept(store, plant, database_url)
    (path,) = (tmp_path / "backups" / "runs").rglob("*.age")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # in the last of its pieces: all before it is well
    path.write_bytes(content)
    url = scratch()
    with pytest.raises(StoreError, match=r"platform\.dump\.zst\.age is damaged"):
        drill.restore_database(store, run, run.manifest.artefacts[0], url, plant.identities)
    left = connect(url)
    with begin(left) as connection:
        tables = connection.execute(
            sa.text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        )
        assert tables.scalar_one() == 0
    left.dispose()


def test_another_dump_in_its_place_leaves_nothing_behind_however_late_that_is_seen(
    store: FolderStore, plant: Keys, database_url: str, scratch, monkeypatch
):
    run = kept(store, plant, database_url)
    artefact = run.manifest.artefacts[0]
    other = msgspec.structs.replace(
        artefact, sums=msgspec.structs.replace(artefact.sums, plain_sha256="0" * 64)
    )
    true = drill.unseal

    def unseal_slowly(stored, plain, by):
        sums = true(stored, plain, by)
        time.sleep(3)  # pg_restore is quicker where it has all
        return sums

    monkeypatch.setattr(drill, "unseal", unseal_slowly)
    url = scratch()
    with pytest.raises(StoreError, match="is not what was kept: its checksum differs"):
        drill.restore_database(store, run, other, url, plant.identities)
    left = connect(url)
    with begin(left) as connection:
        assert fingerprints.tables_of(connection) == []
    left.dispose()


def test_what_is_away_is_not_taken_for_damaged(store: FolderStore, plant: Keys):
    class Away(FolderStore):
        @contextmanager
        def reading(self, name: str) -> Generator[BinaryIO]:
            class Nothing(io.BytesIO):
                def read(self, *_: object) -> bytes:
                    raise Unavailable(f"{name} cannot be reached")

            yield Nothing()

    sums = Sums(plain_bytes=1, plain_sha256="", stored_bytes=1, stored_sha256="")
    with pytest.raises(Unavailable, match=r"^runs/a/b cannot be reached$"):
        drill.bring(Away(store.root), "runs/a/b", sums, io.BytesIO(), plant.identities)


def test_a_dump_that_fails_is_no_backup(store: FolderStore, plant: Keys, database_url: str):
    owner = connect(database_url)
    with begin(owner) as connection:
        connection.execute(sa.text("CREATE TABLE secret (a int)"))
        connection.execute(sa.text("REVOKE ALL ON secret FROM PUBLIC"))
    owner.dispose()
    run = Run(store, plant.maker, NOW)
    url = sa.make_url(database_url).set(username="rul_serving_test")
    with pytest.raises(Exception, match="permission denied"):
        snapshots.keep_database(run, url.render_as_string(hide_password=False))
    assert store.sizes() == {}
    with pytest.raises(StoreError, match="kept nothing, so it is not sealed"):
        run.seal({}, plant.verify, NOW)


def test_a_program_that_fails_half_way_is_no_backup_either(
    store: FolderStore, plant: Keys, database_url: str, tmp_path: Path, monkeypatch
):
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\necho half of it\necho no space left >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(programs, "path_of", lambda *_: str(program))
    run = Run(store, plant.maker, NOW)
    with pytest.raises(
        StoreError, match=r"^platform\.dump cannot be kept: pg_dump failed: no space left$"
    ):
        snapshots.keep_database(run, database_url)
    assert store.sizes() == {}


@pytest.mark.parametrize("rows", [1, 200_000])
def test_what_pg_restore_says_is_told_also_where_it_ends_before_its_input(
    store: FolderStore,
    plant: Keys,
    engine: sa.Engine,
    database_url: str,
    tmp_path: Path,
    scratch,
    monkeypatch,
    rows: int,
):
    with begin(engine) as connection:
        connection.execute(
            sa.text(
                "INSERT INTO units (fleet, unit) SELECT 'pumps', 'unit-' || n "
                "FROM generate_series(1, :rows) AS n"
            ),
            {"rows": rows},
        )
    run = kept(store, plant, database_url)
    program = tmp_path / "pg_restore"
    program.write_text("#!/bin/sh\necho no such extension >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(programs, "path_of", lambda *_: str(program))
    with pytest.raises(StoreError, match=r"cannot be restored: no such extension"):
        drill.restore_database(store, run, run.manifest.artefacts[0], scratch(), plant.identities)


def test_a_drill_leaves_nothing_where_it_restored(
    store: FolderStore, plant: Keys, database_url: str, tmp_path: Path
):
    run = kept(store, plant, database_url)
    folder = tmp_path / "scratch"
    folder.mkdir()
    folder.chmod(0o711)
    artefact = run.manifest.artefacts[0]
    with scratch_server.server(artefact.facts["server"], folder) as url:
        seen = list(folder.iterdir())
        drill.restore_database(store, run, artefact, url, plant.identities)
    assert len(seen) == 1
    assert list(folder.iterdir()) == []


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from rul_backup import scratch

    with scratch.server(15, Path(sys.argv[1])):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_drill_left_goes_with_the_next_and_its_server_too(tmp_path: Path):
    tmp_path.chmod(0o711)
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], check=False
    )
    assert child.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    server = Path("/proc", (left / "data" / "postmaster.pid").read_text().splitlines()[0])
    assert server.is_dir()
    with scratch_server.room(tmp_path) as room:
        assert {*tmp_path.iterdir()} == {left, room}  # too young to be told from one that begins
    hour_ago = time.time() - 3600
    with scratch_server.room(tmp_path) as held:
        for path in (left, held):
            os.utime(path, (hour_ago, hour_ago))
        with scratch_server.room(tmp_path) as room:
            assert {*tmp_path.iterdir()} == {held, room}
    ends = time.monotonic() + 20  # it has given up its folder, and is about to end
    while server.is_dir():
        assert time.monotonic() < ends, "its server runs on"
        time.sleep(0.05)


def test_what_is_not_a_drill_s_stays(tmp_path: Path):
    other = tmp_path / ".another.tmp"
    other.mkdir()
    os.utime(other, (0, 0))
    with scratch_server.room(tmp_path) as room:
        assert {*tmp_path.iterdir()} == {other, room}


def test_where_a_drill_has_too_little_room_it_says_so_before_it_begins(
    store: FolderStore, plant: Keys, database_url: str, tmp_path: Path, monkeypatch
):
    run = kept(store, plant, database_url)
    needed = 2 * run.manifest.artefacts[0].sums.plain_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    monkeypatch.setattr(scratch_server, "server", None)
    with pytest.raises(StoreError, match=rf"{tmp_path} has .* MB free, and the drill needs .*make"):
        drill.prove_databases(store, run, plant.identities, tmp_path)


def test_a_copy_of_redis_is_proved_in_the_folder_of_drills(
    store: FolderStore, plant: Keys, redis_url: str, tmp_path: Path, monkeypatch
):
    run = Run(store, plant.maker, NOW)
    snapshots.keep_redis(run, redis_url)
    sealed = run.seal({}, plant.verify, NOW)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    seen: list[Path] = []
    true = redis_copy.count_keys

    def count_keys(copy: BinaryIO, folder: Path) -> int:
        seen.append(folder)
        return true(copy, folder)

    monkeypatch.setattr(redis_copy, "count_keys", count_keys)
    (proved,) = drill.prove_redis(store, sealed, plant.identities, scratch)
    assert proved.differences == ()
    assert [folder.parent for folder in seen] == [scratch]
    assert [*scratch.iterdir()] == []


def test_a_run_of_a_newer_version_is_not_tried(
    store: FolderStore, plant: Keys, database_url: str, monkeypatch
):
    run = kept(store, plant, database_url)
    newer = msgspec.structs.replace(run.manifest, versions={"schema": "9999"})
    monkeypatch.setattr(scratch_server, "server", None)
    with pytest.raises(StoreError, match="is at revision 9999, and this version of the platform"):
        drill.prove_databases(store, run._replace(manifest=newer), plant.identities)


def test_a_drill_without_room_says_so(tmp_path: Path):
    with (
        pytest.raises(StoreError, match=r"the folder .*/nowhere, in which drills restore"),
        scratch_server.server(15, tmp_path / "nowhere"),
    ):
        pass
    with (
        pytest.raises(SettingsError, match="initdb of PostgreSQL 99 or newer is not here"),
        scratch_server.server(99, tmp_path),
    ):
        pass


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(scratch_server, "_OPTIONS", "-c no_such_setting=1")
    with (
        pytest.raises(StoreError, match=r"(?s)pg_ctl ended with 1; .*no_such_setting"),
        scratch_server.server(15),
    ):
        pass


def test_programs_ask_of_a_server_what_the_address_asks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGSSLMODE", "disable")
    told = programs.environment(
        "postgresql://me:secret@db.example:5433/rul?sslmode=verify-full&sslrootcert=/ca.pem"
        "&channel_binding=require&application_name=x"
    )
    assert {name: value for name, value in told.items() if name.startswith("PG")} == {
        "PGHOST": "db.example", "PGPORT": "5433", "PGUSER": "me", "PGPASSWORD": "secret",
        "PGDATABASE": "rul", "PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/ca.pem",
        "PGCHANNELBINDING": "require",
    }  # fmt: skip
    assert "PGSSLMODE" not in programs.environment("postgresql://me@db.example/rul")


def test_a_program_that_is_nowhere_is_told():
    told = r"pg_nothing of PostgreSQL 15 or newer is not here; install PostgreSQL's client"
    with pytest.raises(SettingsError, match=told):
        programs.path_of("pg_nothing", 15)
    with pytest.raises(SettingsError, match=r"newer is not here \(.*pg_dump is of \d+"):
        programs.path_of("pg_dump", 99)


def test_a_run_without_a_database_proves_nothing(store: FolderStore, plant: Keys, tmp_path: Path):
    run = Run(store, plant.maker, NOW)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a").write_text("a")
    assert snapshots.keep_models(run, tmp_path).kind is Kind.MODELS
    sealed = run.seal({}, plant.verify, NOW)
    with pytest.raises(StoreError, match="has no database; choose another"):
        drill.prove_databases(store, sealed, plant.identities)
