"""Lives end and begin as people say, unless that contradicts what is kept."""

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from rul_core.advisory_terms import AdvisoryState, EventKind, ServiceState
from rul_core.errors import Conflict, UnknownUnit
from rul_core.schema import LIVES_SCHEMA, Outcome
from rul_store import lives, readings, unit_lives
from rul_store.database import begin
from rul_store.unit_lives import Life
from tests.store.test_advisories import PUMPS, listed, live, told

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def pump(engine: sa.Engine) -> sa.Engine:
    """One unit that was named, and nothing else."""
    with begin(engine) as connection:
        unit_lives.introduce(connection, "pumps", "u")
    return engine


def end(engine: sa.Engine, outcome: Outcome = Outcome.FAILED, **named: Any) -> bool:
    with begin(engine) as connection:
        known = unit_lives.of(connection, "pumps", "u", hold=True)
        return unit_lives.end(connection, known, outcome, who="ann", **named)


def start(engine: sa.Engine, **named: Any) -> bool:
    with begin(engine) as connection:
        known = unit_lives.of(connection, "pumps", "u", hold=True)
        return unit_lives.start(connection, known, who="ann", **named)


def kept(engine: sa.Engine) -> list[tuple[int, Outcome, float | None]]:
    known = unit_lives.read(engine, "pumps", "u")
    return [(life.life, life.outcome, life.end_cycle) for life in known.lives]


def read(engine: sa.Engine, *cycles: float, life: int = 1) -> None:
    table = pl.DataFrame(
        {"unit": "u", "life": life, "cycle": cycles, "time": None, "s": 1.0},
        schema=PUMPS.readings_schema,
    )
    with begin(engine) as connection:
        readings.insert_many(connection, PUMPS, table)


def from_a_file(engine: sa.Engine, *rows: tuple[str, int, str, float | None]) -> None:
    frame = pl.DataFrame(rows, schema=LIVES_SCHEMA, orient="row")
    lives.upsert(engine, "pumps", frame, source="x.csv")


def test_a_life_ends_and_the_next_begins(pump: sa.Engine):
    assert start(pump, time=NOON)
    assert end(pump, Outcome.REPLACED, end_cycle=141.0, time=NOON)
    assert start(pump)
    assert kept(pump) == [(1, Outcome.REPLACED, 141.0), (2, Outcome.RUNNING, None)]
    first = unit_lives.read(pump, "pumps", "u").lives[0]
    assert isinstance(first, Life)
    assert (first.start_time, first.end_time, first.source) == (NOON, NOON, "ann")
    assert first.ended_at is not None
    assert lives.count_ended(pump, "pumps", outcome=Outcome.REPLACED) == 1
    assert unit_lives.read(pump, "pumps", "u").service.state is ServiceState.IN_SERVICE


def test_a_life_that_nobody_told_of_ends_with_its_newest_reading(pump: sa.Engine):
    read(pump, 1.0, 7.5)
    assert end(pump)
    assert kept(pump) == [(1, Outcome.FAILED, 7.5)]


def test_the_newest_reading_of_a_file_is_known_from_its_prognosis(pump: sa.Engine):
    live(pump, "u", 90, 90, 90)
    assert end(pump)
    assert kept(pump) == [(1, Outcome.FAILED, 3.0)]


@pytest.mark.parametrize("end_cycle", [50.0, None])
def test_the_same_end_again_changes_nothing(pump: sa.Engine, end_cycle: float | None):
    assert end(pump, end_cycle=50.0)
    before = unit_lives.read(pump, "pumps", "u")
    assert not end(pump, end_cycle=end_cycle)
    assert not end(pump, end_cycle=end_cycle, life=1)
    assert unit_lives.read(pump, "pumps", "u") == before


@pytest.mark.parametrize(
    ("outcome", "end_cycle"), [(Outcome.FAILED, 51.0), (Outcome.REMOVED, 50.0)]
)
def test_another_end_is_refused_and_says_what_is_kept(pump: sa.Engine, outcome, end_cycle):
    from_a_file(pump, ("u", 1, "failed", 50.0))
    with pytest.raises(Conflict, match=r"life 1 of unit 'u' is kept as failed at cycle 50, as x\."):
        end(pump, outcome, end_cycle=end_cycle)
    assert kept(pump) == [(1, Outcome.FAILED, 50.0)]


def test_a_life_cannot_end_before_its_last_reading(pump: sa.Engine):
    read(pump, 1.0, 60.0)
    with pytest.raises(Conflict, match="has a reading at cycle 60, after cycle 50; give"):
        end(pump, end_cycle=50.0)
    assert end(pump, end_cycle=60.0)


def test_an_end_at_no_known_cycle_is_refused(pump: sa.Engine):
    with pytest.raises(Conflict, match=r"nothing was ever read of life 1 .* at which cycle"):
        end(pump)


def test_of_several_running_lives_one_must_be_named(pump: sa.Engine):
    from_a_file(pump, ("u", 1, "running", None), ("u", 2, "running", None))
    with pytest.raises(Conflict, match="lives 1, 2 of unit 'u' all run; say which is meant"):
        end(pump, end_cycle=9.0)
    assert end(pump, end_cycle=9.0, life=1)
    assert end(pump, end_cycle=4.0)
    assert kept(pump) == [(1, Outcome.FAILED, 9.0), (2, Outcome.FAILED, 4.0)]


def test_a_life_that_was_never_there_cannot_end(pump: sa.Engine):
    start(pump)
    with pytest.raises(Conflict, match=r"unit 'u' has no life 5 \(lives: 1\); start it first"):
        end(pump, end_cycle=9.0, life=5)


def test_a_life_that_begins_with_its_end_may_have_any_number(pump: sa.Engine):
    assert end(pump, end_cycle=9.0, life=4)
    assert start(pump)
    assert kept(pump) == [(4, Outcome.FAILED, 9.0), (5, Outcome.RUNNING, None)]


def test_no_life_starts_while_another_runs(pump: sa.Engine):
    assert start(pump, life=3)
    assert not start(pump, life=3), "the same again"
    for life in (None, 4):
        with pytest.raises(Conflict, match="life 3 of unit 'u' still runs; say how it ended"):
            start(pump, life=life)
    end(pump, end_cycle=9.0)
    with pytest.raises(Conflict, match="the last life of unit 'u' was 3; the next is 4"):
        start(pump, life=2)


def test_an_end_that_another_said_meanwhile_stays(pump: sa.Engine):
    with begin(pump) as connection:
        known = unit_lives.of(connection, "pumps", "u")
    from_a_file(pump, ("u", 1, "failed", 50.0))
    with begin(pump) as connection, pytest.raises(Conflict, match="ended by another just now"):
        unit_lives.end(connection, known, Outcome.REMOVED, who="ann", end_cycle=9.0)
    assert kept(pump) == [(1, Outcome.FAILED, 50.0)]


def test_an_unknown_unit_is_named(engine: sa.Engine):
    with pytest.raises(UnknownUnit, match="a unit 'u' of fleet 'pumps'"):
        unit_lives.read(engine, "pumps", "u")


@pytest.mark.parametrize("by", ["a person", "a file", "the next life in a file"])
def test_the_end_of_a_life_closes_its_advisory(pump: sa.Engine, by: str):
    live(pump, "u", 25, 24)
    live(pump, "v", 25, 24)
    if by == "a person":
        end(pump)
    elif by == "a file":
        from_a_file(pump, ("u", 1, "replaced", 2.0), ("v", 1, "running", None))
    else:
        from_a_file(pump, ("u", 1, "running", None), ("u", 2, "running", None))
    assert [one.unit for one in listed(pump, is_open=True)] == ["v"]
    (advisory,) = listed(pump, is_open=False)
    closed = told(pump, advisory)[-1]
    assert (closed.kind, closed.after) == (EventKind.CLOSED, AdvisoryState.CLOSED)
    assert (closed.who, closed.why) == {
        "a person": ("ann", "life 1 has ended: failed"),
        "a file": ("x.csv", "life 1 has ended: replaced"),
        "the next life in a file": ("x.csv", "life 1 is followed by the next"),
    }[by]
