"""A guard before Docker's socket, for runs of Dagster alone.

The run launcher may make, look at, start and stop the containers of its own runs; the janitor may
list the ended ones, read their logs and remove them; nobody may do anything else.

What belongs here: what may pass. What does not: making runs (``dagster_docker``), removing them
(``rul_assets.janitor``).

Whoever may create containers freely is root on the host. So a create request is taken apart, held
against the policy of the code location that its label names, and a new request is written from
what was understood: a field that is not known here never reaches Docker, however it is spelled
(Docker takes ``privileged`` for ``Privileged``). A container is touched only when Docker itself
says that it bears this stack's label. Standard library alone: this program is trusted most.

``POLICY`` in the environment is JSON: ``stack`` and, by name, ``locations`` with the ``image``,
``networks``, ``user``, ``binds``, ``memory``, ``nano_cpus`` and ``pids`` of their runs. A container
is made in the first of its networks, and may join the others before it starts.
"""

import argparse
import http.client
import json
import os
import re
import socket
import sys
import urllib.parse
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SOCKET = "/var/run/docker.sock"
PORT = 2375
STACK_LABEL, LOCATION_LABEL = "rul.stack", "rul.location"
RUN_LABELS = frozenset({"dagster/run_id", "dagster/job_name", STACK_LABEL, LOCATION_LABEL})
ENDED = ("created", "exited", "dead")

MOST_BODY_BYTES = 1024 * 1024
MOST_ANSWER_BYTES = 16 * 1024 * 1024
MOST_LOG_BYTES = 64 * 1024 * 1024
IDLE_SECONDS = 30
UPSTREAM_SECONDS = 120
LONGEST_STOP_SECONDS = 60

TMPFS = re.compile(r"size=\d{1,4}m,mode=1777,noexec,nosuid,nodev")
MOST_TMPFS_MIB = 1024
ENVIRONMENT = re.compile(
    r"(?:DAGSTER|RUL|OMP|OPENBLAS|MKL|NUMBA|POLARS)_[A-Z_]+=.*|(?:PGPASSFILE|SSL_CERT_FILE)=.*",
    re.S,
)
COMMANDS = (["dagster", "api", "execute_run"], ["dagster", "api", "resume_run"])
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_VERSION = r"(?:/v1\.[0-9]{1,2})"
_ID = r"(?P<id>[0-9a-f]{64})"
_NETWORK = r"(?P<network>[\w.-]{1,128})"


class Refused(Exception):
    """The request may not pass; the message says why."""


class Gone(Exception):
    """Docker knows no such container, and the launcher wants to hear so."""


@dataclass(frozen=True)
class Location:
    """What the runs of a code location may have."""

    image: str
    networks: tuple[str, ...]
    user: str
    binds: tuple[str, ...]
    memory_bytes: int
    nano_cpus: int
    pids: int


@dataclass(frozen=True)
class Policy:
    """Whose containers these are, and what they may have."""

    stack: str
    locations: dict[str, Location]

    @classmethod
    def read(cls, text: str) -> "Policy":
        """The policy of a text.

        Raises:
            ValueError: It is no policy; says what is wrong.
        """
        try:
            told = json.loads(text)
            locations = {
                name: Location(
                    image=str(one["image"]),
                    networks=tuple(str(network) for network in one["networks"]),
                    user=str(one["user"]),
                    binds=tuple(str(bind) for bind in one["binds"]),
                    memory_bytes=size(one["memory"]),
                    nano_cpus=int(one["nano_cpus"]),
                    pids=int(one["pids"]),
                )
                for name, one in told["locations"].items()
            }
            stack = str(told["stack"])
        except KeyError as error:
            raise ValueError(f"POLICY has no {error}; see compose.yaml") from error
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"POLICY is not as in compose.yaml: {error}") from error
        if not stack or not locations:
            raise ValueError("POLICY names no stack or no location; see compose.yaml")
        for name, one in locations.items():
            if not re.fullmatch(r"[1-9]\d{3,8}:[1-9]\d{3,8}", one.user):
                raise ValueError(f"POLICY: the user of {name} is {one.user!r}, not one over 999")
            if not one.networks or not all(re.fullmatch(r"[\w.-]+", n) for n in one.networks):
                raise ValueError(f"POLICY: the networks of {name} are {one.networks!r}, not names")
            foreign = [
                bind for bind in one.binds if not re.fullmatch(r"[\w.-]+:/[\w./-]+:r[ow]", bind)
            ]
            if foreign:
                raise ValueError(f"POLICY: {foreign[0]!r} of {name} is no named volume")
        return cls(stack, locations)


def size(text: str | int) -> int:
    """Bytes, of a number or a text such as ``512m`` or ``4g``."""
    found = re.fullmatch(r"(\d+)([kmg]?)b?", str(text).lower())
    if found is None:
        raise ValueError(f"{text!r} is no size; give bytes, or a number with k, m or g")
    return int(found[1]) * 1024 ** " kmg".index(found[2] or " ")


def checked_container(body: bytes, policy: Policy) -> dict[str, Any]:
    """The container that a create request asks for, written anew from what was understood.

    Raises:
        Refused: It may not be made.
    """
    asked = _object(_json(body), "the body")
    labels = _taken(asked, "Labels", dict)
    location = _location(labels, policy)
    host = _object(_taken(asked, "HostConfig", dict), "HostConfig")
    image, user = _taken(asked, "Image", str), _taken(asked, "User", str)
    command = _taken(asked, "Cmd", list)
    environment = _taken(asked, "Env", list, [])
    networking = dict(_taken(asked, "NetworkingConfig", dict, {}))
    _taken(asked, "AttachStdout", bool, False), _taken(asked, "AttachStderr", bool, False)
    volumes = _taken(asked, "Volumes", dict, {})
    check = dict(_taken(asked, "Healthcheck", dict, {"Test": ["NONE"]}))
    if check.pop("Test", None) != ["NONE"] or any(check.values()):
        raise Refused("a run has no health check")
    _nothing_else(asked, "")

    if image != location.image:
        raise Refused(f"the image {image!r} is not the location's")
    if user != location.user:
        raise Refused(f"the user {user!r} is not the location's")
    if not all(isinstance(word, str) for word in command) or command[:3] not in COMMANDS:
        raise Refused("the command is no run of Dagster's")
    if len(command) != 4:
        raise Refused("the command has more than one argument")
    if not all(isinstance(one, str) and ENVIRONMENT.fullmatch(one) for one in environment):
        raise Refused("Env sets what a run does not need")
    allowed_points = {bind.split(":")[1] for bind in location.binds}
    if not set(volumes) <= allowed_points or any(volumes.values()):
        raise Refused("Volumes names places that are not the location's")
    # docker-py 7 names the network beside EndpointsConfig, where Docker does not look for it.
    endpoints = _object(networking.pop("EndpointsConfig", {}) or {}, "EndpointsConfig")
    for network, settings in (*endpoints.items(), *networking.items()):
        if network != location.networks[0] or settings:
            raise Refused(f"the network {network!r}, or what is set of it, is not the location's")
    return {
        "Image": image,
        "User": user,
        "Cmd": command,
        "Env": environment,
        "Labels": labels,
        "Healthcheck": {"Test": ["NONE"]},
        "Volumes": {point: {} for point in volumes},
        "HostConfig": _checked_host(host, location),
        "NetworkingConfig": {"EndpointsConfig": {location.networks[0]: {}}},
    }


def _location(labels: dict[str, Any], policy: Policy) -> Location:
    if not all(isinstance(value, str) and len(value) < 256 for value in labels.values()):
        raise Refused("a label is no short text")
    if set(labels) != RUN_LABELS:
        raise Refused(f"the labels are {sorted(labels)}, not {sorted(RUN_LABELS)}")
    if labels[STACK_LABEL] != policy.stack:
        raise Refused(f"the label {STACK_LABEL} is not {policy.stack}")
    if not UUID.fullmatch(labels["dagster/run_id"]):
        raise Refused("the label dagster/run_id is no run's id")
    location = policy.locations.get(labels[LOCATION_LABEL])
    if location is None:
        raise Refused(f"there is no policy for the location {labels[LOCATION_LABEL]!r}")
    return location


def _checked_host(host: dict[str, Any], location: Location) -> dict[str, Any]:
    memory, nano_cpus = _taken(host, "Memory", int), _taken(host, "NanoCpus", int)
    pids, swap = _taken(host, "PidsLimit", int), _taken(host, "MemorySwap", int)
    reservation = _taken(host, "MemoryReservation", int, 0)
    shares = _taken(host, "CpuShares", int, 0)
    binds, tmpfs = _taken(host, "Binds", list, []), _taken(host, "Tmpfs", dict, {})
    log = _taken(host, "LogConfig", dict, {})
    demanded = {
        "NetworkMode": (_taken(host, "NetworkMode", str), location.networks[0]),
        "ReadonlyRootfs": (_taken(host, "ReadonlyRootfs", bool), True),
        "CapDrop": (_taken(host, "CapDrop", list), ["ALL"]),
        "SecurityOpt": (_taken(host, "SecurityOpt", list), ["no-new-privileges:true"]),
        "Init": (_taken(host, "Init", bool), True),
        "AutoRemove": (_taken(host, "AutoRemove", bool, False), False),
    }
    _nothing_else(host, "HostConfig.")
    for name, (given, wanted) in demanded.items():
        if given != wanted or type(given) is not type(wanted):
            raise Refused(f"HostConfig.{name} is {given!r}; {wanted!r} is demanded")
    for name, given, most in (
        ("Memory", memory, location.memory_bytes),
        ("NanoCpus", nano_cpus, location.nano_cpus),
        ("PidsLimit", pids, location.pids),
    ):
        if not 0 < given <= most:
            raise Refused(
                f"HostConfig.{name} is {given}; more than 0 and at most {most} may be had"
            )
    if swap != memory:
        raise Refused("HostConfig.MemorySwap is not Memory, so the container could swap")
    if not 0 <= reservation <= memory or not 0 <= shares <= 4096:
        raise Refused("HostConfig.MemoryReservation or CpuShares is out of bounds")
    for bind in binds:
        if bind not in location.binds:
            raise Refused(f"the mount {bind!r} is not the location's")
    if set(tmpfs) - {"/tmp"}:  # noqa: S108 - in the container
        raise Refused("a tmpfs elsewhere than at /tmp")
    for options in tmpfs.values():
        if not isinstance(options, str) or not TMPFS.fullmatch(options):
            raise Refused(f"the tmpfs options {options!r} are not those of a run")
        if int(options[len("size=") : options.index("m,")]) > MOST_TMPFS_MIB:
            raise Refused(f"the tmpfs is larger than {MOST_TMPFS_MIB} MiB")
    return {
        **{name: wanted for name, (_, wanted) in demanded.items()},
        "Memory": memory,
        "MemorySwap": swap,
        "MemoryReservation": reservation,
        "NanoCpus": nano_cpus,
        "CpuShares": shares,
        "PidsLimit": pids,
        "Binds": binds,
        "Tmpfs": tmpfs,
        "LogConfig": _checked_log(log),
    }


def _checked_log(log: dict[str, Any]) -> dict[str, Any]:
    if not log:
        return {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    config = _object(log.get("Config") or {}, "LogConfig.Config")
    if set(log) - {"Type", "Config"} or log.get("Type") != "json-file":
        raise Refused("HostConfig.LogConfig is not json-file")
    size, files = config.get("max-size"), config.get("max-file")
    if set(config) != {"max-size", "max-file"} or not (
        isinstance(size, str) and re.fullmatch(r"[1-9]\d?m", size)
        and isinstance(files, str) and re.fullmatch(r"[1-9]", files)
    ):  # fmt: skip
        raise Refused("HostConfig.LogConfig must limit the log: 1 to 99m, 1 to 9 files")
    return {"Type": "json-file", "Config": config}


_REQUIRED = object()


def _taken(source: dict[str, Any], name: str, kind: type, default: Any = _REQUIRED) -> Any:
    """The field, which is taken out of its source."""
    value = source.pop(name, None)
    if value is None:
        if default is _REQUIRED:
            raise Refused(f"{name} is missing")
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Refused(f"{name} is no {kind.__name__}")
    return value


def _nothing_else(source: dict[str, Any], where: str) -> None:
    """Refuse what was not taken out, unless it says nothing."""
    for name, value in source.items():
        if value not in (None, False, "", [], {}):
            raise Refused(f"{where}{name} may not be set")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(f"{what} is no JSON object")
    return dict(value)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is no JSON: {error}") from error


class _Engine(http.client.HTTPConnection):
    """Docker, over its socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=UPSTREAM_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Guard(BaseHTTPRequestHandler):
    """One request: understood, checked, asked anew, answered."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    # Method, path, whether a container's own label is looked at first, the handling method.
    ROUTES = (
        ("GET", re.compile(rf"{_VERSION}?/version"), "_pass"),
        ("GET", re.compile(rf"{_VERSION}?/_ping"), "_pass"),
        ("HEAD", re.compile(rf"{_VERSION}?/_ping"), "_pass"),
        ("POST", re.compile(rf"(?P<version>{_VERSION})/containers/create"), "_create"),
        ("GET", re.compile(rf"(?P<version>{_VERSION})/containers/json"), "_list"),
        ("GET", re.compile(rf"(?P<version>{_VERSION})/containers/{_ID}/json"), "_look"),
        ("GET", re.compile(rf"(?P<version>{_VERSION})/containers/{_ID}/logs"), "_logs"),
        ("GET", re.compile(rf"(?P<version>{_VERSION})/networks/{_NETWORK}"), "_network"),
        ("POST", re.compile(rf"(?P<version>{_VERSION})/networks/{_NETWORK}/connect"), "_join"),
        ("POST", re.compile(rf"(?P<version>{_VERSION})/containers/{_ID}/start"), "_start"),
        ("POST", re.compile(rf"(?P<version>{_VERSION})/containers/{_ID}/stop"), "_stop"),
        ("DELETE", re.compile(rf"(?P<version>{_VERSION})/containers/{_ID}"), "_remove"),
    )

    @property
    def _policy(self) -> Policy:
        return self._guard.policy

    @property
    def _docker(self) -> str:
        return self._guard.docker

    @property
    def _guard(self) -> "GuardServer":
        if not isinstance(self.server, GuardServer):
            raise TypeError("a guard is only of a GuardServer")
        return self.server

    def answer(self) -> None:
        """Let the request pass, or say why not."""
        self.close_connection = True  # nothing of one request can be taken for the next
        try:
            body = self._body()
            path, _, query = self.path.partition("?")
            for method, pattern, handler in self.ROUTES:
                found = pattern.fullmatch(path)
                if method == self.command and found:
                    getattr(self, handler)(found.groupdict(), urllib.parse.parse_qs(query), body)
                    return
            raise Refused(f"{self.command} {path[:200]} is not needed by a run")
        except Gone as error:
            self._tell(404, str(error))
        except Refused as error:
            self._tell(403, f"the socket proxy refuses: {error}")
            self._say(f"refused: {error}")
        except (OSError, http.client.HTTPException) as error:
            self._tell(502, f"Docker does not answer the socket proxy: {error}")
            self._say(f"docker does not answer: {error}")

    # The names that http.server looks for.
    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT = do_PATCH = do_OPTIONS = do_CONNECT = answer  # noqa: N815

    def _pass(self, _found: dict[str, str], _query: Any, _body: bytes) -> None:
        self._relay(self.command, self.path.partition("?")[0])

    def _create(self, found: dict[str, str], query: dict[str, list[str]], body: bytes) -> None:
        if query:
            raise Refused("a run's container has no name and no platform")
        container = checked_container(body, self._policy)
        self._relay("POST", f"{found['version']}/containers/create", json.dumps(container).encode())

    def _list(self, found: dict[str, str], _query: Any, _body: bytes) -> None:
        # Whatever was asked for: the ended containers of this stack's runs, and no others.
        filters = {"label": [f"{STACK_LABEL}={self._policy.stack}"], "status": list(ENDED)}
        query = urllib.parse.urlencode({"all": "1", "filters": json.dumps(filters)})
        self._relay("GET", f"{found['version']}/containers/json?{query}")

    def _look(self, found: dict[str, str], _query: Any, _body: bytes) -> None:
        answer = self._own(found)
        self._send(200, "application/json", json.dumps(answer).encode())

    def _logs(self, found: dict[str, str], _query: Any, _body: bytes) -> None:
        self._own(found, ended=True)
        query = "stdout=1&stderr=1&timestamps=1&tail=100000"
        self._relay("GET", f"{self._container(found)}/logs?{query}", most=MOST_LOG_BYTES)

    def _network(self, found: dict[str, str], _query: Any, _body: bytes) -> None:
        told = self._named(found)
        answer = {"Id": told["Id"], "Name": told["Name"]}  # and not who else is in it
        self._send(200, "application/json", json.dumps(answer).encode())

    def _join(self, found: dict[str, str], query: Any, body: bytes) -> None:
        asked = _object(_json(body), "the body")
        container = _taken(asked, "Container", str)
        _nothing_else(dict(_taken(asked, "EndpointConfig", dict, {})), "EndpointConfig.")
        _nothing_else(asked, "")
        if query or not re.fullmatch(_ID, container):
            raise Refused("a network takes a container's whole id, and nothing else")
        told = self._own({**found, "id": container})
        location = self._policy.locations[told["Config"]["Labels"][LOCATION_LABEL]]
        network = self._named(found)
        if network["Name"] not in location.networks or told["State"]["Status"] != "created":
            raise Refused(f"the container may not join {network['Name']!r}, or not any more")
        self._relay(
            "POST",
            f"{found['version']}/networks/{network['Id']}/connect",
            json.dumps({"Container": container}).encode(),
        )

    def _named(self, found: dict[str, str]) -> dict[str, Any]:
        """What Docker says of a network, if it is one of those that runs may have.

        Raises:
            Gone: There is none of that name or id.
            Refused: It is another.
        """
        status, _, body = self._ask("GET", f"{found['version']}/networks/{found['network']}")
        if status == 404:
            raise Gone(f"network {found['network']} not found")
        if status != 200:
            raise http.client.HTTPException(f"status {status} for a network")
        told = _object(json.loads(body), "the network")
        allowed = {name for one in self._policy.locations.values() for name in one.networks}
        if told["Name"] not in allowed or not re.fullmatch(_ID, told["Id"]):
            raise Refused(f"the network {told['Name']!r} is none of a run's")
        return told

    def _start(self, found: dict[str, str], query: Any, body: bytes) -> None:
        if query or body not in (b"", b"{}", b"null"):
            raise Refused("a container is started as it was made")
        self._own(found)
        self._relay("POST", f"{self._container(found)}/start")

    def _stop(self, found: dict[str, str], query: dict[str, list[str]], _body: bytes) -> None:
        self._own(found)
        seconds = query.get("t", ["10"])[0]
        if set(query) - {"t"} or not re.fullmatch(r"\d{1,3}", seconds):
            raise Refused("stop takes the seconds to wait, t, and nothing else")
        self._relay(
            "POST", f"{self._container(found)}/stop?t={min(int(seconds), LONGEST_STOP_SECONDS)}"
        )

    def _remove(self, found: dict[str, str], _query: Any, _body: bytes) -> None:
        self._own(found, ended=True)
        # Without force: what has been started meanwhile stays, for Docker refuses.
        self._relay("DELETE", f"{self._container(found)}?v=1")

    @staticmethod
    def _container(found: dict[str, str]) -> str:
        return f"{found['version']}/containers/{found['id']}"

    def _own(self, found: dict[str, str], *, ended: bool = False) -> dict[str, Any]:
        """What Docker says of the container, if it is a run of this stack.

        Raises:
            Gone: There is none of that id.
            Refused: It is not, or runs and should have ended.
        """
        status, _, body = self._ask("GET", f"{self._container(found)}/json")
        if status == 404:
            raise Gone(f"No such container: {found['id']}")
        if status != 200:
            raise http.client.HTTPException(f"status {status} for a container")
        told = json.loads(body)
        labels = told["Config"]["Labels"] or {}
        if (
            labels.get(STACK_LABEL) != self._policy.stack
            or labels.get(LOCATION_LABEL) not in self._policy.locations
        ):
            raise Refused("the container is no run of this stack")
        if ended and told["State"]["Status"] not in ENDED:
            raise Refused(f"the container is {told['State']['Status']}, it has not ended")
        return told

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(lengths) > 1 or "Upgrade" in self.headers:
            raise Refused("the body must have one Content-Length, and the protocol stays")
        length = lengths[0] if lengths else "0"
        if not re.fullmatch(r"[0-9]{1,8}", length) or int(length) > MOST_BODY_BYTES:
            raise Refused(f"a body of {length[:20]!r} bytes; at most {MOST_BODY_BYTES}")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise Refused("the body ends too early")
        return body

    def _relay(
        self, method: str, path: str, body: bytes | None = None, most: int = MOST_ANSWER_BYTES
    ) -> None:
        status, kind, answer = self._ask(method, path, body, most)
        self._send(status, kind, answer)
        self._say(f"passed: {method} {path.partition('?')[0]} {status}")

    def _ask(
        self, method: str, path: str, body: bytes | None = None, most: int = MOST_ANSWER_BYTES
    ) -> tuple[int, str, bytes]:
        engine = _Engine(self._docker)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            engine.request(method, path, body, headers)
            answer = engine.getresponse()
            content = answer.read(most + 1)
            if len(content) > most:
                raise http.client.HTTPException(f"an answer of more than {most} bytes")
            return answer.status, answer.getheader("Content-Type", "application/json"), content
        finally:
            engine.close()

    def _tell(self, status: int, message: str) -> None:
        self._send(status, "application/json", json.dumps({"message": message}).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(content)

    def _say(self, what: str) -> None:
        line = {"client": self.client_address[0], "request": self.command, "told": what[:500]}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing more than ``_say`` does."""


class GuardServer(ThreadingHTTPServer):
    """The guard, listening.

    Args:
        address: Where it listens.
        policy: What may pass.
        docker: Docker's socket.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], policy: Policy, docker: str = SOCKET) -> None:
        self.policy, self.docker = policy, docker
        super().__init__(address, Guard)


def check(port: int) -> None:
    """Pass if the guard and Docker behind it answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=8)
    try:
        connection.request("GET", "/_ping")
        answer = connection.getresponse()
        if answer.status != 200:
            sys.exit(f"the socket proxy answers {answer.status}: {answer.read(500)!r}")
    except OSError as error:
        sys.exit(f"the socket proxy does not answer: {error}")
    finally:
        connection.close()


def main() -> None:
    """Listen until told to stop."""
    parser = argparse.ArgumentParser(description="A guard before Docker's socket.")
    parser.add_argument("--check", action="store_true", help="ask a guard that runs")
    if parser.parse_args().check:
        check(PORT)
        return
    try:
        policy = Policy.read(os.environ.get("POLICY", ""))
    except ValueError as error:
        sys.exit(str(error))
    if not os.access(SOCKET, os.R_OK | os.W_OK):
        sys.exit(
            f"{SOCKET} cannot be used by groups {os.getgroups()}; set STACK_DOCKER_GID in .env to "
            "the group of the socket (`stat -c %g /var/run/docker.sock`)"
        )
    GuardServer(("0.0.0.0", PORT), policy).serve_forever()  # noqa: S104 - its network is its own


if __name__ == "__main__":
    main()
