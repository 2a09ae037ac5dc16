"""Removes the containers of ended runs once their logs are kept, and logs that are old.

What belongs here: that loop, ``python -m rul_assets.janitor``. What does not: starting and stopping
runs (Dagster's launcher), their history in Dagster's database (``defs.housekeeping``).

Docker is reached through the socket proxy, which lists the ended containers of this stack's runs
alone and removes no other. A container stays for a while, so that run monitoring can tell of what
it died. Nobody else asks Docker all the time, so it tells Prometheus whether Docker answers. It
imports nothing of Dagster and holds no log in memory, and so needs little.
"""

import argparse
import http.client
import json
import os
import sys
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, start_http_server

LOGS = Path("/opt/dagster/logs")
ALIVE = Path("/tmp/janitor-looked-at")  # noqa: S108 - the container's own
LOOK_SECONDS = 30.0
REQUEST_SECONDS = 60.0
STREAM_HEADER_BYTES = 8
BLOCK_BYTES = 64 * 1024
PORT = 9201
"""Of the metrics."""
_registry = CollectorRegistry()
ANSWERS = Gauge(
    "rul_docker_up",
    "1 when Docker answered through the socket proxy at the last look.",
    registry=_registry,
)
LOOKED_AT = Gauge(
    "rul_janitor_looked_timestamp_seconds",
    "When the janitor last looked, whether it could do its work or not.",
    registry=_registry,
)
DONE_AT = Gauge(
    "rul_janitor_done_timestamp_seconds",
    "When the janitor last did all of its work.",
    registry=_registry,
)


class DockerError(Exception):
    """Docker, or the proxy before it, did not do what it was asked."""


class Docker:
    """What the janitor may ask of Docker.

    Args:
        address: ``tcp://host:port``.
    """

    def __init__(self, address: str) -> None:
        parsed = urllib.parse.urlsplit(address)
        if parsed.scheme != "tcp" or parsed.hostname is None:
            raise DockerError(f"DOCKER_HOST={address!r} is no tcp://host:port; see compose.yaml")
        self._host, self._port = parsed.hostname, parsed.port or 2375
        self._version = ""

    def ended(self) -> list[dict[str, Any]]:
        """The ended containers of this stack's runs, as Docker describes each."""
        listed = json.loads(self._ask("GET", "/containers/json?all=1"))
        return [json.loads(self._ask("GET", f"/containers/{one['Id']}/json")) for one in listed]

    @contextmanager
    def log(self, container: str) -> Generator[Iterator[bytes]]:
        """All that it wrote, to either stream, each line with its time, block by block."""
        with self._answer("GET", self._path(f"/containers/{container}/logs")) as read:
            yield frames(read)

    def remove(self, container: str) -> None:
        """Remove it, unless it runs again."""
        self._ask("DELETE", f"/containers/{container}")

    def answers(self) -> bool:
        """Whether the proxy and Docker behind it do."""
        try:
            self._once("GET", "/_ping")
        except DockerError:
            return False
        return True

    def _ask(self, method: str, path: str) -> bytes:
        return self._once(method, self._path(path))

    def _path(self, path: str) -> str:
        if not self._version:
            self._version = f"/v{json.loads(self._once('GET', '/version'))['ApiVersion']}"
        return f"{self._version}{path}"

    def _once(self, method: str, path: str) -> bytes:
        with self._answer(method, path) as read:
            return read()

    @contextmanager
    def _answer(self, method: str, path: str) -> Generator[Callable[..., bytes]]:
        """What reads the answer, to the end or so many bytes."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=REQUEST_SECONDS)
        with closing(connection):
            self._or_tell(connection.request, method, path)
            answer = self._or_tell(connection.getresponse)
            if answer.status >= 400:
                content = self._or_tell(answer.read, 500)
                raise DockerError(f"{method} {path}: {answer.status} {content!r}")

            def read(*size: int) -> bytes:
                data = self._or_tell(answer.read, *size)
                if size and len(data) < size[0] and answer.length:
                    raise DockerError(f"{method} {path}: broke off {answer.length} bytes early")
                return data

            yield read

    def _or_tell(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """What the step gives; what goes wrong in it is Docker's."""
        try:
            return step(*arguments)
        except (OSError, http.client.HTTPException) as error:
            raise DockerError(f"{self._host}:{self._port} does not answer: {error}") from error


def frames(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """What was written, out of Docker's stream of frames (a container without a terminal).

    Args:
        read: Gives so many bytes, fewer at the end alone.
    """
    while len(header := read(STREAM_HEADER_BYTES)) == STREAM_HEADER_BYTES:
        left = int.from_bytes(header[4:], "big")
        while left and (block := read(min(left, BLOCK_BYTES))):
            yield block
            left -= len(block)


def ended_at(container: dict[str, Any]) -> float:
    """When it ended, in seconds since the epoch; one that never started, when it was made."""
    told = container["State"]["FinishedAt"]
    if told.startswith("0001-"):
        told = container["Created"]
    # Docker gives nanoseconds, of which Python takes six digits.
    whole, _, fraction = told.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6] or '0'}").replace(tzinfo=UTC).timestamp()


def tidy(docker: Docker, logs: Path, *, keep_seconds: float, now: float) -> list[str]:
    """Keep the logs of containers that ended long enough ago, and remove these; give their runs.

    Args:
        docker: Where they are.
        logs: The folder of logs; each goes to ``containers/<run>-<container>.log``.
        keep_seconds: How long an ended container stays.
        now: In seconds since the epoch.

    Raises:
        DockerError: Docker does not answer; or refuses something of some containers, which is told
            once the others are done.
    """
    done, refused = [], []
    for container in docker.ended():
        if now - ended_at(container) < keep_seconds:
            continue
        identity, state = container["Id"], container["State"]
        run = container["Config"]["Labels"]["dagster/run_id"]
        head = json.dumps({"run_id": run, "container": identity, "state": state}).encode() + b"\n"
        try:
            with docker.log(identity) as log:
                _write(logs / "containers" / f"{run}-{identity[:12]}.log", head, log)
            docker.remove(identity)
        except DockerError as error:
            refused.append(f"{identity[:12]}: {error}")
            continue
        done.append(run)
    if refused:
        raise DockerError("; ".join(refused))
    return done


def forget(logs: Path, *, older_than_seconds: float, now: float) -> int:
    """Remove log files that nobody has written for so long, and folders left empty; count files."""
    removed = 0
    for folder, _, names in os.walk(logs, topdown=False):
        for name in names:
            path = Path(folder, name)
            if now - path.stat().st_mtime > older_than_seconds:
                path.unlink()
                removed += 1
        if Path(folder) != logs and not list(Path(folder).iterdir()):
            Path(folder).rmdir()
    return removed


def _write(path: Path, head: bytes, log: Iterator[bytes]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(head)
        file.writelines(log)
    temporary.replace(path)


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Look again and again; what fails is told and tried again."""
    parser = argparse.ArgumentParser(description="Removes the containers of ended runs.")
    parser.add_argument("--check", action="store_true", help="ask whether a janitor looks")
    if parser.parse_args().check:
        _check(time.time())
        return
    docker = Docker(os.environ["DOCKER_HOST"])
    keep_seconds = float(os.environ.get("JANITOR_KEEP_SECONDS", "600"))
    keep_days = float(os.environ.get("JANITOR_KEEP_LOGS_DAYS", "30"))
    start_http_server(PORT, registry=_registry)
    while True:
        now = time.time()
        ANSWERS.set(docker.answers())
        try:
            count = forget(LOGS, older_than_seconds=keep_days * 86400, now=now)
            if count:
                _say(removed_old_logs=count)
            for run in tidy(docker, LOGS, keep_seconds=keep_seconds, now=now):
                _say(removed_container_of_run=run)
            ALIVE.touch()
            DONE_AT.set_to_current_time()
        except (DockerError, OSError) as error:
            _say(error=str(error))
        LOOKED_AT.set_to_current_time()
        time.sleep(LOOK_SECONDS)


def _check(now: float) -> None:
    age = now - ALIVE.stat().st_mtime if ALIVE.exists() else float("inf")
    if age > 4 * LOOK_SECONDS:
        sys.exit(f"the janitor last did its work {age:.0f} s ago; its log says why")


if __name__ == "__main__":
    main()
