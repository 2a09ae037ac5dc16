"""What a loss at any moment costs: of dumps alone, and with PostgreSQL's log.

What belongs here: a writer, losses spread evenly over some cycles, and what each leaves. What does
not: how long it takes to come back (``backups``).
"""

import statistics
import threading
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from benchmarks.serving_stage import Stage, spread
from rul_backup import drill, recovery, scratch, wal
from rul_backup.keeping import Backups, archiver_of
from rul_backup.reading import BackupSettings, local_store_of, reading_keys_of
from rul_backup.runs import Sealed
from rul_backup.stores import FolderStore
from rul_store.database import begin, connect

WRITE_SECONDS = 0.1


class Losses(NamedTuple):
    """How many, over how long."""

    count: int
    cycle_seconds: float
    """Between two backups, or two segments that are sealed."""
    cycles: int


def of_dumps(asked: Losses, stage: Stage, backups: Backups) -> dict[str, Any]:
    """A writer is killed at moments spread evenly over some cycles; each time all else is lost.

    What a loss at a moment leaves is the run that was sealed last until then. It is restored into
    a server of its own, and the newest row there is sought: what was written after it is lost.
    """
    sealed: list[tuple[float, Sealed]] = []
    seconds, stop = [], threading.Event()
    begun = time.monotonic()

    def keep() -> None:
        following = begun
        while not stop.wait(max(0.0, following - time.monotonic())):
            started = time.monotonic()
            run = backups.make(datetime.now(UTC))
            sealed.append((time.monotonic(), run))
            seconds.append(time.monotonic() - started)
            following += asked.cycle_seconds

    thread = threading.Thread(target=keep)
    # From the second backup on, which is the first with the writer's rows.
    first = begun + asked.cycle_seconds + max(2.0, asked.cycle_seconds / 4)
    moments = _spread_over(first, asked.cycles * asked.cycle_seconds, asked.count)
    with _writing(stage) as written:
        thread.start()
        time.sleep(max(0.0, moments[-1] - time.monotonic()) + 0.1)
        stop.set()
        thread.join()
    lost = []
    identities = reading_keys_of(stage.root, BackupSettings()).identities()
    for moment in moments:
        run = [run for at, run in sealed if at <= moment][-1]
        (artefact,) = [one for one in run.manifest.artefacts if one.name == "platform.dump"]
        with scratch.server(artefact.facts["server"]) as url:
            drill.restore_database(backups.store, run, artefact, url, identities)
            lost.append(moment - _newest(url, written))
    return {
        "drills": len(lost),
        "cycle_seconds": asked.cycle_seconds,
        "cycles": asked.cycles,
        "writing_seconds": WRITE_SECONDS,
        "backup_seconds": statistics.median(seconds),
        "lost_seconds": spread(lost),
    }


def of_the_log(asked: Losses, stage: Stage, folder: Path) -> dict[str, Any]:
    """The same with PostgreSQL's log, which is received and sealed as it is written.

    What a loss at a moment leaves is what the store has then: a base, and the segments that are
    sealed. A server recovers from them.
    """
    url = stage.servers.database_url
    settings = BackupSettings(backup_replication_url=SecretStr(url))
    store = local_store_of(stage.root, settings)
    keys = reading_keys_of(stage.root, settings)
    archiver = archiver_of(
        stage.root, settings, url, folder,
        tell=_raise_errors, archive_timeout_seconds=asked.cycle_seconds,
    )  # fmt: skip
    stop = threading.Event()
    thread = threading.Thread(target=archiver.run, args=(stop,))
    left: list[tuple[float, set[str]]] = []
    with _writing(stage) as written:
        thread.start()
        Backups(stage.root, settings, stage.engine, stage.servers.redis_url).make(datetime.now(UTC))
        while not wal.names(store):
            time.sleep(0.1)
        first = time.monotonic() + asked.cycle_seconds
        for moment in _spread_over(first, asked.cycles * asked.cycle_seconds, asked.count):
            time.sleep(max(0.0, moment - time.monotonic()))
            left.append((time.monotonic(), {*store.sizes()}))
        stop.set()
        thread.join()
    with begin(stage.engine) as connection:  # else it holds the log back for nobody
        drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        connection.execute(sa.text(drop))
    lost, seconds = [], []
    for moment, names in left:
        shelf, started = _AsItWas(store, names), time.monotonic()
        with recovery.served(shelf, keys.verify_keys(), keys.identities(), None) as served:
            seconds.append(time.monotonic() - started)
            lost.append(moment - _newest(served.url(str(make_url(url).database)), written))
    return {
        "drills": len(lost),
        "cycle_seconds": asked.cycle_seconds,
        "cycles": asked.cycles,
        "writing_seconds": WRITE_SECONDS,
        "recovery_seconds": spread(seconds),
        "lost_seconds": spread(lost),
    }


def _raise_errors(**told: Any) -> None:
    if "error" in told:
        raise RuntimeError(f"the archiver: {told}")


class _AsItWas:
    """A store as it was at a moment, by the names of its objects, which never change.

    Args:
        store: As it is.
        names: Of the objects that it had.
    """

    def __init__(self, store: FolderStore, names: set[str]) -> None:
        self._store, self._names = store, names

    def reading(self, name: str) -> AbstractContextManager[BinaryIO]:
        return self._store.reading(name)

    def sizes(self, below: str = "") -> dict[str, int]:
        found = self._store.sizes(below)
        return {name: size for name, size in found.items() if name in self._names}


def _spread_over(first: float, span_seconds: float, count: int) -> list[float]:
    return [first + span_seconds * number / count for number in range(count)]


@contextmanager
def _writing(stage: Stage) -> Generator[list[float]]:
    """A row every ``WRITE_SECONDS``, until the end; when each was committed, by its number."""
    written: list[float] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(WRITE_SECONDS):
            with begin(stage.engine) as connection:
                connection.execute(
                    sa.text("INSERT INTO units (fleet, unit) VALUES ('written', :unit)"),
                    {"unit": f"{len(written):09d}"},
                )
            written.append(time.monotonic())

    with begin(stage.engine) as connection:
        connection.execute(sa.text("DELETE FROM units WHERE fleet = 'written'"))
    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        stop.set()
        thread.join()


def _newest(url: str, written: list[float]) -> float:
    """When the newest row that a database has was written."""
    engine = connect(url)
    with begin(engine) as connection:
        query = "SELECT max(unit)::int FROM units WHERE fleet = 'written'"
        newest = connection.execute(sa.text(query)).scalar_one()
    engine.dispose()
    if newest is None:
        raise RuntimeError("what was restored has no row of the writer's")
    return written[newest]
