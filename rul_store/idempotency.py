"""Requests that come twice: each key is good for one change, and for one answer.

What belongs here: reserving a key, making the reservation good with the change, keeping the answer.
What does not: headers and statuses (``rul_serving.idempotency``).

A key is reserved, then the change is made, then its answer is kept. The transaction that makes the
change also confirms the reservation (``audit.append`` does), and fails where the reservation is not
its own any more. So a process may die anywhere:

- before that commit: nothing was changed, and nothing will be. A repeat after
  ``RESERVED_SECONDS`` takes the reservation over, which shuts a late first attempt out, and tries
  anew.
- after it, before the answer was kept: a repeat is told that the change was made, and that its
  answer was lost. It is never made twice.

The records are in PostgreSQL, beside what they are about: whatever is restored, both agree.
"""

from contextvars import ContextVar
from datetime import datetime
from uuid import UUID, uuid4

import msgspec
import sqlalchemy as sa

from rul_core.errors import Unavailable
from rul_store.database import begin

RESERVED_SECONDS = 60
"""How long an attempt is waited for before another may take its place."""
KEPT_HOURS = 24
REMOVAL_LOCK = 0x52554C04


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """The right to make a change once."""

    principal: str
    key: str
    id: UUID
    """Of this attempt."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """The key was used before."""

    same: bool
    """Whether for the same request."""
    answer: Answer | None
    """None while there is none."""
    is_lost: bool
    """Whether the change was made and nobody will ever keep its answer."""
    reserved_at: datetime
    trace_id: str
    """Of the attempt that has it."""


reserved: ContextVar[Reservation | None] = ContextVar("reserved", default=None)
"""What the request that is being answered has reserved."""


def reserve(
    engine: sa.Engine, principal: str, key: str, fingerprint: bytes, trace_id: str
) -> Reservation | Taken:
    """Reserve a key for a request, or tell who has it.

    Args:
        engine: The database.
        principal: Whose key it is; those of others are apart.
        key: What the caller chose.
        fingerprint: Of the request.
        trace_id: Of this attempt.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    mine = Reservation(principal=principal, key=key, id=uuid4())
    parameters = {
        "principal": principal,
        "key": key,
        "fingerprint": fingerprint,
        "reservation": mine.id,
        "trace_id": trace_id,
        "reserved_seconds": RESERVED_SECONDS,
        "kept_hours": KEPT_HOURS,
    }
    with begin(engine) as connection:
        if connection.execute(sa.text(_RESERVE), parameters).rowcount:
            return mine
        # It cannot be removed meanwhile: the statement before has locked it.
        row = connection.execute(sa.text(_FIND), parameters).one()
    answer = None
    if row.status is not None:
        headers = msgspec.json.decode(row.headers, type=list[tuple[str, str]])
        answer = Answer(status=row.status, headers=headers, body=bytes(row.body))
    return Taken(
        same=bytes(row.fingerprint) == fingerprint,
        answer=answer,
        is_lost=answer is None and row.effected_at is not None and row.is_late,
        reserved_at=row.reserved_at,
        trace_id=row.trace_id,
    )


def confirm(connection: sa.Connection) -> None:
    """Make the request's reservation good, in the transaction that makes the change.

    Raises:
        Unavailable: It was given to another attempt; nothing may be changed.
    """
    mine = reserved.get()
    if mine is None:
        return
    parameters = {"principal": mine.principal, "key": mine.key, "id": mine.id}
    if not connection.execute(sa.text(_CONFIRM), parameters).rowcount:
        raise Unavailable(
            f"this attempt with the idempotency key {mine.key!r} took too long, and its "
            "reservation is not its own any more; repeat the request to see what became of it"
        )


def complete(engine: sa.Engine, mine: Reservation, answer: Answer) -> None:
    """Keep the answer for those who repeat the request."""
    parameters = {
        "principal": mine.principal,
        "key": mine.key,
        "id": mine.id,
        "status": answer.status,
        "headers": msgspec.json.encode(answer.headers).decode(),
        "body": answer.body,
    }
    with begin(engine) as connection:
        connection.execute(sa.text(_COMPLETE), parameters)


def release(engine: sa.Engine, mine: Reservation) -> None:
    """Give the key back, unless the change was made; an attempt that still runs cannot make it."""
    parameters = {"principal": mine.principal, "key": mine.key, "id": mine.id}
    with begin(engine) as connection:
        connection.execute(sa.text(_RELEASE), parameters)


def remove_expired(engine: sa.Engine) -> int:
    """Remove what is older than a day, unless another does just now; say how much that was."""
    with begin(engine) as connection:
        if not connection.execute(
            sa.select(sa.func.pg_try_advisory_xact_lock(REMOVAL_LOCK))
        ).scalar():
            return 0
        return connection.execute(sa.text(_REMOVE), {"kept_hours": KEPT_HOURS}).rowcount


_EXPIRED = "reserved_at < clock_timestamp() - make_interval(hours => :kept_hours)"
_RESERVE = f"""
    INSERT INTO idempotency_records AS kept
        (principal, key, fingerprint, reservation, trace_id, reserved_at)
    VALUES (:principal, :key, :fingerprint, :reservation, :trace_id, clock_timestamp())
    ON CONFLICT (principal, key) DO UPDATE SET
        fingerprint = excluded.fingerprint, reservation = excluded.reservation,
        trace_id = excluded.trace_id, reserved_at = excluded.reserved_at,
        effected_at = NULL, status = NULL, headers = NULL, body = NULL
    WHERE kept.{_EXPIRED} OR (
        kept.effected_at IS NULL AND kept.status IS NULL
        AND kept.fingerprint = excluded.fingerprint
        AND kept.reserved_at < clock_timestamp() - make_interval(secs => :reserved_seconds)
    )
"""  # noqa: S608 - the parts are constants
_FIND = """
    SELECT fingerprint, trace_id, reserved_at, effected_at, status, headers, body,
        reserved_at < clock_timestamp() - make_interval(secs => :reserved_seconds) AS is_late
    FROM idempotency_records WHERE principal = :principal AND key = :key
"""
_MINE = "principal = :principal AND key = :key AND reservation = :id"
_CONFIRM = f"""
    UPDATE idempotency_records SET effected_at = clock_timestamp() WHERE {_MINE}
"""  # noqa: S608
_COMPLETE = f"""
    UPDATE idempotency_records SET status = :status, headers = :headers, body = :body WHERE {_MINE}
"""  # noqa: S608
_RELEASE = f"""
    DELETE FROM idempotency_records WHERE {_MINE} AND effected_at IS NULL
"""  # noqa: S608
_REMOVE = f"DELETE FROM idempotency_records WHERE {_EXPIRED}"  # noqa: S608
