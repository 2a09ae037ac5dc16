"""A worker process of an instance; ``supervisor`` starts it, nobody else.

What belongs here: what a worker is told, and what it lets its supervisor know. What does not: the
service, which is the same with one process.

A worker and its supervisor hold the ends of one line. The worker sends a beat every second once it
answers; the end of the line, by the supervisor's will or by its death, means that the whole
instance ends.
"""

import asyncio
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from rul_serving import shared_values
from rul_serving.instance import Instance


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told by its supervisor."""

    instance: str
    number: int
    """No other living worker of the instance has it."""
    metrics: str
    """The folder where all workers keep their metrics."""
    listener: int
    """The inherited socket that listens."""
    line: int
    """The inherited end of the line."""
    ready_seconds: float | None
    """So soon it must be wholly ready, or not answer at all, for another answers meanwhile; none
    where nobody does."""


class Line:
    """The worker's end of the line."""

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        self._line = line

    def beat(self) -> None:
        """Say that the worker answers."""
        try:
            self._line.send(b".")
        except OSError:  # full while the supervisor is stopped; broken when it is gone, see below
            return

    def has_ended(self) -> bool:
        """Whether the instance is to end."""
        try:
            return self._line.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


def main() -> None:
    """Serve until told to stop; what was begun is answered first."""
    place = msgspec.json.decode(sys.argv[1], type=Place)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal sends it to the supervisor too
    shared_values.keep_in(Path(place.metrics), str(place.number))
    _serve(place)


def _serve(place: Place) -> None:
    # Only now: these modules make metrics when they are imported.
    from rul_core.errors import SettingsError, Unavailable
    from rul_serving import health, logs
    from rul_serving.answers import Readiness
    from rul_serving.app import Litestar, create_app
    from rul_serving.server import TICKS_PER_SECOND, Server
    from rul_serving.settings import ServingSettings

    try:
        settings = ServingSettings()
    except SettingsError as error:
        sys.exit(str(error))
    logs.configure()
    line = Line(socket.socket(fileno=place.line))
    instance = Instance(place.instance, ends=False)
    app = create_app(settings, instance)

    async def be_ready(app: Litestar) -> None:
        """Wait until everything that the service leans on is there."""
        until = time.monotonic() + (place.ready_seconds or 0.0)
        while (found := await health.check(app.state.service)).status is not Readiness.READY:
            if line.has_ended() or time.monotonic() > until:
                raise Unavailable(f"not ready to take over: {found}")
            await asyncio.sleep(0.1)

    if place.ready_seconds is not None:
        app.on_startup.append(be_ready)

    class Supervised(Server):
        async def on_tick(self, counter: int) -> bool:
            if counter % TICKS_PER_SECOND == 0:
                line.beat()
            self._hear()
            return await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            self._captured_signals.clear()  # or they would be raised again at the end
            self._hear()
            await super().shutdown(sockets)

        def _hear(self) -> None:
            if line.has_ended():
                self.should_exit = instance.ends = True

    Supervised(app, settings, announces=False).run([socket.socket(fileno=place.listener)])
    if instance.ends:
        shutil.rmtree(place.metrics, ignore_errors=True)  # a supervisor that was killed left it


if __name__ == "__main__":
    main()
