"""``python -m rul_serving``: a process that logs JSON, serves, and ends when told to."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import httpx


@contextmanager
def process(**environment: str) -> Generator[subprocess.Popen]:
    started = subprocess.Popen(
        [sys.executable, "-m", "rul_serving"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def test_the_process_serves_logs_json_and_ends_gracefully(platform):
    champion = platform.release()
    environment = {
        "RUL_ROOT": str(platform.root),
        "RUL_DATABASE_URL": platform.settings.database_url.get_secret_value(),
        "RUL_PORT": "0",
    }
    with process(**environment) as service:
        assert service.stdout
        written = []
        for line in service.stdout:
            written.append(line)
            if "running on" in line:
                break
        (address,) = re.findall(r"http://[\d.:]+", written[-1])
        answer = httpx.post(
            f"{address}/v1/prognoses",
            json=platform.question("unit-000001"),
            headers={"x-request-id": "abc"},
        )
        assert answer.status_code == 200
        service.send_signal(signal.SIGTERM)
        rest, errors = service.communicate(timeout=60)
    assert service.returncode == -signal.SIGTERM
    assert errors == ""
    lines = [json.loads(line) for line in (*written, *rest.splitlines())]
    events = [line["event"] for line in lines]
    assert "Application shutdown complete." in events, events
    served = lines[events.index("model served")]
    assert (served["version"], served["level"]) == (champion.version, "info")
    request = lines[events.index("request")]
    assert (request["trace_id"], request["status"]) == ("abc", 200)
    assert all({"event", "level", "logger", "timestamp"} <= line.keys() for line in lines)


def test_a_missing_setting_ends_the_process_with_its_name():
    with process(RUL_DATABASE_URL="", RUL_PORT="many") as service:
        output, error = service.communicate(timeout=60)
    assert service.returncode == 1
    assert output == ""
    assert "RUL_DATABASE_URL is not set" in error
    assert "RUL_PORT=many cannot be used" in error
    assert "Traceback" not in error
