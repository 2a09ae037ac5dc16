"""The ledger's chain: written by many at once, changed by nobody unseen."""

import threading
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.exc import ProgrammingError

from rul_core.prognosis import Prognosis, Provenance, State
from rul_store import database, ledger
from rul_store.chain import GENESIS, Break, Link, hash_of, walk
from rul_store.database import begin, connect, create_database, migrate
from rul_store.embedded import EmbeddedServers
from tests.store.test_ledger import NOON, prognosis


def links(count: int) -> list[Link]:
    made, before = [], GENESIS
    for position in range(1, count + 1):
        parts = ("pumps", position, "said")
        after = hash_of(before, *parts)
        made.append(Link(position=position, before=before, hash=after, parts=parts))
        before = after
    return made


def test_a_chain_as_it_was_written_has_no_break():
    assert list(walk(links(3))) == links(3)
    assert list(walk([])) == []


@pytest.mark.parametrize(
    ("damaged", "position", "reason"),
    [
        (lambda chain: [chain[0], *chain[2:]], 2, "entry 2 is missing"),
        (lambda chain: chain[1:], 1, "entry 1 is missing"),
        (
            lambda chain: [chain[0], Link(position=2, before=chain[0].hash, hash=chain[1].hash, parts=("x",)), chain[2]],  # noqa: E501
            2,
            "its content is not what was written",
        ),
        (
            lambda chain: [chain[0], Link(position=2, before=chain[0].hash, hash=hash_of(chain[0].hash, "x"), parts=("x",)), chain[2]],  # noqa: E501
            3,
            "it does not follow entry 2, which was replaced or changed",
        ),
    ],
)  # fmt: skip
def test_the_first_entry_that_is_not_what_was_written_is_named(damaged, position, reason):
    *_, last = walk(damaged(links(3)))
    assert last == Break(position=position, reason=reason)


def test_many_writers_neither_fork_the_chain_nor_leave_a_gap(engine: sa.Engine):
    def write(name: str) -> None:
        for cycle in range(5):
            given = [prognosis(f"{name}{i}", cycle=float(cycle)) for i in range(3)]
            ledger.record(engine, "f", given)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(ledger.verify(engine, "f")) == [90]
    entries = ledger.since(engine, "f", 0, limit=100)
    assert [each.position for each in entries] == list(range(1, 91))
    assert entries[1].prev_hash == entries[0].hash
    assert ledger.head(engine, "f") == 90


def test_each_fleet_has_a_chain_of_its_own(engine: sa.Engine):
    ledger.record(engine, "f", [prognosis("a"), prognosis("b")])
    ledger.record(engine, "g", [prognosis("a", fleet="g")])
    assert [ledger.head(engine, fleet) for fleet in ("f", "g", "h")] == [2, 1, 0]
    assert [list(ledger.verify(engine, fleet)) for fleet in ("f", "g", "h")] == [[2], [1], [0]]


def test_the_walk_tells_how_far_it_is(engine: sa.Engine, monkeypatch):
    monkeypatch.setattr(ledger, "PAGE", 2)
    ledger.record(engine, "f", [prognosis(str(i)) for i in range(5)])
    assert list(ledger.verify(engine, "f")) == [2, 4, 5]


@pytest.mark.parametrize(
    "statement",
    ["UPDATE ledger SET state = 'estimated'", "DELETE FROM ledger", "TRUNCATE ledger"],
)
def test_nothing_in_the_ledger_is_changed_or_removed(engine: sa.Engine, statement: str):
    ledger.record(engine, "f", [prognosis()])
    with pytest.raises(ProgrammingError, match="never changed or removed"), begin(engine) as c:
        c.execute(sa.text(statement))
    assert ledger.head(engine, "f") == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            "UPDATE ledger SET prognosis = replace(prognosis::text, '33.3', '99.9')::json "
            "WHERE position = 2",
            "its content is not what was written",
        ),
        ("UPDATE ledger SET state = 'stale_data' WHERE position = 2", "not what was written"),
        ("UPDATE ledger SET unit = 'x' WHERE position = 2", "not what was written"),
        (
            "UPDATE ledger SET computed_at = computed_at - interval '1 day' WHERE position = 2",
            "not what was written",
        ),
        ("UPDATE ledger SET readings_seen = 7 WHERE position = 2", "not what was written"),
        ("DELETE FROM ledger WHERE position = 2", "entry 2 is missing"),
    ],
)
def test_who_goes_round_the_trigger_is_found_out(engine: sa.Engine, change: str, reason: str):
    ledger.record(engine, "f", [prognosis(unit) for unit in "abc"])
    with begin(engine) as connection:
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(sa.text(change))
    *_, last = ledger.verify(engine, "f")
    assert isinstance(last, Break)
    assert last.position == 2
    assert reason in last.reason


def test_a_ledger_from_before_the_chain_is_chained_by_the_migration(servers: EmbeddedServers):
    url = create_database(servers.database_url, f"old_{uuid4().hex}")
    engine = connect(url)
    with begin(engine) as connection:
        config, _, _ = database._revisions()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for fleet, unit in (("f", "a"), ("g", "a"), ("f", "é")):
            said = Prognosis(
                fleet=fleet, unit=unit, state=State.NOT_CONFIGURED, computed_at=NOON,
                provenance=Provenance(),
            )  # fmt: skip
            row = ledger._values(uuid4(), said)
            connection.execute(
                sa.text(
                    "INSERT INTO ledger "
                    "(ledger_id, fleet, unit, state, prognosis, readings_seen, computed_at) VALUES "
                    "(:ledger_id, :fleet, :unit, :state, :prognosis, :readings_seen, :computed_at)"
                ),
                {**row, "fleet": fleet},
            )
    migrate(engine)
    assert [list(ledger.verify(engine, fleet)) for fleet in "fg"] == [[2], [1]]
    ledger.record(engine, "f", [prognosis("b")])
    assert list(ledger.verify(engine, "f")) == [3]
    engine.dispose()
