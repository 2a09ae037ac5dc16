"""The header that leads to the next page.

What belongs here: the header. What does not: cursors (``rul_store.cursors``).
"""

from urllib.parse import quote, urlencode


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
