"""The stack under test, through Docker's command line, as an operator has it.

It is a project of its own, with ports, networks, secrets and volumes of its own, so that a stack
that lives on the same machine is not touched. Small and quick: few trees, looks every few seconds.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.backup import s3

PROJECT = Path(__file__).parents[2]
NAME = "rul-test"
HTTP_PORT, PROMETHEUS_PORT, ALERTMANAGER_PORT, GRAFANA_PORT = 18080, 19090, 19093, 13000
WEBHOOK = ("10.213.4.1", 19099)
"""Where this machine is in the network from which Alertmanager calls out."""
OFFSITE_PORT = 19100
SETTINGS = {
    "COMPOSE_PROJECT_NAME": NAME,
    "STACK_HTTP_ADDRESS": "127.0.0.1",
    "STACK_HTTP_PORT": str(HTTP_PORT),
    "STACK_PROMETHEUS_PORT": str(PROMETHEUS_PORT),
    "STACK_ALERTMANAGER_PORT": str(ALERTMANAGER_PORT),
    "STACK_GRAFANA_PORT": str(GRAFANA_PORT),
    "STACK_FRONTEND_SUBNET": "10.213.0.0/24",
    "STACK_BACKEND_SUBNET": "10.213.1.0/24",
    "STACK_MONITORING_SUBNET": "10.213.2.0/24",
    "STACK_DOCKER_SUBNET": "10.213.3.0/24",
    "STACK_EGRESS_SUBNET": "10.213.4.0/24",
    "STACK_PAGES_SUBNET": "10.213.5.0/24",
    "STACK_HEALTH_INTERVAL": "5s",
    "STACK_HEALTH_TIMEOUT": "30s",  # other work may share the machine
    "STACK_HEALTH_START_PERIOD": "170s",
    "STACK_BACKUP_OFFSITE": "s3://backups/stack",
    "STACK_BACKUP_SHARE": "0.5",  # rests are tested where they are made (tests/backup/test_pace)
    "STACK_RETRAIN_COOL_DOWN_SECONDS": "0",
    "STACK_LEARNING_ITERATIONS": "60",
    "STACK_KEEP_ENDED_RUNS_SECONDS": "60",
}
ONE_SHOT = frozenset({"migrate", "run-secrets"})


def image_of(service: str) -> str:
    """The image that compose.yaml gives a service where nothing else is set."""
    config = yaml.safe_load((PROJECT / "compose.yaml").read_text())
    return config["services"][service]["image"].partition(":-")[2].removesuffix("}")


@contextmanager
def webhook() -> Generator[list[dict[str, Any]]]:
    """A receiver of alerts, as long as the context is; the alerts that it was told."""
    told: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(WEBHOOK, Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def outside() -> Generator[tuple[str, int]]:
    """Where a machine beyond this one listens, which knows no way to the stack's networks.

    So it answers only those whose addresses this machine translates, as the world does.
    """
    space, here, there = f"{NAME}-outside", "rul-test-here", "rul-test-there"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)
    ip("netns", "add", space)
    try:
        ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", space)
        ip("address", "add", "198.18.213.1/30", "dev", here)
        ip("link", "set", here, "up")
        ip("-n", space, "address", "add", "198.18.213.2/30", "dev", there)
        ip("-n", space, "link", "set", there, "up")
        listen = ["ip", "netns", "exec", space, sys.executable, "-m", "http.server", "8099"]
        with subprocess.Popen(listen, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
            try:
                wait_until(lambda: _is_open("198.18.213.2", 8099), 20, "the world listens", 0.2)
                yield "198.18.213.2", 8099
            finally:
                server.kill()
    finally:
        ip("netns", "delete", space)


def _is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Container:
    """A container that runs, as Docker describes it."""

    name: str
    service: str
    told: dict[str, Any]

    @property
    def pid(self) -> int:
        """Of its first process, seen from the host."""
        return self.told["State"]["Pid"]

    @property
    def main_pid(self) -> int:
        """Of the program itself; the first process is Docker's init."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        found = wait_until(lambda: children.read_text().split(), 10, f"{self.name} runs", every=0.1)
        return int(found[0])

    @property
    def addresses(self) -> dict[str, str]:
        """Its address in each network, by the network's short name."""
        return {
            name.removeprefix(f"{NAME}_"): network["IPAddress"]
            for name, network in self.told["NetworkSettings"]["Networks"].items()
        }

    @property
    def is_well(self) -> bool:
        """It runs, and its health check passes, where it has one."""
        state = self.told["State"]
        return state["Running"] and state.get("Health", {}).get("Status", "healthy") == "healthy"


class Stack:
    """All of it.

    Args:
        secrets: Where its secrets are made.
    """

    def __init__(self, secrets: Path) -> None:
        self.secrets = secrets
        cores = os.cpu_count() or 1
        small = (PROJECT / "docker" / "two-cores.env").read_text() if cores < 4 else ""
        chosen = dict(
            line.split("=", 1) for line in small.splitlines() if line and not line.startswith("#")
        )
        group = Path("/var/run/docker.sock").stat().st_gid
        self.environment = {
            **os.environ,
            **chosen,
            **SETTINGS,
            "STACK_SECRETS": str(secrets),
            "STACK_DOCKER_GID": str(group),
            "COMPOSE_DISABLE_ENV_FILE": "1",
            "COMPOSE_STATUS_STDOUT": "0",
        }

    def run(self, *command: str, feed: bytes | None = None, check: bool = True) -> str:
        """Run a command with the stack's settings; give what it printed."""
        done = subprocess.run(
            command, cwd=PROJECT, env=self.environment, input=feed, capture_output=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)} ended with {done.returncode}:\n"
                f"{done.stdout.decode()[-3000:]}\n{done.stderr.decode()[-3000:]}"
            )
        return done.stdout.decode()

    def compose(self, *arguments: str, **more: Any) -> str:
        """Run Compose."""
        return self.run("docker", "compose", *arguments, **more)

    def down(self, *command: str) -> None:
        """Stop and remove it, as people do.

        Docker 20 can count an end of a network too many once its containers are gone; Compose ends
        with an error then, and the network stays until Docker starts anew (docs/stack.md).

        Args:
            command: Which does it; ``make down`` unless given.
        """
        try:
            self.run(*command or ("make", "down"))
        except AssertionError as failure:
            if "has active endpoints" not in str(failure) or self.ends():
                raise
            print("  Docker counts an end of a network that has none")

    def ends(self) -> list[str]:
        """The names of all that has an end in one of its networks, as Docker knows them."""
        project = f"--filter=label=com.docker.compose.project={NAME}"
        networks = self.run("docker", "network", "ls", "--quiet", project).split()
        told = json.loads(self.run("docker", "network", "inspect", *networks)) if networks else []
        return [end["Name"] for network in told for end in network["Containers"].values()]

    @cached_property
    def config(self) -> dict[str, Any]:
        """What Compose understood."""
        return json.loads(self.compose("config", "--format", "json"))

    @cached_property
    def services(self) -> list[str]:
        """Those whose images are on this machine, in order."""
        return [
            name
            for name, said in self.config["services"].items()
            if self.run("docker", "image", "ls", "--quiet", said["image"]).strip()
        ]

    @cached_property
    def left_out(self) -> list[str]:
        """Services whose images can be had from a registry alone, which this machine cannot ask."""
        return sorted(set(self.config["services"]) - set(self.services))

    def up(self) -> float:
        """Start what is not running, and wait until all is well; give the seconds."""
        started = time.monotonic()
        self.compose("up", "--detach", "--wait", "--no-build", *self.services)
        return time.monotonic() - started

    def containers(self, service: str | None = None) -> list[Container]:
        """Those of the stack that run, or of one service."""
        filters = [f"--filter=label=com.docker.compose.project={NAME}"]
        if service:
            filters.append(f"--filter=label=com.docker.compose.service={service}")
        names = self.run("docker", "ps", "--quiet", *filters).split()
        if not names:
            return []
        return [
            Container(
                told["Name"].removeprefix("/"),
                told["Config"]["Labels"]["com.docker.compose.service"],
                told,
            )
            for told in json.loads(self.run("docker", "inspect", *names))
        ]

    def described(self, service: str) -> list[dict[str, Any]]:
        """A service's containers, running or ended, as Docker describes them."""
        names = self.compose("ps", "--all", "--quiet", service).split()
        return json.loads(self.run("docker", "inspect", *names)) if names else []

    def container(self, service: str) -> Container:
        """The first container of a service."""
        return self.containers(service)[0]

    def runs(self) -> list[dict[str, Any]]:
        """Every container that Dagster made here, running or not, as Docker describes it."""
        names = self.run("docker", "ps", "-aq", f"--filter=label=rul.stack={NAME}").split()
        # Without those that the janitor removed meanwhile, of which Docker complains.
        return json.loads(self.run("docker", "inspect", *names, check=False)) if names else []

    def begin_secrets(self, authority: str) -> None:
        """Write what people write: the webhook is told of alerts, and backups have keys for S3.

        Args:
            authority: Vouches for the S3 server.
        """
        host, port = WEBHOOK
        critical = {"name": "critical", "webhook_configs": [{"url": f"http://{host}:{port}/"}]}
        others = [{"name": name} for name in ("warning", "info", "watchdog")]
        self.secrets.mkdir(mode=0o700)
        keys = s3.options(f"https://{host}:{OFFSITE_PORT}", authority=authority)
        for name, text in (
            ("alert_receivers", yaml.safe_dump({"receivers": [critical, *others]})),
            ("backup_offsite_options", keys),
            ("drill_offsite_options", keys),
        ):
            file = self.secrets / name
            file.write_text(text)
            file.chmod(0o400)

    def secret(self, name: str) -> str:
        """What is in a secret file."""
        return (self.secrets / name).read_text().strip()

    def put(self, path: str, content: bytes) -> None:
        """Drop a file into the data volume, as a person or a machine would: whole or not at all."""
        self.run(
            "docker", "run", "--rm", "--interactive", "--user=10002:10000", "--network=none",
            "--entrypoint=sh", f"--volume={NAME}_training_data:/data",
            self.config["services"]["dagster-code"]["image"], "-ec",
            'umask 0007; mkdir -p "$(dirname "$1")"; cat >"$1.part"; mv "$1.part" "$1"',
            "put", path, feed=content,
        )  # fmt: skip

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        method: str | None = None,
        port: int = HTTP_PORT,
        timeout: float = 20,
    ) -> tuple[int, Any]:
        """Ask through nginx, with the administrator's key; give the status and the answer."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        default = {"X-API-Key": self.secret("admin_api_key")}
        if content is not None:
            default["Content-Type"] = "application/json"
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}",
            data=content,
            headers={**default, **(headers or {})},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, _decoded(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decoded(error.read())

    def series(self, query: str, minutes: int = 30) -> list[dict[str, str]]:
        """The labels of what Prometheus knows of a query in the last minutes, numbers alone."""
        now = time.time()
        asked = urllib.parse.urlencode(
            {"query": query, "start": now - 60 * minutes, "end": now, "step": 15}
        )
        status, told = self.ask(f"/api/v1/query_range?{asked}", port=PROMETHEUS_PORT)
        assert status == 200, (query, told)
        return [
            one["metric"]
            for one in told["data"]["result"]
            if any(value != "NaN" for _, value in one["values"])
        ]

    def sql(self, database: str, query: str) -> list[str]:
        """The rows of a query, as the superuser asks it."""
        return self.compose(
            "exec", "-T", "postgres", "psql", "-U", "postgres", "-d", database, "-AtF", ",", "-c",
            query,
        ).splitlines()  # fmt: skip


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


def wait_until(is_so: Callable[[], Any], seconds: float, what: str, every: float = 1.0) -> Any:
    """What it gives once that is true; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    last: Any = None
    while time.monotonic() < deadline:
        last = is_so()
        if last:
            return last
        time.sleep(every)
    raise AssertionError(f"{what}: not within {seconds:.0f} s; last seen: {last!r}")


def listening(pid: int) -> Iterator[tuple[str, int]]:
    """Where a container's processes listen: address and port."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":
                address, port = local.split(":")
                yield address, int(port, 16)
