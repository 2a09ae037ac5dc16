"""Logs of the process: one JSON object a line, on standard output.

What belongs here: the form of a line. What does not: what is worth a line (the module that knows).
Bodies and headers are never logged; a key that came where it does not belong is left out.

Our own lines do not pass through the standard library, which takes longer over a line than many a
request takes in all.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict

from rul_serving import tracing
from rul_store.keys import redacted

_encode = msgspec.json.Encoder(enc_hook=repr).encode


def configure(level: int = logging.INFO) -> None:
    """Write structlog's and the standard library's lines alike; for whoever owns the process."""
    structlog.configure(
        processors=[_complete, structlog.processors.format_exc_info, _render],
        logger_factory=_Output,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                _complete_foreign,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _render,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)


class _Output:
    """Writes the lines of a logger; what is written is written, nothing waits in memory."""

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    debug = info = warning = error = critical = exception = log = msg


def _complete(logger: Any, method: str, event: EventDict) -> EventDict:
    """Add what every line has; one step, for each costs as much as all that it does."""
    event["level"] = "error" if method == "exception" else method
    event["logger"] = logger.name
    event["timestamp"] = datetime.now(UTC)
    trace_id = tracing.trace_id()
    if trace_id:
        event["trace_id"] = trace_id
    return event


def _complete_foreign(_logger: Any, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    return _complete(record, record.levelname.lower(), event)


def _render(_logger: Any, _method: str, event: EventDict) -> str:
    return redacted(_encode(event).decode())
