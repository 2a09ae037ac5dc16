"""``python -m rul_serving``: the web service as a program, of one process or several."""

import contextlib
import signal
import socket
import sys

from rul_core.errors import RulError
from rul_serving import logs
from rul_serving.server import Server, listen
from rul_serving.settings import ServingSettings
from rul_serving.supervisor import supervise


def main() -> None:
    """Serve until told to stop; running requests are answered first."""
    try:
        settings = ServingSettings()
        listener = listen(settings.host, settings.port)
        logs.configure()
        if settings.workers > 1:
            supervise(settings, listener)
        else:
            _serve_alone(settings, listener)
    except RulError as error:
        sys.exit(str(error))


def _serve_alone(settings: ServingSettings, listener: socket.socket) -> None:
    from rul_serving.app import create_app  # a supervisor does without its hundreds of megabytes

    server = Server(create_app(settings), settings)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # or else nohup wants it to go on
        signal.signal(signal.SIGHUP, server.handle_exit)
    with contextlib.suppress(KeyboardInterrupt):
        server.run([listener])


if __name__ == "__main__":
    main()
