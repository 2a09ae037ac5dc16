"""API keys: what is kept of them, and how they end."""

import hashlib
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from rul_core.errors import Conflict, StoreError
from rul_store import audit, keys
from rul_store.database import begin
from rul_store.keys import Author

ANN = Author(principal="cli:ann", trace_id="t1")
ADMIN_KEY = "rul_admin001_Zm9vYmFyMTIzNDU2Nzg5MGFiY2RlZmdoaWprbG1ub3A"


def create(engine: sa.Engine, name: str = "line 1", **more: Any) -> keys.NewKey:
    given: dict[str, Any] = {"name": name, "roles": ["viewer"], "by": ANN, **more}
    return keys.create(engine, **given)


def test_only_the_digest_of_the_secret_is_kept(engine: sa.Engine):
    made = create(engine, roles=["viewer", "planner"], fleets=["pumps"])
    assert keys.KEY.fullmatch(made.secret)
    assert made.secret.startswith(f"{made.key.prefix}_")
    secret = made.secret[13:]
    with begin(engine) as connection:
        row = connection.execute(sa.text("SELECT * FROM api_keys")).one()
        dump = str(row) + str(connection.execute(sa.text("SELECT * FROM audit")).all())
    assert bytes(row.digest) == hashlib.sha256(secret.encode()).digest()
    assert secret not in dump
    assert secret not in repr(made)
    assert made.key.roles == ("planner", "viewer")
    assert (made.key.fleets, made.key.state, made.key.expires_at) == (("pumps",), "active", None)
    assert keys.every(engine) == [made.key]


def test_a_key_of_a_name_in_use_is_refused_until_that_one_ends(engine: sa.Engine):
    first = create(engine)
    with pytest.raises(Conflict, match=f"{first.key.prefix} is in use under the name 'line 1'"):
        create(engine)
    keys.revoke(engine, first.key.key_id, by=ANN)
    assert create(engine).key.state == "active"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": "cli:ann"}, "cannot be the name of a key"),
        ({"name": "a\n"}, "cannot be the name of a key"),
        ({"name": "Anonymous"}, "cannot be the name of a key"),
        ({"roles": []}, "has no role"),
        ({"fleets": []}, "is for no fleet"),
        ({"fleets": ["../x"]}, "cannot be the name of a fleet"),
        ({"roles": ["admin"], "fleets": ["pumps"]}, "is for all fleets"),
    ],
)
def test_what_cannot_be_a_key_is_refused_and_nothing_is_made(engine: sa.Engine, wrong, told):
    with pytest.raises(StoreError, match=told):
        create(engine, **wrong)
    assert keys.every(engine) == []
    assert audit.page(engine, limit=10).entries == []


def test_a_key_expires_by_itself(engine: sa.Engine):
    made = create(engine, expires_in=timedelta(microseconds=1))
    assert [key.state for key in keys.every(engine)] == ["expired"]
    with pytest.raises(Conflict, match="is expired; create a new one"):
        keys.rotate(engine, made.key.key_id, overlap=timedelta(), by=ANN)


def test_a_replaced_key_stays_good_for_a_while_and_its_successor_inherits(engine: sa.Engine):
    old = create(engine, fleets=["pumps"], expires_in=timedelta(days=30))
    new = keys.rotate(engine, old.key.key_id, overlap=timedelta(hours=2), by=ANN)
    assert new is not None
    assert new.secret != old.secret
    assert (new.key.name, new.key.roles, new.key.fleets) == ("line 1", ("viewer",), ("pumps",))
    assert new.key.replaces == old.key.key_id
    assert new.key.expires_at == new.key.created_at + timedelta(days=30)
    now = datetime.now(UTC)
    kept = {key.key_id: key for key in keys.every(engine)}[old.key.key_id]
    assert kept.state == "active"
    assert kept.expires_at is not None
    assert timedelta(hours=1.9) < kept.expires_at - now < timedelta(hours=2)
    with pytest.raises(Conflict, match=f"was replaced by {new.key.prefix} already"):
        keys.rotate(engine, old.key.key_id, overlap=timedelta(), by=ANN)


def test_an_overlap_never_lets_a_key_live_longer(engine: sa.Engine):
    old = create(engine, expires_in=timedelta(hours=1))
    keys.rotate(engine, old.key.key_id, overlap=timedelta(days=9), by=ANN)
    assert keys.every(engine)[0].expires_at == old.key.expires_at


def test_revoking_twice_is_revoking_once(engine: sa.Engine):
    made = create(engine)
    once = keys.revoke(engine, made.key.key_id, by=ANN)
    assert once is not None
    assert once.state == "revoked"
    assert keys.revoke(engine, made.key.key_id, by=ANN) == once
    assert keys.revoke(engine, "nobody00", by=ANN) is None
    assert keys.rotate(engine, "nobody00", overlap=timedelta(), by=ANN) is None
    with pytest.raises(Conflict, match="is revoked"):
        keys.rotate(engine, made.key.key_id, overlap=timedelta(), by=ANN)
    assert [entry.action for entry in audit.page(engine, limit=9).entries] == [
        "key.revoke", "key.create"
    ]  # fmt: skip


def test_the_audit_says_who_made_what(engine: sa.Engine):
    old = create(engine, fleets=["pumps"])
    new = keys.rotate(engine, old.key.key_id, overlap=timedelta(hours=1), by=ANN)
    assert new is not None
    entry = audit.page(engine, limit=1).entries[0]
    assert (entry.principal, entry.trace_id, entry.fleet) == ("cli:ann", "t1", None)
    assert (entry.action, entry.target) == ("key.rotate", new.key.prefix)
    assert entry.detail == {
        "name": "line 1", "roles": ["viewer"], "fleets": ["pumps"], "expires_at": None,
        "replaces": old.key.key_id, "overlap_seconds": 3600.0,
    }  # fmt: skip


def test_a_given_key_is_made_once_and_stays_revoked(engine: sa.Engine):
    def ensure(key: str = ADMIN_KEY) -> bool:
        return keys.ensure(engine, key, name="first admin", roles=["admin"], by=ANN)

    assert ensure()
    assert not ensure()
    keys.revoke(engine, "admin001", by=ANN)
    assert not ensure()
    assert [key.state for key in keys.every(engine)] == ["revoked"]
    with pytest.raises(Conflict, match="another key has the id admin001"):
        ensure(ADMIN_KEY[:-1] + "q")
    with pytest.raises(StoreError, match="is not rul_") as refused:
        ensure(ADMIN_KEY[:-1])
    assert ADMIN_KEY[14:40] not in str(refused.value)


def test_a_secret_that_somebody_typed_is_refused():
    assert keys.problem_of(ADMIN_KEY) == ""
    assert keys.problem_of("rul_admin001_" + "a1" * 21 + "b") == (
        "its secret is too regular to be random"
    )


@given(st.text(max_size=80) | st.from_regex(keys.KEY, fullmatch=True))
def test_a_text_is_a_key_exactly_when_it_has_the_form_of_one(text: str):
    found = keys.parse(text)
    assert (found is not None) == (keys.KEY.fullmatch(text) is not None)
    shown = keys.redacted(f"GET /v1/keys/{text}?x")
    assert keys.KEY.search(shown) is None
    if found is not None:
        assert shown == f"GET /v1/keys/rul_{found[0]}_…?x"


def test_who_reads_on_from_a_change_misses_none(engine: sa.Engine):
    """Many writers at once, and a reader that takes each change as it comes."""
    seen: dict[str, str] = {}
    newest = 0

    def look() -> None:
        nonlocal newest
        changes = keys.changed_since(engine, newest)
        newest = changes.newest
        seen.update({key.key_id: key.state for _, key in changes.keys})

    def write(number: int) -> None:
        made = create(engine, f"machine {number}")
        keys.revoke(engine, made.key.key_id, by=ANN)

    look()
    assert (newest, seen) == (0, {})
    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        look()
    look()
    assert len(seen) == 8
    assert set(seen.values()) == {"revoked"}
    assert newest == 16
    assert keys.changed_since(engine, newest).keys == []


def test_the_last_use_only_moves_forward(engine: sa.Engine):
    made, other = create(engine, "a"), create(engine, "b")
    late, early = datetime(2026, 11, 23, 12, tzinfo=UTC), datetime(2026, 11, 23, 11, tzinfo=UTC)
    change = keys.changed_since(engine, 0).newest
    keys.mark_used(engine, {made.key.key_id: late, "gone0000": late})
    keys.mark_used(engine, {made.key.key_id: early, other.key.key_id: early})
    assert [key.last_used_at for key in keys.every(engine)] == [late, early]
    assert keys.changed_since(engine, change).keys == []
