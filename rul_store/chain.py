"""Hash chains: each entry's hash takes in the one before, so that none can be changed unseen.

What belongs here: the rule of a link and walking along one. What does not: what is chained
(``ledger``), who may write it (the migrations).
"""

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

GENESIS = bytes(32)
"""What the first entry's hash takes in."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as it stands."""

    position: int
    before: bytes
    """The hash of the entry before, as this one has it."""
    hash: bytes
    parts: tuple[object, ...]
    """What the hash takes in beside ``before``."""


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """Where a chain is not what was written."""

    position: int
    reason: str


def hash_of(before: bytes, *parts: object) -> bytes:
    """SHA-256 of the hash before and of the parts, as lines of UTF-8 text."""
    return hashlib.sha256(before + "\n".join(map(str, parts)).encode()).digest()


def walk(links: Iterable[Link]) -> Iterator[Link | Break]:
    """The links in order, until the first that does not follow from those before it.

    An entry that was removed from the end leaves a chain without a fault: compare the last hash
    with one that was noted elsewhere.
    """
    before, expected = GENESIS, 1
    for link in links:
        reason = ""
        if link.position != expected:
            reason = f"entry {expected} is missing"
        elif link.before != before:
            reason = f"it does not follow entry {expected - 1}, which was replaced or changed"
        elif hash_of(before, *link.parts) != link.hash:
            reason = "its content is not what was written"
        if reason:
            yield Break(position=expected, reason=reason)
            return
        yield link
        before, expected = link.hash, expected + 1
