"""Ended containers go once their logs are kept; Docker is one that only this test has."""

import io
import json
import os
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rul_assets import janitor

NOW = 1_800_000_000.0
RUN = "7631cad2-412e-4982-8f1d-9e7aabf41e8f"


def at(seconds_ago: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(NOW - seconds_ago))
    return f"{whole}.123456789Z"


def container(
    identity: str, *, ended: str, status: str = "exited", created: str = ""
) -> dict[str, Any]:
    return {
        "Id": identity * 64,
        "Created": created or at(5000),
        "Config": {"Labels": {"dagster/run_id": RUN}},
        "State": {"Status": status, "FinishedAt": ended, "ExitCode": 137},
    }


class FakeDocker(janitor.Docker):
    """Has these containers, and remembers which were removed."""

    def __init__(self, *containers: dict[str, Any]) -> None:
        super().__init__("tcp://fake:2375")
        self.containers, self.removed = list(containers), []

    def ended(self) -> list[dict[str, Any]]:
        return self.containers

    @contextmanager
    def log(self, container: str) -> Generator[Iterator[bytes]]:
        yield iter([b"log of ", f"{container[:1]}\n".encode()])

    def remove(self, container: str) -> None:
        self.removed.append(container[:1])


@contextmanager
def answering(proxy: type[BaseHTTPRequestHandler]) -> Generator[janitor.Docker]:
    """A Docker behind what answers so."""
    with ThreadingHTTPServer(("127.0.0.1", 0), proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield janitor.Docker(f"tcp://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def test_a_log_is_kept_and_then_its_container_removed(tmp_path):
    docker = FakeDocker(container("a", ended=at(700)), container("b", ended=at(500)))
    assert janitor.tidy(docker, tmp_path, keep_seconds=600, now=NOW) == [RUN]
    assert docker.removed == ["a"]
    (kept,) = (tmp_path / "containers").iterdir()
    assert kept.name == f"{RUN}-{'a' * 12}.log"
    head, log = kept.read_text().splitlines()
    assert json.loads(head)["state"]["ExitCode"] == 137
    assert log == "log of a"


def test_a_container_that_never_started_goes_too(tmp_path):
    never = "0001-01-01T00:00:00Z"
    docker = FakeDocker(
        container("a", ended=never, status="created", created=at(700)),
        container("b", ended=never, status="created", created=at(10)),
    )
    janitor.tidy(docker, tmp_path, keep_seconds=600, now=NOW)
    assert docker.removed == ["a"]


def test_nothing_is_removed_whose_log_cannot_be_kept(tmp_path):
    (tmp_path / "containers").write_text("no folder")
    docker = FakeDocker(container("a", ended=at(700)))
    with pytest.raises(OSError, match="containers"):
        janitor.tidy(docker, tmp_path, keep_seconds=600, now=NOW)
    assert docker.removed == []


def test_one_container_that_docker_will_not_show_keeps_no_other(tmp_path):
    class Stubborn(FakeDocker):
        @contextmanager
        def log(self, container: str) -> Generator[Iterator[bytes]]:
            with super().log(container) as told:
                yield told
                if container.startswith("a"):
                    raise janitor.DockerError("GET logs: 500")

    docker = Stubborn(container("a", ended=at(700)), container("b", ended=at(700)))
    with pytest.raises(janitor.DockerError, match=r"a{12}: GET logs: 500"):
        janitor.tidy(docker, tmp_path, keep_seconds=600, now=NOW)
    assert docker.removed == ["b"]


def test_both_streams_are_read_out_of_docker_s_frames():
    stream = b"\x01\0\0\0\0\0\0\x03one\x02\0\0\0\0\0\0\x04\ntwo\x01\0\0\0\0\0\0\0"
    assert b"".join(janitor.frames(io.BytesIO(stream).read)) == b"one\ntwo"
    cut_off = io.BytesIO(stream[:9])  # by the limit of the proxy
    assert b"".join(janitor.frames(cut_off.read)) == b"o"


def test_a_long_log_is_never_in_memory_as_a_whole():
    header = b"\x01\0\0\0" + (10 * janitor.BLOCK_BYTES).to_bytes(4, "big")
    stream = io.BytesIO(header + bytes(10 * janitor.BLOCK_BYTES))
    assert [len(block) for block in janitor.frames(stream.read)] == [janitor.BLOCK_BYTES] * 10


def test_a_container_whose_log_breaks_off_stays(tmp_path: Path):
    log = b"\x01\0\0\0\0\0\0\x06half a"

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kept = container("a", ended=at(700))
            answers = {
                "/version": {"ApiVersion": "1.41"},
                "/v1.41/containers/json?all=1": [{"Id": kept["Id"]}],
                f"/v1.41/containers/{kept['Id']}/json": kept,
            }
            content = (
                log[:11] if self.path.endswith("/logs") else json.dumps(answers[self.path]).encode()
            )
            self.send_response(200)
            self.send_header("Content-Length", str(max(len(content), len(log))))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True

        def do_DELETE(self) -> None:
            raise AssertionError("it is not removed")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with answering(Proxy) as docker, pytest.raises(janitor.DockerError, match="3 bytes early"):
        janitor.tidy(docker, tmp_path, keep_seconds=600, now=NOW)
    assert [
        path.name for path in (tmp_path / "containers").iterdir() if path.suffix == ".log"
    ] == []


def test_old_logs_go_and_folders_that_are_left_empty(tmp_path):
    old, young = tmp_path / "old" / "a.log", tmp_path / "young" / "b.log"
    for path, age in ((old, 31 * 86400), (young, 29 * 86400)):
        path.parent.mkdir()
        path.write_text("x")
        os.utime(path, (NOW - age, NOW - age))
    assert janitor.forget(tmp_path, older_than_seconds=30 * 86400, now=NOW) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["young"]
    assert young.exists()
    young.unlink()
    janitor.forget(tmp_path, older_than_seconds=30 * 86400, now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_a_docker_that_is_not_there_is_told_with_its_address():
    with pytest.raises(janitor.DockerError, match=r"127\.0\.0\.1:9 does not answer"):
        janitor.Docker("tcp://127.0.0.1:9").ended()
    assert not janitor.Docker("tcp://127.0.0.1:9").answers()
    with pytest.raises(janitor.DockerError, match="no tcp://host:port"):
        janitor.Docker("unix:///var/run/docker.sock")


@pytest.mark.parametrize(("status", "answers"), [(200, True), (502, False)])
def test_docker_answers_where_its_proxy_says_so(status: int, answers: bool):
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with answering(Proxy) as docker:
        assert docker.answers() is answers


def test_a_janitor_that_stopped_looking_is_found(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(janitor, "ALIVE", tmp_path / "alive")
    with pytest.raises(SystemExit, match="inf s ago"):
        janitor._check(time.time())
    (tmp_path / "alive").touch()
    janitor._check(time.time())
    with pytest.raises(SystemExit, match="its log says why"):
        janitor._check(time.time() + 1000)
