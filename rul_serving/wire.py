"""How the bytes of an answer leave: its head together with what follows.

What belongs here: the transport of a connection. What does not: the protocol (uvicorn's), how a
process ends (``server``).

uvicorn writes an answer's head and its body one after the other, each by a system call that wakes
whoever reads, on a busy machine at once and before the second. When the process is killed between
the two, a load balancer has passed on the head and can ask no other instance any more. By one call
there is all of a short answer or nothing; and one call is quicker than two.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD = b"HTTP/1.1 "


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, on a transport that keeps a head back until something follows."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A connection is open."""
        super().connection_made(Together(transport, self.loop.call_soon))  # ty: ignore


class Together:
    """Writes an answer's head with what follows it in the same turn of the loop, or alone after it.

    Args:
        transport: Where it is written to.
        soon: Calls something in the loop's next turn.
    """

    def __init__(
        self, transport: asyncio.Transport, soon: Callable[[Callable[[], None]], Any]
    ) -> None:
        self._transport, self._soon = transport, soon
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write, unless it is a head."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD):
            self._head = data
            self._soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Write what is left, then close."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's."""
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)
