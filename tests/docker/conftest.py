"""The socket proxy, which lies beside its image and is no package, and a fake Docker behind it."""

import http.client
import importlib.util
import json
import socketserver
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
OWN, STRANGER = "a" * 64, "b" * 64
NETWORKS = {"rul_backend": "c" * 64, "rul_egress": "d" * 64, "bridge": "e" * 64}
POLICY: dict[str, Any] = {
    "stack": "rul",
    "locations": {
        "rul": {
            "image": "rul-assets:dev",
            "networks": ["rul_backend", "rul_egress"],
            "user": "10002:10000",
            "binds": ["rul_training_data:/data:rw", "rul_run_secrets:/run/secrets:ro"],
            "memory": "4g",
            "nano_cpus": 4_000_000_000,
            "pids": 512,
        }
    },
}


@pytest.fixture(scope="session")
def socket_proxy() -> ModuleType:
    path = PROJECT / "docker" / "socket-proxy" / "socket_proxy.py"
    spec = importlib.util.spec_from_file_location("socket_proxy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["socket_proxy"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@dataclass
class FakeDocker:
    """What stands behind the proxy in these tests: remembers what it was asked, knows two ids.

    ``OWN`` is a run of the stack, in ``state``; ``STRANGER`` is somebody else's container.
    """

    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    state: str = "running"

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.asked.append((method, path, json.loads(body) if body else None))
        place = path.partition("?")[0]
        if place.endswith("/containers/create"):
            return 201, {"Id": OWN, "Warnings": []}
        if "/networks/" in place and method == "GET":
            asked = place.rpartition("/")[2]
            for name, identity in NETWORKS.items():
                if asked in {name, identity}:
                    return 200, {"Id": identity, "Name": name, "Containers": {OWN: {}}}
            return 404, {"message": "no such network"}
        for identity in (OWN, STRANGER):
            if place.endswith(f"/{identity}/json"):
                mine = {"rul.stack": "rul", "rul.location": "rul", "dagster/run_id": "1"}
                labels = mine if identity == OWN else {"rul.stack": "another"}
                return 200, {
                    "Id": identity,
                    "Config": {"Labels": labels},
                    "State": {"Status": self.state},
                }
        if place.endswith("/json") and len(place.split("/")[-2]) == 64:
            return 404, {"message": "No such container"}
        return 200, {"fake": True}

    def writes(self) -> list[tuple[str, str, Any]]:
        """What would have changed something."""
        return [asked for asked in self.asked if asked[0] != "GET"]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def fake_docker(tmp_path: Path) -> Generator[tuple[FakeDocker, str]]:
    fake = FakeDocker()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = fake.answer(self.command, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PUT = do_HEAD = handle_any  # noqa: N815

        def address_string(self) -> str:
            return "a socket"

        def log_message(self, format: str, *args: Any) -> None:
            pass

    path = str(tmp_path / "docker.sock")
    with _Server(path, Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield fake, path
        server.shutdown()


Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def ask(socket_proxy: ModuleType, fake_docker: tuple[FakeDocker, str]) -> Generator[Ask]:
    """Ask the proxy: method, path and a body give the status and what was said."""
    policy = socket_proxy.Policy.read(json.dumps(POLICY))
    with socket_proxy.GuardServer(("127.0.0.1", 0), policy, fake_docker[1]) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        port = server.server_address[1]

        def once(
            method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
        ) -> tuple[int, Any]:
            content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request(method, path, content, headers or {})
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read() or b"null")
            finally:
                connection.close()

        yield once
        server.shutdown()
