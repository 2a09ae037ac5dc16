"""``rul stack``: whether the container stack can start here, asked before it does."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rul_cli import stack_checks, stack_secrets
from rul_cli.console import console
from rul_cli.secrets import folder_of_secrets
from rul_cli.stack_checks import GIB, SMALL, Machine
from rul_core.errors import SettingsError

app = typer.Typer(no_args_is_help=True, help="The container stack, before it starts.")

SOCKET = Path("/var/run/docker.sock")
ENVIRONMENT = Path(".env")
ENOUGH_CPUS, ENOUGH_BYTES = 4, 14 * GIB
Folder = Annotated[Path, folder_of_secrets("--secrets")]


@app.command("init")
def init() -> None:
    """Write .env for this machine, unless there is one: Docker's group, and the small profile."""
    if ENVIRONMENT.exists():
        console.print(f"{ENVIRONMENT} is there already and stays as it is.", highlight=False)
        return
    told = _info()
    lines = [
        "# Written by `rul stack init` for this machine; .env.example has all that may be set.",
        f"STACK_DOCKER_GID={_socket_group() or 0}",
    ]
    is_small = told["NCPU"] < ENOUGH_CPUS or told["MemTotal"] < ENOUGH_BYTES
    if is_small:
        lines.append(Path(SMALL).read_text())
    ENVIRONMENT.write_text("\n".join(lines) + "\n")
    profile = f"the small profile ({SMALL})" if is_small else "the defaults"
    console.print(
        f"Wrote {ENVIRONMENT}: {told['NCPU']} cores and {told['MemTotal'] / GIB:.1f} GiB, "
        f"so {profile}.",
        highlight=False,
    )


@app.command("check")
def check(secrets: Folder) -> None:
    """Find what would keep the stack from starting; every complaint names its remedy."""
    config = json.loads(_docker("compose", "config", "--format", "json"))
    found = [
        *stack_secrets.complaints(secrets, os.getuid()),
        *_unreadable(config),
        *stack_checks.complaints(config, _machine(config)),
    ]
    if found:
        raise SettingsError("the stack cannot start:\n  " + "\n  ".join(found))
    console.print("Nothing keeps the stack from starting.", highlight=False)
    if stack_secrets.is_anybody_told(secrets) is False:
        console.print(
            f"Nobody is told of alerts yet; say who in {secrets / 'alert_receivers'}.",
            highlight=False,
        )


def _machine(config: dict[str, Any]) -> Machine:
    told = _info()
    own = config["name"]
    networks, bridges = {}, set()
    for network in _listed("network"):
        mine = (network["Labels"] or {}).get("com.docker.compose.project") == own
        pools = network["IPAM"]["Config"] or ()
        bridges.add(network["Options"].get("com.docker.network.bridge.name"))
        bridges.add(f"br-{network['Id'][:12]}")
        if not mine:
            networks[network["Name"]] = tuple(pool["Subnet"] for pool in pools if "Subnet" in pool)
    published = _docker(
        "ps", "--filter", f"label=com.docker.compose.project={own}", "--format={{json .}}"
    )
    ports = {
        int(part.rpartition("->")[0].rpartition(":")[2])
        for line in published.splitlines()
        for part in json.loads(line)["Ports"].split(", ")
        if "->" in part
    }
    images = {
        image
        for line in _docker("image", "ls", "--format={{.Repository}}:{{.Tag}}").splitlines()
        for image in (line, f"docker.io/{line}")
    }
    return Machine(
        cpus=told["NCPU"],
        memory_bytes=told["MemTotal"],
        images=frozenset(images),
        networks=networks,
        routes=_routes(except_by=bridges),
        own_ports=frozenset(ports),
        socket_group=_socket_group(),
    )


def _listed(kind: str) -> list[dict[str, Any]]:
    names = _docker(kind, "ls", "--quiet").split()
    return json.loads(_docker(kind, "inspect", *names)) if names else []


def _routes(*, except_by: set[str]) -> dict[str, str]:
    """Networks that this machine reaches by another way than Docker's bridges."""
    from ipaddress import IPv4Address, ip_network

    found = {}
    table = Path("/proc/net/route")
    for line in table.read_text().splitlines()[1:] if table.exists() else ():
        interface, destination, _, _, _, _, _, mask, *_ = line.split()
        if interface in except_by or interface == "docker0" or mask == "00000000":
            continue
        address, bits = (
            int.from_bytes(bytes.fromhex(each), "little") for each in (destination, mask)
        )
        found[str(ip_network(f"{IPv4Address(address)}/{bits.bit_count()}"))] = interface
    return found


def _unreadable(config: dict[str, Any]) -> list[str]:
    """Configuration files that containers, which are other users, could not read."""
    found = []
    for name, said in config.get("configs", {}).items():
        path = Path(said["file"])
        if not path.is_file():
            found.append(f"the configuration file {path} ({name}) is missing; restore it")
        elif not path.stat().st_mode & 0o004:
            found.append(f"the configuration file {path} must be readable: `chmod a+r {path}`")
    return found


def _info() -> dict[str, Any]:
    return json.loads(_docker("info", "--format={{json .}}"))


def _socket_group() -> int | None:
    return SOCKET.stat().st_gid if SOCKET.exists() else None


def _docker(*arguments: str) -> str:
    return _run(("docker", *arguments))


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError as error:
        raise SettingsError(
            "there is no docker on this machine; install Docker Engine with Compose v2"
        ) from error
    if done.returncode:
        raise SettingsError(
            f"`{' '.join(command[:3])}` failed: {done.stderr.strip()}; see that Docker with "
            "Compose v2 runs and that this user may use it"
        )
    return done.stdout
