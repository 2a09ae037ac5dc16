"""Opaque cursors: where a list goes on, as text.

What belongs here: writing and reading them. What does not: what a place is (whose list it is).
"""

import base64
from typing import Annotated, Any, TypeVar

import msgspec

from rul_core.errors import InvalidCursor

T = TypeVar("T")


class Before(msgspec.Struct, frozen=True):
    """The page begins before an entry of that number."""

    before: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


def encode(place: Any) -> str:
    """The cursor of a place."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def decode(cursor: str, type_: type[T], of: str) -> T:
    """The place of a cursor.

    Raises:
        InvalidCursor: It is no cursor of the list.
    """
    try:
        content = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(content, type=type_)
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidCursor(f"{cursor!r} is no cursor of {of}; begin again without one") from error
