"""What was archived brings PostgreSQL back to any moment, and nothing else."""

import errno
import io
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from rul_backup import archiving as archiving_module
from rul_backup import programs, recovery, runs, snapshots, wal
from rul_backup.archiving import IN_FLIGHT, REGISTRY, Archiver
from rul_backup.manifest import Kind
from rul_backup.reading import ReadingKeys, StoreReader
from rul_backup.runs import Run, Sealed
from rul_backup.stores import FolderStore
from rul_backup.streams import Pace
from rul_backup.verification import Level, verify
from rul_core.errors import SettingsError, StoreError

from .conftest import Keys, keys_in
from .servers import SEGMENT_BYTES, Server, running, started

WAIT_SECONDS = 120.0


@pytest.fixture
def server(tmp_path: Path) -> Generator[Server]:
    with running(tmp_path / "server") as made:
        made.do("CREATE TABLE told (number serial, at timestamptz DEFAULT clock_timestamp())")
        yield made


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "backups")


class Archiving:
    """An archiver in a thread of its own, and what it told."""

    def __init__(self, archiver: Archiver, told: list[dict[str, Any]]) -> None:
        self.archiver, self.told = archiver, told

    @property
    def errors(self) -> list[str]:
        return [one["error"] for one in self.told if "error" in one]


@contextmanager
def archiving(
    store: FolderStore, plant: Keys, server: Server, spool: Path, timeout_seconds: float = 1.5
) -> Generator[Archiving]:
    told: list[dict[str, Any]] = []
    archiver = Archiver(
        store,
        plant.maker,
        plant.verify,
        server.url,
        spool,
        archive_timeout_seconds=timeout_seconds,
        tell=lambda **what: told.append(what),
    )
    stop = threading.Event()
    thread = threading.Thread(target=archiver.run, args=(stop,), kwargs={"look_seconds": 0.1})
    thread.start()
    try:
        yield Archiving(archiver, told)
    finally:
        stop.set()
        thread.join()


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


def told(metric: str) -> float:
    return REGISTRY.get_sample_value(metric) or 0.0


def cluster_of(server: Server) -> str:
    return snapshots.cluster_of(server.url)


def notes_of(store: FolderStore, plant: Keys, server: Server) -> list[wal.Noted]:
    return list(wal.following(store, plant.verify, cluster_of(server)))


def keep_base(store: FolderStore, plant: Keys, server: Server) -> Sealed:
    run = Run(store, plant.maker, datetime.now(UTC))
    snapshots.keep_base(run, server.url)
    return run.seal({}, plant.verify, datetime.now(UTC))


def now_of(server: Server) -> datetime:
    return server.ask("SELECT clock_timestamp()")[0][0]


def wait_until_sealed(store: FolderStore, plant: Keys, server: Server, moment: datetime) -> None:
    wait_for(lambda: (reached := wal.reached(notes_of(store, plant, server))) and reached >= moment)


def test_a_moment_in_the_middle_gives_exactly_the_rows_until_then(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    with archiving(store, plant, server, tmp_path / "spool") as seen:
        keep_base(store, plant, server)
        for _ in range(30):
            server.do("INSERT INTO told DEFAULT VALUES")
            time.sleep(0.1)
        server.do("INSERT INTO told SELECT FROM generate_series(1, 40000)")  # some segments of it
        last = now_of(server)
        server.do("INSERT INTO told DEFAULT VALUES")
        end = now_of(server)
        wait_until_sealed(store, plant, server, end)
    assert seen.errors == []
    rows = server.ask("SELECT number, at FROM told ORDER BY number")
    middle = rows[15].at  # the row itself was committed a little later
    for moment, name in ((middle, "middle"), (last, "last")):
        found = recovery.recover(
            store, plant.verify, plant.identities, moment, tmp_path / "back" / name
        )
        assert found.reaches_at == moment
        with started(tmp_path / "back", name) as back:
            there = back.ask("SELECT number, at FROM told ORDER BY number")
            assert there == [row for row in rows if row.at < moment]
            assert back.ask("SELECT pg_is_in_recovery()") == [(False,)]
    assert not (tmp_path / "back" / "middle" / "rul_wal").exists()
    with pytest.raises(StoreError, match="is there already; name a folder that is not"):
        recovery.recover(store, plant.verify, plant.identities, None, tmp_path / "back" / "last")


def test_whoever_asks_for_what_is_not_there_is_told_what_is(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    def refused(moment: datetime | None, told: str) -> None:
        with pytest.raises(StoreError, match=told):
            recovery.recover(store, plant.verify, plant.identities, moment, tmp_path / "back")
        assert not (tmp_path / "back").exists()

    refused(None, "has no base to recover from; runs keep one once RUL_BACKUP_REPLICATION_URL")
    run = keep_base(store, plant, server)
    base = snapshots.base_of(run)
    assert base is not None
    refused(None, f"the segment {base.facts['start_segment']}, with which the base begins, is not")
    with archiving(store, plant, server, tmp_path / "spool"):
        newer = keep_base(store, plant, server)
        for _ in range(3):
            server.do("INSERT INTO told DEFAULT VALUES", "SELECT pg_switch_wal()")
        end = now_of(server)
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_until_sealed(store, plant, server, end)
    started_at = datetime.fromisoformat(base.facts["ended_at"])
    refused(started_at - timedelta(seconds=1), "has no base from before .*; the earliest moment is")
    refused(end + timedelta(hours=1), "the newest archived segment is .*; recover to 20.* at the l")
    notes = notes_of(store, plant, server)
    kept = snapshots.base_of(newer)
    assert kept is not None
    (first,) = [one for one in notes if one.note.segment == kept.facts["start_segment"]]
    for name in (notes[-2].object, notes[-2].content):
        content = (tmp_path / "backups" / name).read_bytes()
        (tmp_path / "backups" / name).unlink()
        refused(None, notes[-1].object if name.endswith(".sealed") else notes[-2].content)
        (tmp_path / "backups" / name).write_bytes(content)
    assert first.note.number <= notes[-2].note.number


def test_a_base_whose_own_segment_is_on_its_way_is_not_needed_yet(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    with archiving(store, plant, server, tmp_path / "spool"):
        first = keep_base(store, plant, server)
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_until_sealed(store, plant, server, now_of(server))
    second = keep_base(store, plant, server)
    assert recovery.find(store, plant.verify, None).sealed.manifest.run == first.manifest.run
    identity = tmp_path / "identity"
    reader = StoreReader(store, ReadingKeys(tmp_path / "verify_key", identity))
    reader._keys = SimpleNamespace(verify_keys=lambda: plant.verify)  # ty: ignore[invalid-assignment]
    assert reader.export(None, tmp_path / "a.tar", with_log=True) == first
    with pytest.raises(
        StoreError, match=f"no log that leads on from the base of {second.manifest.run}"
    ):
        reader.export(second.manifest.run, tmp_path / "b.tar", with_log=True)
    assert not (tmp_path / "b.tar").exists()


def test_a_base_whose_end_is_not_archived_is_not_needed_yet(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    def archive() -> None:
        with archiving(store, plant, server, tmp_path / "spool"):
            server.do("INSERT INTO told SELECT FROM generate_series(1, 400000)")
            wait_until_sealed(store, plant, server, now_of(server))

    def archive_once(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 2:
            archive()

    def keep_slowly() -> None:
        """Its log is archived from its beginning on, and not any more as it ends."""
        rests.clear()
        run = Run(store, plant.maker, datetime.now(UTC), Pace(0.5, sleep=archive_once))
        base = snapshots.keep_base(run, server.url)
        run.seal({}, plant.verify, datetime.now(UTC))
        assert wal.note_of(cluster_of(server), base.facts["start_segment"]) in store.sizes()

    rests: list[float] = []
    keep_slowly()
    assert not recovery.has_log(store, plant.verify)
    with pytest.raises(StoreError, match=r"in which the base ended, is not archived$"):
        recovery.find(store, plant.verify, None)
    archive()
    assert recovery.has_log(store, plant.verify)
    (first,) = runs.every(store, plant.verify)
    keep_slowly()
    back = recovery.recover(store, plant.verify, plant.identities, None, tmp_path / "back" / "all")
    assert back.run == first.manifest.run


def test_what_the_log_brings_back_must_have_the_rows_of_a_dump_to_which_it_leads(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    with archiving(store, plant, server, tmp_path / "spool"):
        keep_base(store, plant, server)
        moment = now_of(server)
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_until_sealed(store, plant, server, moment)
    reached = wal.reached(notes_of(store, plant, server))
    assert reached is not None

    def prove(rows: int, facts: dict[str, Any], seconds: float = 0) -> tuple[str, ...]:
        """What is told of a dump that claims to have rows of a table that is not there."""
        said.clear()
        now = reached + timedelta(seconds=seconds)
        run = Run(store, plant.maker, now)
        run.keep(
            snapshots.DATABASE, Kind.POSTGRES, io.BytesIO(b"dump"),
            {"tables": {"public.ledger": {"rows": rows}}, **facts},
        )  # fmt: skip
        sealed = run.seal({}, plant.verify, now)
        found, reaches_at = recovery.prove(
            store, plant.verify, plant.identities, sealed, "postgres", tmp_path,
            lambda what, _: said.append(what),
        )  # fmt: skip
        assert reaches_at == reached
        return found.differences

    said: list[str] = []
    after = reached + timedelta(microseconds=1)
    lost = "by the log the table public.ledger has 0 rows where 7 were kept before"
    assert prove(7, {"taken_at": reached.isoformat()}, 60) == (lost,)
    assert prove(0, {"taken_at": reached.isoformat()}, 60) == ()
    assert not any("not yet to the dump" in one for one in said)
    assert prove(7, {"taken_at": after.isoformat()}) == ()
    not_yet = f"the log leads until {reached.isoformat()}, not yet to the dump of "
    assert not_yet + after.isoformat() in said
    # Of before dumps told their moment.
    assert prove(7, {}) == (lost,)
    assert prove(7, {}, 60) == ()


def test_on_a_quiet_server_the_log_of_a_base_is_archived_to_its_end(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    with archiving(store, plant, server, tmp_path / "spool"):
        keep_base(store, plant, server)
        wait_for(lambda: recovery.has_log(store, plant.verify))
    recovery.recover(store, plant.verify, plant.identities, None, tmp_path / "back" / "all")


def test_a_server_of_another_version_is_not_tried(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path, monkeypatch
):
    with pytest.raises(SettingsError, match=r"a server of PostgreSQL 99 is not here \(.* is of 16"):
        programs.servers_folder(99)


def test_while_the_store_is_away_the_server_stops_and_starts_and_nothing_is_lost(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    root = tmp_path / "backups"
    with archiving(store, plant, server, tmp_path / "spool") as seen:
        keep_base(store, plant, server)
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_until_sealed(store, plant, server, now_of(server))
        root.rename(tmp_path / "away")
        root.write_text("a folder no more")
        for _ in range(3):
            server.do("INSERT INTO told DEFAULT VALUES", "SELECT pg_switch_wal()")
        wait_for(lambda: any("backups" in one for one in seen.errors))
        server.stop()  # pg_ctl raises where it does not end
        server.start()
        server.do("INSERT INTO told DEFAULT VALUES")
        end = now_of(server)
        root.unlink()
        (tmp_path / "away").rename(root)
        wait_until_sealed(store, plant, server, end)
    assert [one.note.begins for one in notes_of(store, plant, server)[1:]] == [""] * (
        len(notes_of(store, plant, server)) - 1
    )
    recovery.recover(store, plant.verify, plant.identities, None, tmp_path / "back" / "data")
    with started(tmp_path / "back", "data") as back:
        assert back.ask("SELECT count(*) FROM told") == server.ask("SELECT count(*) FROM told")


@pytest.mark.parametrize("then", ["goes on", "is killed"])
def test_a_server_whose_receiver_hangs_stops_within_its_time_and_nothing_is_lost(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path, monkeypatch, then: str
):
    patience = "-c wal_sender_timeout=5s"  # the stack's is 30
    monkeypatch.setattr(archiving_module, "STOP_SECONDS", 0.5)
    server.stop()
    server.start(patience)
    with archiving(store, plant, server, tmp_path / "spool") as seen:
        keep_base(store, plant, server)
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_until_sealed(store, plant, server, now_of(server))
        receiver = seen.archiver._receiver
        assert receiver is not None
        receiver.send_signal(signal.SIGSTOP)
        for _ in range(3):
            server.do("INSERT INTO told DEFAULT VALUES", "SELECT pg_switch_wal()")
        begun = time.monotonic()
        server.stop()
        assert 1 < time.monotonic() - begun < 30
        server.start(patience)
        server.do("INSERT INTO told DEFAULT VALUES")
        if then == "goes on":
            receiver.send_signal(signal.SIGCONT)
            wait_until_sealed(store, plant, server, now_of(server))
    if then == "is killed":
        with archiving(store, plant, server, tmp_path / "spool"):
            wait_until_sealed(store, plant, server, now_of(server))
    assert [one.note.begins for one in notes_of(store, plant, server)[1:]] == [""] * (
        len(notes_of(store, plant, server)) - 1
    )
    recovery.recover(store, plant.verify, plant.identities, None, tmp_path / "back" / "data")
    with started(tmp_path / "back", "data") as back:
        assert back.ask("SELECT count(*) FROM told") == [(5,)]


def test_a_recovered_server_is_archived_beside_what_was_before_and_recovers_again(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    spool = tmp_path / "spool"
    with archiving(store, plant, server, spool):
        keep_base(store, plant, server)
        server.do("INSERT INTO told DEFAULT VALUES")
        moment = now_of(server)
        for _ in range(4):
            server.do("INSERT INTO told DEFAULT VALUES", "SELECT pg_switch_wal()")
        wait_until_sealed(store, plant, server, now_of(server))
    server.stop()
    recovery.recover(store, plant.verify, plant.identities, moment, tmp_path / "back" / "data")
    with started(tmp_path / "back", "data") as back:
        assert back.ask("SELECT count(*) FROM told") == [(1,)]
        with archiving(store, plant, back, spool) as seen:
            wait_for(lambda: any("left timeline 1 before" in one for one in seen.errors))
            wait_for(lambda: (tmp_path / "spool" / cluster_of(back)).glob("00000002.history"))
            back.do("SELECT pg_switch_wal()")
            keep_base(store, plant, back)
            back.do("INSERT INTO told SELECT FROM generate_series(1, 6)")
            wait_until_sealed(store, plant, back, now_of(back))
        begun = [one for one in notes_of(store, plant, back) if one.note.begins]
        assert [one.note.segment[:8] for one in begun] == ["00000001", "00000002"]
        assert "timeline 2 left 1 before" in begun[1].note.begins
    again = tmp_path / "again" / "data"
    recovery.recover(store, plant.verify, plant.identities, None, again)
    with started(tmp_path / "again", "data") as back:
        assert back.ask("SELECT count(*) FROM told") == [(7,)]
        assert back.ask("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)") == [
            ("00000003",)
        ]


def test_a_slot_that_was_lost_begins_the_log_anew_and_says_so(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    with archiving(store, plant, server, tmp_path / "spool"):
        keep_base(store, plant, server)
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_until_sealed(store, plant, server, now_of(server))
    server.do("SELECT pg_drop_replication_slot('rul_archiver')")
    for _ in range(6):
        server.do("INSERT INTO told DEFAULT VALUES", "SELECT pg_switch_wal()")
    for _ in range(2):
        server.do("CHECKPOINT")
    between = now_of(server)
    with archiving(store, plant, server, tmp_path / "spool") as seen:
        wait_for(lambda: any("the log begins anew" in one for one in seen.errors))
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_until_sealed(store, plant, server, now_of(server))
    with pytest.raises(StoreError, match=r"begins the log anew: \d segments after .* were lost"):
        recovery.recover(store, plant.verify, plant.identities, between, tmp_path / "back")


def test_an_archiver_that_begins_anew_within_what_the_slot_did_not_keep_goes_on(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    with archiving(store, plant, server, tmp_path / "spool"):
        keep_base(store, plant, server)
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_until_sealed(store, plant, server, now_of(server))
    for _ in range(3):
        server.do("INSERT INTO told DEFAULT VALUES", "SELECT pg_switch_wal()")
    server.do("SELECT pg_replication_slot_advance('rul_archiver', pg_current_wal_insert_lsn())")
    spool = tmp_path / "spool" / cluster_of(server)
    last = max(path.name for path in spool.iterdir() if wal.is_segment(path.name))
    begun = spool / f"{wal.Segment.named(last, SEGMENT_BYTES).next}.partial"
    # As one leaves it that was stopped once the first of them had begun to come.
    (spool / "asked").write_text(last)
    begun.touch()
    with archiving(store, plant, server, tmp_path / "spool") as seen:
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_until_sealed(store, plant, server, now_of(server))
    assert seen.errors == []
    assert not any(one.note.begins for one in notes_of(store, plant, server)[1:])


@pytest.mark.parametrize("lost", [-1, -3])
def test_a_log_that_ends_early_is_not_taken_for_all_of_it(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path, monkeypatch, lost: int
):
    with archiving(store, plant, server, tmp_path / "spool"):
        keep_base(store, plant, server)
        for _ in range(5):
            server.do("INSERT INTO told DEFAULT VALUES", "SELECT pg_switch_wal()")
        wait_until_sealed(store, plant, server, now_of(server))
    true = recovery._replay

    def replay_without_one(binaries, data, held, way, timeout_seconds):
        (held / way.segments[lost].note.segment).unlink()
        return true(binaries, data, held, way, timeout_seconds)

    monkeypatch.setattr(recovery, "_replay", replay_without_one)
    with pytest.raises(StoreError, match=r"did not replay the log to 0000\w+, but ended at \w+;"):
        recovery.recover(store, plant.verify, plant.identities, None, tmp_path / "back" / "data")
    assert [*(tmp_path / "back").iterdir()] == []


ARCHIVER = """
    import sys, threading
    from pathlib import Path
    from rul_backup import keys
    from rul_backup.archiving import Archiver
    from rul_backup.runs import Maker
    from rul_backup.stores import FolderStore

    held, root, url, spool = sys.argv[1:]
    folder = Path(held)
    maker = Maker("plant", keys.signing_key(folder / "signing_key"),
                  keys.recipients(folder / "recipients"))
    archiver = Archiver(FolderStore(Path(root)), maker, keys.verify_keys(folder / "verify_key"),
                        url, Path(spool), archive_timeout_seconds=1.5)
    archiver.run(threading.Event(), look_seconds=0.02)
"""


def test_an_archiver_that_is_killed_again_and_again_loses_nothing_and_repeats_nothing(
    store: FolderStore, server: Server, tmp_path: Path
):
    held = tmp_path / "held"
    held.mkdir()
    plant = keys_in(held)
    chance = random.Random(0)
    command = [sys.executable, "-c", textwrap.dedent(ARCHIVER), held, tmp_path / "backups",
               server.url, tmp_path / "spool"]  # fmt: skip
    with archiving(store, plant, server, tmp_path / "spool"):
        keep_base(store, plant, server)
    for _ in range(10):
        sealed = len(notes_of(store, plant, server))
        child = subprocess.Popen(command)
        try:
            # More than a segment each time, so that it dies at work.
            for _ in range(chance.randint(3, 12)):
                server.do("INSERT INTO told SELECT FROM generate_series(1, 3000)")
            wait_for(
                lambda sealed=sealed, child=child: (
                    child.poll() is not None or len(notes_of(store, plant, server)) > sealed
                )
            )
            assert child.poll() is None
        finally:
            child.kill()
            child.wait()
    with archiving(store, plant, server, tmp_path / "spool"):
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_until_sealed(store, plant, server, now_of(server))
    notes = notes_of(store, plant, server)
    assert [one.note.begins for one in notes] == [notes[0].note.begins] + [""] * (len(notes) - 1)
    found = verify(
        store, plant.verify, Level.CONTENT, now=datetime.now(UTC), identities=plant.identities
    )
    assert found.findings == ()
    recovery.recover(store, plant.verify, plant.identities, None, tmp_path / "back" / "data")
    with started(tmp_path / "back", "data") as back:
        count = "SELECT count(*), sum(number) FROM told"
        assert back.ask(count) == server.ask(count)


def test_a_quiet_server_gives_no_more_segments(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    with archiving(store, plant, server, tmp_path / "spool", timeout_seconds=0.2) as seen:
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_for(lambda: wal.names(store))
        wait_for(lambda: told("rul_wal_lag_seconds") == 0)
        before = server.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        seen.archiver.look()
        server.do("CHECKPOINT")
        looks = told("rul_wal_looked_timestamp_seconds")
        wait_for(lambda: told("rul_wal_looked_timestamp_seconds") > looks + 2)
        assert server.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())") == before
    assert seen.errors == []


def segment_of(server: Server) -> str:
    return server.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")[0][0]


def test_while_nothing_is_sealed_no_more_than_one_segment_is_ended(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path, monkeypatch
):
    def is_full(_: str) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archiving_module, "PATIENCE", timedelta(0))
    putting = store.putting
    monkeypatch.setattr(store, "putting", is_full)
    with archiving(store, plant, server, tmp_path / "spool", timeout_seconds=0.1) as seen:
        first = wal.Segment.named(segment_of(server), SEGMENT_BYTES)
        server.do("INSERT INTO told DEFAULT VALUES")
        wait_for(lambda: any("No space left" in one for one in seen.errors))
        for _ in range(20):
            server.do("INSERT INTO told DEFAULT VALUES")
            time.sleep(0.1)
        assert segment_of(server) == str(first.next)
        monkeypatch.setattr(store, "putting", putting)
        wait_for(lambda: len(wal.names(store)) == 2)  # what came meanwhile is sealed too


def test_while_nobody_receives_no_segment_is_ended_and_each_look_tells_so(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(archiving_module, "PATIENCE", timedelta(0))

    def look(archiver: Archiver) -> float:
        server.do("INSERT INTO told DEFAULT VALUES")
        archiver.look()
        return told("rul_wal_receiving")

    def look_in_vain(archiver: Archiver) -> float:
        found, receiver = look(archiver), archiver._receiver
        assert receiver is not None
        receiver.wait(WAIT_SECONDS)
        return found

    first, second = (
        Archiver(
            store, plant.maker, plant.verify, server.url, tmp_path / spool,
            archive_timeout_seconds=0,
        )
        for spool in ("first", "second")
    )  # fmt: skip
    try:
        assert look(first) == 0  # which starts it
        wait_for(lambda: server.ask("SELECT 1 FROM pg_replication_slots WHERE active"))
        assert [look(first), look(first)] == [1, 1]
        before = segment_of(server)
        assert [look_in_vain(second) for _ in range(5)] == [0] * 5
        assert segment_of(server) == before
    finally:
        first.close()
        second.close()


def test_on_a_quiet_server_nothing_waits_for_an_archiver_that_began_anew(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    for _ in range(2):
        with archiving(store, plant, server, tmp_path / "spool", timeout_seconds=0.2) as seen:
            if not wal.names(store):
                server.do("INSERT INTO told DEFAULT VALUES")
            wait_for(lambda: wal.names(store))
            later = time.time() + 3
            wait_for(lambda later=later: told("rul_wal_looked_timestamp_seconds") > later)
            assert told("rul_wal_lag_seconds") == 0
        assert seen.errors == []


def test_what_is_committed_just_before_a_segment_is_ended_is_reached_too(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    """On a server that is quiet afterwards nothing else would ever end a segment after it."""
    archiver = Archiver(
        store, plant.maker, plant.verify, server.url, tmp_path / "spool",
        archive_timeout_seconds=1.0,
    )  # fmt: skip
    try:
        archiver.look()
        server.do("INSERT INTO told DEFAULT VALUES")
        archiver.look()
        time.sleep(1.0)  # so that a segment is due
        server.do("INSERT INTO told DEFAULT VALUES")
        moment = server.ask("SELECT max(at) FROM told")[0][0]

        def reached() -> bool:
            archiver.look()
            time.sleep(0.1)
            found = wal.reached(notes_of(store, plant, server))
            return found is not None and found >= moment

        ends = time.monotonic() + 20
        while not reached():
            assert time.monotonic() < ends, "it is sealed, and its moment is not reached"
    finally:
        archiver.close()


def test_what_a_user_may_not_is_told_with_the_remedy(
    store: FolderStore, plant: Keys, server: Server, tmp_path: Path
):
    server.do("CREATE ROLE plain LOGIN", "CREATE ROLE copies LOGIN REPLICATION")
    url = server.url.replace("postgres@", "copies@")
    told: list[dict[str, Any]] = []
    archiver = Archiver(
        store, plant.maker, plant.verify, url, tmp_path / "spool",
        archive_timeout_seconds=0, tell=lambda **what: told.append(what),
    )  # fmt: skip
    try:
        server.do("INSERT INTO told DEFAULT VALUES")
        archiver.look()
        assert told == []
        time.sleep(IN_FLIGHT.total_seconds() + 0.1)
        archiver.look()
        assert [one["step"] for one in told if "error" in one] == ["switch"]
        assert "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO copies" in told[-1]["error"]
        server.do("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO copies")
        archiver.look()
        wait_for(lambda: archiver.look() or wal.names(store))
        assert [one for one in told[1:] if "error" in one] == []
    finally:
        archiver.close()
