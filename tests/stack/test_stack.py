"""What the container stack promises, on a real Docker engine, one line each, in this order.

Later tests stand on earlier ones: the stack comes up, a fleet goes through it, then things break.
"""

import base64
import csv
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from rul_cli import demo_data, stack_secrets
from rul_core.schema import write_fleet

from . import queries
from .conftest import remove
from .engine import (
    HTTP_PORT,
    NAME,
    ONE_SHOT,
    PROJECT,
    PROMETHEUS_PORT,
    Container,
    Stack,
    listening,
    outside,
    wait_until,
    webhook,
)

pytestmark = pytest.mark.stack

HEAL_SECONDS = 60.0
NEEDED_BY_NOBODY = (
    {"dagster-exporter", "nginx-exporter", "node-exporter", "postgres-exporter", "redis-exporter"},
    {"alertmanager", "dagster-backup", "dagster-drill", "dagster-viewer", "wal-bringer"},
)
"""Those for which no other service waits; they are killed together."""
RUN_SECONDS = 600.0
MATERIAL = demo_data.simulated(7)
FLEET = MATERIAL.fleet.name
NO_HEALTH_CHECK = {"nginx-exporter"}
"""Images without any program that could ask; Prometheus tells whether they are up."""


def first_model(stack: Stack) -> str | None:
    status, told = stack.ask("/v1/models")
    if status != 200:
        return None
    return next((one["served_version"] for one in told["models"] if one["fleet"] == FLEET), None)


# --- the start
def test_what_keeps_the_stack_from_starting_is_found_before_anything_starts(stack: Stack):
    rul = str(PROJECT / ".venv" / "bin" / "rul")
    told = subprocess.run(
        [rul, "stack", "check", "--secrets", str(stack.secrets)],
        cwd=PROJECT, env=stack.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    complaints = [line for line in told.stderr.splitlines() if line.startswith("  ")]
    # Only what no registry can be asked for here; what it would show is not shown.
    assert set(stack.left_out) <= {"grafana"}
    print(f"  not shown: {', '.join(stack.left_out) or 'nothing'}")
    assert [
        line for line in complaints if not any(f"service {s}:" in line for s in stack.left_out)
    ] == []
    assert len(complaints) == len(stack.left_out), told.stderr


def test_all_containers_are_well_within_three_minutes(stack: Stack):
    seconds = stack.up()
    assert seconds < 180, f"it took {seconds:.0f} s"
    early = [
        (service, needed)
        for service, said in stack.config["services"].items()
        for needed, how in said.get("depends_on", {}).items()
        if {service, needed} <= set(stack.services) - {"rul"}
        and not _waited(stack, service, needed, how["condition"])
    ]
    assert early == []
    running = {container.service for container in stack.containers()}
    assert running == set(stack.services) - ONE_SHOT - {"rul"}
    unwell = [c.name for c in stack.containers() if not c.is_well]
    assert unwell == []
    without = {c.service for c in stack.containers() if "Health" not in c.told["State"]}
    assert without == NO_HEALTH_CHECK & running


def _waited(stack: Stack, service: str, needed: str, condition: str) -> bool:
    """Whether every container of a service was started after what it needs had."""
    moment = "FinishedAt" if condition == "service_completed_successfully" else "StartedAt"
    had = max(told["State"][moment] for told in stack.described(needed))
    return all(had < told["State"]["StartedAt"] for told in stack.described(service))


# --- hardening
def processes(pid: int) -> list[Path]:
    """The folders in /proc of all that runs in the container of a process."""
    space = Path(f"/proc/{pid}/ns/pid").readlink()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "ns" / "pid").readlink() == space:
                found.append(folder)
        except OSError:  # it ended meanwhile
            continue
    return found


def status_of(process: Path) -> dict[str, str]:
    lines = (process / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def rights(pid: int) -> list[tuple[str, str]]:
    """What the processes of a container may do that they should not: their names, and what."""
    wrong = []
    for process in processes(pid):
        try:
            # Docker's own before it becomes what is started; then that is looked at.
            wait_until(lambda p=process: not status_of(p)["Name"].startswith("runc:["), 10, "begun")
            told = status_of(process)
        except OSError:
            continue
        users = set(told["Uid"].split())
        facts = {
            "a user that is root": "0" in users,
            "capabilities": any(int(told[c], 16) for c in ("CapEff", "CapPrm", "CapBnd", "CapAmb")),
            "a way to new privileges": told["NoNewPrivs"] != "1",
            "no seccomp filter": told["Seccomp"] != "2",
        }
        wrong += [(told["Name"], what) for what, is_so in facts.items() if is_so]
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        _, _, _, _, point, options, *rest = line.split()
        if point == "/" and "ro" not in options.split(","):
            wrong.append((point, "the root is writable"))
        if "tmpfs" in rest and point in {"/tmp", "/bodies"} and "noexec" not in options.split(","):
            wrong.append((point, "programs can be run there"))
    return wrong


def test_no_process_has_rights_no_root_can_be_written_and_memory_runs_no_program(stack: Stack):
    assert [(c.name, found) for c in stack.containers() if (found := rights(c.pid))] == []


def test_limits_are_set_on_every_container(stack: Stack):
    wrong = []
    for container in stack.containers():
        host = container.told["HostConfig"]
        for name, is_set in (
            ("memory", host["Memory"] > 0),
            ("cores", host["NanoCpus"] > 0),
            ("processes", 0 < (host["PidsLimit"] or 0) <= 512),
            ("the size of the log", "max-size" in (host["LogConfig"]["Config"] or {})),
            ("init", bool(host["Init"])),
        ):
            if not is_set:
                wrong.append((container.name, name))
    assert wrong == []


def test_docker_s_socket_is_in_one_container_alone(stack: Stack):
    with_socket = {
        container.service
        for container in stack.containers()
        for mount in container.told["Mounts"]
        if "docker.sock" in mount["Source"]
    }
    assert with_socket == {"socket-proxy"}


def test_published_ports_are_this_machine_s_own_but_for_nginx(stack: Stack):
    config = {name: said.get("ports", []) for name, said in stack.config["services"].items()}
    published = {
        name: {port.get("host_ip") for port in ports} for name, ports in config.items() if ports
    }
    assert {name for name, addresses in published.items() if addresses != {"127.0.0.1"}} <= {
        "nginx"
    }
    assert set(published) == {"nginx", "prometheus", "alertmanager", "grafana"}


def test_the_images_hold_no_build_tools_and_not_each_other_s_framework(stack: Stack):
    for service, absent in (
        ("api", ("dagster", "hatchling", "pip")),
        ("dagster-code", ("litestar", "hatchling", "pip")),
        ("dagster-backup", ("litestar", "hatchling", "pip")),
    ):
        code = (
            "import importlib.util, shutil, json;"
            f"print(json.dumps([n for n in {absent!r} if importlib.util.find_spec(n)]"
            " + [t for t in ('gcc', 'cc', 'make', 'uv') if shutil.which(t)]))"
        )
        assert json.loads(stack.compose("exec", "-T", service, "python", "-c", code)) == []


COMPILED_SINCE = (
    'here() { cd "$1" && find . -name "*.nbc" | sort; }; '
    '[ "$(here /opt/rul/numba)" = "$(here "$NUMBA_CACHE_DIR")" ] || here "$NUMBA_CACHE_DIR"'
)
"""Names what was compiled in a container, where its image had not compiled all of it."""


def test_what_containers_compute_was_compiled_with_their_image(stack: Stack):
    """Else each that starts compiles for a quarter of a minute, and so does each run."""
    for service in ("api", "dagster-code"):
        told = stack.run(
            "docker", "run", "--rm", "--interactive", "--read-only", "--tmpfs=/tmp:mode=1777",
            "--network=none", stack.config["services"][service]["image"],
            "sh", "-ec", f"python -I - >/dev/null; {COMPILED_SINCE}",
            feed=(PROJECT / "docker" / "warm_up.py").read_bytes(),
        )  # fmt: skip
        assert told == "", service


# --- networks
PROBE = """
import asyncio, json, sys
async def one(address, port):
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 3)
        writer.close()
        return True
    except (OSError, asyncio.TimeoutError):
        return False
async def main(wanted):
    return await asyncio.gather(*(one(*each) for each in wanted))
print(json.dumps(asyncio.run(main(json.loads(sys.stdin.read())))))
"""


def documented() -> tuple[dict[str, set[str]], dict[str, set[tuple[str, int]]]]:
    """Each service's networks, and ports by network, as the table in the documents has them."""
    networks: dict[str, set[str]] = {}
    ports: dict[str, set[tuple[str, int]]] = {}
    text = (PROJECT / "docs" / "stack.md").read_text()
    table = text.partition("<!-- networks -->")[2].partition("<!-- end -->")[0]
    for line in table.strip().splitlines()[2:]:
        service, joined, listens, *_ = (cell.strip(" `") for cell in line.strip("|").split("|"))
        networks[service] = set(re.findall(r"[a-z]+", joined))
        told, _, where = listens.partition(" on ")
        open_on = set(re.findall(r"[a-z]+", where)) or networks[service]
        ports[service] = {(n, int(port)) for n in open_on for port in re.findall(r"\d+", told)}
    return networks, ports


def reached(pid: int, asked: list[tuple[str, int]]) -> list[bool]:
    """Which addresses and ports take a connection from where a process is."""
    return json.loads(
        subprocess.run(
            ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", PROBE],
            input=json.dumps(asked), capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip


def misled(stack: Stack, service: str, pid: int) -> list[tuple[str, str, int, bool]]:
    """Whom a service's container reaches and should not, or should and does not."""
    networks, ports = documented()
    targets = [
        (server, network, address, port)
        for server in stack.containers()
        if server.pid != pid
        for network, address in server.addresses.items()
        for port in sorted({port for _, port in listening(server.pid)} | {1})
    ]
    answers = reached(pid, [(address, port) for _, _, address, port in targets])
    return [
        (server.service, network, port, answer)
        for (server, network, _, port), answer in zip(targets, answers, strict=True)
        if answer
        != (
            network in networks[service] & networks[server.service]
            and (network, port) in ports[server.service]
        )
    ]


def test_each_container_reaches_what_the_documents_allow_and_nothing_else(stack: Stack):
    containers = stack.containers()
    with ThreadPoolExecutor(8) as asking:  # who gets no answer waits for it
        found = asking.map(lambda c: misled(stack, c.service, c.pid), containers)
        wrong = [(c.name, told) for c, told in zip(containers, found, strict=True) if told]
    assert wrong == []


def test_nobody_but_who_tells_or_brings_gets_an_answer_from_outside(stack: Stack):
    containers = stack.containers()
    with outside() as there, ThreadPoolExecutor(8) as asking:
        found = asking.map(lambda c: reached(c.pid, [there]), containers)
        answered = {c.service for c, told in zip(containers, found, strict=True) if told == [True]}
    assert answered == {"alertmanager", "wal-bringer"}


def test_nobody_but_who_tells_or_brings_can_call_out(stack: Stack):
    for service in ("alertmanager", "wal-bringer"):
        joined = stack.container(service).told["NetworkSettings"]["Networks"]
        assert set(joined) == {f"{NAME}_monitoring", f"{NAME}_egress"}
    open_networks = {
        name
        for name, said in stack.config["networks"].items()
        if not said.get("internal")
        and (said.get("driver_opts") or {}).get("com.docker.network.bridge.enable_ip_masquerade")
        != "false"
    }
    assert open_networks == {"egress"}
    joined = {n for n, s in stack.config["services"].items() if "egress" in s.get("networks", {})}
    assert joined == {"alertmanager", "wal-bringer"}


# --- the socket of Docker
ASK_PROXY = """
import http.client, json, sys
out = []
for method, path, body in json.loads(sys.stdin.read()):
    c = http.client.HTTPConnection("socket-proxy", 2375, timeout=20)
    c.request(method, path, json.dumps(body) if body is not None else None)
    r = c.getresponse(); out.append([r.status, r.read().decode(errors="replace")[:300]]); c.close()
print(json.dumps(out))
"""


def test_the_socket_proxy_stops_hostile_requests_before_the_real_docker(stack: Stack):
    image = stack.config["services"]["dagster-code"]["image"]
    good: dict[str, Any] = {
        "Image": image,
        "User": "10002:10000",
        "Cmd": ["dagster", "api", "execute_run", "{}"],
        "Labels": {
            "rul.stack": NAME, "rul.location": "rul", "dagster/job_name": "x",
            "dagster/run_id": "00000000-0000-0000-0000-000000000000",
        },
        "HostConfig": {
            "NetworkMode": f"{NAME}_backend", "Memory": 256 * 1024**2, "MemorySwap": 256 * 1024**2,
            "NanoCpus": 10**9, "PidsLimit": 64, "Init": True, "ReadonlyRootfs": True,
            "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"],
        },
    }  # fmt: skip

    def with_host(**more: Any) -> dict[str, Any]:
        return {**good, "HostConfig": {**good["HostConfig"], **more}}

    create, postgres = "/v1.41/containers/create", stack.container("postgres").told["Id"]
    asked = [
        ("POST", create, with_host(Privileged=True)),
        ("POST", create, with_host(privileged=True)),
        ("POST", create, with_host(Binds=["/:/host"])),
        ("POST", create, with_host(Binds=[f"{NAME}_postgres_data:/data"])),
        ("POST", create, with_host(PidMode="host")),
        ("POST", create, with_host(CapAdd=["ALL"])),
        ("POST", create, with_host(NetworkMode="host")),
        ("POST", create, {**good, "User": "0:0"}),
        ("POST", create, {**good, "Image": stack.config["services"]["postgres"]["image"]}),
        ("POST", create, {**good, "Entrypoint": ["sh"]}),
        ("POST", f"/v1.41/containers/{postgres}/stop", None),
        ("DELETE", f"/v1.41/containers/{postgres}?force=1", None),
        ("GET", f"/v1.41/containers/{postgres}/json", None),
        ("POST", f"/v1.41/containers/{postgres}/exec", {"Cmd": ["id"]}),
        ("GET", "/v1.41/images/json", None),
        ("GET", "/v1.41/volumes", None),
    ]
    text = stack.compose(
        "exec", "-T", "dagster-daemon", "python", "-c", ASK_PROXY, feed=json.dumps(asked).encode()
    )
    passed = [
        (each, said) for each, said in zip(asked, json.loads(text), strict=True) if said[0] != 403
    ]
    assert passed == []
    (made,) = json.loads(
        stack.compose(
            "exec", "-T", "dagster-daemon", "python", "-c", ASK_PROXY,
            feed=json.dumps([("POST", create, good)]).encode(),
        )
    )  # fmt: skip
    assert made[0] == 201, made
    stack.run("docker", "rm", json.loads(made[1])["Id"])
    assert stack.container("postgres").is_well


# --- the main job
def test_a_run_at_work_has_no_rights_and_reaches_what_the_documents_allow(stack: Stack):
    """It begins with the fleet's first files, and is looked at in what the first runs are."""
    stack.put(f"/data/fleets/{FLEET}.toml", write_fleet(MATERIAL.fleet).encode())
    for name, content in MATERIAL.first.items():
        stack.put(f"/data/landing/{FLEET}/{name}", content)
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        for run in stack.runs():
            if run["State"]["Running"]:
                pid = run["State"]["Pid"]
                try:
                    location = run["Config"]["Labels"]["rul.location"]
                    row = "run" if location == "rul" else f"run of {location}"
                    wrong = [*rights(pid), *misled(stack, row, pid)]
                except (OSError, subprocess.CalledProcessError):
                    continue  # it ended meanwhile
                if Path(f"/proc/{pid}").exists():  # of one that ended nothing is known
                    assert wrong == []
                    return
        time.sleep(0.5)
    raise AssertionError(f"no run was at work within {RUN_SECONDS:.0f} s")


def test_a_fleet_goes_through_run_containers_from_raw_readings_to_a_released_model(stack: Stack):
    wait_until(lambda: first_model(stack), RUN_SECONDS, "a model is served", every=3)
    # The janitor may have removed the containers since.
    in_containers = (
        "SELECT DISTINCT pipeline_name FROM runs JOIN run_tags USING (run_id) "
        "WHERE key = 'docker/container_id' AND status = 'SUCCESS'"
    )
    assert {"take_in", "retrain"} <= set(stack.sql("dagster", in_containers))


def test_a_prognosis_is_fetched_through_nginx_with_an_api_key(stack: Stack):
    def ranked() -> Any:
        status, told = stack.ask(f"/v1/fleets/{FLEET}/units?limit=3")
        return told["units"] if status == 200 and told["units"] else None

    units = wait_until(ranked, 240, "units are ranked", every=3)
    status, said = stack.ask(f"/v1/fleets/{FLEET}/units/{units[0]['unit']}/prognosis")
    assert status == 200
    assert said["state"] in {"estimated", "beyond_horizon"}
    assert stack.ask(f"/v1/fleets/{FLEET}/units", headers={"X-API-Key": "rul_none"})[0] == 401


def test_an_instance_that_serves_a_model_compiled_nothing(stack: Stack):
    assert stack.compose("exec", "-T", "api", "sh", "-ec", COMPILED_SINCE) == ""


def test_a_key_that_people_make_on_the_command_line_opens_the_door(stack: Stack):
    made = json.loads(
        stack.compose(
            "run", "--rm", "-T", "rul", "keys", "create", "Ann", "--role", "viewer", "--json"
        )
    )
    headers = {"X-API-Key": made["api_key"]}
    assert stack.ask(f"/v1/fleets/{FLEET}/units?limit=1", headers=headers)[0] == 200
    assert stack.ask("/v1/keys", headers=headers)[0] == 403


def test_run_containers_are_hardened_and_bear_no_secret(stack: Stack):
    runs = stack.runs()
    assert runs
    values = {stack.secret(file.name) for file in stack_secrets.FILES}
    secrets = {word for value in values for word in re.findall(r"[A-Za-z0-9_-]{40,}", value)}
    everything = json.dumps([*runs, *(c.told for c in stack.containers())])
    assert [secret for secret in secrets if secret in everything] == []
    for run in runs:
        host = run["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert host["ReadonlyRootfs"] is True
        assert host["Privileged"] is False
        assert run["Config"]["User"] == "10002:10000"
        assert 0 < host["Memory"] == host["MemorySwap"]
        assert host["NanoCpus"] > 0
        beyond = {f"{NAME}_egress"} if run["Config"]["Labels"]["rul.location"] != "rul" else set()
        assert set(run["NetworkSettings"]["Networks"]) == {f"{NAME}_backend"} | beyond


def test_a_file_in_the_landing_volume_makes_the_sensor_retrain(stack: Stack):
    before = first_model(stack)
    for name, content in MATERIAL.later.items():
        stack.put(f"/data/landing/{FLEET}/{name}", content)

    def learnt_again() -> Any:
        query = "SELECT status FROM runs WHERE pipeline_name = 'retrain' AND status = 'SUCCESS'"
        return stack.sql("dagster", query)[1:]

    wait_until(learnt_again, RUN_SECONDS, f"a second training succeeds (served: {before})", every=5)


def test_containers_of_ended_runs_are_removed_once_their_logs_are_kept(stack: Stack):
    def those_that_ended() -> set[str]:
        return {run["Id"][:12] for run in stack.runs() if run["State"]["Status"] == "exited"}

    ended = wait_until(those_that_ended, 120, "a run has ended")

    def removed() -> bool:
        left = {run["Id"][:12] for run in stack.runs()}
        return not (ended & left)

    wait_until(removed, 180, "ended containers are removed", every=3)
    kept = stack.compose("exec", "-T", "dagster-janitor", "ls", "/opt/dagster/logs/containers")
    assert {name.rpartition("-")[2].removesuffix(".log") for name in kept.split()} >= ended
    assert stack.compose(
        "exec", "-T", "dagster-janitor", "grep", "-l", "RUN_SUCCESS", "-r",
        "/opt/dagster/logs/containers",
    )  # fmt: skip


# --- backups
def launch(stack: Stack, location: str, job: str) -> None:
    """Start a run."""
    stack.compose(
        "exec", "-T", "dagster-daemon", "dagster", "job", "launch", "--workspace",
        "/opt/dagster/workspace.yaml", "--location", location, "--job", job,
    )  # fmt: skip


def rul_backup(stack: Stack, *arguments: str, service: str = "rul-backup") -> tuple[int, Any]:
    """The command for people; its status, and what it printed."""
    done = subprocess.run(
        ["docker", "compose", "run", "--rm", "-T", service, "backup", *arguments],
        cwd=PROJECT, env=stack.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, _json_of(done.stdout) or done.stdout + done.stderr


def _json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def in_backups(stack: Stack, script: str) -> str:
    """What a shell says that has the volume of backups."""
    return stack.run(
        "docker", "run", "--rm", "--network=none", "--user=10002:10000", "--entrypoint=sh",
        f"--volume={NAME}_backups:/backups",
        stack.config["services"]["dagster-backup"]["image"], "-euc", script,
    )  # fmt: skip


def succeeded(stack: Stack, job: str) -> int:
    query = f"SELECT count(*) FROM runs WHERE pipeline_name = '{job}' AND status = 'SUCCESS'"
    return int(stack.sql("dagster", query)[0])


def back_up(stack: Stack) -> None:
    """Make a backup, and tell how long that took and what failed on the way."""
    made, began = succeeded(stack, "back_up"), time.monotonic()
    since = int(stack.sql("dagster", "SELECT max(id) FROM event_logs")[0])
    launch(stack, "backup", "back_up")
    wait_until(lambda: succeeded(stack, "back_up") > made, RUN_SECONDS, "a backup is made", every=3)
    failures = stack.sql(
        "dagster",
        f"SELECT event FROM event_logs WHERE id > {since} AND dagster_event_type IN "
        "('STEP_UP_FOR_RETRY', 'STEP_FAILURE', 'PIPELINE_FAILURE')",
    )
    print(f"  a backup was made in {time.monotonic() - began:.0f} s; failed meanwhile: {failures}")


def errors_of(stack: Stack, job: str) -> list[str]:
    """Why runs of a job failed, as they said it."""
    return stack.sql(
        "dagster",
        "SELECT event FROM event_logs JOIN runs USING (run_id) WHERE dagster_event_type IN "
        f"('STEP_FAILURE', 'RUN_FAILURE', 'ENGINE_EVENT') AND pipeline_name = '{job}' "
        "AND runs.status = 'FAILURE'",
    )


def test_backups_are_made_looked_at_and_proved_by_runs_with_rights_of_their_own(stack: Stack):
    for location, job in (
        ("backup", "back_up"), ("backup", "look_at_backups"), ("drill", "look_into_backups"),
        ("drill", "prove_backups"),
        ("backup", "let_backups_go"),
    ):  # fmt: skip
        before = succeeded(stack, job)
        launch(stack, location, job)
        looked = False
        deadline = time.monotonic() + RUN_SECONDS
        while succeeded(stack, job) == before:
            assert errors_of(stack, job) == []
            assert time.monotonic() < deadline, f"{job} did not succeed"
            for run in stack.runs():
                named = run["Config"]["Labels"]["rul.location"]
                if named == location and run["State"]["Running"] and not looked:
                    with suppress(OSError, subprocess.CalledProcessError):  # it ended meanwhile
                        pid = run["State"]["Pid"]
                        wrong = [*rights(pid), *misled(stack, f"run of {location}", pid)]
                        if Path(f"/proc/{pid}").exists():
                            assert wrong == []
                            looked = True
            time.sleep(0.5)
        assert looked, f"no run of {job} was seen at work"
    checks = {
        "what_is_restored_is_what_was_kept", "every_object_is_what_was_written",
        "every_new_run_opens", "what_is_beyond_is_what_was_written",
    }  # fmt: skip
    named = ", ".join(f"'{name}'" for name in checks)
    evaluated = "FROM asset_check_executions WHERE execution_status = '{}' AND check_name IN ({})"
    failed = f"SELECT evaluation_event {evaluated.format('FAILED', named)}"
    assert stack.sql("dagster", failed) == []
    passed = f"SELECT check_name {evaluated.format('SUCCEEDED', named)}"
    assert {*stack.sql("dagster", passed)} == checks
    status, told = stack.ask("/v1/system/backups")
    assert status == 200, told
    stores = {store["store"]: store for store in told["stores"]}
    assert stores.keys() == {"local", "off-site"}
    assert stores["local"]["newest"] == stores["off-site"]["newest"]
    assert stores["off-site"]["last_proven"]["differences"] == []


def test_what_the_stack_itself_has_is_kept_once_a_week_and_no_secret_with_it(stack: Stack):
    status, listed = rul_backup(stack, "list", "--json")
    assert status == 0, listed
    kept = {one["name"]: one for one in listed[-1]["manifest"]["artefacts"]}
    assert kept["dagster.dump"]["kind"] == "dagster"
    assert kept["dagster.dump"]["facts"]["tables"]["public.runs"]["rows"] > 0
    sources = kept["stack.tar"]["facts"]["sources"]
    assert sources.keys() == {"configuration", "dagster_logs", "grafana", "prometheus"}
    assert sources["configuration"] > 1
    assert sources["dagster_logs"] > 0
    status, told = rul_backup(stack, "now", "--json")
    assert status == 0, told
    again = {one["name"]: one for one in told["artefacts"]}
    for name in ("dagster.dump", "stack.tar"):
        assert again[name]["run"] == (kept[name]["run"] or listed[-1]["manifest"]["run"])
        assert again[name]["sums"] == kept[name]["sums"]
    configuration = stack.run(
        "docker", "run", "--rm", "--network=none", "--user=10002:10000", "--entrypoint=grep",
        f"--volume={NAME}_stack_configuration:/stack:ro",
        stack.config["services"]["dagster-backup"]["image"], "-r", "", "/stack",
    )  # fmt: skip
    assert f"STACK_HTTP_PORT={HTTP_PORT}" in configuration
    assert "/stack/compose.yaml:name: rul" in configuration
    values = {stack.secret(file.name) for file in stack_secrets.FILES}
    secrets = {word for value in values for word in re.findall(r"[A-Za-z0-9_-]{40,}", value)}
    assert [secret for secret in secrets if secret in configuration] == []


def test_people_list_and_verify_backups_and_damage_is_named(stack: Stack):
    status, listed = rul_backup(stack, "list", "--json")
    assert status == 0, listed
    kept = {one["name"]: one for one in listed[-1]["manifest"]["artefacts"]}
    assert set(kept) >= {"platform.dump", "redis.rdb", "models.tar", "base.tar"}
    assert kept["platform.dump"]["facts"]["tables"]["public.champions"]["rows"] > 0
    assert kept["models.tar"]["facts"]["files"] > 0
    status, told = rul_backup(stack, "verify", "--level", "content")
    assert status != 0
    assert "backup_identity cannot be read" in told  # who makes them cannot read them
    opening = {"service": "rul-drill"}
    status, found = rul_backup(stack, "verify", "--level", "structure", "--json", **opening)
    assert (status, found["findings"]) == (0, [])
    run = kept["redis.rdb"]["run"] or listed[-1]["manifest"]["run"]
    place = f"/backups/runs/{run}/redis.rdb.zst.age"
    in_backups(stack, f"cp {place} /backups/.aside && printf x >> {place}")
    status, found = rul_backup(stack, "verify", "--json")
    assert status == 1
    assert [name for name, _ in found["findings"]] == [place.removeprefix("/backups/")]
    in_backups(stack, f"mv /backups/.aside {place}")
    assert rul_backup(stack, "verify")[0] == 0


# --- monitoring
def test_every_target_is_up(stack: Stack):
    def all_up() -> Any:
        _, told = stack.ask("/api/v1/targets?state=active", port=PROMETHEUS_PORT)
        targets = {
            (target["labels"]["job"], target["labels"]["instance"]): target["health"]
            for target in told["data"]["activeTargets"]
        }
        down = {key for key, health in targets.items() if health != "up"}
        return targets if {job for job, _ in down} <= set(stack.left_out) else None

    targets = wait_until(all_up, 90, "every target is up", every=3)
    replicas = len(stack.containers("api"))
    assert sum(job == "api" for job, _ in targets) == replicas
    assert {job for job, _ in targets} >= {"dagster", "postgres", "redis", "nginx", "node"}


def test_dagster_s_state_is_told(stack: Stack):
    def value(query: str) -> float | None:
        _, told = stack.ask(f"/api/v1/query?query={query}", port=PROMETHEUS_PORT)
        found = told["data"]["result"]
        return float(found[0]["value"][1]) if found else None

    for query in (
        "sum(rul_dagster_runs{status=%22SUCCESS%22})",
        "count(rul_dagster_run_queue_length)",
        f"max(rul_dagster_asset_last_success_timestamp_seconds{{asset=%22rul_model%22,partition=%22{FLEET}%22}})",
        "count(rul_dagster_tick_last_timestamp_seconds{kind=%22sensor%22})",
        "min(rul_dagster_daemon_heartbeat_timestamp_seconds)",
        "count(rul_dagster_asset_check_failed)",
        "count(rul_dagster_run_duration_seconds_bucket)",
        "pg_up", "redis_up", "nginx_up", "min(node_filesystem_avail_bytes)",
    ):  # fmt: skip
        assert wait_until(lambda q=query: value(q), 60, query, every=3)


def test_services_that_stop_are_told_to_the_webhook_and_so_is_their_return(stack: Stack):
    stopped = {"redis", "socket-proxy"}

    def of_each(state: str) -> Any:
        found = {
            one["labels"]["service"]: one
            for one in told
            if one["labels"]["alertname"] == "ServiceDown" and one["status"] == state
        }
        return found if found.keys() >= stopped else None

    # An instance that died leaves Docker's names, so Prometheus asks one less and none is down. The
    # alert is on its way then; how long it waits is promtool's to show.
    victim = stack.container("api").name
    gone = 'ALERTS{alertname="ApiInstanceDown"}'
    with webhook() as told:
        # A busy machine may have missed one before; five minutes later that is over.
        wait_until(lambda: not stack.series(gone, minutes=1), 420, "no instance is missed yet")
        stack.run("docker", "stop", victim)
        stack.compose("stop", *sorted(stopped))
        try:
            firing = wait_until(lambda: of_each("firing"), 300, "the webhook is told", every=1)
            wait_until(lambda: stack.series(gone, minutes=1), 240, "the instance is missed")
            assert stack.series('count(up{job="api"} == 0)', minutes=1) == []
        finally:
            stack.run("docker", "start", victim)
            stack.compose("start", *sorted(stopped))
        wait_until(lambda: of_each("resolved"), 240, "the webhook is told of their return", every=1)
    for service in stopped:
        assert firing[service]["labels"]["severity"] == "critical"
        assert firing[service]["annotations"]["summary"] == f"{service} is down"
        assert firing[service]["annotations"]["runbook_url"] == "docs/runbook.md#servicedown"
    wait_until(lambda: all(c.is_well for c in stack.containers()), 60, "all is well again")


# --- the door
def dagster(
    stack: Stack,
    path: str,
    body: Any = None,
    *,
    who: str | None = "operator",
    headers: dict[str, str] | None = None,
    method: str | None = None,
) -> int:
    """Ask Dagster's pages; give the status."""
    given = dict(headers or {})
    if who is not None:
        password = stack.secret(f"dagster_{who}_password")
        word = base64.b64encode(f"{who}:{password}".encode()).decode()
        given["Authorization"] = f"Basic {word}"
    return stack.ask(path, body, headers=given, method=method)[0]


QUERY = {"query": "{ version }"}
MUTATION = "mutation{terminateRun(runId:%22none%22){__typename}}"


def test_dagster_s_pages_ask_who_is_there(stack: Stack):
    assert dagster(stack, "/dagster/", who=None) == 401
    assert (
        dagster(stack, "/dagster/", headers={"Authorization": "Basic b3BlcmF0b3I6eA=="}, who=None)
        == 401
    )
    assert dagster(stack, "/dagster/") == 200
    assert dagster(stack, "/dagster/graphql", QUERY) == 200
    assert dagster(stack, "/dagster/", who="viewer") == 401
    assert dagster(stack, "/dagster-viewer/", who="viewer") == 200
    assert dagster(stack, "/dagster-viewer/graphql", QUERY, who="viewer") == 200


@pytest.mark.parametrize(
    ("headers", "method", "body", "query"),
    [
        ({}, "GET", None, f"?query={MUTATION}"),
        ({"Content-Type": "text/plain"}, "POST", b"", f"?query={MUTATION}"),
        ({"Content-Type": "text/plain; application/json"}, "POST", b"{}", ""),
        ({"Content-Type": "application/json, text/plain"}, "POST", b"{}", ""),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "POST", b"query=x", ""),
        ({"Origin": "https://evil.example"}, "POST", QUERY, ""),
        ({"Origin": "null"}, "POST", QUERY, ""),
        ({"Sec-Fetch-Site": "cross-site"}, "POST", QUERY, ""),
        ({"Sec-Fetch-Site": "same-site"}, "POST", QUERY, ""),
        ({"Origin": "https://evil.example", "Upgrade": "websocket", "Connection": "Upgrade",
          "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="},
         "GET", None, ""),
    ],
)  # fmt: skip
def test_forged_requests_to_dagster_are_refused(stack: Stack, headers, method, body, query):
    path = f"/dagster/graphql{query}"
    assert dagster(stack, path, body, headers=headers, method=method) == 403


def test_dagster_s_own_page_may_ask(stack: Stack):
    own = {"Origin": f"http://127.0.0.1:{HTTP_PORT}", "Sec-Fetch-Site": "same-origin"}
    assert dagster(stack, "/dagster/graphql", QUERY, headers=own) == 200
    assert dagster(stack, "/dagster/report_asset_materialization/x", {}, method="POST") == 403


def test_the_viewers_dagster_changes_nothing(stack: Stack):
    body = {"query": 'mutation { terminateRun(runId: "none") { __typename } }'}
    password = stack.secret("dagster_viewer_password")
    word = base64.b64encode(f"viewer:{password}".encode()).decode()
    status, told = stack.ask(
        "/dagster-viewer/graphql", body, headers={"Authorization": f"Basic {word}"}
    )
    assert status == 200
    assert told["data"]["terminateRun"]["__typename"] == "UnauthorizedError"


def test_nginx_hides_metrics_and_says_what_a_browser_may_do(stack: Stack):
    assert stack.ask("/metrics")[0] == 404
    assert stack.ask("/stub_status")[0] == 404
    request = urllib.request.Request(
        f"http://127.0.0.1:{HTTP_PORT}/readyz", headers={"X-Request-Id": "mine-1"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        headers = answer.headers
    assert headers.get_all("X-Request-Id") == ["mine-1"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Server"] == "nginx"
    lines = stack.compose("logs", "--no-log-prefix", "nginx").splitlines()
    logged = [
        json.loads(line[line.index("{") :]) for line in lines if '"request_id":"mine-1"' in line
    ]
    assert [one["status"] for one in logged] == [200]


def test_a_body_over_the_limit_is_a_problem(stack: Stack):
    status, told = stack.ask("/v1/prognoses", b" " * (17 * 1024 * 1024))
    assert (status, told["title"]) == (413, "Content Too Large")


@contextmanager
def sending_slowly(bodies: int, size: int) -> Generator[list[http.client.HTTPConnection]]:
    """So many requests that hold back the last bytes of their bodies, as long as the context is."""
    with ExitStack() as opened:
        senders = []
        for _ in range(bodies):
            sender = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=20)
            opened.callback(sender.close)
            sender.putrequest("POST", "/v1/prognoses")
            sender.putheader("Content-Length", str(size))
            sender.endheaders()
            sender.send(b" " * (size - 10))
            senders.append(sender)
        yield senders


def test_who_sends_large_bodies_slowly_takes_the_places_of_large_bodies_alone(stack: Stack):
    with sending_slowly(4, 16 * 1024 * 1024) as senders:

        def used_mb() -> int:
            told = stack.compose("exec", "-T", "nginx", "df", "-Pm", "/bodies")
            return int(told.splitlines()[-1].split()[2])

        wait_until(lambda: used_mb() >= 60, 30, "they wait in /bodies")
        another = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=20)
        another.request("POST", "/v1/prognoses", b" " * 2_000_000)
        answer = another.getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        another.close()
        assert stack.ask(f"/v1/fleets/{FLEET}/units?limit=1")[0] == 200
        assert stack.ask("/v1/prognoses", {})[0] == 400
        assert stack.ask("/v1/prognoses", b" " * 200_000)[0] == 400
        for sender in senders:
            sender.send(b" " * 10)
        assert [sender.getresponse().status for sender in senders] == [401] * 4  # they had no key
    wait_until(lambda: used_mb() < 5, 30, "what waited is gone")


def test_where_no_body_can_wait_the_answer_is_a_problem_and_instances_are_still_followed(
    stack: Stack,
):
    victim = stack.container("api")

    def listed() -> bool:
        told = stack.compose("exec", "-T", "nginx", "cat", "/tmp/api-instances.conf")
        return f"server {victim.addresses['frontend']}:" in told

    fill = "dd if=/dev/zero of=/bodies/full bs=1M count=200 2>/dev/null || true"
    stack.compose("exec", "-T", "nginx", "sh", "-c", fill)
    try:
        status, told = stack.ask("/v1/prognoses", b" " * 200_000)
        assert (status, told["status"]) == (503, 503)
        assert listed()
        stack.run("docker", "stop", victim.name)
        wait_until(lambda: not listed(), 30, "the one that stopped is asked no more")
    finally:
        stack.compose("exec", "-T", "nginx", "rm", "/bodies/full")
        stack.run("docker", "start", victim.name)
    assert stack.ask("/v1/prognoses", b" " * 200_000)[0] == 400
    wait_until(lambda: all(c.is_well for c in stack.containers("api")), 60, "it is well again")


def test_where_nobody_follows_the_instances_nginx_starts_anew(stack: Stack):
    before = stack.container("nginx")

    def followers() -> list[int]:
        found = []
        for process in processes(before.pid):
            with suppress(OSError):  # those that it starts for a moment end meanwhile
                if b"follow-api.sh" in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        return found

    assert followers()

    def are_gone() -> bool:
        for follower in followers():
            with suppress(ProcessLookupError):
                os.kill(follower, signal.SIGKILL)
        return not followers()

    wait_until(are_gone, 10, "nobody follows", every=0.1)
    stack.compose(
        "exec", "-T", "nginx", "touch", "-d", "2 minutes ago", "/tmp/api-instances.looked-at"
    )

    def is_new() -> bool:
        found = stack.containers("nginx")
        return bool(
            found
            and found[0].is_well
            and found[0].told["State"]["StartedAt"] != before.told["State"]["StartedAt"]
        )

    wait_until(is_new, 120, "nginx has started anew")
    assert stack.ask("/readyz")[0] == 200


def test_who_asks_too_often_is_told_to_slow_down_and_heard_again(stack: Stack):
    ask = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=20)
    answers = []
    for _ in range(600):
        ask.request("GET", "/dagster-viewer/")
        answer = ask.getresponse()
        answers.append((answer.status, answer.headers["Content-Type"], answer.read()))
    ask.close()
    assert {status for status, *_ in answers} == {401, 429}
    _, kind, body = next(one for one in answers if one[0] == 429)
    assert kind == "application/problem+json"
    assert json.loads(body)["title"] == "Too Many Requests"
    # The API has a limit of its own, which others' requests do not use up.
    assert stack.ask("/readyz")[0] == 200
    wait_until(lambda: stack.ask("/dagster-viewer/")[0] == 401, 30, "it is heard again")


# --- what breaks, and heals
def test_instances_are_found_as_they_scale(stack: Stack):
    was = len(stack.containers("api"))
    for wanted in (10, was + 1):
        began = time.monotonic()
        stack.compose(
            "up", "--detach", "--wait", "--no-build", "--scale", f"api={wanted}", *stack.services
        )
        print(f"  {wanted} are well after {time.monotonic() - began:.0f} s")
        addresses = {container.addresses["frontend"] for container in stack.containers("api")}
        assert len(addresses) == wanted

        def listed(addresses: set[str] = addresses) -> bool:
            text = stack.compose("exec", "-T", "nginx", "cat", "/tmp/api-instances.conf")
            return set(re.findall(r"server ([\d.]+):", text)) == addresses

        wait_until(listed, 30, f"nginx knows all {wanted} instances")


def test_an_instance_killed_under_load_costs_no_idempotent_request(stack: Stack):
    wrong: list[Any] = []
    slow: list[float] = []
    asked = [0]
    ends = time.monotonic() + 20

    def load() -> None:
        while time.monotonic() < ends:
            began = time.monotonic()
            try:
                found = stack.ask(f"/v1/fleets/{FLEET}/units?limit=1", timeout=60)
            except OSError as error:
                found = (0, str(error))
            asked[0] += 1
            if found[0] != 200:
                wrong.append(found)
            if time.monotonic() - began > 5:
                slow.append(round(time.monotonic() - began, 1))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(5)
    os.kill(stack.container("api").main_pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    lines = stack.compose("logs", "--no-log-prefix", "--since=2m", "nginx").splitlines()
    told = [line for line in lines if '"upstream_status":"200"' not in line and "units" in line]
    assert wrong == [], told[-20:]
    print(f"  {asked[0]} asked; slower than 5 s: {slow}; passed on: {told[-5:]}")
    assert asked[0] > 50


def readings(unit: str, cycles: range) -> bytes:
    """A body of readings of a unit, as a client sends it."""
    columns = MATERIAL.fleet.columns
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["unit", "cycle", *columns.settings, *columns.sensors])
    for cycle in cycles:
        writer.writerow([unit, cycle, *(1.0 for _ in (*columns.settings, *columns.sensors))])
    return table.getvalue().encode()


def kept(stack: Stack, unit: str) -> set[int]:
    """The cycles that PostgreSQL has of a unit."""
    return {
        int(float(row))
        for row in stack.sql("rul", f"SELECT cycle FROM readings WHERE unit = '{unit}'")
    }


def test_any_killed_program_heals_and_no_acknowledged_reading_is_lost(stack: Stack):
    acknowledged: set[int] = set()
    stop = threading.Event()

    def send() -> None:
        cycle = 1
        while not stop.is_set():
            body = readings("survivor", range(cycle, cycle + 1))
            try:
                status, _ = stack.ask(
                    f"/v1/fleets/{FLEET}/readings", body, headers={"Content-Type": "text/csv"}
                )
            except OSError:  # nginx itself was killed
                status = 0
            if status == 200:
                acknowledged.add(cycle)
                cycle += 1
            time.sleep(0.2)

    sender = threading.Thread(target=send)
    sender.start()
    slow = []
    try:
        running = {container.service for container in stack.containers()}
        alone = sorted(running.difference(*NEEDED_BY_NOBODY))
        for services in (
            *({service} for service in alone),
            *(g & running for g in NEEDED_BY_NOBODY),
        ):
            named = ", ".join(sorted(services))
            victims = {c.name: c for c in map(stack.container, services)}
            started = time.monotonic()
            for victim in victims.values():
                os.kill(victim.main_pid, signal.SIGKILL)

            def healed(victims: dict[str, Container] = victims) -> bool:
                found = {c.name: c for c in stack.containers()}
                return found.keys() >= victims.keys() and all(
                    c.is_well
                    and (
                        c.name not in victims
                        or c.told["State"]["StartedAt"]
                        != victims[c.name].told["State"]["StartedAt"]
                    )
                    for c in found.values()
                )

            try:
                wait_until(healed, HEAL_SECONDS, f"{named}: healed")
            except AssertionError as error:
                slow.append(str(error))
                wait_until(healed, 120, f"{named}: healed at all")
            print(f"  {named}: healed in {time.monotonic() - started:.0f} s")
            known = len(acknowledged)
            wait_until(
                lambda known=known: len(acknowledged) > known, 30,
                f"a reading is taken once all are healed: {named}",
            )  # fmt: skip
    finally:
        stop.set()
        sender.join()
    assert slow == []
    assert acknowledged
    assert acknowledged <= kept(stack, "survivor")


def at_work(stack: Stack, job: str) -> dict[str, Any] | None:
    """The container of a job's run whose program has begun, as Docker describes it."""
    begun = stack.sql(
        "dagster",
        f"SELECT run_id FROM runs WHERE pipeline_name = '{job}' AND status = 'STARTED'",
    )
    for run in stack.runs():
        if run_id_of(run) in begun and run["State"]["Running"]:
            return run
    return None


def run_id_of(run: dict[str, Any]) -> str:
    return run["Config"]["Labels"]["dagster/run_id"]


def started_anew(stack: Stack, run_id: str) -> list[str]:
    """The status of each run that was started in a run's place."""
    return stack.sql(
        "dagster",
        "SELECT r.status FROM run_tags t JOIN runs r USING (run_id) "
        f"WHERE t.key = 'dagster/root_run_id' AND t.value = '{run_id}'",
    )


def test_a_run_whose_container_dies_is_failed_and_started_anew(stack: Stack):
    stack.put(f"/data/landing/{FLEET}/again.csv", readings("again", range(1, 40)))

    def killed() -> dict[str, Any] | None:
        # Automation's, which takes half a minute; what takes in the file is over in a second.
        found = at_work(stack, "__ASSET_JOB")
        try:
            if found:
                os.kill(found["State"]["Pid"], signal.SIGKILL)
        except ProcessLookupError:  # it was quicker
            return None
        return found

    run_id = run_id_of(wait_until(killed, 240, "a run is at work", every=0.5))
    failed = f"SELECT 1 FROM runs WHERE run_id = '{run_id}' AND status = 'FAILURE'"
    wait_until(
        lambda: stack.sql("dagster", failed),
        90, "the dead run is failed", every=2,
    )  # fmt: skip
    wait_until(lambda: started_anew(stack, run_id), 90, "it is started anew", every=2)
    wait_until(
        lambda: "SUCCESS" in started_anew(stack, run_id), 300, "it succeeds in the end", every=2
    )


def test_every_panel_of_every_dashboard_has_data_and_the_labels_that_it_names(stack: Stack):
    columns = (*MATERIAL.fleet.columns.settings, *MATERIAL.fleet.columns.sensors)
    values = dict.fromkeys(columns, 1.0)
    rows = [{"cycle": cycle, "values": values} for cycle in range(1, 40)]
    question = {"fleet": FLEET, "units": [{"unit": "what-if", "readings": rows}]}
    status, said = stack.ask("/v1/prognoses", question)
    assert status == 200, said
    asked = "rate(rul_prediction_duration_seconds_count[1m]) > 0"
    wait_until(lambda: stack.series(asked, minutes=1), 60, "the question is scraped", every=3)
    empty = []
    for query in queries.of_dashboards():
        found = stack.series(query.expr)
        if not found or not all(query.told <= {*labels} for labels in found):
            empty.append((query, found[:2]))
    assert empty == []


@contextmanager
def paused(stack: Stack, service: str) -> Generator[None]:
    """Let a service hang."""
    name = stack.container(service).name

    def is_paused() -> bool:
        # Docker gives up where the container begins a process as it is frozen.
        stack.run("docker", "pause", name, check=False)
        told = stack.run("docker", "inspect", "--format", "{{.State.Paused}}", name)
        return told.strip() == "true"

    wait_until(is_paused, 60, f"{service} is paused", every=1)
    try:
        yield
    finally:
        stack.run("docker", "unpause", name)


def test_every_metric_and_label_in_rules_and_dashboards_is_told_by_somebody(stack: Stack):
    # Errors are told once there was one.
    with paused(stack, "postgres"):
        status, _ = stack.ask(f"/v1/fleets/{FLEET}/units?limit=1", timeout=60)
    assert status == 503
    failed = "count(rul_requests_error_total)"
    wait_until(lambda: stack.series(failed), 90, "the error is scraped", every=3)
    asked = [*queries.of_rules(), *queries.of_dashboards()]
    demanded = {demand for query in asked for demand in queries.demands(query)}
    assert len(demanded) > 100
    missing = [
        (metric, label)
        for metric, label in sorted(demanded)
        if not stack.series(f'count({metric}{{{label}!=""}})' if label else f"count({metric})")
    ]
    assert missing == []
    without = [
        (rule.where, rule.told)
        for rule in queries.of_rules()
        if rule.told
        and not any(
            rule.told <= {*labels} for labels in stack.series(queries.left_of_conditions(rule.expr))
        )
    ]
    assert without == []


def lake_of(stack: Stack) -> set[str]:
    """Every file of the raw readings, with its checksum."""
    told = stack.compose(
        "exec", "-T", "dagster-code", "find", f"/data/lake/raw_readings/{FLEET}", "-name",
        "*.parquet", "-exec", "sha256sum", "{}", "+",
    )  # fmt: skip
    return set(told.splitlines())


def test_down_and_up_again_loses_nothing(stack: Stack):
    began = time.time()

    def history() -> int:
        """How often Prometheus had looked at itself in the minutes before."""
        asked = urllib.parse.urlencode(
            {"query": 'count_over_time(up{job="prometheus"}[5m])', "time": began}
        )
        status, told = stack.ask(f"/api/v1/query?{asked}", port=PROMETHEUS_PORT)
        assert status == 200, told
        return sum(int(one["value"][1]) for one in told["data"]["result"])

    def facts() -> dict[str, Any]:
        return {
            "lake": lake_of(stack),
            "history": history(),
            "model": wait_until(lambda: first_model(stack), 60, "a model is served"),
            "readings": len(kept(stack, "survivor")),
            "ledger": stack.sql("rul", "SELECT count(*) FROM ledger"),
            "keys": stack.sql("rul", "SELECT count(*) FROM api_keys"),
            "runs": stack.sql("dagster", "SELECT count(*) FROM runs WHERE status = 'SUCCESS'"),
        }

    quiet = (
        "SELECT count(*) FROM runs WHERE status IN ('QUEUED', 'STARTING', 'STARTED', 'NOT_STARTED')"
    )
    wait_until(lambda: stack.sql("dagster", quiet) == ["0"], 300, "no run is under way", every=3)
    before = facts()
    launch(stack, "backup", "back_up")
    run = wait_until(lambda: at_work(stack, "back_up"), 60, "a run is at work", every=0.5)
    for process in processes(run["State"]["Pid"]):  # or it might end before it is stopped
        with suppress(ProcessLookupError):  # a tool that it called, and that has ended
            os.kill(int(process.name), signal.SIGSTOP)
    stack.down()
    assert stack.containers() == []
    assert not any(run["State"]["Running"] for run in stack.runs())
    assert stack.up() < 180
    after = facts()
    wait_until(
        lambda: "SUCCESS" in started_anew(stack, run_id_of(run)),
        RUN_SECONDS, "the run that was at work is made anew", every=3,
    )  # fmt: skip
    assert after["model"] == before["model"]
    assert after["readings"] == before["readings"]
    assert before["lake"]
    assert before["lake"] <= after["lake"]
    assert before["history"] == after["history"] > 0
    for name in ("ledger", "keys", "runs"):
        assert int(after[name][0]) >= int(before[name][0])


def logs_of(stack: Stack) -> set[str]:
    """The files that runs wrote."""
    found = stack.compose(
        "exec", "-T", "dagster-janitor", "find", "/opt/dagster/logs", "-type", "f"
    )  # fmt: skip
    return set(found.split())


def test_an_archive_and_the_escrow_identity_restore_over_a_stack_that_has_lived(
    stack: Stack, tmp_path: Path
):
    def prognosis(unit: str) -> tuple[int, Any]:
        return stack.ask(f"/v1/fleets/{FLEET}/units/{unit}/prognosis")

    out, began = tmp_path / "out", time.monotonic()
    out.mkdir()
    out.chmod(0o777)  # who makes backups is another user
    status, told = stack.ask(f"/v1/fleets/{FLEET}/units?limit=1")
    assert status == 200, told
    unit = told["units"][0]["unit"]
    said = prognosis(unit)[1]
    status, told = rul_backup(stack, "now", "--json")
    assert status == 0, told
    stack.compose(
        "run", "--rm", "-T", f"--volume={out}:/out", "rul-backup", "backup", "export",
        "--to", "/out/archive.tar",
    )  # fmt: skip
    status, told = stack.ask(
        f"/v1/fleets/{FLEET}/readings",
        readings("forgotten", range(1, 30)),
        headers={"Content-Type": "text/csv"},
    )
    assert status == 200, told
    wait_until(lambda: prognosis("forgotten")[0] == 200, 60, "a prognosis of the forgotten")
    escrow = str(stack.secrets / "backup_escrow_identity")
    command = ["docker/scripts/restore.sh", "--identity", escrow, str(out / "archive.tar")]
    refused = subprocess.run(
        command, cwd=PROJECT, env=stack.environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "add --over-live if that is meant; nothing was changed" in refused.stderr
    assert prognosis("forgotten")[0] == 200
    stack.run(*command, "--over-live")
    stack.up()
    wait_until(lambda: prognosis(unit)[0] == 200, 120, "a prognosis is there again")
    again = prognosis(unit)[1]
    for name in ("rul_cycles", "state", "cycle"):
        assert again[name] == said[name], (again, said)
    assert prognosis("forgotten")[0] == 404
    stack.run("docker/scripts/restore.sh", "--forget")
    assert rul_backup(stack, "verify")[0] == 0
    print(f"  an archive was made and restored over what lived in {time.monotonic() - began:.0f} s")


def test_a_machine_that_is_lost_with_all_it_had_comes_back_from_beyond(stack: Stack):
    def facts() -> dict[str, Any]:
        status, told = stack.ask(f"/v1/fleets/{FLEET}/units?limit=1000")
        assert status == 200, told
        return {
            "units": sorted(unit["unit"] for unit in told["units"]),
            "readings": len(kept(stack, "survivor")),
            "ledger": stack.sql("rul", "SELECT count(*), max(position) FROM ledger"),
            "keys": stack.sql("rul", "SELECT count(*) FROM api_keys"),
            "model": wait_until(lambda: first_model(stack), 60, "a model is served"),
        }

    def prognosis(unit: str) -> Any:
        status, told = stack.ask(f"/v1/fleets/{FLEET}/units/{unit}/prognosis")
        return told if status == 200 else None

    def is_beyond(moment: float) -> bool:
        asked = "/api/v1/query?query=rul_wal_beyond_reaches_timestamp_seconds"
        status, told = stack.ask(asked, port=PROMETHEUS_PORT)
        assert status == 200, told
        return any(float(one["value"][1]) >= moment for one in told["data"]["result"])

    back_up(stack)
    listed = rul_backup(stack, "list", "--json")[1]
    kept_runs = len(listed)
    artefacts = {one["name"]: one for one in listed[-1]["manifest"]["artefacts"]}
    lived = artefacts["dagster.dump"]["facts"]["tables"]["public.runs"]["rows"]
    oldest = stack.sql("dagster", f"SELECT run_id FROM runs ORDER BY id LIMIT {lived}")
    logs = logs_of(stack)
    assert lived > 0
    assert logs
    status, told = stack.ask(f"/v1/fleets/{FLEET}/units?limit=1")
    assert status == 200, told
    first = told["units"][0]["unit"]
    # What comes now is in no backup, and in the log alone.
    status, told = stack.ask(
        f"/v1/fleets/{FLEET}/readings",
        readings("latecomer", range(1, 30)),
        headers={"Content-Type": "text/csv"},
    )
    assert status == 200, told
    wait_until(lambda: prognosis("latecomer"), 60, "a prognosis of the latecomer")
    said = {unit: prognosis(unit) for unit in (first, "latecomer")}
    before, written = facts(), time.time()
    wait_until(lambda: is_beyond(written), 300, "the log is beyond the machine", every=1)
    print(f"  what was written was beyond the machine {time.time() - written:.0f} s later")
    remove(stack)
    assert stack.run("docker", "volume", "ls", "--quiet", f"--filter=name={NAME}_") == ""
    began = time.monotonic()
    told = stack.run("docker/scripts/restore.sh", "--off-site", "--to", "latest")
    restored = time.monotonic() - began
    stack.up()
    wait_until(lambda: prognosis("latecomer"), 120, "the first prognosis")
    seconds = time.monotonic() - began
    print(f"  restored in {restored:.0f} s, first prognosis after {seconds:.0f} s\n{told}")
    assert seconds < 900
    after = facts()
    assert {**after, "ledger": []} == {**before, "ledger": []}
    # The log goes on after the ledger was looked at; it only grows.
    assert int(after["ledger"][0].split(",")[0]) >= int(before["ledger"][0].split(",")[0])
    assert said[first]["rul_cycles"] > 0
    for unit, before_loss in said.items():
        again = prognosis(unit)
        for name in ("rul_cycles", "state", "cycle"):
            assert again[name] == before_loss[name], (unit, again, before_loss)
    # Dagster knows its runs until the week's snapshot, and has what they wrote.
    assert stack.sql("dagster", f"SELECT run_id FROM runs ORDER BY id LIMIT {lived}") == oldest
    assert logs_of(stack) & logs
    # The line of backups goes on, here and beyond.
    back_up(stack)
    assert kept_runs > 1
    for store in ("local", "off-site"):
        status, told = stack.ask("/v1/system/backups")
        (one,) = [each for each in told["stores"] if each["store"] == store]
        assert one["newest"]["number"] > kept_runs
    assert rul_backup(stack, "verify")[0] == 0
