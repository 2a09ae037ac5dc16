"""``OPTIONS`` names every method of its address.

What belongs here: that one repair of Litestar, which keeps the answer of a path's first handler
when another joins it. What does not: refusing a method (Litestar does, with the same header).
"""

from collections.abc import Awaitable, Callable, Iterable

from litestar import Litestar, Response
from litestar.routes import HTTPRoute


def tell(app: Litestar) -> None:
    """Give the answers to ``OPTIONS`` the header ``Allow`` as it is once all handlers are there."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            handler, _ = route.route_handler_map["OPTIONS"]
            handler.after_request = _naming(route.methods)


def _naming(methods: Iterable[str]) -> Callable[[Response], Awaitable[Response]]:
    allowed = ", ".join(sorted(methods))

    async def named(response: Response) -> Response:
        response.headers["Allow"] = allowed
        return response

    return named
