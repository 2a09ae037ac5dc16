"""Logs of the process: one JSON object a line, on standard output.

What belongs here: the form of a line. What does not: what is worth a line (the module that knows).
Bodies and headers are never logged; a key that came where it does not belong is left out.
"""

import json
import logging
import sys
from typing import Any

import structlog

from rul_store.keys import redacted


def configure(level: int = logging.INFO) -> None:
    """Write structlog's and the standard library's lines alike; for whoever owns the process."""
    shared = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(_dump),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)


def _dump(line: Any, **options: Any) -> str:
    return redacted(json.dumps(line, **options))
