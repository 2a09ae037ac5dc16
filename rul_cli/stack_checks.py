"""What keeps the container stack from starting on this machine, found before anything starts.

What belongs here: the checks, over what Compose understood and what the machine is. What does not:
asking Docker (``stack``), the secrets (``stack_secrets``).
"""

import errno
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

GIB = 1024**3
SMALL = "docker/two-cores.env"


@dataclass(frozen=True)
class Machine:
    """What is known of the machine and of its Docker."""

    cpus: int
    memory_bytes: int
    images: frozenset[str]
    """References that are there."""
    networks: Mapping[str, tuple[str, ...]]
    """Subnets of Docker's networks that are not this stack's."""
    routes: Mapping[str, str]
    """Other subnets that this machine has a way to, and by which interface."""
    own_ports: frozenset[int] = field(default=frozenset())
    """Ports that this stack, which runs already, has published."""
    socket_group: int | None = None
    """The group of Docker's socket; none where Docker is elsewhere."""


def complaints(config: Mapping[str, Any], machine: Machine) -> list[str]:
    """All that is wrong, each with its remedy.

    Args:
        config: What ``docker compose config --format json`` says.
        machine: Where it shall run.
    """
    return [
        *_images(config, machine),
        *_ports(config, machine),
        *_subnets(config, machine),
        *_cores(config, machine),
        *_runs_cores(config, machine),
        *_memory(config, machine),
        *_socket(config, machine),
    ]


def _images(config: Mapping[str, Any], machine: Machine) -> Iterator[str]:
    for service, said in _services(config):
        image = said["image"]
        if image.partition("@")[0] not in machine.images and image not in machine.images:
            remedy = "build it: `make images`" if "build" in said else f"`docker pull {image}`"
            yield f"service {service}: the image {image} is not there; {remedy}"


def _ports(config: Mapping[str, Any], machine: Machine) -> Iterator[str]:
    for service, said in _services(config):
        for port in said.get("ports", ()):
            number, address = int(port["published"]), port.get("host_ip") or "0.0.0.0"  # noqa: S104
            if number not in machine.own_ports and _is_taken(address, number):
                yield (
                    f"service {service}: port {number} of {address} is in use; stop what listens "
                    "there, or set another in .env (see .env.example)"
                )


def _is_taken(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            # Docker may have a port that this user may not, and an address that comes later.
            return error.errno == errno.EADDRINUSE
    return False


def _subnets(config: Mapping[str, Any], machine: Machine) -> Iterator[str]:
    taken = [(f"the route by {by}", subnet) for subnet, by in machine.routes.items()]
    for name, subnets in machine.networks.items():
        taken += [(f"Docker's network {name}", subnet) for subnet in subnets]
    own: list[tuple[str, Any]] = []
    for name, said in config.get("networks", {}).items():
        for pool in (said.get("ipam") or {}).get("config", ()):
            wanted = ip_network(pool["subnet"])
            for other, subnet in (*own, *((who, ip_network(of)) for who, of in taken)):
                if wanted.version == subnet.version and wanted.overlaps(subnet):
                    yield (
                        f"network {name}: its subnet {wanted} collides with {subnet}, {other}; "
                        f"set STACK_{name.upper()}_SUBNET in .env to one that is free"
                    )
            own.append((f"network {name} of this stack", wanted))


def _cores(config: Mapping[str, Any], machine: Machine) -> Iterator[str]:
    for service, said in _services(config):
        limit = float(_resources(said, "limits").get("cpus", 0))
        if limit > machine.cpus:
            yield (
                f"service {service}: its limit of {limit:g} cores is more than the {machine.cpus} "
                f"of this machine, which Docker refuses; take the values of {SMALL}"
            )


def _runs_cores(config: Mapping[str, Any], machine: Machine) -> Iterator[str]:
    cores = _of_a_run(config).get("nano_cpus", 0) / 1e9
    if cores > machine.cpus:
        yield (
            f"runs: their limit of {cores:g} cores is more than the {machine.cpus} of this "
            "machine, so Docker would refuse every run; set STACK_RUN_NANO_CPUS in .env, or take "
            f"{SMALL}"
        )


def _of_a_run(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the code location asks for its runs' containers."""
    environment = config["services"].get("dagster-code", {}).get("environment") or {}
    told = json.loads(environment.get("DAGSTER_CONTAINER_CONTEXT") or "{}")
    return told.get("docker", {}).get("container_kwargs", {})


def _memory(config: Mapping[str, Any], machine: Machine) -> Iterator[str]:
    needed = {
        service: int(_resources(said, "reservations").get("memory", 0)) * _replicas(said)
        for service, said in _services(config)
    }
    # Others wait for the first where there is no room for more.
    needed["one run"] = _bytes(_of_a_run(config).get("mem_reservation", "0"))
    total = sum(needed.values())
    if total > machine.memory_bytes:
        largest = sorted(needed, key=lambda service: needed[service], reverse=True)[:3]
        told = ", ".join(f"{service} {needed[service] / GIB:.1f}" for service in largest)
        yield (
            f"the services and a run reserve {total / GIB:.1f} GiB of memory ({told}, …) and this "
            f"machine has {machine.memory_bytes / GIB:.1f}; lower them in .env, or take {SMALL}"
        )


def _bytes(size: str) -> int:
    """Of a size as Docker takes it, such as 512m."""
    units = {"b": 1, "k": 1024, "m": 1024**2, "g": GIB}
    number, unit = (size[:-1], size[-1]) if size[-1:].lower() in units else (size, "b")
    return int(float(number) * units[unit.lower()])


def _socket(config: Mapping[str, Any], machine: Machine) -> Iterator[str]:
    for service, said in _services(config):
        mounts = {volume.get("source") for volume in said.get("volumes", ())}
        group = said.get("user", "").partition(":")[2]
        if "/var/run/docker.sock" in mounts and machine.socket_group is not None:
            if machine.socket_group == 0:
                yield (
                    f"service {service}: Docker's socket belongs to the group root, which no "
                    "container may have; give it to a group of its own, such as docker"
                )
            elif group != str(machine.socket_group):
                yield (
                    f"service {service}: Docker's socket belongs to group {machine.socket_group}, "
                    f"not {group}; set STACK_DOCKER_GID={machine.socket_group} in .env"
                )


def _services(config: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return sorted(config["services"].items())


def _resources(service: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return service.get("deploy", {}).get("resources", {}).get(kind, {})


def _replicas(service: Mapping[str, Any]) -> int:
    return int(service.get("deploy", {}).get("replicas", 1))
