"""Opaque cursors: where a list goes on, as text.

What belongs here: writing and reading them. What does not: what a place is (whose list it is).
"""

import base64
from typing import Any, TypeVar

import msgspec

from rul_core.errors import StoreError

T = TypeVar("T")


def encode(place: Any) -> str:
    """The cursor of a place."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def decode(cursor: str, type_: type[T], of: str) -> T:
    """The place of a cursor.

    Raises:
        StoreError: It is no cursor of the list.
    """
    try:
        content = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(content, type=type_)
    except (ValueError, msgspec.DecodeError) as error:
        raise StoreError(f"{cursor!r} is no cursor of {of}; begin again without one") from error
