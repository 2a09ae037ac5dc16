"""What the containers' health checks take for well."""

import importlib.util
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
PROBE = PROJECT / "docker" / "probe.py"


class Told:
    """What a service's metrics say."""

    text = ""


@pytest.fixture
def service() -> Generator[tuple[str, Told]]:
    told = Told()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(told.text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/metrics", told
        finally:
            server.shutdown()
            thread.join()


def probe(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", PROBE, *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def test_a_loop_that_looked_lately_is_well_and_one_that_looks_no_more_is_not(service):
    url, told = service
    told.text = f"# HELP looked When.\nlooked {time.time() - 100}\nlooked_often 3\n"
    assert probe("recent", url, "looked", "240") == (0, "")
    code, said = probe("recent", url, "looked", "50")
    assert code == 1
    assert f"{url} says of looked that it was 10" in said
    told.text = "another 1\n"
    assert probe("recent", url, "looked", "240")[0] == 1


def test_a_service_that_answers_is_well_and_a_line_must_be_there(service):
    url, told = service
    told.text = "up 1.0\n"
    assert probe("http", url) == (0, "")
    assert probe("metric", url, "up 1.0") == (0, "")
    assert probe("metric", url, "up 0.0") == (1, f"{url} does not say up 0.0\n")
    assert probe("http", "http://127.0.0.1:1/")[0] == 1


def test_every_health_check_asks_by_a_verb_that_there_is():
    spec = importlib.util.spec_from_file_location("probe", PROBE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    services = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]
    asked = {
        test[2]
        for said in services.values()
        if (test := (said.get("healthcheck") or {}).get("test", ()))[:2] == ["CMD", "probe"]
    }
    assert asked == set(module.VERBS)
