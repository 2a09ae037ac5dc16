"""One holds a lease; another takes over once it has ended."""

import threading

import sqlalchemy as sa

from rul_store import leases


def test_one_holds_it_and_renews_it_and_nobody_else_gets_it(engine: sa.Engine):
    assert leases.hold(engine, "work", "a", 60)
    assert not leases.hold(engine, "work", "b", 60)
    assert leases.hold(engine, "work", "a", 60)
    assert leases.hold(engine, "other work", "b", 60)


def test_a_lease_that_ended_or_was_given_back_is_anybodys(engine: sa.Engine):
    assert leases.hold(engine, "work", "a", -1)
    assert leases.hold(engine, "work", "b", 60)
    leases.release(engine, "work", "a")
    assert not leases.hold(engine, "work", "a", 60)
    leases.release(engine, "work", "b")
    assert leases.hold(engine, "work", "a", 60)


def test_of_many_at_once_one_gets_it(engine: sa.Engine):
    got: list[bool] = []
    threads = [
        threading.Thread(target=lambda i=i: got.append(leases.hold(engine, "w", str(i), 60)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]
