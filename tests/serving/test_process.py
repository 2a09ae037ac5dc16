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

from rul_store import keys


@contextmanager
def process(program: str = "", **environment: str) -> Generator[subprocess.Popen]:
    started = subprocess.Popen(
        [sys.executable, *(("-c", program) if program else ("-m", "rul_serving"))],
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


def environment(platform) -> dict[str, str]:
    return {
        "RUL_ROOT": str(platform.root),
        "RUL_DATABASE_URL": platform.settings.database_url.get_secret_value(),
        "RUL_PORT": "0",
    }


def start(service: subprocess.Popen) -> tuple[list[str], str]:
    """What it wrote until it listened, and its address."""
    assert service.stdout
    written = []
    for line in service.stdout:
        written.append(line)
        if "running on" in line:
            break
    (address,) = re.findall(r"http://[\d.:]+", written[-1])
    return written, address


def test_the_process_serves_logs_json_and_ends_gracefully(platform):
    champion = platform.release()
    with process(**environment(platform), RUL_ACCESS="open") as service:
        written, address = start(service)
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


def test_no_key_is_ever_written_to_a_log_or_a_problem(platform, tmp_path, servers):
    """A whole run, with keys where they belong and where they do not."""
    platform.release()
    secret, unknown = keys.generate(), keys.generate()
    (tmp_path / "admin_key").write_text(f"{secret}\n")
    more = {"RUL_ADMIN_KEY_FILE": str(tmp_path / "admin_key"), "RUL_REDIS_URL": servers.redis_url}
    with process(**environment(platform), **more) as service:
        written, address = start(service)
        with httpx.Client(
            base_url=address, headers={"authorization": f"Bearer {secret}"}
        ) as client:
            made = client.post(
                "/v1/keys",
                json={"name": "a", "roles": ["viewer"]},
                headers={"idempotency-key": secret},
            ).json()["api_key"]
            given = {"x-api-key": made}
            client.headers.pop("authorization")
            answers = [
                client.get("/v1/fleets", headers=given),
                client.get("/v1/keys", headers=given),
                client.get("/v1/fleets", headers={"x-api-key": unknown}),
                client.get("/v1/fleets", headers={"x-api-key": unknown + "x"}),
                client.get(f"/v1/fleets/{made}/units/{made}/prognosis", headers=given),
                client.get(f"/v1/keys/{made}"),
                client.get(f"/v1/audit?cursor={made}", headers={"x-api-key": secret}),
                client.delete(f"/v1/keys/{made}", headers={"x-api-key": secret}),
                client.post(
                    "/v1/prognoses", headers=given,
                    json={"fleet": made, "units": [{"unit": made, "readings": [
                        {"cycle": 1, "values": {made: 1}}]}]},
                ),
                client.post("/v1/prognoses", headers=given, json={made: 1}),
                client.get(f"/{made}"),
                client.get(f"/problems/{made}"),
                client.post(
                    "/v1/keys", json={"name": "a", "roles": ["viewer"]},
                    headers={"x-api-key": secret, "idempotency-key": made},
                ),
            ]  # fmt: skip
        service.send_signal(signal.SIGTERM)
        rest, errors = service.communicate(timeout=60)
    log = "".join(written) + rest + errors
    assert [answer.status_code for answer in answers[:4]] == [200, 403, 401, 401]
    assert {answer.status_code for answer in answers[4:]} <= {400, 404, 405, 409, 422}
    assert log.count('"event":"request"') == len(answers) + 1
    told = "".join(answer.text + str(answer.headers) for answer in answers)
    for key in (secret, unknown, made):
        assert key[13:] not in log
        assert key[13:] not in told
    assert f"{made[:12]}_" in told  # so that people know which key they put there


def test_a_body_too_large_is_413_also_when_its_length_is_not_told(platform):
    def parts() -> Generator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    more = {"RUL_MAX_BODY_BYTES": "5000", "RUL_ACCESS": "open"}
    with process(**environment(platform), **more) as service:
        _, address = start(service)
        for path in ("/v1/prognoses", "/v1/keys", "/v1/fleets/pumps/readings"):
            for header in ({}, {"idempotency-key": "k"}):
                headers = {"content-type": "application/json", **header}
                for content in (parts(), b"x" * 100_000):
                    answer = httpx.post(f"{address}{path}", content=content, headers=headers)
                    assert answer.status_code == 413
                    assert answer.json()["type"] == "/problems/too-large"
        assert httpx.get(f"{address}/livez").status_code == 200
        metrics = httpx.get(f"{address}/metrics").text
        assert 'path="/v1/prognoses",status_code="413"' in metrics


def test_a_missing_setting_ends_the_process_with_its_name():
    with process(RUL_DATABASE_URL="", RUL_PORT="many") as service:
        output, error = service.communicate(timeout=60)
    assert service.returncode == 1
    assert output == ""
    assert "RUL_DATABASE_URL is not set" in error
    assert "RUL_PORT=many cannot be used" in error
    assert "Traceback" not in error


def test_what_was_loaded_by_the_start_is_not_looked_at_again_for_garbage(platform):
    program = """
import gc
from rul_serving import __main__, server
start = server.Server.startup
async def startup(self, sockets=None):
    await start(self, sockets)
    print("frozen", gc.get_freeze_count(), flush=True)
server.Server.startup = startup
__main__.main()
"""
    with process(program, **environment(platform), RUL_ACCESS="open") as service:
        start(service)
        assert service.stdout
        word, count = service.stdout.readline().split()
    assert word == "frozen"
    assert int(count) > 10_000
