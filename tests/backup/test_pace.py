"""A backup rests while it is made, so that what serves beside it goes on."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from rul_backup import runs, snapshots
from rul_backup.keeping import Backups
from rul_backup.manifest import Kind
from rul_backup.reading import BackupSettings
from rul_backup.runs import Run
from rul_backup.stores import FolderStore
from rul_backup.streams import LONGEST_REST_SECONDS, MOST_REST_SECONDS, Pace, Paced
from rul_core.errors import SettingsError
from rul_store.database import begin

from .conftest import Keys
from .test_verification import NOW

SNAPSHOTS = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL AND backend_type = 'client backend'
"""


class Clock:
    """Seconds of work and of rest."""

    def __init__(self) -> None:
        self.worked = self.rested = 0.0

    def now(self) -> float:
        return self.worked + self.rested

    def sleep(self, seconds: float) -> None:
        self.rested += seconds

    def pace(self, share: float) -> Pace:
        return Pace(share, clock=self.now, sleep=self.sleep)


@given(
    st.floats(0.01, 1.0),
    st.lists(st.floats(0.0, LONGEST_REST_SECONDS / 100), min_size=1, max_size=20),
)
def test_of_the_time_no_more_is_worked_than_the_share(share: float, pieces: list[float]):
    clock = Clock()
    pace = clock.pace(share)
    pace.rest()
    for seconds in pieces:
        clock.worked += seconds
        pace.rest()
    assert clock.worked == pytest.approx(share * clock.now())


def test_no_rest_is_so_long_that_a_server_takes_its_reader_for_dead():
    clock = Clock()
    pace = clock.pace(0.01)
    pace.rest()
    clock.worked += 3600
    pace.rest()
    assert clock.rested == LONGEST_REST_SECONDS


def test_all_rests_together_are_so_short_that_a_backup_is_made_before_the_next_is_due():
    clock = Clock()
    pace = clock.pace(0.01)
    with pace.hurried():
        clock.worked += 1
    pace.rest()
    for _ in range(1000):
        clock.worked += 1
        pace.rest()
    assert clock.rested == MOST_REST_SECONDS


def test_each_run_has_its_rests(plant: Keys, tmp_path: Path, engine: sa.Engine):
    clock = Clock()
    backups = Backups(tmp_path, BackupSettings(), engine, None, clock.pace(0.01))
    backups.make_keys("plant")
    for number in (1, 2):
        run = backups.begin(NOW)
        with run.pace.hurried():
            clock.worked += 1000
        assert clock.rested == number * MOST_REST_SECONDS


def test_what_is_read_at_a_pace_is_the_same(plant: Keys, tmp_path: Path):
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            clock.worked += 0.001
            return super().read(size)

    clock, content = Clock(), bytes(range(256)) * 4096
    assert Paced(io.BytesIO(content), Pace(0.5)).read() == content
    run = Run(FolderStore(tmp_path / "backups"), plant.maker, NOW, clock.pace(0.25))
    kept = run.keep("platform.dump", Kind.POSTGRES, Slow(content), {})
    assert kept.sums.plain_bytes == len(content)
    # What comes after the last rest is not rested from.
    assert clock.rested == pytest.approx(3 * clock.worked, abs=0.01)
    assert clock.rested > 0


@given(
    st.floats(0.01, 1.0),
    st.lists(st.floats(0.0, 60.0), min_size=1, max_size=20),
)
def test_what_is_hurried_is_rested_from_once_it_is_over(share: float, pieces: list[float]):
    clock = Clock()
    pace = clock.pace(share)
    with pace.hurried():
        for seconds in pieces:
            clock.worked += seconds
            pace.rest()
        assert clock.rested == 0
    asked = clock.worked * (1 / share - 1)
    assert clock.rested == pytest.approx(min(asked, MOST_REST_SECONDS))
    clock.worked += LONGEST_REST_SECONDS / 100
    pace.rest()
    asked = clock.worked * (1 / share - 1)
    assert clock.rested == pytest.approx(min(asked, MOST_REST_SECONDS))


def test_what_fails_as_it_is_hurried_is_told_at_once_and_pieces_rest_again():
    def fail() -> None:
        clock.worked += 1
        raise ValueError("gone")

    clock = Clock()
    pace = clock.pace(0.5)
    with pytest.raises(ValueError, match="gone"), pace.hurried():
        fail()
    assert clock.rested == 0
    pace.rest()
    assert clock.rested == 1


def test_no_snapshot_is_held_while_a_backup_rests(
    plant: Keys, tmp_path: Path, engine: sa.Engine, database_url: str
):
    rests: list[float] = []

    def held() -> int:
        with begin(engine) as connection:
            return connection.execute(sa.text(SNAPSHOTS)).scalar_one()

    def rest(seconds: float) -> None:
        deadline = time.monotonic() + 5  # a connection that has ended is let go a little later
        while held() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held() == 0
        rests.append(seconds)

    run = Run(FolderStore(tmp_path / "backups"), plant.maker, NOW, Pace(0.5, sleep=rest))
    began = time.monotonic()
    snapshots.keep_database(run, database_url)
    # What was not rested from while it was held: as long again as it took.
    assert len(rests) == 1
    assert 0 < rests[0] <= time.monotonic() - began
    run.keep("models.tar", Kind.MODELS, io.BytesIO(bytes(10)), {})
    assert len(rests) > 1


def test_scheduled_backups_are_made_at_the_pace_and_others_at_once(
    engine: sa.Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    began: list[Pace] = []
    kept: Callable[..., Any] = snapshots.keep_database
    monkeypatch.setattr(
        snapshots, "keep_database", lambda run, url: (began.append(run.pace), kept(run, url))[1]
    )
    pace = Pace(0.9)
    for given_pace in (pace, None):
        backups = Backups(tmp_path, BackupSettings(), engine, None, given_pace)
        if given_pace:
            backups.make_keys("plant")
        backups.make(NOW if given_pace else NOW + runs.UNFINISHED)
    assert [one.share for one in began] == [0.9, 1.0]


@pytest.mark.parametrize("share", ["0", "1.5", "much"])
def test_a_share_that_is_none_is_refused(share: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RUL_BACKUP_SHARE", share)
    with pytest.raises(SettingsError, match="RUL_BACKUP_SHARE"):
        BackupSettings()
