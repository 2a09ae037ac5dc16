"""How it stands with each unit now: ranked, counted, stale by itself, and none left out."""

from datetime import timedelta

import msgspec
import polars as pl
import pytest
import sqlalchemy as sa

from rul_core.errors import StoreError
from rul_core.prognosis import Prognosis, State
from rul_store import current, ledger, lives
from rul_store.current import Present
from rul_store.ledger import named
from tests.store.test_ledger import NOON, prognosis


def life(unit: str, number: int, outcome: str = "running", end: float | None = None):
    return pl.DataFrame([(unit, number, outcome, end)], schema=lives.LIVES_SCHEMA, orient="row")


def read_at(said: Prognosis, minutes: int) -> Prognosis:
    """The prognosis with a last reading so many minutes after noon."""
    moment = NOON + timedelta(minutes=minutes)
    provenance = msgspec.structs.replace(said.provenance, last_read_at=moment)
    return msgspec.structs.replace(said, provenance=provenance)


def test_units_are_ranked_by_risk_and_paged_without_gap_or_repeat(engine: sa.Engine):
    risks = {"a": 0.1, "b": 0.9, "c": None, "d": 0.9, "e": 0.0, "f": None, "g": 1.0}
    ledger.record(engine, "f", [prognosis(unit, probability=p) for unit, p in risks.items()])
    ledger.record(engine, "other", [prognosis("x", fleet="other")])
    assert [p.unit for p in current.ranked(engine, "f").prognoses] == list("gbdaecf")
    for limit in (1, 2, 3, 7):
        found, cursor = [], None
        while True:
            page = current.ranked(engine, "f", limit=limit, after=cursor)
            assert len(page.prognoses) <= limit
            found += [p.unit for p in page.prognoses]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == list("gbdaecf")


def test_the_ranking_can_be_of_one_state(engine: sa.Engine):
    stale = prognosis("s", state=State.STALE_DATA, probability=None)
    ledger.record(engine, "f", [prognosis("a"), stale])
    assert current.ranked(engine, "f", state=State.STALE_DATA).prognoses == (named(stale),)
    counted = current.count_states(engine, "f")
    assert counted.keys() == set(State)
    assert {state: number for state, number in counted.items() if number} == {
        State.ESTIMATED: 1,
        State.STALE_DATA: 1,
    }


def test_a_unit_whose_life_ended_is_not_ranked_but_can_be_asked_for(engine: sa.Engine):
    ledger.record(engine, "f", [prognosis(unit) for unit in ("dead", "running", "unknown")])
    ended = pl.DataFrame(
        [("dead", 1, "failed", 12.0), ("running", 1, "running", None)],
        schema=lives.LIVES_SCHEMA,
        orient="row",
    )
    lives.upsert(engine, "f", ended, source="x")
    assert [p.unit for p in current.ranked(engine, "f").prognoses] == ["running", "unknown"]
    assert current.count_states(engine, "f")[State.ESTIMATED] == 2
    dead = current.one(engine, "f", "dead")
    assert dead is not None
    assert (dead.life, dead.in_service, dead.prognosis) == (1, False, named(prognosis("dead")))
    lives.upsert(engine, "f", life("dead", 2), source="x")
    ledger.record(engine, "f", [prognosis("dead", life=2)])
    assert len(current.ranked(engine, "f").prognoses) == 3


@pytest.mark.parametrize("cursor", ["x", "é", "bnVsbA", "WzEsMl0"])
def test_a_made_up_cursor_is_refused(engine: sa.Engine, cursor: str):
    with pytest.raises(StoreError, match="is no cursor of this ranking; begin again"):
        current.ranked(engine, "f", after=cursor)


def test_prognoses_grow_stale_without_anybody_writing(engine: sa.Engine):
    given = [
        read_at(prognosis("old"), 0),
        read_at(prognosis("new"), 10),
        read_at(prognosis("far", state=State.BEYOND_HORIZON), 0),
        read_at(prognosis("bad", state=State.SENSOR_FAULT, probability=None), 0),
        prognosis("timeless"),
    ]
    ledger.record(engine, "f", given)
    for minutes, expected in ((0, set()), (1, {"old", "far"}), (11, {"old", "far", "new"})):
        before = NOON + timedelta(minutes=minutes)
        page = current.ranked(engine, "f", state=State.STALE_DATA, stale_before=before)
        assert {each.unit for each in page.units} == expected
        counted = current.count_states(engine, "f", stale_before=before)
        assert counted[State.STALE_DATA] == len(expected)
        assert sum(counted.values()) == 5
    assert current.count_states(engine, "f")[State.STALE_DATA] == 0


def test_a_unit_in_service_of_which_nothing_was_said_is_ranked_last_and_counted(engine: sa.Engine):
    ledger.record(engine, "f", [prognosis("b"), prognosis("c", probability=None)])
    for unit in "abd":
        lives.upsert(engine, "f", life(unit, 1), source="x")
    lives.upsert(engine, "f", life("e", 1, "failed", 3.0), source="x")
    state = State.INSUFFICIENT_HISTORY
    page = current.ranked(engine, "f", unheard=state)
    assert [each.unit for each in page.units] == list("bacd")
    assert page.units[1] == Present(unit="a", life=1, in_service=True, prognosis=None)
    assert current.count_states(engine, "f", unheard=state)[state] == 2
    only = current.ranked(engine, "f", unheard=state, state=state, limit=1)
    rest = current.ranked(engine, "f", unheard=state, state=state, limit=1, after=only.cursor)
    assert [each.unit for each in (*only.units, *rest.units)] == ["a", "d"]
    assert rest.cursor is None


def test_what_was_said_of_an_earlier_life_is_not_said_of_the_next(engine: sa.Engine):
    ledger.record(engine, "f", [prognosis("u")])
    lives.upsert(engine, "f", life("u", 1, "failed", 12.0), source="x")
    lives.upsert(engine, "f", life("u", 2), source="x")
    expected = Present(unit="u", life=2, in_service=True, prognosis=None)
    assert current.one(engine, "f", "u") == expected
    assert current.ranked(engine, "f").units == (expected,)
    ledger.record(engine, "f", [prognosis("u", life=2)])
    (found,) = current.ranked(engine, "f").units
    assert found == current.one(engine, "f", "u")
    assert found.prognosis == named(prognosis("u", life=2))


def test_that_there_was_no_model_says_nothing_of_the_unit(engine: sa.Engine):
    missing = prognosis("u", state=State.NOT_CONFIGURED, life=None, cycle=None, probability=None)
    ledger.record(engine, "f", [missing, msgspec.structs.replace(missing, unit="v")])
    lives.upsert(engine, "f", life("v", 1), source="x")
    state = State.INSUFFICIENT_HISTORY
    assert current.count_states(engine, "f", unheard=state)[state] == 2
    page = current.ranked(engine, "f", unheard=state)
    assert [(each.unit, each.life, each.prognosis) for each in page.units] == [
        ("u", None, None),
        ("v", 1, None),
    ]
    for unit in page.units:
        assert current.one(engine, "f", unit.unit) == unit


def test_a_unit_that_nobody_has_heard_of_is_none(engine: sa.Engine):
    lives.upsert(engine, "f", life("known", 1, "failed", 3.0), source="x")
    known = current.one(engine, "f", "known")
    assert known == Present(unit="known", life=1, in_service=False, prognosis=None)
    assert current.one(engine, "f", "nobody") is None
    assert current.one(engine, "g", "known") is None
