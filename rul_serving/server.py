"""The HTTP server: uvicorn's, which here ends without breaking a request.

What belongs here: listening, and how a process stops. What does not: several processes
(``supervisor``), the application (``app``).

uvicorn closes idle connections as soon as it is told to stop. A client that is just sending on one
sees a reset and cannot know whether its request was heard. Here a process that is to stop takes no
new connections, and answers what comes on open ones with ``Connection: close`` until all are closed
or ``drain_seconds`` are over.
"""

import asyncio
import gc
import socket
from email.utils import formatdate

import structlog
import uvicorn
from litestar import Litestar

from rul_core.errors import SettingsError
from rul_serving.settings import ServingSettings
from rul_serving.wire import Protocol

KEEP_ALIVE_SECONDS = 75
"""How long a connection may be idle: longer than load balancers let it, so that they close it and
do not send on one that is being closed here."""
CLOSING_SHARE = 0.2
"""Of the time to stop, what is kept for the end of the application after the last request."""
BACKLOG = 2048
TICKS_PER_SECOND = 10
"""Of uvicorn's main loop."""
_LOOK_SECONDS = 0.05

_log = structlog.stdlib.get_logger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; at a name's first address, IPv4 before IPv6.

    Raises:
        SettingsError: That is no address of this machine, or somebody listens there.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"RUL_HOST={host} RUL_PORT={port} cannot be listened on: {error.strerror}; "
            "stop whoever listens there, or give an address and a port that are free"
        ) from error


def address_of(listener: socket.socket) -> str:
    """Where the service is found, as an URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Serves one application in this process until told to stop.

    Args:
        app: The application.
        settings: How long it may take to stop.
        announces: Whether it tells in the log where it is found.
    """

    def __init__(self, app: Litestar, settings: ServingSettings, *, announces: bool = True) -> None:
        self._app, self._announces = app, announces
        self._drain_seconds = min(settings.drain_seconds, settings.shutdown_seconds / 2)
        for_requests = settings.shutdown_seconds * (1 - CLOSING_SHARE) - self._drain_seconds
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(0, round(for_requests)),
                backlog=BACKLOG,
                log_config=None,
                access_log=False,  # ``tracing`` writes a line with the trace id
                server_header=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then take connections."""
        await super().startup(sockets)
        # A full collection looks at every object: those of imported modules alone take it a tenth
        # of a second, in which nobody is answered. What is here now stays anyway.
        gc.collect()
        gc.freeze()
        if self._announces and sockets:
            _log.info(f"running on {address_of(sockets[0])}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, end those that are open, then the application."""
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        self._app.state.service.live.stop()  # clients of streams go on elsewhere
        until = asyncio.get_running_loop().time() + self._drain_seconds
        while self.server_state.connections and asyncio.get_running_loop().time() < until:
            self._close_with_the_next_answer()
            await asyncio.sleep(_LOOK_SECONDS)
        await super().shutdown()

    def _close_with_the_next_answer(self) -> None:
        now = formatdate(usegmt=True).encode()
        self.server_state.default_headers = [(b"date", now), (b"connection", b"close")]
        for connection in self.server_state.connections:
            # A request that is being answered took the headers of before.
            if isinstance(connection, Protocol) and connection.cycle is not None:
                connection.cycle.keep_alive = False
