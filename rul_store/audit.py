"""Who changed what, when and why: one chain of entries that nobody changes.

What belongs here: appending, reading, walking the chain. What does not: deciding what is worth an
entry (whoever makes a change appends one, in the transaction that makes it).

Entries follow one another by hash (``chain``) in the order of their commits: whoever appends takes
a lock that lasts to the end of the transaction.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from rul_store import cursors, idempotency
from rul_store.chain import GENESIS, Break, Link, hash_of, walk
from rul_store.database import begin

LOCK = 0x52554C03
PAGE = 1_000
"""Entries that are read at once on a walk along the chain."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change, as it stands in the audit."""

    position: int
    """Its place in the chain, from 1."""
    at: datetime
    principal: str
    """Who made it: the name of a key, ``cli:`` and a user of the machine, or ``system``."""
    action: str
    """What was done, such as ``key.create``."""
    target: str
    """What it was done to."""
    fleet: str | None = None
    """Whose it is; null where it is of no one fleet."""
    detail: dict[str, Any]
    """What else there is to know of it."""
    trace_id: str
    """Of the request that made it; empty outside of one."""
    prev_hash: str
    """Hexadecimal, of the entry before."""
    hash: str
    """Hexadecimal, of this entry and all before it."""


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the audit, the newest entries first."""

    entries: list[AuditEntry]
    next_cursor: str | None
    """For the next page; null on the last one."""


def append(
    connection: sa.Connection,
    *,
    principal: str,
    action: str,
    target: str,
    fleet: str | None,
    detail: dict[str, Any],
    trace_id: str,
) -> None:
    """Write down a change, in the transaction that makes it.

    All others who append wait from here to the end of the transaction, so call it last. Where the
    request came with an idempotency key, this is also what makes the key's reservation good.

    Raises:
        Unavailable: The request's reservation was given to another attempt; nothing is changed.
    """
    idempotency.confirm(connection)
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    # A statement of its own: what it sees begins after the lock was had.
    position, before, at = connection.execute(sa.text(_HEAD), {"genesis": GENESIS}).one()
    row = {
        "position": position + 1,
        "at": at,
        "principal": principal,
        "action": action,
        "target": target,
        "fleet": fleet,
        "detail": msgspec.json.encode(detail, order="sorted").decode(),
        "trace_id": trace_id,
    }
    chained = {"prev_hash": before, "hash": hash_of(before, _content(row))}
    connection.execute(sa.text(_INSERT), row | chained)


def page(engine: sa.Engine, *, limit: int, after: str | None = None) -> AuditPage:
    """The newest entries first.

    Args:
        engine: The database.
        limit: How many at most.
        after: The cursor of the page before.

    Raises:
        InvalidCursor: The cursor is none of the audit's.
        Unavailable: PostgreSQL does not answer.
    """
    before = None if after is None else cursors.decode(after, cursors.Before, "the audit").before
    with begin(engine) as connection:
        found = connection.execute(sa.text(_PAGE), {"limit": limit + 1, "before": before}).all()
    rows = found[:limit]
    more = len(found) > limit
    entries = [
        AuditEntry(
            position=row.position,
            at=row.at,
            principal=row.principal,
            action=row.action,
            target=row.target,
            fleet=row.fleet,
            detail=msgspec.json.decode(row.detail),
            trace_id=row.trace_id,
            prev_hash=bytes(row.prev_hash).hex(),
            hash=bytes(row.hash).hex(),
        )
        for row in rows
    ]
    return AuditPage(
        entries=entries,
        next_cursor=cursors.encode(cursors.Before(before=rows[-1].position)) if more else None,
    )


def verify(engine: sa.Engine) -> Iterator[Break | Link]:
    """Walk the chain: every entry that is right, and a ``Break`` as the last where one is not.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    yield from walk(_links(engine))


def _links(engine: sa.Engine) -> Iterator[Link]:
    after = 0
    while True:
        with begin(engine) as connection:
            rows = connection.execute(sa.text(_CHAIN), {"after": after, "limit": PAGE}).all()
        for row in rows:
            after = row.position
            yield Link(
                position=row.position,
                before=bytes(row.prev_hash),
                hash=bytes(row.hash),
                parts=(_content(row._asdict()),),
            )
        if len(rows) < PAGE:
            return


def _content(row: dict[str, Any]) -> str:
    """All that an entry says, as one JSON text; times in whole microseconds."""
    microseconds = (row["at"] - _EPOCH) // timedelta(microseconds=1)
    told = [row[name] for name in ("principal", "action", "target", "fleet", "detail", "trace_id")]
    return msgspec.json.encode([row["position"], microseconds, *told]).decode()


_HEAD = """
    SELECT coalesce(max(position), 0),
        coalesce((SELECT hash FROM audit ORDER BY position DESC LIMIT 1), :genesis),
        clock_timestamp()
    FROM audit
"""
_COLUMNS = "position, at, principal, action, target, fleet, detail, trace_id, prev_hash, hash"
_INSERT = f"""
    INSERT INTO audit ({_COLUMNS}) VALUES (
        :position, :at, :principal, :action, :target, :fleet, :detail, :trace_id, :prev_hash, :hash
    )
"""  # noqa: S608 - the parts are constants
_PAGE = f"""
    SELECT {_COLUMNS} FROM audit
    WHERE CAST(:before AS bigint) IS NULL OR position < :before
    ORDER BY position DESC LIMIT :limit
"""  # noqa: S608
_CHAIN = f"""
    SELECT {_COLUMNS} FROM audit WHERE position > :after ORDER BY position LIMIT :limit
"""  # noqa: S608
