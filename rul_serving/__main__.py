"""``python -m rul_serving``: the web service as a process of its own."""

import sys

import uvicorn

from rul_core.errors import SettingsError
from rul_serving import logs
from rul_serving.app import create_app
from rul_serving.settings import ServingSettings


def main() -> None:
    """Serve until told to stop; running requests are answered first."""
    try:
        settings = ServingSettings()
    except SettingsError as error:
        sys.exit(str(error))
    logs.configure()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=round(settings.shutdown_seconds),
        log_config=None,
        access_log=False,  # ``tracing`` writes a line with the trace id
        server_header=False,
    )


if __name__ == "__main__":
    main()
