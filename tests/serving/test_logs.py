"""Every line that the process writes is one JSON object."""

import json
import subprocess
import sys

PROGRAM = """
import logging, warnings
import structlog
from rul_serving import logs
logs.configure()
log = structlog.stdlib.get_logger("ours")
with structlog.contextvars.bound_contextvars(trace_id="abc"):
    log.info("two\\nlines", fleet="pumps")
    logging.getLogger("theirs").warning("%s went wrong", "it")
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("failed")
log.debug("not worth a line")
warnings.warn("careful")
"""


def test_lines_of_ours_and_of_libraries_are_json_with_trace_id_and_traceback():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    ours, theirs, failed, warned = map(json.loads, done.stdout.splitlines())
    assert (ours["event"], ours["fleet"], ours["logger"]) == ("two\nlines", "pumps", "ours")
    assert (theirs["event"], theirs["level"]) == ("it went wrong", "warning")
    assert {line["trace_id"] for line in (ours, theirs, failed)} == {"abc"}
    assert "ZeroDivisionError: division by zero" in failed["exception"]
    assert "UserWarning: careful" in warned["event"]
