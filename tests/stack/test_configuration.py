"""What Compose makes of compose.yaml: every service's hardening, limits and order, as it comes."""

import json
import os
import subprocess
from typing import Any

import pytest

from .engine import PROJECT, image_of

pytestmark = pytest.mark.stack

MIB = 1024**2
GIB = 1024 * MIB
TABLE: dict[str, tuple[float, int, int]] = {
    "api": (2, 512 * MIB, GIB),
    "postgres": (2, GIB, 2 * GIB),
    "redis": (1, 256 * MIB, 512 * MIB),
    "dagster-webserver": (2, GIB, 2 * GIB),
    "dagster-daemon": (2, GIB, 2 * GIB),
    "prometheus": (2, GIB, 2 * GIB),
    "grafana": (1, 512 * MIB, GIB),
    "nginx": (0.5, 128 * MIB, 256 * MIB),
}
"""Cores at most, memory reserved and at most: the design's."""
RUN = (4.0, 2 * GIB, 4 * GIB)
SHARES = {
    "api": 0.5, "postgres": 1, "redis": 0.5, "dagster-webserver": 0.5, "dagster-daemon": 0.5,
    "prometheus": 0.5, "grafana": 0.25, "nginx": 0.1,
}  # fmt: skip
"""Cores that each asks for; 1024 shares are one."""


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """Without any setting of this machine."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("STACK_")}
    done = subprocess.run(
        ["docker", "compose", "--profile=*", "config", "--format=json"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
        env={**plain, "COMPOSE_DISABLE_ENV_FILE": "1", "COMPOSE_PROJECT_NAME": "rul"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


def test_every_service_is_without_rights_and_bounded(services):
    wrong = []
    for name, said in services.items():
        limits = said["deploy"]["resources"]["limits"]
        facts = {
            "its root can be written": not said.get("read_only"),
            "it has capabilities": said.get("cap_drop") != ["ALL"] or bool(said.get("cap_add")),
            "it may gain privileges": said.get("security_opt") != ["no-new-privileges:true"],
            "it is root": said.get("user", "0").split(":")[0] in {"0", "root", ""},
            "it is privileged": bool(said.get("privileged")),
            "it has no init": not said.get("init"),
            "it shares a namespace": any(said.get(k) for k in ("pid", "ipc", "userns_mode")),
            "its memory has no limit": not int(limits.get("memory", 0)),
            "it may swap": int(said.get("memswap_limit", 0)) != int(limits.get("memory", 0)),
            "its cores have no limit": not float(limits.get("cpus", 0)),
            "its processes have no limit": not 0 < int(limits.get("pids", 0)) <= 512,
            "its log has no limit": {"max-size", "max-file"} - said["logging"]["options"].keys(),
            "it stops at once": not said.get("stop_grace_period"),
            "/tmp runs programs": not all(
                "noexec" in each for each in said["tmpfs"] if "/tmp" in each
            ),
        }
        wrong += [(name, what) for what, is_so in facts.items() if is_so]
    assert wrong == []


def test_the_limits_are_those_of_the_design(services):
    found = {}
    for name in TABLE:
        resources = services[name]["deploy"]["resources"]
        found[name] = (
            float(resources["limits"]["cpus"]),
            int(resources["reservations"]["memory"]),
            int(resources["limits"]["memory"]),
        )
    assert found == TABLE
    shares = {name: round(services[name]["cpu_shares"] / 1024, 2) for name in SHARES}
    assert shares == SHARES


def test_a_run_s_container_has_the_limits_of_the_design(services):
    told = json.loads(services["dagster-code"]["environment"]["DAGSTER_CONTAINER_CONTEXT"])
    asked = told["docker"]["container_kwargs"]
    sizes = {"g": GIB, "m": MIB}
    reserved, most = (
        int(asked[key][:-1]) * sizes[asked[key][-1]] for key in ("mem_reservation", "mem_limit")
    )
    assert (asked["nano_cpus"] / 1e9, reserved, most) == RUN
    assert asked["cpu_shares"] == 1024
    assert asked["memswap_limit"] == asked["mem_limit"]


def test_services_wait_for_those_that_they_need(services):
    needs = {
        name: {other: said["condition"] for other, said in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    for name in ("api", "dagster-code", "dagster-exporter", "postgres-exporter"):
        assert needs[name]["migrate"] == "service_completed_successfully"
    assert needs["migrate"] == {"postgres": "service_healthy"}
    assert needs["dagster-daemon"]["dagster-code"] == "service_healthy"
    assert needs["dagster-daemon"]["run-secrets"] == "service_completed_successfully"
    assert {needs["nginx"][name] for name in ("api", "dagster-webserver", "dagster-viewer")} == {
        "service_healthy"
    }


@pytest.mark.parametrize(
    ("trusted", "client"), [("127.0.0.1 10.0.0.0/8", "203.0.113.9"), ("", "127.0.0.1")]
)
def test_who_stands_before_nginx_is_believed_only_where_it_is_named(trusted: str, client: str):
    door = PROJECT / "docker" / "nginx"
    script = (
        "nginx -g 'daemon off;' & sleep 1;"
        "curl -s -o /dev/null -H 'X-Forwarded-For: 203.0.113.9' http://127.0.0.1:8080/nowhere;"
        "nginx -s quit; wait"
    )
    done = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--user=101:101", "--read-only",
         "--tmpfs=/tmp:mode=1777", "--tmpfs=/bodies:mode=1777", f"--env=TRUSTED_PROXIES={trusted}",
         f"--volume={door}/nginx.conf:/etc/nginx/nginx.conf:ro",
         f"--volume={door}/follow-api.sh:/docker-entrypoint.d/50-follow-api.sh:ro",
         image_of("nginx"), "sh", "-c", script],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if '"path":"/nowhere"' in line]
    assert json.loads(line)["client"] == client, done.stderr
