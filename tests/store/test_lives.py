"""Lives are taken in from many sources; an ended life stays as it ended."""

import threading

import polars as pl
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from rul_core.errors import StoreError
from rul_core.schema import LIVES_SCHEMA, Outcome
from rul_store import lives
from rul_store.database import begin


def frame(*rows: tuple[str, int, str, float | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=LIVES_SCHEMA, orient="row")


def test_lives_and_units_are_kept(engine: sa.Engine):
    given = frame(("b", 1, "failed", 192.0), ("a", 2, "running", None), ("a", 1, "replaced", 31.5))
    conflicts = lives.upsert(engine, "f", given, source="x.csv")
    assert conflicts.is_empty()
    kept = lives.read(engine, "f")
    assert kept.schema == LIVES_SCHEMA
    assert kept.equals(given.sort("unit", "life"))
    assert lives.units(engine, "f") == ("a", "b")
    assert lives.read(engine, "other").is_empty()


def test_the_same_lives_again_change_nothing(engine: sa.Engine):
    given = frame(("a", 1, "failed", 192.0), ("b", 1, "running", None))
    lives.upsert(engine, "f", given, source="x.csv")
    with begin(engine) as connection:
        before = connection.execute(sa.text("SELECT * FROM lives ORDER BY unit")).all()
    assert lives.upsert(engine, "f", given, source="y.csv").is_empty()
    with begin(engine) as connection:
        assert connection.execute(sa.text("SELECT * FROM lives ORDER BY unit")).all() == before


def test_a_running_life_may_end_and_never_runs_again(engine: sa.Engine):
    lives.upsert(engine, "f", frame(("a", 1, "running", None)), source="1")
    lives.upsert(engine, "f", frame(("a", 1, "failed", 50.0)), source="2")
    conflicts = lives.upsert(engine, "f", frame(("a", 1, "running", None)), source="3")
    assert conflicts.is_empty()
    assert lives.read(engine, "f").rows() == [("a", 1, "failed", 50.0)]


def test_another_end_of_an_ended_life_is_a_conflict_and_the_first_stays(engine: sa.Engine):
    first = frame(("a", 1, "failed", 50.0), ("b", 1, "failed", 7.0))
    lives.upsert(engine, "f", first, source="1")
    conflicts = lives.upsert(
        engine, "f", frame(("a", 1, "failed", 51.0), ("b", 1, "removed", 7.0)), source="2"
    )
    assert conflicts.schema == lives.CONFLICTS_SCHEMA
    assert conflicts.rows() == [
        ("a", 1, "failed", 51.0, "failed", 50.0),
        ("b", 1, "removed", 7.0, "failed", 7.0),
    ]
    assert lives.read(engine, "f").equals(first)


def test_ended_lives_are_counted_by_outcome_and_since(engine: sa.Engine):
    lives.upsert(
        engine,
        "f",
        frame(("a", 1, "failed", 50.0), ("b", 1, "replaced", 7.0), ("c", 1, "running", None)),
        source="1",
    )
    with begin(engine) as connection:
        now = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    lives.upsert(engine, "f", frame(("c", 1, "failed", 9.0), ("d", 1, "failed", 9.0)), source="2")
    assert lives.count_ended(engine, "f") == 4
    assert lives.count_ended(engine, "f", since=now) == 2
    assert lives.count_ended(engine, "f", outcome=Outcome.FAILED) == 3
    assert lives.count_ended(engine, "f", since=now, outcome=Outcome.REPLACED) == 0


def test_an_empty_frame_is_nothing(engine: sa.Engine):
    assert lives.upsert(engine, "f", frame(), source="empty").is_empty()
    assert lives.units(engine, "f") == ()


def test_a_life_that_stands_twice_is_named(engine: sa.Engine):
    given = frame(("a", 1, "failed", 50.0), ("a", 1, "running", None))
    with pytest.raises(StoreError, match=r"x\.csv: life 1 of unit 'a' stands twice"):
        lives.upsert(engine, "f", given, source="x.csv")


@pytest.mark.parametrize(
    ("outcome", "end_cycle"), [("failed", None), ("running", 5.0), ("exploded", 5.0)]
)
def test_the_database_refuses_a_contradiction(
    engine: sa.Engine, outcome: str, end_cycle: float | None
):
    with pytest.raises(IntegrityError, match="ck_lives"):
        lives.upsert(engine, "f", frame(("a", 1, outcome, end_cycle)), source="x")


def test_two_writers_of_the_same_lives_do_not_deadlock(engine: sa.Engine):
    names = [f"u{number:03d}" for number in range(200)]
    failures: list[BaseException] = []

    def write(order: list[str], end_cycle: float) -> None:
        try:
            rows = frame(*((name, 1, "failed", end_cycle) for name in order))
            lives.upsert(engine, "f", rows, source="x")
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=write, args=(order, float(number)))
        for number, order in enumerate([names, names[::-1], names, names[::-1]])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert lives.read(engine, "f")["end_cycle"].n_unique() == 1
