"""Every prognosis is written once; the current one never goes back."""

import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import msgspec
import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rul_core.errors import StoreError, Unavailable
from rul_core.prognosis import Contribution, Prognosis, Provenance, State
from rul_store import current, ledger, lives
from rul_store.database import begin, connect
from rul_store.ledger import LEDGER_SCHEMA, ledger_id_of, named

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def prognosis(
    unit: str = "u",
    *,
    fleet: str = "f",
    cycle: float | None = 10.0,
    life: int | None = 1,
    probability: float | None = 0.5,
    state: State = State.ESTIMATED,
    minutes: int = 0,
    model: str = "v1",
    detail: str = "",
) -> Prognosis:
    return Prognosis(
        fleet=fleet,
        unit=unit,
        life=life,
        cycle=cycle,
        state=state,
        detail=detail,
        rul_cycles=33.3,
        lower_90_cycles=-0.0,
        upper_90_cycles=1e-300,
        safe_cycles=0.1 + 0.2,
        failure_probability=probability,
        horizon_cycles=30.0,
        contributions=(Contribution(group="p1", cycles=-3.25),),
        provenance=Provenance(
            model_version=model, feature_spec="s", readings=10, trace_id=str(minutes)
        ),
        computed_at=NOON + timedelta(minutes=minutes),
    )


def newest(engine: sa.Engine, fleet: str, unit: str) -> Prognosis | None:
    found = current.one(engine, fleet, unit)
    return None if found is None else found.prognosis


def count(engine: sa.Engine, fleet: str = "f") -> int:
    with begin(engine) as connection:
        query = sa.text("SELECT count(*) FROM ledger WHERE fleet = :fleet")
        return connection.execute(query, {"fleet": fleet}).scalar_one()


def test_a_prognosis_is_read_back_bit_for_bit(engine: sa.Engine):
    given = prognosis()
    assert ledger.record(engine, "f", [given]) == 1
    (recorded,) = ledger.history(engine, "f", "u")
    assert recorded.prognosis == named(given)
    assert msgspec.json.encode(recorded.prognosis) == msgspec.json.encode(named(given))
    assert recorded.prognosis.provenance.ledger_id == recorded.ledger_id == ledger_id_of(given)
    assert named(recorded.prognosis) == recorded.prognosis
    assert str(recorded.prognosis.lower_90_cycles) == "-0.0"
    assert recorded.recorded_at.tzinfo is not None
    assert ledger.entry(engine, recorded.ledger_id) == recorded
    assert newest(engine, "f", "u") == named(given)


def test_the_same_prognosis_again_changes_nothing(engine: sa.Engine):
    given = [prognosis("a"), prognosis("b")]
    assert ledger.record(engine, "f", given) == 2
    assert ledger.record(engine, "f", given) == 0
    assert ledger.record(engine, "f", [*given, prognosis("c")]) == 1
    assert count(engine) == 3


def test_the_same_answer_later_is_no_new_entry_but_is_current(engine: sa.Engine):
    first, later = prognosis(), prognosis(minutes=5, detail="in other words")
    assert ledger_id_of(first) == ledger_id_of(later)
    ledger.record(engine, "f", [first])
    assert ledger.record(engine, "f", [later]) == 0
    assert newest(engine, "f", "u") == named(later)
    assert ledger.history(engine, "f", "u")[0].prognosis == named(first)


@pytest.mark.parametrize(
    "other",
    [
        prognosis("v"),
        prognosis(fleet="g"),
        prognosis(cycle=11.0),
        prognosis(life=2),
        prognosis(probability=0.6),
        prognosis(state=State.STALE_DATA),
        prognosis(model="v2"),
    ],
)
def test_another_answer_is_another_entry(other: Prognosis):
    assert ledger_id_of(other) != ledger_id_of(prognosis())


def test_equal_answers_in_one_batch_are_one_entry(engine: sa.Engine):
    batch = [prognosis(minutes=2), prognosis(minutes=9), prognosis(minutes=4)]
    assert ledger.record(engine, "f", batch) == 1
    assert newest(engine, "f", "u") == named(batch[1])


def test_nothing_is_written_when_one_prognosis_cannot_be(engine: sa.Engine):
    for wrong in (
        prognosis("b", fleet="other"),
        msgspec.structs.replace(prognosis("b"), computed_at=None),
    ):
        with pytest.raises(StoreError, match=r"unit 'b' .*must be of 'f' and have a time"):
            ledger.record(engine, "f", [prognosis("a"), wrong])
    assert count(engine) == 0
    assert newest(engine, "f", "a") is None
    assert ledger.record(engine, "f", []) == 0


KEYS = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, 1.0, 2.0]),
    st.integers(0, 2),
    st.sampled_from(["v1", "v2"]),
)


@given(batches=st.lists(st.lists(KEYS, max_size=4), max_size=5), at_once=st.booleans())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_current_prognosis_is_the_newest_in_whatever_order_they_come(
    engine: sa.Engine,
    batches: list[list[tuple[str, int | None, float | None, int, str]]],
    at_once: bool,
):
    fleet = f"f{uuid4().hex}"
    made = [
        [
            prognosis(unit, fleet=fleet, life=life, cycle=cycle, minutes=minutes, model=model)
            for unit, life, cycle, minutes, model in batch
        ]
        for batch in batches
    ]
    threads = [
        threading.Thread(target=ledger.record, args=(engine, fleet, batch)) for batch in made
    ]
    for thread in threads:
        thread.start()
        if not at_once:
            thread.join()
    for thread in threads:
        thread.join()
    everything = [each for batch in made for each in batch]
    for unit in ("a", "b"):
        expected = max(
            (each for each in everything if each.unit == unit),
            key=lambda each: (
                each.life or 0,
                float("-inf") if each.cycle is None else each.cycle,
                each.computed_at,
                ledger_id_of(each),
            ),
            default=None,
        )
        assert newest(engine, fleet, unit) == (expected and named(expected))
    assert count(engine, fleet) == len({ledger_id_of(each) for each in everything})


def test_the_history_is_newest_first_and_paged(engine: sa.Engine):
    for cycle in range(5):
        ledger.record(engine, "f", [prognosis(cycle=float(cycle)), prognosis("other")])
    page = ledger.history(engine, "f", "u", limit=2)
    rest = ledger.history(engine, "f", "u", before=page[-1].position)
    assert [each.prognosis.cycle for each in (*page, *rest)] == [4, 3, 2, 1, 0]
    assert ledger.history(engine, "f", "nobody") == ()
    assert ledger.entry(engine, UUID(int=0)) is None
    assert ledger.fleets(engine) == ("f",)


def test_the_ledger_as_a_frame_stands_beside_what_became_of_each_life(engine: sa.Engine):
    ledger.record(
        engine,
        "f",
        [prognosis("a"), prognosis("a", cycle=None, life=None, model="v2", probability=None)],
    )
    ledger.record(engine, "f", [prognosis("b")])
    ended = pl.DataFrame([("a", 1, "failed", 12.5)], schema=lives.LIVES_SCHEMA, orient="row")
    lives.upsert(engine, "f", ended, source="x")
    frame = ledger.ledger_frame(engine, "f")
    assert frame.schema == LEDGER_SCHEMA
    assert frame.height == 3
    (row,) = ledger.ledger_frame(engine, "f", ended=True).rows(named=True)
    given = prognosis("a")
    assert row["ledger_id"] == str(ledger_id_of(given))
    assert (row["unit"], row["life"], row["cycle"], row["state"]) == ("a", 1, 10.0, "estimated")
    assert (row["outcome"], row["end_cycle"]) == ("failed", 12.5)
    for name in ("rul_cycles", "upper_90_cycles", "safe_cycles", "failure_probability"):
        assert row[name] == getattr(given, name)
    assert row["lower_50_cycles"] is None
    assert row["computed_at"] == NOON
    other = ledger.ledger_frame(engine, "f", model_version="v2")
    assert other["life"].to_list() == [None]
    assert ledger.ledger_frame(engine, "nobody").schema == LEDGER_SCHEMA


def test_without_a_database_recording_says_so():
    with pytest.raises(Unavailable):
        ledger.record(connect("postgresql://u@127.0.0.1:1/rul"), "f", [prognosis()])
