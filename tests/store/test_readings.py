"""Readings are kept once, and taken once each, whatever transactions are open."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.errors import UniqueViolation

from rul_core.errors import StoreError, Unavailable
from rul_core.schema import Columns, Fleet
from rul_store import readings
from rul_store.copying import NewReadings
from rul_store.database import begin, connect, create_database, pipelined
from rul_store.embedded import EmbeddedServers
from rul_store.readings import Outcome, append_new, insert_many, lives_since, take_after

PUMPS = Fleet(
    name="pumps", columns=Columns(unit="u", cycle="c", settings=("load",), sensors=("p", "t t"))
)
NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(params=[-1, 200], ids=["copied", "among other statements"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "FEW", request.param)


def appended(connection: sa.Connection, fleet: Fleet, given: NewReadings) -> None:
    """Kept, by whichever way."""
    pipelined(connection, *append_new(connection, fleet, given))


def sent(engine: sa.Engine, fleet: Fleet, readings: pl.DataFrame) -> list[Outcome]:
    """Kept in a transaction of their own."""
    with begin(engine) as connection:
        return insert_many(connection, fleet, readings)


def frame(*rows: Sequence[object], fleet: Fleet = PUMPS) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=fleet.readings_schema, orient="row")


def columns(rows: pl.DataFrame) -> NewReadings:
    return NewReadings(
        units=rows["unit"].to_list(),
        lives=rows["life"].to_list(),
        cycles=rows["cycle"].to_numpy(),
        times=rows["time"].to_list(),
        values=rows.select(pl.col("load", "p", "t t").fill_null(float("nan"))).to_numpy(),
    )


def plain(unit: str, cycle: float, load: float = 1.0) -> tuple[object, ...]:
    return (unit, 1, cycle, None, load, 2.0, 3.0)


def cycles(taken: readings.Taken) -> list[float]:
    return sorted(taken.readings["cycle"].to_list())


def test_readings_are_taken_as_they_were_written(engine: sa.Engine):
    rows = frame(
        ("b,\"1'{}", 2, 1.5, NOON, 0.1 + 0.2, None, -1e-300),
        ("a", 1, 0.0, None, float("inf"), float("nan"), 1e300),
        ("é", 1, 3.0, NOON.replace(year=1890), None, None, None),
    )
    inserted = sent(engine, PUMPS, rows.with_columns(extra=pl.lit(1)))
    assert inserted == ["new", "new", "new"]
    taken = take_after(engine, PUMPS)
    assert taken.readings.schema == PUMPS.readings_schema
    assert taken.readings.sort("unit").equals(rows.sort("unit"))
    assert not taken.more
    again = take_after(engine, PUMPS, taken.watermark)
    assert again.readings.is_empty()
    assert again.readings.schema == PUMPS.readings_schema


@pytest.mark.usefixtures("_both_ways")
def test_readings_that_are_known_to_be_new_are_kept_the_same_way(engine: sa.Engine):
    rows = frame(
        ("b,\"1'{}\\.", 2, 1.5, NOON, 0.1 + 0.2, None, -1e-300),
        ("a", 1, 0.0, None, 5e-324, 0.0, 1e300),
        ("é\n", 1, 3.0, NOON.replace(year=1890), None, None, None),
    )
    with begin(engine) as connection:
        appended(connection, PUMPS, columns(rows))
        last = pipelined(connection, readings.LAST_SEQ_AND_TIME)[0][0][0]
    assert take_after(engine, PUMPS).readings.sort("unit").equals(rows.sort("unit"))
    lives = pl.DataFrame({"unit": ["é\n", "nobody", "a"], "life": [1, 1, 1]})
    with begin(engine) as connection:
        assert readings.last_seqs(connection, PUMPS, lives) == [last, 0, last - 1]
        only = readings.of_lives(connection, PUMPS, lives, last - 1)
    assert only.equals(rows[1:2])
    with pytest.raises(UniqueViolation), begin(engine) as connection:
        appended(connection, PUMPS, columns(rows[1:2]))


@given(
    values=st.lists(
        st.tuples(st.floats(allow_nan=False), st.none() | st.floats()), min_size=1, max_size=5
    )
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_float_survives(engine: sa.Engine, values: list[tuple[float, float | None]]):
    fleet = msgspec.structs.replace(PUMPS, name=f"f{uuid4().hex}")
    rows = frame(*[("u", 1, n, None, load, p, 0.0) for n, (load, p) in enumerate(values)])
    rows = rows.with_columns(pl.col("cycle").cast(pl.Float64))
    sent(engine, fleet, rows)
    assert take_after(engine, fleet).readings.equals(rows)


def test_a_repeat_changes_nothing_and_another_value_is_a_conflict(engine: sa.Engine):
    sent(engine, PUMPS, frame(plain("a", 1), plain("a", 2)))
    given_again = frame(plain("a", 1), plain("a", 2, load=9.0), plain("a", 3))
    inserted = sent(engine, PUMPS, given_again)
    assert inserted == ["repeated", "conflict", "new"]
    taken = take_after(engine, PUMPS).readings.sort("cycle")
    assert taken.equals(frame(plain("a", 1), plain("a", 2), plain("a", 3)))


def test_within_one_batch_the_first_counts(engine: sa.Engine):
    batch = frame(plain("a", 1), plain("a", 1), plain("a", 1, load=9.0))
    inserted = sent(engine, PUMPS, batch)
    assert inserted == ["new", "repeated", "conflict"]


@pytest.mark.usefixtures("_both_ways")
def test_an_empty_frame_is_nothing(engine: sa.Engine):
    assert sent(engine, PUMPS, frame()) == []
    with begin(engine) as connection:
        appended(connection, PUMPS, columns(frame()))
    assert take_after(engine, PUMPS).readings.is_empty()


@pytest.mark.parametrize(
    "row",
    [
        (None, 1, 1.0, None, 1.0, 1.0, 1.0),
        ("a", None, 1.0, None, 1.0, 1.0, 1.0),
        ("a", 1, None, None, 1.0, 1.0, 1.0),
        ("a", 1, float("nan"), None, 1.0, 1.0, 1.0),
    ],
)
def test_a_reading_without_a_place_is_named_and_nothing_is_kept(
    engine: sa.Engine, row: tuple[object, ...]
):
    with pytest.raises(StoreError, match="reading 2 of fleet 'pumps' is of unit"):
        sent(engine, PUMPS, frame(plain("a", 1), row))
    assert take_after(engine, PUMPS).readings.is_empty()


@pytest.mark.usefixtures("_both_ways")
def test_a_new_reading_without_a_finite_cycle_is_named(engine: sa.Engine):
    rows = columns(frame(plain("a", 1), plain("b", float("inf"))))
    with (
        pytest.raises(StoreError, match="reading 2 of fleet 'pumps' is of unit 'b', life 1"),
        begin(engine) as connection,
    ):
        appended(connection, PUMPS, rows)
    assert take_after(engine, PUMPS).readings.is_empty()


@pytest.mark.usefixtures("_both_ways")
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=9),
            st.integers(1, 2**31 - 1),
            st.datetimes(timezones=st.just(UTC)) | st.none(),
            *[st.floats(allow_nan=False) | st.none()] * 3,
        ),
        max_size=6,
    )
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_way_of_writing_keeps_the_same(engine: sa.Engine, rows: list[tuple]):
    """Byte for byte, as a text of each row shows; -0.0 and numbers near 0 too."""
    one, other = (
        msgspec.structs.replace(PUMPS, name=f"f{uuid4().hex}") for _ in ("inserted", "copied")
    )
    given_rows = frame(*[(unit, life, n, *rest) for n, (unit, life, *rest) in enumerate(rows)])
    sent(engine, one, given_rows)
    kept = sa.text(
        "SELECT unit, life, cycle, time, measured::text FROM readings "
        "WHERE fleet = :fleet ORDER BY cycle"
    )
    with begin(engine) as connection:
        appended(connection, other, columns(given_rows))
        inserted, copied = (
            connection.execute(kept, {"fleet": fleet.name}).all() for fleet in (one, other)
        )
    assert copied == inserted
    assert len(copied) == len(rows)


def test_channels_may_come_and_go(engine: sa.Engine):
    sent(engine, PUMPS, frame(plain("a", 1)))
    changed = msgspec.structs.replace(
        PUMPS, columns=Columns(unit="u", cycle="c", sensors=("new", "p"))
    )
    sent(engine, changed, frame(("a", 1, 2.0, None, 7.0, 8.0), fleet=changed))
    assert take_after(engine, changed).readings.equals(
        frame(("a", 1, 1.0, None, None, 2.0), ("a", 1, 2.0, None, 7.0, 8.0), fleet=changed)
    )
    repeated = sent(engine, changed, frame(("a", 1, 1.0, None, None, 2.0), fleet=changed))
    assert repeated == ["repeated"]


def test_fleets_are_apart(engine: sa.Engine):
    sent(engine, PUMPS, frame(plain("a", 1)))
    fans = msgspec.structs.replace(PUMPS, name="fans")
    assert take_after(engine, fans).readings.is_empty()
    assert sent(engine, fans, frame(plain("a", 1))) == ["new"]


def write_in(connection: sa.Connection, cycle: float, fleet: str = "pumps") -> None:
    connection.execute(
        sa.text("""
            INSERT INTO readings (fleet, unit, life, cycle, layout, measured)
            SELECT :fleet, 'open', 1, :cycle, layout, '{1,2,3}' FROM layouts WHERE fleet = :fleet
        """),
        {"cycle": cycle, "fleet": fleet},
    )


def test_the_watermark_never_passes_a_transaction_still_open(engine: sa.Engine):
    sent(engine, PUMPS, frame(plain("a", 1)))
    with begin(engine) as still_open:
        write_in(still_open, 2)
        sent(engine, PUMPS, frame(plain("a", 3)))
        first = take_after(engine, PUMPS)
        assert cycles(first) == [1]
        second = take_after(engine, PUMPS, first.watermark)
        assert second.readings.is_empty()
    third = take_after(engine, PUMPS, second.watermark)
    assert cycles(third) == [2, 3]
    assert take_after(engine, PUMPS, third.watermark).readings.is_empty()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "commit", "roll back", "take"]), st.integers(0, 2)
    ),
    max_size=20,
)


@given(steps=STEPS, rows=st.sampled_from([1, 2, 1000]))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_reading_that_was_committed_is_taken_once(
    engine: sa.Engine, steps: list[tuple[str, int]], rows: int
):
    fleet = msgspec.structs.replace(PUMPS, name=f"f{uuid4().hex}")
    sent(engine, fleet, frame(plain("a", 0)))
    committed, taken, watermark = [0.0], list[float](), ""
    transactions: dict[int, tuple[sa.Connection, list[float]]] = {}

    def take() -> bool:
        nonlocal watermark
        found = take_after(engine, fleet, watermark, rows=rows)
        watermark = found.watermark
        taken.extend(found.readings["cycle"])
        return found.more

    def end(number: int, *, commit: bool) -> None:
        connection, written = transactions.pop(number)
        (connection.commit if commit else connection.rollback)()
        connection.close()
        committed.extend(written if commit else [])

    try:
        for step, (action, number) in enumerate(steps, start=1):
            if action == "take":
                take()
            elif action == "write":
                if number not in transactions:
                    transactions[number] = (engine.connect(), [])
                connection, written = transactions[number]
                write_in(connection, step, fleet.name)
                written.append(float(step))
            elif number in transactions:
                end(number, commit=action == "commit")
    finally:
        for number in list(transactions):
            end(number, commit=True)
    while take():
        pass
    assert sorted(taken) == sorted(committed)


def test_a_take_of_many_is_cut_between_transactions(engine: sa.Engine):
    for first in (0, 3, 6):
        sent(engine, PUMPS, frame(*[plain("a", first + n) for n in range(3)]))
    watermark, takes = "", []
    while True:
        taken = take_after(engine, PUMPS, watermark, rows=4)
        takes.append(cycles(taken))
        watermark = taken.watermark
        if not taken.more:
            break
    assert takes == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert cycles(take_after(engine, PUMPS, rows=1)) == [0, 1, 2]


def test_after_a_restore_into_another_server_nothing_is_missed(engine: sa.Engine):
    sent(engine, PUMPS, frame(plain("a", 1), plain("a", 2)))
    before = take_after(engine, PUMPS).watermark
    with begin(engine) as connection:  # as a dump of a much older server would bring them
        connection.execute(sa.text("UPDATE readings SET ingested_xid = 900000 WHERE cycle = 2"))
    foreign = f"7000000000000000000/1:{before.rsplit(':', 1)[1]}"
    sent(engine, PUMPS, frame(plain("a", 3)))
    first = take_after(engine, PUMPS, foreign)
    assert first.more
    second = take_after(engine, PUMPS, first.watermark)
    assert cycles(first) + cycles(second) == [1, 3, 2]
    third = take_after(engine, PUMPS, second.watermark)
    assert (third.readings.height, third.more) == (0, False)


def test_after_a_restore_into_another_database_of_the_same_server_nothing_is_missed(
    engine: sa.Engine, servers: EmbeddedServers
):
    """As a restore over what lives does, and going back to what was there before it."""
    sent(engine, PUMPS, frame(plain("a", 1)))
    at_that_time = take_after(engine, PUMPS).watermark
    sent(engine, PUMPS, frame(plain("a", 2)))
    engine.dispose()
    name = f"test_{uuid4().hex}"
    there = sa.make_url(engine.url.render_as_string(hide_password=False)).database
    restored = connect(create_database(servers.database_url, name, template=there))
    try:
        assert cycles(take_after(engine, PUMPS, at_that_time)) == [2]
        with begin(restored) as connection:
            assert lives_since(connection, "pumps", at_that_time, ["a"]) == {("a", 1)}
        taken = take_after(restored, PUMPS, at_that_time)
        assert cycles(taken) == [1, 2]
        assert cycles(take_after(engine, PUMPS, taken.watermark)) == [1, 2]
    finally:
        restored.dispose()
        admin = connect(servers.database_url).execution_options(isolation_level="AUTOCOMMIT")
        with begin(admin) as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


def test_taking_needs_no_rights_of_a_superuser(engine: sa.Engine):
    sent(engine, PUMPS, frame(plain("a", 1)))
    role = f"plain_{uuid4().hex}"
    with begin(engine) as connection:
        connection.execute(sa.text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(sa.text(f"GRANT SELECT, UPDATE ON readings, layouts TO {role}"))
    user = connect(engine.url.set(username=role).render_as_string(hide_password=False))
    try:
        assert cycles(take_after(user, PUMPS)) == [1]
    finally:
        user.dispose()
        with begin(engine) as connection:
            connection.execute(sa.text(f"DROP OWNED BY {role}"))
            connection.execute(sa.text(f"DROP ROLE {role}"))


def test_writers_of_the_same_readings_at_once_keep_each_once(engine: sa.Engine):
    rows = [plain("a", n) for n in range(300)]
    results: list[list[Outcome]] = []
    orders = [rows, rows[::-1], rows, [plain("a", n, load=9.0) for n in range(300)]]
    threads = [
        threading.Thread(target=lambda o=order: results.append(sent(engine, PUMPS, frame(*o))))
        for order in orders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert sum(each.count(Outcome.NEW) for each in results) == 300
    assert [len(each) for each in results] == [300] * 4
    taken = take_after(engine, PUMPS).readings
    assert taken.height == 300
    assert taken["load"].n_unique() == 1


def test_without_a_database_both_say_so():
    nowhere = connect("postgresql://u@127.0.0.1:1/rul")
    with pytest.raises(Unavailable):
        sent(nowhere, PUMPS, frame(plain("a", 1)))
    with pytest.raises(Unavailable):
        take_after(nowhere, PUMPS)
