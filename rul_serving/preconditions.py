"""``ETag`` and ``If-Match``: a change is made only to what was looked at (RFC 9110, 13.1.1).

What belongs here: the headers. What does not: comparing, which is done in the transaction that
makes the change (``rul_store``).
"""

import re
from collections.abc import Collection
from typing import Annotated

from litestar.params import HeaderParameter

from rul_serving.problems import Kind, Refusal

_TAG = re.compile(r'"([0-9]{1,18})"')
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        max_length=1000,
        description="The `ETag` of what shall be changed, as it was looked at; needed.",
    ),
]


def tag(number: int) -> dict[str, str]:
    """The header that names a version or generation."""
    return {"ETag": f'"{number}"'}


def wanted(if_match: str | None) -> Collection[int] | None:
    """The numbers that ``If-Match`` names; None for ``*``, which is any.

    Raises:
        Refusal: The header is missing.
    """
    if if_match is None:
        detail = "the header If-Match is missing; send the ETag of what was looked at"
        raise Refusal(Kind.PRECONDITION_REQUIRED, detail)
    tags = {tag.strip() for tag in if_match.split(",")}
    if "*" in tags:
        return None
    return {int(found[1]) for tag in tags if (found := _TAG.fullmatch(tag))}
