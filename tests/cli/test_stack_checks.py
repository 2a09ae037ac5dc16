"""What keeps the stack from starting is found before, each with its remedy."""

import copy
import errno
import json
import socket
from dataclasses import replace
from typing import Any

import pytest

from rul_cli.stack_checks import GIB, Machine, complaints

CONFIG: dict[str, Any] = {
    "name": "rul",
    "services": {
        "api": {
            "image": "rul-serving:dev",
            "build": {"context": "."},
            "deploy": {
                "replicas": 3,
                "resources": {
                    "limits": {"cpus": 2, "memory": str(GIB)},
                    "reservations": {"memory": str(GIB // 2)},
                },
            },
        },
        "nginx": {
            "image": "nginx:1",
            "ports": [{"published": "8080", "host_ip": "127.0.0.1", "target": 8080}],
        },
        "socket-proxy": {
            "image": "rul-socket-proxy:dev",
            "user": "10003:999",
            "volumes": [{"type": "bind", "source": "/var/run/docker.sock"}],
        },
    },
    "networks": {
        "frontend": {"ipam": {"config": [{"subnet": "172.20.0.0/16"}]}},
        "backend": {"ipam": {"config": [{"subnet": "172.21.0.0/16"}]}},
        "plain": {"ipam": {}},
    },
}
MACHINE = Machine(
    cpus=2,
    memory_bytes=8 * GIB,
    images=frozenset({"rul-serving:dev", "nginx:1", "rul-socket-proxy:dev"}),
    networks={"bridge": ("172.17.0.0/16",)},
    routes={"10.0.0.0/24": "eth0"},
    socket_group=999,
)


@pytest.fixture
def config() -> dict[str, Any]:
    """With a port that nobody listens at."""
    made = copy.deepcopy(CONFIG)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        made["services"]["nginx"]["ports"][0]["published"] = str(probe.getsockname()[1])
    return made


def only(config: dict[str, Any], machine: Machine) -> str:
    (told,) = complaints(config, machine)
    return told


def test_runs_that_docker_would_refuse_are_told_before_the_first_is_asked_for(config):
    context = '{"docker": {"container_kwargs": {"nano_cpus": 4000000000}}}'
    config["services"]["dagster-code"] = {
        "image": "nginx:1",
        "environment": {"DAGSTER_CONTAINER_CONTEXT": context},
    }
    assert "runs: their limit of 4 cores is more than the 2" in only(config, MACHINE)
    assert complaints(config, replace(MACHINE, cpus=4)) == []


def test_networks_of_the_other_kind_of_address_do_not_collide(config):
    both = replace(MACHINE, networks={"six": ("fd00::/64",)}, routes={"fe80::/10": "eth0"})
    assert complaints(config, both) == []


def test_a_port_that_only_docker_may_have_is_not_in_use(config, monkeypatch):
    class Refusing(socket.socket):
        def bind(self, _) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Refusing)
    assert complaints(config, MACHINE) == []


def test_an_image_by_its_digest_is_known_by_its_name(config):
    config["services"]["nginx"]["image"] = "nginx:1@sha256:" + "0" * 64
    assert complaints(config, MACHINE) == []


def test_a_machine_that_has_all_it_takes_gives_no_complaint(config):
    assert complaints(config, MACHINE) == []


def test_an_image_that_is_not_there_is_built_or_pulled(config):
    without = replace(MACHINE, images=frozenset({"nginx:1", "rul-socket-proxy:dev"}))
    assert only(config, without).endswith("rul-serving:dev is not there; build it: `make images`")
    without = replace(MACHINE, images=MACHINE.images - {"nginx:1"})
    assert only(config, without).endswith("nginx:1 is not there; `docker pull nginx:1`")


def test_a_port_in_use_is_told_unless_it_is_the_stack_s_own(config):
    port = int(config["services"]["nginx"]["ports"][0]["published"])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert f"port {port} of 127.0.0.1 is in use" in only(config, MACHINE)
        assert complaints(config, replace(MACHINE, own_ports=frozenset({port}))) == []


@pytest.mark.parametrize(
    ("networks", "routes", "told"),
    [
        ({"other": ("172.20.5.0/24",)}, {}, "with 172.20.5.0/24, Docker's network other"),
        ({}, {"172.16.0.0/12": "vpn0"}, "with 172.16.0.0/12, the route by vpn0"),
    ],
)
def test_a_subnet_that_collides_is_told_with_its_variable(config, networks, routes, told):
    found = complaints(config, replace(MACHINE, networks=networks, routes=routes))
    assert any(told in one and "STACK_FRONTEND_SUBNET" in one for one in found)


def test_two_networks_of_the_stack_may_not_collide(config):
    config["networks"]["backend"]["ipam"]["config"][0]["subnet"] = "172.20.1.0/24"
    assert "collides with 172.20.0.0/16, network frontend of this stack" in only(config, MACHINE)


def test_a_neighbouring_subnet_is_no_collision(config):
    assert complaints(config, replace(MACHINE, networks={"n": ("172.22.0.0/16",)})) == []


def test_more_cores_than_there_are_is_told(config):
    assert "its limit of 2 cores is more than the 1" in only(config, replace(MACHINE, cpus=1))


def test_memory_that_is_not_there_is_told_and_replicas_count(config):
    assert complaints(config, replace(MACHINE, memory_bytes=3 * GIB // 2)) == []
    told = only(config, replace(MACHINE, memory_bytes=3 * GIB // 2 - 1))
    assert "reserve 1.5 GiB" in told
    assert "api 1.5" in told


@pytest.mark.parametrize("size", ["512m", "0.5G", "524288K", str(GIB // 2)])
def test_memory_for_one_run_is_counted_too(config, size):
    context = json.dumps({"docker": {"container_kwargs": {"mem_reservation": size}}})
    config["services"]["dagster-code"] = {
        "image": "nginx:1", "environment": {"DAGSTER_CONTAINER_CONTEXT": context}
    }  # fmt: skip
    assert complaints(config, replace(MACHINE, memory_bytes=2 * GIB)) == []
    told = only(config, replace(MACHINE, memory_bytes=2 * GIB - 1))
    assert "the services and a run reserve 2.0 GiB" in told
    assert "one run 0.5" in told


def test_the_group_of_docker_s_socket_must_be_the_proxy_s(config):
    assert "STACK_DOCKER_GID=998" in only(config, replace(MACHINE, socket_group=998))
    assert "the group root" in only(config, replace(MACHINE, socket_group=0))
    assert complaints(config, replace(MACHINE, socket_group=None)) == []
