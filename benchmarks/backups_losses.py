"""What a loss at any moment costs: of dumps alone, and with PostgreSQL's log.

What belongs here: a writer that is killed at moments spread evenly over some cycles, and what is
left of its rows beyond the machine each time. What does not: how long it takes to come back
(``backups``), the writer (``backups_writer``).

With the writer all else is taken for lost: the machine's folder of backups and the archiver's spool
too. What is left is what the S3 store had just before the kill. Nothing there ever changes, so it
is known by its names, and read once all moments are over.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Event, Thread
from typing import Any, BinaryIO, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from benchmarks.backups_stage import Keeping, now
from benchmarks.backups_writer import FLEET, WRITE_SECONDS, Writer
from benchmarks.serving_stage import Stage, spread
from rul_backup import archiving, bringing, drill, recovery, runs, scratch
from rul_backup.keeping import Backups
from rul_backup.stores import Shelf
from rul_store.database import begin, connect

LOG_BEGINS_SECONDS = (
    archiving.LOOK_SECONDS + archiving.PATIENCE.total_seconds() + bringing.LOOK_SECONDS
)
"""After a cycle and so much a row is beyond the machine at the latest, or the first are lost."""


class Losses(NamedTuple):
    """How many, over how long."""

    count: int
    cycle_seconds: float
    """Between two backups, or two segments that are sealed."""
    cycles: int


class Left(NamedTuple):
    """What a loss at a moment left."""

    lost_at: float
    names: set[str]
    """Of the objects beyond the machine."""


def of_the_log(asked: Losses, stage: Stage, keeping: Keeping, cores: set[int]) -> dict[str, Any]:
    """Each time a server recovers from a base and the segments that are beyond the machine."""
    with keeping.archived(cores, asked.cycle_seconds):
        keeping.backups.make(now())
        keeping.backups.bring()
        keeping.wait_until_base_leads()
        first = asked.cycle_seconds + LOG_BEGINS_SECONDS
        acknowledged, left = _killed(asked, stage, keeping, lambda: time.sleep(first))
    keys, database = keeping.keys, str(make_url(stage.servers.database_url).database)
    lost, seconds = [], []
    for one in left:
        shelf, started = _AsItWas(keeping.remote, one.names), time.monotonic()
        with recovery.served(shelf, keys.verify_keys(), keys.identities(), None) as served:
            seconds.append(time.monotonic() - started)
            lost.append(lost_of(one, served.url(database), acknowledged))
    return {**_told(asked, lost), "recovery_seconds": spread(seconds)}


def of_dumps(asked: Losses, stage: Stage, keeping: Keeping, share: float) -> dict[str, Any]:
    """Each time the newest run that is beyond the machine is restored into a server of its own."""
    keeping.backups.make(now())  # what is kept once a day and a week, so that cycles are alike
    keeping.backups.bring()
    stop, took = Event(), []
    thread = Thread(target=_keep, args=(keeping.backups_at(share), asked.cycle_seconds, stop, took))

    def wait_for_two() -> None:
        """The second that is brought from now on was begun after now."""
        brought = len(took)
        while len(took) < brought + 2:
            if not thread.is_alive():
                raise RuntimeError("backups ended; why is above")
            time.sleep(0.1)

    thread.start()
    try:
        acknowledged, left = _killed(asked, stage, keeping, wait_for_two)
    finally:
        stop.set()
        thread.join()
    keys, lost = keeping.keys, []
    for one in left:
        shelf = _AsItWas(keeping.remote, one.names)
        run = runs.newest_there(shelf, keys.verify_keys())
        if run is None:
            raise RuntimeError("no run was beyond the machine")
        (artefact,) = [each for each in run.manifest.artefacts if each.name == "platform.dump"]
        with scratch.server(artefact.facts["server"]) as url:
            drill.restore_database(shelf, run, artefact, url, keys.identities())
            lost.append(lost_of(one, url, acknowledged))
    return {**_told(asked, lost), "backup_seconds": spread(took), "share": share}


def _keep(backups: Backups, cycle_seconds: float, stop: Event, took: list[float]) -> None:
    """Make backups at every cycle's begin, and bring them; tell the seconds of each."""
    following = time.monotonic()
    while not stop.wait(max(0.0, following - time.monotonic())):
        started = time.monotonic()
        backups.make(now())
        backups.bring()
        took.append(time.monotonic() - started)
        following += cycle_seconds


def _killed(
    asked: Losses, stage: Stage, keeping: Keeping, wait_until_beyond: Callable[[], None]
) -> tuple[dict[str, float], list[Left]]:
    """Kill a writer at moments spread evenly over the cycles; another goes on at once.

    Args:
        asked: How often.
        stage: Has the database that is written to.
        keeping: Brings it beyond the machine.
        wait_until_beyond: Until what has been written is there: the first moment.

    Returns:
        When each row was acknowledged, and what each moment left.
    """
    url = stage.servers.database_url
    with begin(stage.engine) as connection:
        connection.execute(sa.text("DELETE FROM units WHERE fleet = :fleet"), {"fleet": FLEET})
    acknowledged: dict[str, float] = {}
    left = []
    writer = Writer(url, "000")
    writer.write()
    wait_until_beyond()
    for number, moment in enumerate(spread_over(time.monotonic(), asked)):
        following = Writer(url, f"{number + 1:03d}")
        time.sleep(max(0.0, moment - time.monotonic()))
        names = {*keeping.remote.sizes()}
        lost_at, rows = writer.kill()
        acknowledged |= rows
        left.append(Left(lost_at, names))
        following.write()
        writer = following
    writer.kill()
    return acknowledged, left


def spread_over(first: float, asked: Losses) -> list[float]:
    """Moments from a first on, evenly over all cycles."""
    span_seconds = asked.cycles * asked.cycle_seconds
    return [first + span_seconds * number / asked.count for number in range(asked.count)]


def lost_of(left: Left, url: str, acknowledged: dict[str, float]) -> float:
    """Seconds between the newest acknowledged row that a database has, and the loss.

    Raises:
        RuntimeError: It has none, or lacks an older one.
    """
    engine = connect(url)
    with begin(engine) as connection:
        query = sa.text("SELECT unit FROM units WHERE fleet = :fleet")
        found = {*connection.execute(query, {"fleet": FLEET}).scalars()}
    engine.dispose()
    there = found & acknowledged.keys()
    if not there:
        raise RuntimeError("what was restored has no row of the writer's")
    newest = max(there)
    if holes := {row for row in acknowledged if row < newest} - there:
        raise RuntimeError(f"{newest} was restored, and before it are missing: {sorted(holes)}")
    return left.lost_at - acknowledged[newest]


def _told(asked: Losses, lost: list[float]) -> dict[str, Any]:
    return {
        "drills": len(lost),
        "cycle_seconds": asked.cycle_seconds,
        "cycles": asked.cycles,
        "writing_seconds": WRITE_SECONDS,
        "lost_seconds": spread(lost),
    }


class _AsItWas:
    """A store as it was at a moment, by the names of its objects, which never change.

    Args:
        store: As it is.
        names: Of the objects that it had.
    """

    def __init__(self, store: Shelf, names: set[str]) -> None:
        self._store, self._names = store, names

    def __str__(self) -> str:
        return str(self._store)

    def reading(self, name: str) -> AbstractContextManager[BinaryIO]:
        return self._store.reading(name)

    def sizes(self, below: str = "") -> dict[str, int]:
        found = self._store.sizes(below)
        return {name: size for name, size in found.items() if name in self._names}
