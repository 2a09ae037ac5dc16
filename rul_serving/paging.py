"""What a list is asked with page by page, and the header that leads to the next one.

What belongs here: both. What does not: what cursors hold (``rul_store.cursors``).
"""

from typing import Annotated
from urllib.parse import quote, urlencode

from litestar.params import QueryParameter

Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="How many on a page at most.")]
Cursor = Annotated[
    str | None, QueryParameter(max_length=1000, description="`next_cursor` of the page before.")
]


def next_link(path: str, cursor: str | None, **query: object) -> dict[str, str]:
    """The header ``Link`` of a page; none on the last one.

    Args:
        path: Of the list.
        cursor: Of the next page.
        query: What the list was asked with; what is None was not given.
    """
    if cursor is None:
        return {}
    given = {
        name: value for name, value in {**query, "cursor": cursor}.items() if value is not None
    }
    return {"Link": f'<{quote(path)}?{urlencode(given)}>; rel="next"'}
