"""The audit: appended in the transaction of the change, chained, never changed."""

import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from rul_store import audit
from rul_store.chain import Break
from rul_store.database import begin


def append(connection: sa.Connection, target: str, **more) -> None:
    given = {
        "principal": "ann", "action": "advisory.close", "target": target, "fleet": "pumps",
        "detail": {"why": "é\n\x00", "n": 1}, "trace_id": "t", **more,
    }  # fmt: skip
    audit.append(connection, **given)


def write(engine: sa.Engine, *targets: str) -> None:
    for target in targets:
        with begin(engine) as connection:
            append(connection, target)


def verdict(engine: sa.Engine) -> list[int | str]:
    """Positions that are right, and the reason of a break."""
    return [
        each.reason if isinstance(each, Break) else each.position for each in audit.verify(engine)
    ]


def test_entries_are_read_newest_first_page_by_page(engine: sa.Engine):
    write(engine, "a", "b", "c")
    first = audit.page(engine, limit=2)
    second = audit.page(engine, limit=2, after=first.next_cursor)
    newest, middle = first.entries
    (oldest,) = second.entries
    assert second.next_cursor is None
    assert [newest.target, middle.target, oldest.target] == ["c", "b", "a"]
    assert (newest.principal, newest.action, newest.fleet) == ("ann", "advisory.close", "pumps")
    assert newest.detail == {"why": "é\n\x00", "n": 1}
    assert newest.prev_hash == middle.hash
    assert oldest.prev_hash == "00" * 32
    assert newest.at >= middle.at >= oldest.at


def test_a_change_that_fails_leaves_no_entry(engine: sa.Engine):
    def fail() -> None:
        with begin(engine) as connection:
            append(connection, "a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    write(engine, "b")
    assert verdict(engine) == [1]


def test_many_who_write_at_once_make_one_chain(engine: sa.Engine):
    threads = [
        threading.Thread(target=write, args=(engine, *(f"{n}{i}" for i in range(8))))
        for n in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdict(engine) == list(range(1, 41))


@pytest.mark.parametrize(
    "statement", ["UPDATE audit SET principal = 'x'", "DELETE FROM audit", "TRUNCATE audit"]
)
def test_nothing_in_the_audit_is_changed_or_removed(engine: sa.Engine, statement: str):
    write(engine, "a")
    with pytest.raises(ProgrammingError, match="never changed or removed"), begin(engine) as c:
        c.execute(sa.text(statement))
    assert verdict(engine) == [1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (f"UPDATE audit SET {column} = {value} WHERE position = 2", "its content is not what")  # noqa: S608
        for column, value in {
            "principal": "'x'", "action": "'x'", "target": "'x'", "fleet": "NULL",
            "detail": "'{}'", "trace_id": "'x'", "at": "at + interval '1 microsecond'",
        }.items()
    ]
    + [
        ("DELETE FROM audit WHERE position = 2", "entry 2 is missing"),
        ("UPDATE audit SET prev_hash = hash WHERE position = 2", "does not follow entry 1"),
    ],
)  # fmt: skip
def test_who_goes_round_the_trigger_is_found_out(engine, monkeypatch, change, reason):
    monkeypatch.setattr(audit, "PAGE", 2)
    write(engine, "a", "b", "c")
    with begin(engine) as connection:
        connection.execute(sa.text("SET session_replication_role = replica"))
        connection.execute(sa.text(change))
    right, told = verdict(engine)
    assert right == 1
    assert reason in str(told)
