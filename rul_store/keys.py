"""API keys: made, listed, replaced, revoked; the key itself is never kept.

What belongs here: the form of a key, the roles it may have, the table of keys. What does not: which
operation is for which role (``rul_serving.principal``), finding the key of a request
(``rul_serving.access``).

A key is ``rul_``, 8 characters that name it, ``_`` and a secret of 32 random bytes (base64url).
Only SHA-256 of the secret is kept. A slow hash is for secrets that can be guessed: one of 2^256
cannot, and a slow one would be paid for by every request.

Every change is one transaction with its entry in the audit, and changes take turns, so that their
numbers (``change``) grow in the order of the commits and nobody who reads on from one misses any.
"""

import hashlib
import re
import secrets
import string
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa

from rul_core.errors import Conflict, StoreError
from rul_core.schema import NAME_PATTERN
from rul_store import audit
from rul_store.database import begin


class Role(StrEnum):
    """What a principal is for; one may have several."""

    VIEWER = "viewer"
    """Reads everything but keys and the audit."""
    TECHNICIAN = "technician"
    """Acknowledges advisories, says what was found."""
    PLANNER = "planner"
    """Plans, shelves and closes advisories, ends and starts lives."""
    ENGINEER = "engineer"
    """Whatever technicians and planners do; replays the ledger, asks what-if questions."""
    ML_OWNER = "ml_owner"
    """Promotes models and rolls them back."""
    ADMIN = "admin"
    """Keys and the audit, and everything else."""
    INGEST = "ingest"
    """A machine: sends readings, asks what is said of them, and nothing else."""


PREFIX = "rul_"
ID_LENGTH = 8
ID_PATTERN = rf"[a-z0-9]{{{ID_LENGTH}}}"
KEY = re.compile(rf"{PREFIX}({ID_PATTERN})_([A-Za-z0-9_-]{{43}})")
NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,99}$(?!\n)"
"""Of a key's name; no colon, which tells ``cli:`` and a user apart from keys in the audit."""
RESERVED_NAMES = ("anonymous", "system")
EVERYWHERE = Role.ADMIN
"""The role that is for all fleets: who may make keys may make one for any fleet."""
FEWEST_CHARACTERS = 16
"""Different ones in a secret: one of 43 random characters has more; one typed by hand may not."""
LONGEST_DAYS = 3650
LOCK = 0x52554C05


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key; not the key."""

    key_id: str
    prefix: str
    """How the key begins: shown, so that people know which one they hold."""
    name: str
    """Who asks with it, as it stands in the audit; several keys of one name follow one another."""
    roles: tuple[str, ...]
    fleets: tuple[str, ...] | None = None
    """The fleets that it may see; null is all."""
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    """To about half a minute; null before the first use."""
    replaces: str | None = None
    """The key in whose place it came."""
    state: str
    """``active``, ``expired`` or ``revoked``."""


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was just made."""

    secret: str
    """The key itself, to be shown once."""
    key: ApiKey

    def __repr__(self) -> str:
        return f"NewKey({self.key.prefix})"


class Author(msgspec.Struct, frozen=True, kw_only=True):
    """Who changes keys, for the audit."""

    principal: str
    trace_id: str = ""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to keys since a change."""

    newest: int
    """The number of the last change of all."""
    keys: list[tuple[bytes, ApiKey]]
    """Each key as it is now, with its digest."""


def generate() -> str:
    """A key that nobody knows yet, in no table."""
    alphabet = string.ascii_lowercase + string.digits
    key_id = "".join(secrets.choice(alphabet) for _ in range(ID_LENGTH))
    return f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"


def parse(key: str) -> tuple[str, bytes] | None:
    """Its id and the digest of its secret; none where it is no key."""
    return None if KEY.fullmatch(key) is None else _split(key)


def problem_of(key: str) -> str:
    """Why it may not be made a key; empty where it may. Never says the key."""
    found = KEY.fullmatch(key)
    if found is None:
        return "it is not rul_, 8 of a-z and 0-9, _ and 43 characters of base64url"
    if len(set(found[2])) < FEWEST_CHARACTERS:
        return "its secret is too regular to be random"
    return ""


def redacted(text: str) -> str:
    """The text with the secret of every key in it left out."""
    return KEY.sub(rf"{PREFIX}\1_…", text) if PREFIX in text else text


def create(
    engine: sa.Engine,
    *,
    name: str,
    roles: Iterable[str],
    fleets: Iterable[str] | None = None,
    expires_in: timedelta | None = None,
    by: Author,
) -> NewKey:
    """Make a key.

    Args:
        engine: The database.
        name: Who will ask with it; no other key in use may have it.
        roles: At least one.
        fleets: All unless given.
        expires_in: Never unless given.
        by: Who makes it.

    Raises:
        StoreError: The name, roles or fleets cannot be those of a key; nothing was made.
        Conflict: A key of this name is in use.
        Unavailable: PostgreSQL does not answer.
    """
    secret = generate()
    given = _checked(name, roles, fleets)
    with begin(engine) as connection:
        _take_turn(connection)
        used_by = connection.execute(sa.text(_IN_USE), {"name": name}).scalar()
        if used_by is not None:
            raise Conflict(
                f"the key {PREFIX}{used_by} is in use under the name {name!r}; rotate or revoke "
                "that one, or give another name"
            )
        key = _insert(connection, secret, given, expires_in, by)
        _audit(connection, "key.create", key, by)
    return NewKey(secret=secret, key=key)


def ensure(engine: sa.Engine, secret: str, *, name: str, roles: Iterable[str], by: Author) -> bool:
    """Make a given key, unless it was made before: also one that was revoked since stays so.

    Returns:
        Whether it was made now.

    Raises:
        StoreError: It is no key.
        Conflict: Another key has its id.
        Unavailable: PostgreSQL does not answer.
    """
    problem = problem_of(secret)
    if problem:
        raise StoreError(f"the key given as {name!r} cannot be used: {problem}; generate one")
    key_id, digest = _split(secret)
    with begin(engine) as connection:
        _take_turn(connection)
        known = connection.execute(sa.text(_DIGEST), {"key_id": key_id}).scalar()
        if known is not None:
            if bytes(known) != digest:
                raise Conflict(
                    f"another key has the id {key_id} of the one given as {name!r}; "
                    "generate a new one"
                )
            return False
        key = _insert(connection, secret, _checked(name, roles, None), None, by)
        _audit(connection, "key.create", key, by)
    return True


def rotate(engine: sa.Engine, key_id: str, *, overlap: timedelta, by: Author) -> NewKey | None:
    """Put a new key in the place of one, which stays good for a while longer.

    The new one has the same name, roles and fleets, and lives as long as the old one was to live.

    Returns:
        The new key; none where there is no such old one.

    Raises:
        Conflict: The old one ended, or was replaced before.
        Unavailable: PostgreSQL does not answer.
    """
    secret = generate()
    with begin(engine) as connection:
        _take_turn(connection)
        old = _one(connection, key_id)
        if old is None:
            return None
        if old.state != "active":
            raise Conflict(f"the key {old.prefix} is {old.state}; create a new one")
        by_whom = connection.execute(sa.text(_REPLACED), {"key_id": key_id}).scalar()
        if by_whom is not None:
            raise Conflict(
                f"the key {old.prefix} was replaced by {PREFIX}{by_whom} already; rotate that one"
            )
        lifetime = old.expires_at - old.created_at if old.expires_at else None
        given = {"name": old.name, "roles": list(old.roles), "fleets": _listed(old.fleets)}
        new = _insert(connection, secret, given, lifetime, by, replaces=key_id)
        parameters = {"key_id": key_id, "overlap": overlap}
        connection.execute(sa.text(_END_SOON), parameters)
        _audit(connection, "key.rotate", new, by, overlap_seconds=overlap.total_seconds())
    return NewKey(secret=secret, key=new)


def revoke(engine: sa.Engine, key_id: str, *, by: Author) -> ApiKey | None:
    """End a key now; one that was revoked before stays as it is.

    Returns:
        The key as it is now; none where there is no such.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        _take_turn(connection)
        revoked = connection.execute(sa.text(_REVOKE), {"key_id": key_id}).first()
        if revoked is None:
            return _one(connection, key_id)
        key = _key(revoked)
        _audit(connection, "key.revoke", key, by)
        return key


def every(engine: sa.Engine) -> list[ApiKey]:
    """All keys there ever were, oldest first."""
    with begin(engine) as connection:
        rows = connection.execute(sa.text(f"{_SELECT} ORDER BY created_at, key_id"))
        return [_key(row) for row in rows]


def changed_since(engine: sa.Engine, change: int) -> Changes:
    """The keys that changed after a change; 0 is before all."""
    with begin(engine) as connection:
        rows = connection.execute(sa.text(_CHANGED), {"change": change}).all()
    return Changes(
        newest=rows[0].newest,
        keys=[(bytes(row.digest), _key(row)) for row in rows if row.key_id is not None],
    )


def mark_used(engine: sa.Engine, used: Mapping[str, datetime]) -> None:
    """Note when keys were used last, in one statement."""
    parameters = {"key_id": list(used), "at": list(used.values())}
    with begin(engine) as connection:
        connection.execute(sa.text(_MARK_USED), parameters)


def _checked(name: str, roles: Iterable[str], fleets: Iterable[str] | None) -> dict[str, Any]:
    """The columns of a key that somebody asks for."""
    if re.fullmatch(NAME, name) is None or name.lower() in RESERVED_NAMES:
        raise StoreError(
            f"{name!r} cannot be the name of a key; give 1 to 100 letters, digits, spaces and "
            f"._@- that begin with a letter or digit, other than {', '.join(RESERVED_NAMES)}"
        )
    given = {"name": name, "roles": sorted({*roles}), "fleets": _listed(fleets)}
    if not given["roles"]:
        raise StoreError(f"the key {name!r} has no role; give at least one")
    if fleets is None:
        return given
    if not given["fleets"]:
        raise StoreError(f"the key {name!r} is for no fleet; name at least one, or leave them out")
    for fleet in given["fleets"]:
        if re.fullmatch(NAME_PATTERN, fleet) is None:
            raise StoreError(f"{fleet!r} cannot be the name of a fleet; correct it")
    if EVERYWHERE in given["roles"]:
        raise StoreError(
            f"the key {name!r} has the role {EVERYWHERE!r}, which is for all fleets; leave the "
            "role or the fleets out"
        )
    return given


def _split(key: str) -> tuple[str, bytes]:
    """The id of a well-formed key, and the digest of its secret."""
    start = len(PREFIX) + ID_LENGTH
    return key[len(PREFIX) : start], hashlib.sha256(key[start + 1 :].encode()).digest()


def _listed(fleets: Iterable[str] | None) -> list[str] | None:
    return None if fleets is None else sorted({*fleets})


def _take_turn(connection: sa.Connection) -> None:
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))


def _insert(
    connection: sa.Connection,
    secret: str,
    given: Mapping[str, Any],
    lifetime: timedelta | None,
    by: Author,
    replaces: str | None = None,
) -> ApiKey:
    key_id, digest = _split(secret)
    parameters = {
        **given,
        "key_id": key_id,
        "digest": digest,
        "by": by.principal,
        "lifetime": lifetime,
        "replaces": replaces,
    }
    return _key(connection.execute(sa.text(_INSERT), parameters).one())


def _audit(connection: sa.Connection, action: str, key: ApiKey, by: Author, **more: object) -> None:
    detail = {
        "name": key.name,
        "roles": key.roles,
        "fleets": key.fleets,
        "expires_at": key.expires_at,
        "replaces": key.replaces,
        **more,
    }
    audit.append(
        connection,
        principal=by.principal,
        action=action,
        target=key.prefix,
        fleet=None,
        detail=detail,
        trace_id=by.trace_id,
    )


def _one(connection: sa.Connection, key_id: str) -> ApiKey | None:
    found = connection.execute(sa.text(f"{_SELECT} WHERE key_id = :key_id"), {"key_id": key_id})
    return next(map(_key, found), None)


def _key(row: sa.Row) -> ApiKey:
    return msgspec.convert(row._asdict(), ApiKey)


_COLUMNS = f"""
    key_id, '{PREFIX}' || key_id AS prefix, name, roles, fleets, created_at, created_by, expires_at,
    revoked_at, last_used_at, replaces,
    CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
        WHEN expires_at <= clock_timestamp() THEN 'expired' ELSE 'active' END AS state
"""
_SELECT = f"SELECT {_COLUMNS} FROM api_keys"  # noqa: S608 - the parts are constants
# One row without a key where nothing changed, for the number of the last change.
_CHANGED = f"""
    SELECT {_COLUMNS}, digest, newest
    FROM (SELECT coalesce(max(change), 0) AS newest FROM api_keys) AS last
    LEFT JOIN api_keys ON change > :change
    ORDER BY change
"""  # noqa: S608
_NEXT = "(SELECT coalesce(max(change), 0) + 1 FROM api_keys)"
_INSERT = f"""
    INSERT INTO api_keys (
        key_id, digest, name, roles, fleets, created_at, created_by, expires_at, replaces, change
    )
    SELECT :key_id, :digest, :name, CAST(:roles AS text[]), CAST(:fleets AS text[]), now, :by,
        now + CAST(:lifetime AS interval), :replaces, {_NEXT}
    FROM clock_timestamp() AS now
    RETURNING {_COLUMNS}
"""  # noqa: S608
_IN_USE = """
    SELECT key_id FROM api_keys
    WHERE name = :name AND revoked_at IS NULL AND coalesce(expires_at > clock_timestamp(), TRUE)
    ORDER BY created_at DESC LIMIT 1
"""
_DIGEST = "SELECT digest FROM api_keys WHERE key_id = :key_id"
_REPLACED = "SELECT key_id FROM api_keys WHERE replaces = :key_id"
_END_SOON = f"""
    UPDATE api_keys SET change = {_NEXT},
        expires_at = least(expires_at, clock_timestamp() + CAST(:overlap AS interval))
    WHERE key_id = :key_id
"""  # noqa: S608
_REVOKE = f"""
    UPDATE api_keys SET change = {_NEXT}, revoked_at = clock_timestamp()
    WHERE key_id = :key_id AND revoked_at IS NULL
    RETURNING {_COLUMNS}
"""  # noqa: S608
# Rows are locked in one order, so that two servers wait for each other and do not deadlock.
_MARK_USED = """
    WITH given AS (
        SELECT key_id, at FROM unnest(CAST(:key_id AS text[]), CAST(:at AS timestamptz[]))
            AS used (key_id, at)
    ), locked AS (
        SELECT key_id FROM api_keys WHERE key_id = ANY(CAST(:key_id AS text[]))
        ORDER BY key_id FOR NO KEY UPDATE
    )
    UPDATE api_keys SET last_used_at = greatest(last_used_at, at)
    FROM locked JOIN given USING (key_id) WHERE api_keys.key_id = locked.key_id
"""
