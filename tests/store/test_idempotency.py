"""Each idempotency key is good for one change and one answer, whoever dies when."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

import pytest
import sqlalchemy as sa

from rul_core.errors import Unavailable
from rul_store import audit, idempotency
from rul_store.database import begin
from rul_store.idempotency import Answer, Reservation, Taken

ANSWER = Answer(status=201, headers=[("content-type", "application/json")], body=b'{"a": 1}')


def reserve(
    engine: sa.Engine, content: bytes = b"a", trace_id: str = "t", principal: str = "ann"
) -> Reservation | Taken:
    return idempotency.reserve(engine, principal, "k-1", content, trace_id)


def mine(engine: sa.Engine, content: bytes = b"a", trace_id: str = "t") -> Reservation:
    found = reserve(engine, content, trace_id)
    assert isinstance(found, Reservation)
    return found


def taken(engine: sa.Engine, content: bytes = b"a") -> Taken:
    found = reserve(engine, content)
    assert isinstance(found, Taken)
    return found


@contextmanager
def answering(reservation: Reservation) -> Generator[None]:
    """As in a request that has the reservation."""
    token = idempotency.reserved.set(reservation)
    try:
        yield
    finally:
        idempotency.reserved.reset(token)


def change(engine: sa.Engine, reservation: Reservation) -> None:
    """A change, in one transaction with its entry in the audit."""
    with answering(reservation), begin(engine) as connection:
        audit.append(
            connection, principal="ann", action="a", target=str(reservation.id), fleet=None,
            detail={}, trace_id="t",
        )  # fmt: skip


def changes(engine: sa.Engine) -> int:
    return len(audit.page(engine, limit=100).entries)


def age(engine: sa.Engine, interval: str) -> None:
    with begin(engine) as connection:
        sql = "UPDATE idempotency_records SET reserved_at = reserved_at - CAST(:age AS interval)"
        connection.execute(sa.text(sql), {"age": interval})


def test_a_repeat_gets_the_answer_of_the_first(engine: sa.Engine):
    first = mine(engine, trace_id="t1")
    change(engine, first)
    assert taken(engine).answer is None
    idempotency.complete(engine, first, ANSWER)
    again = taken(engine)
    assert (again.same, again.answer, again.is_lost, again.trace_id) == (True, ANSWER, False, "t1")


def test_another_request_with_the_key_is_told_apart_even_late(engine: sa.Engine):
    mine(engine)
    assert not taken(engine, b"b").same
    age(engine, "2 minutes")
    assert not taken(engine, b"b").same


def test_the_keys_of_others_are_apart(engine: sa.Engine):
    mine(engine)
    assert isinstance(reserve(engine, principal="bob"), Reservation)


def test_a_key_that_was_given_back_can_be_used_again(engine: sa.Engine):
    idempotency.release(engine, mine(engine))
    assert mine(engine, b"b")


def test_an_attempt_that_died_before_its_change_is_followed_by_another(engine: sa.Engine):
    mine(engine)
    assert not taken(engine).is_lost
    age(engine, "61 seconds")
    second = mine(engine)
    change(engine, second)
    assert changes(engine) == 1


def test_an_attempt_that_comes_too_late_changes_nothing(engine: sa.Engine):
    first = mine(engine)
    age(engine, "61 seconds")
    second = mine(engine)
    with pytest.raises(Unavailable, match="took too long"):
        change(engine, first)
    assert changes(engine) == 0
    idempotency.complete(engine, first, ANSWER)
    idempotency.release(engine, first)
    change(engine, second)
    assert changes(engine) == 1
    assert taken(engine).answer is None


def test_an_attempt_whose_key_was_given_back_changes_nothing(engine: sa.Engine):
    """As when a thread still works for a request that was given up."""
    first = mine(engine)
    idempotency.release(engine, first)
    with pytest.raises(Unavailable):
        change(engine, first)
    assert changes(engine) == 0


def test_an_attempt_that_died_after_its_change_is_never_made_twice(engine: sa.Engine):
    first = mine(engine)
    change(engine, first)
    idempotency.release(engine, first)
    assert not taken(engine).is_lost
    age(engine, "61 seconds")
    assert taken(engine).is_lost
    age(engine, "20 hours")
    assert taken(engine).is_lost


def test_who_takes_over_waits_for_a_change_under_way(engine: sa.Engine):
    first = mine(engine)
    age(engine, "61 seconds")
    found: list[Reservation | Taken] = []
    second = threading.Thread(target=lambda: found.append(reserve(engine)))
    with answering(first), begin(engine) as connection:
        idempotency.confirm(connection)
        second.start()
        second.join(0.3)
        assert second.is_alive()
    second.join()
    assert isinstance(found[0], Taken)
    assert found[0].is_lost


def test_of_many_at_once_one_has_the_key(engine: sa.Engine):
    found: list[Reservation | Taken] = []
    threads = [threading.Thread(target=lambda: found.append(reserve(engine))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(each, Reservation) for each in found) == 1
    assert len(found) == 8


def test_after_a_day_a_key_is_new_again_and_its_record_removed_by_one(engine: sa.Engine):
    first = mine(engine)
    idempotency.complete(engine, first, ANSWER)
    age(engine, "23 hours")
    assert idempotency.remove_expired(engine) == 0
    assert taken(engine).answer == ANSWER
    age(engine, "61 minutes")
    assert isinstance(mine(engine, b"b").id, UUID)
    age(engine, "25 hours")
    with begin(engine) as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(idempotency.REMOVAL_LOCK)))
        assert idempotency.remove_expired(engine) == 0
    assert idempotency.remove_expired(engine) == 1
