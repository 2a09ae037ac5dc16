"""Logs of the process: one JSON object a line, on standard output.

What belongs here: the form of a line. What does not: what is worth a line (the module that knows).
Bodies and headers are never logged.

Our own lines do not pass through the standard library, which takes longer over a line than many a
request takes in all.
"""

import logging
import sys
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict

from rul_serving import tracing

_encode = msgspec.json.Encoder(enc_hook=repr).encode


def configure(level: int = logging.INFO) -> None:
    """Write structlog's and the standard library's lines alike; for whoever owns the process."""
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    structlog.configure(
        processors=[
            _add_trace_id,
            structlog.processors.add_log_level,
            _add_name,
            stamp,
            structlog.processors.format_exc_info,
            _render,
        ],
        logger_factory=_Output,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                _add_trace_id,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                stamp,
            ],
            processors=[
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


def _add_trace_id(_logger: Any, _method: str, event: EventDict) -> EventDict:
    trace_id = tracing.trace_id()
    if trace_id:
        event["trace_id"] = trace_id
    return event


def _add_name(logger: Any, _method: str, event: EventDict) -> EventDict:
    event["logger"] = logger.name
    return event


def _render(_logger: Any, _method: str, event: EventDict) -> str:
    return _encode(event).decode()
