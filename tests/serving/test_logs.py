"""Every line that the process writes is one JSON object."""

import json
import subprocess
import sys

PROGRAM = """
import asyncio, logging, warnings
import structlog
from rul_serving import logs, tracing
logs.configure()
log = structlog.stdlib.get_logger("ours")

async def app(scope, receive, send):
    log.info("two\\nlines", fleet="pumps", seen={1})
    logging.getLogger("theirs").warning("%s went wrong", "it")
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("failed")

scope = {"type": "http", "method": "GET", "path": "/livez", "headers": [(b"x-request-id", b"abc")]}
asyncio.run(tracing.traced(app)(scope, None, None))
log.debug("not worth a line")
warnings.warn("careful")
"""


def test_lines_of_ours_and_of_libraries_are_json_with_trace_id_and_traceback():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    ours, theirs, failed, request, warned = map(json.loads, done.stdout.splitlines())
    assert (ours["event"], ours["fleet"], ours["logger"]) == ("two\nlines", "pumps", "ours")
    assert ours["seen"] == [1]
    assert (theirs["event"], theirs["level"]) == ("it went wrong", "warning")
    assert {line["trace_id"] for line in (ours, theirs, failed, request)} == {"abc"}
    assert "ZeroDivisionError: division by zero" in failed["exception"]
    assert (request["event"], request["status"]) == ("request", 500)
    assert "trace_id" not in warned
    assert "UserWarning: careful" in warned["event"]
    assert all(
        {"event", "level", "logger", "timestamp"} <= line.keys()
        for line in (ours, theirs, failed, request, warned)
    )
