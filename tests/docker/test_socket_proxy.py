"""What the guard before Docker's socket lets through: a run as the launcher asks for it."""

import copy
import json
import socket
from types import ModuleType
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

import docker

from .conftest import NETWORKS, OWN, POLICY, STRANGER

CREATE = "/v1.41/containers/create"
RUN: dict[str, Any] = {
    "Image": "rul-assets:dev",
    "User": "10002:10000",
    "Cmd": ["dagster", "api", "execute_run", "{}"],
    "Env": ["DAGSTER_RUN_JOB_NAME=take_in", "PGPASSFILE=/run/secrets/dagster_pgpass"],
    "Labels": {
        "rul.stack": "rul",
        "rul.location": "rul",
        "dagster/run_id": "7631cad2-412e-4982-8f1d-9e7aabf41e8f",
        "dagster/job_name": "take_in",
    },
    "HostConfig": {
        "NetworkMode": "rul_backend",
        "Memory": 4 * 1024**3,
        "MemorySwap": 4 * 1024**3,
        "MemoryReservation": 2 * 1024**3,
        "NanoCpus": 2_000_000_000,
        "CpuShares": 1024,
        "PidsLimit": 512,
        "Init": True,
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Binds": ["rul_training_data:/data:rw", "rul_run_secrets:/run/secrets:ro"],
        "Tmpfs": {"/tmp": "size=512m,mode=1777,noexec,nosuid,nodev"},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
    },
    "NetworkingConfig": {"rul_backend": None},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The run's body, with the value at ``HostConfig.Memory`` or the like."""
    body = copy.deepcopy(RUN)
    *above, last = path.split(".")
    place = body
    for name in above:
        place = place[name]
    place[last] = value
    return body


def test_a_run_as_the_launcher_asks_for_it_is_made(ask, fake_docker):
    assert ask("POST", CREATE, RUN) == (201, {"Id": OWN, "Warnings": []})
    ((method, path, made),) = fake_docker[0].asked
    assert (method, path) == ("POST", CREATE)
    assert made["HostConfig"]["CapDrop"] == ["ALL"]
    assert made["Cmd"] == RUN["Cmd"]
    assert made["NetworkingConfig"] == {"EndpointsConfig": {"rul_backend": {}}}


def test_what_docker_py_really_sends_is_understood(ask, fake_docker, socket_proxy, monkeypatch):
    """With the very options of dagster.yaml and compose.yaml."""
    sent: list[dict[str, Any]] = []

    def post(self: requests.Session, url: str, data: str, **_: Any):
        sent.append(json.loads(data))
        raise requests.ConnectionError("only what is sent is wanted")

    monkeypatch.setattr(requests.Session, "post", post)
    client = docker.DockerClient(base_url="tcp://127.0.0.1:1", version="1.41")
    with pytest.raises(requests.ConnectionError):
        client.containers.create(
            image="rul-assets:dev",
            command=RUN["Cmd"],
            detach=True,
            environment={"DAGSTER_RUN_JOB_NAME": "take_in"},
            network="rul_backend",
            labels=RUN["Labels"],
            auto_remove=False,
            init=True,
            healthcheck={"test": ["NONE"]},
            user="10002:10000",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            tmpfs={"/tmp": "size=512m,mode=1777,noexec,nosuid,nodev"},
            log_config={"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}},
            mem_limit="4g",
            memswap_limit="4g",
            mem_reservation="2g",
            nano_cpus=2_000_000_000,
            cpu_shares=1024,
            pids_limit=512,
            volumes=["rul_training_data:/data:rw", "rul_run_secrets:/run/secrets:ro"],
        )
    client.close()
    monkeypatch.undo()
    (body,) = sent
    assert ask("POST", CREATE, body)[0] == 201


HOSTILE = {
    "another image": ("Image", "debian"),
    "an image by id": ("Image", "sha256:" + "0" * 64),
    "root": ("User", "0:0"),
    "no user": ("User", ""),
    "another user": ("User", "10001:10000"),
    "a shell": ("Cmd", ["sh", "-c", "id"]),
    "a run and more": ("Cmd", ["dagster", "api", "execute_run", "{}", "--more"]),
    "a command that is a text": ("Cmd", "dagster api execute_run {}"),
    "another entry": ("Entrypoint", ["sh"]),
    "another folder": ("WorkingDir", "/etc"),
    "a health check that is a program": ("Healthcheck", {"Test": ["CMD", "id"]}),
    "a library of its own": ("Env", ["LD_PRELOAD=/data/evil.so"]),
    "a path of its own": ("Env", ["PATH=/data/bin"]),
    "a Python of its own": ("Env", ["PYTHONPATH=/data"]),
    "no label": ("Labels", {}),
    "another stack": ("Labels.rul.stack", "other"),
    "an unknown location": ("Labels.rul.location", "backup"),
    "one label more": ("Labels.com.docker.compose.project", "rul"),
    "privileged": ("HostConfig.Privileged", True),
    "privileged, as Docker reads it too": ("HostConfig.privileged", True),
    "privileged, in capitals": ("HostConfig.PRIVILEGED", True),
    "a second HostConfig": ("hostconfig", {"Privileged": True}),
    "a capability": ("HostConfig.CapAdd", ["SYS_ADMIN"]),
    "few capabilities dropped": ("HostConfig.CapDrop", ["NET_RAW"]),
    "no capability dropped": ("HostConfig.CapDrop", []),
    "a writable root": ("HostConfig.ReadonlyRootfs", False),
    "new privileges": ("HostConfig.SecurityOpt", []),
    "no seccomp": (
        "HostConfig.SecurityOpt",
        ["no-new-privileges:true", "seccomp=unconfined"],
    ),
    "no apparmor": ("HostConfig.SecurityOpt", ["apparmor=unconfined"]),
    "the host's root": ("HostConfig.Binds", ["/:/host"]),
    "Docker's socket": ("HostConfig.Binds", ["/var/run/docker.sock:/var/run/docker.sock"]),
    "a foreign volume": ("HostConfig.Binds", ["rul_postgres_data:/data:rw"]),
    "secrets, writable": ("HostConfig.Binds", ["rul_run_secrets:/run/secrets:rw"]),
    "secrets elsewhere": ("HostConfig.Binds", ["rul_run_secrets:/data/secrets:ro"]),
    "a mount by the other name": (
        "HostConfig.Mounts",
        [{"Type": "bind", "Source": "/", "Target": "/host"}],
    ),
    "another's volumes": ("HostConfig.VolumesFrom", ["rul-postgres-1"]),
    "a place for a volume": ("Volumes", {"/etc": {}}),
    "the host's network": ("HostConfig.NetworkMode", "host"),
    "another's network": ("HostConfig.NetworkMode", "container:rul-postgres-1"),
    "the proxy's own network": ("HostConfig.NetworkMode", "rul_docker"),
    "a second network": ("NetworkingConfig", {"EndpointsConfig": {"rul_docker": {}}}),
    "a name on the network": (
        "NetworkingConfig",
        {"EndpointsConfig": {"rul_backend": {"Aliases": ["postgres"]}}},
    ),
    "the host's processes": ("HostConfig.PidMode", "host"),
    "the host's messages": ("HostConfig.IpcMode", "host"),
    "the host's names": ("HostConfig.UTSMode", "host"),
    "the host's users": ("HostConfig.UsernsMode", "host"),
    "the host's control groups": ("HostConfig.CgroupnsMode", "host"),
    "another control group": ("HostConfig.CgroupParent", "/"),
    "a device": (
        "HostConfig.Devices",
        [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda", "CgroupPermissions": "rwm"}],
    ),
    "a kind of device": ("HostConfig.DeviceCgroupRules", ["a *:* rwm"]),
    "a setting of the kernel": ("HostConfig.Sysctls", {"kernel.shm_rmid_forced": "0"}),
    "nothing masked": ("HostConfig.MaskedPaths", ["/none"]),
    "another runtime": ("HostConfig.Runtime", "io.containerd.runc.v2"),
    "a published port": ("HostConfig.PortBindings", {"80/tcp": [{"HostPort": "80"}]}),
    "every port": ("HostConfig.PublishAllPorts", True),
    "a host's name of its own": ("HostConfig.ExtraHosts", ["postgres:1.2.3.4"]),
    "a name server of its own": ("HostConfig.Dns", ["1.2.3.4"]),
    "for ever": ("HostConfig.RestartPolicy", {"Name": "always"}),
    "removed by itself": ("HostConfig.AutoRemove", True),
    "no memory limit": ("HostConfig.Memory", 0),
    "more memory": ("HostConfig.Memory", 8 * 1024**3),
    "memory that is true": ("HostConfig.Memory", True),
    "swap": ("HostConfig.MemorySwap", -1),
    "a memory below nothing": ("HostConfig.MemoryReservation", -1),
    "more cores": ("HostConfig.NanoCpus", 5_000_000_000),
    "cores without limit": ("HostConfig.NanoCpus", 0),
    "processes without limit": ("HostConfig.PidsLimit", -1),
    "killed last": ("HostConfig.OomScoreAdj", -1000),
    "never killed": ("HostConfig.OomKillDisable", True),
    "programs in memory": ("HostConfig.Tmpfs", {"/tmp": "size=64m,exec"}),
    "memory elsewhere": ("HostConfig.Tmpfs", {"/opt": "size=64m,mode=1777,noexec,nosuid,nodev"}),
    "all memory": ("HostConfig.Tmpfs", {"/tmp": "size=9999m,mode=1777,noexec,nosuid,nodev"}),
    "logs to a stranger": (
        "HostConfig.LogConfig",
        {"Type": "syslog", "Config": {"syslog-address": "tcp://1.2.3.4:1"}},
    ),
    "a log without limit": ("HostConfig.LogConfig", {"Type": "json-file", "Config": {}}),
    "a log that is never full": (
        "HostConfig.LogConfig",
        {"Type": "json-file", "Config": {"max-size": "999m", "max-file": "999"}},
    ),
    "a log's own option": (
        "HostConfig.LogConfig",
        {"Type": "json-file", "Config": {"labels": "a"}},
    ),
}


@pytest.mark.parametrize(("path", "value"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_never_reaches_docker(ask, fake_docker, path, value):
    if path.startswith("Labels."):
        body = copy.deepcopy(RUN)
        body["Labels"][path.removeprefix("Labels.")] = value
    else:
        body = changed(path, value)
    status, said = ask("POST", CREATE, body)
    assert status == 403
    assert said["message"].startswith("the socket proxy refuses: ")
    assert fake_docker[0].asked == []


@pytest.mark.parametrize(
    "name", ["ReadonlyRootfs", "CapDrop", "SecurityOpt", "Memory", "NetworkMode"]
)
def test_what_is_demanded_must_be_said(ask, fake_docker, name):
    body = copy.deepcopy(RUN)
    del body["HostConfig"][name]
    assert ask("POST", CREATE, body)[0] == 403
    assert fake_docker[0].asked == []


def test_of_two_values_of_one_name_docker_gets_the_one_that_was_checked(ask, fake_docker):
    text = json.dumps(RUN).replace('"Init": true', '"Init": true, "Privileged": true', 1)
    assert ask("POST", CREATE, text.encode())[0] == 403
    twice = json.dumps(RUN).replace('"User": ', '"User": "0:0", "User": ', 1)
    assert ask("POST", CREATE, twice.encode())[0] == 201
    assert twice.count('"User"') == 2
    ((_, _, made),) = fake_docker[0].asked
    assert made["User"] == "10002:10000"


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b'"text"', b"[" * 200_000, b"\xff\xfe", b'{"HostConfig": 3}'],
)
def test_a_body_that_is_no_container_is_refused(ask, fake_docker, body):
    assert ask("POST", CREATE, body)[0] == 403
    assert fake_docker[0].asked == []


def test_a_body_that_is_too_long_is_not_read(ask):
    status, said = ask("POST", CREATE, None, {"Content-Length": "99999999"})
    assert (status, "at most" in said["message"]) == (403, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/v1.41/containers/{OWN}/exec"),
        ("POST", f"/v1.41/containers/{OWN}/kill"),
        ("POST", f"/v1.41/containers/{OWN}/attach"),
        ("POST", f"/v1.41/containers/{OWN}/update"),
        ("GET", f"/v1.41/containers/{OWN}/archive?path=/run/secrets"),
        ("GET", f"/v1.41/containers/{OWN}/export"),
        ("GET", f"/v1.41/containers/{OWN}/../{STRANGER}/json"),
        ("GET", f"/v1.41/containers/{OWN}%2fjson"),
        ("GET", f"/v1.41/containers/{OWN[:12]}/json"),
        ("GET", "/v1.41/containers/rul-postgres-1/json"),
        ("GET", "/v1.41/images/json"),
        ("POST", "/v1.41/images/create?fromImage=debian"),
        ("POST", "/v1.41/build"),
        ("GET", "/v1.41/volumes"),
        ("POST", "/v1.41/volumes/create"),
        ("POST", "/v1.41/networks/rul_docker/connect"),
        ("GET", "/v1.41/secrets"),
        ("POST", "/v1.41/swarm/init"),
        ("POST", "/v1.41/plugins/pull"),
        ("GET", "/v1.41/info"),
        ("GET", "/v1.41/events"),
        ("POST", "/v1.41/containers/prune"),
        ("DELETE", "/v1.41/containers/rul-postgres-1"),
        ("PUT", f"/v1.41/containers/{OWN}/json"),
        ("POST", "/grpc"),
        ("POST", "/session"),
        ("POST", f"{CREATE}?name=rul-postgres-1"),
        ("POST", f"{CREATE}?platform=linux/arm64"),
        ("GET", "http://docker/v1.41/info"),
    ],
)
def test_no_other_address_passes(ask, fake_docker, method, path):
    assert ask(method, path, RUN if method == "POST" else None)[0] == 403
    assert fake_docker[0].asked == []


@pytest.mark.parametrize("action", ["start", "stop?t=30", "json"])
def test_a_run_of_the_stack_is_looked_at_started_and_stopped(ask, fake_docker, action):
    method = "GET" if action == "json" else "POST"
    assert ask(method, f"/v1.41/containers/{OWN}/{action}")[0] == 200
    assert fake_docker[0].asked[-1][1] == f"/v1.41/containers/{OWN}/{action}"


@pytest.mark.parametrize(
    ("method", "action"),
    [("GET", "/json"), ("GET", "/logs"), ("POST", "/start"), ("POST", "/stop?t=1"), ("DELETE", "")],
)
def test_a_container_that_is_no_run_of_the_stack_is_left_alone(ask, fake_docker, method, action):
    fake_docker[0].state = "exited"
    status, said = ask(method, f"/v1.41/containers/{STRANGER}{action}")
    assert (status, "no run of this stack" in said["message"]) == (403, True)
    assert fake_docker[0].writes() == []


def test_a_container_is_started_as_it_was_made(ask, fake_docker):
    assert ask("POST", f"/v1.41/containers/{OWN}/start", {"Privileged": True})[0] == 403
    assert fake_docker[0].writes() == []


def test_nobody_waits_longer_than_a_minute_for_a_stop(ask, fake_docker):
    ask("POST", f"/v1.41/containers/{OWN}/stop?t=999")
    assert fake_docker[0].asked[-1][1].endswith("/stop?t=60")
    assert ask("POST", f"/v1.41/containers/{OWN}/stop?t=5&signal=SIGKILL")[0] == 403


def test_an_unknown_container_is_told_as_docker_does(ask):
    assert ask("GET", f"/v1.41/containers/{'c' * 64}/json")[0] == 404


def test_only_what_has_ended_is_read_and_removed(ask, fake_docker):
    for method, action in (("DELETE", ""), ("GET", "/logs")):
        status, said = ask(method, f"/v1.41/containers/{OWN}{action}")
        assert (status, "has not ended" in said["message"]) == (403, True)
    assert fake_docker[0].writes() == []
    fake_docker[0].state = "exited"
    assert ask("DELETE", f"/v1.41/containers/{OWN}?force=1&link=1")[0] == 200
    assert fake_docker[0].writes() == [("DELETE", f"/v1.41/containers/{OWN}?v=1", None)]


def test_a_list_shows_the_ended_runs_whatever_was_asked_for(ask, fake_docker):
    assert ask("GET", "/v1.41/containers/json?all=1&filters=%7B%7D")[0] == 200
    (asked,) = fake_docker[0].asked
    assert "rul.stack%3Drul" in asked[1]
    assert "exited" in asked[1]
    assert "running" not in asked[1]


@pytest.mark.parametrize(
    "smuggled",
    [
        b"POST /v1.41/containers/create HTTP/1.1\r\nHost: a\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
    ],
)
def test_a_request_that_two_readers_would_read_apart_is_refused(
    socket_proxy: ModuleType, fake_docker, smuggled
):
    import threading

    policy = socket_proxy.Policy.read(json.dumps(POLICY))
    with socket_proxy.GuardServer(("127.0.0.1", 0), policy, fake_docker[1]) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with socket.create_connection(server.server_address, timeout=10) as client:
            client.sendall(smuggled + b"GET /v1.41/info HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        server.shutdown()
    assert answer.startswith(b"HTTP/1.1 403")
    assert answer.count(b"HTTP/1.1") == 1
    assert fake_docker[0].asked == []


def test_a_docker_that_does_not_answer_is_told_so(socket_proxy, tmp_path):
    import http.client
    import threading

    policy = socket_proxy.Policy.read(json.dumps(POLICY))
    with socket_proxy.GuardServer(("127.0.0.1", 0), policy, str(tmp_path / "none")) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        connection = http.client.HTTPConnection(*server.server_address, timeout=10)
        connection.request("GET", "/version")
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        server.shutdown()
    assert answer.status == 502
    assert b"Docker does not answer the socket proxy" in said


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8))
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [*RUN["HostConfig"], "Privileged", "Mounts", "Devices", "PidMode", "CapAdd"]
)


@given(name=NAMES, value=VALUES)
def test_whatever_is_put_in_the_host_s_part_a_run_stays_confined(socket_proxy, name, value):
    policy = socket_proxy.Policy.read(json.dumps(POLICY))
    try:
        made = socket_proxy.checked_container(
            json.dumps(changed(f"HostConfig.{name}", value)).encode(), policy
        )
    except socket_proxy.Refused:
        return
    host = made["HostConfig"]
    assert set(host) <= {*RUN["HostConfig"], "AutoRemove"}
    assert host["CapDrop"] == ["ALL"]
    assert host["ReadonlyRootfs"] is True
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["NetworkMode"] == "rul_backend"
    assert set(host["Binds"]) <= set(POLICY["locations"]["rul"]["binds"])
    assert 0 < host["Memory"] <= 4 * 1024**3


EGRESS = NETWORKS["rul_egress"]


def test_a_run_joins_the_other_networks_of_its_location_before_it_starts(ask, fake_docker):
    fake_docker[0].state = "created"
    assert ask("GET", "/v1.41/networks/rul_egress") == (200, {"Id": EGRESS, "Name": "rul_egress"})
    body = {"Container": OWN, "EndpointConfig": {}}
    assert ask("POST", f"/v1.41/networks/{EGRESS}/connect", body)[0] == 200
    assert fake_docker[0].writes() == [
        ("POST", f"/v1.41/networks/{EGRESS}/connect", {"Container": OWN})
    ]


@pytest.mark.parametrize(
    ("network", "body", "state", "status", "told"),
    [
        ("bridge", {"Container": OWN}, "created", 403, "none of a run's"),
        (NETWORKS["bridge"], {"Container": OWN}, "created", 403, "none of a run's"),
        ("nowhere", {"Container": OWN}, "created", 404, "not found"),
        ("rul_egress", {"Container": STRANGER}, "created", 403, "no run of this stack"),
        ("rul_egress", {"Container": OWN}, "running", 403, "or not any more"),
        ("rul_egress", {"Container": "postgres"}, "created", 403, "whole id"),
        ("rul_egress", {"Container": [OWN]}, "created", 403, "Container is no str"),
        ("rul_egress", {"Container": OWN, "Force": True}, "created", 403, "Force may not be set"),
        (
            "rul_egress",
            {"Container": OWN, "EndpointConfig": {"Aliases": ["postgres"]}},
            "created",
            403,
            "Aliases may not be set",
        ),
    ],
)
def test_nobody_joins_another_network_or_another_s_name(
    ask, fake_docker, network, body, state, status, told
):
    fake_docker[0].state = state
    answered, said = ask("POST", f"/v1.41/networks/{network}/connect", body)
    assert (answered, told in said["message"]) == (status, True), said
    assert fake_docker[0].writes() == []


def test_of_other_networks_nothing_is_told(ask):
    assert ask("GET", "/v1.41/networks/bridge")[0] == 403
    assert ask("GET", "/v1.41/networks")[0] == 403


def test_what_one_location_may_is_not_what_another_may(socket_proxy):
    drill = {
        **POLICY["locations"]["rul"],
        "image": "rul-drill:dev",
        "networks": ["rul_drill"],
        "user": "10004:10000",
        "binds": ["rul_backups:/backups:ro"],
        "memory": "1g",
    }
    both = {**POLICY, "locations": {**POLICY["locations"], "drill": drill}}
    policy = socket_proxy.Policy.read(json.dumps(both))
    own = {
        "Image": drill["image"],
        "User": drill["user"],
        "Labels": {**RUN["Labels"], "rul.location": "drill"},
        "HostConfig": {
            **RUN["HostConfig"],
            "NetworkMode": drill["networks"][0],
            "Binds": drill["binds"],
            **dict.fromkeys(("Memory", "MemorySwap", "MemoryReservation"), 1024**3),
        },
        "NetworkingConfig": {},
    }
    made = socket_proxy.checked_container(json.dumps({**RUN, **own}).encode(), policy)
    assert made["HostConfig"]["Binds"] == drill["binds"]
    for name in ("Image", "User"):
        body = {**RUN, **own, name: RUN[name]}
        with pytest.raises(socket_proxy.Refused, match="not the location's"):
            socket_proxy.checked_container(json.dumps(body).encode(), policy)
    for name in ("NetworkMode", "Binds", "Memory"):
        host = {**own["HostConfig"], name: RUN["HostConfig"][name]}
        with pytest.raises(socket_proxy.Refused):
            socket_proxy.checked_container(
                json.dumps({**RUN, **own, "HostConfig": host}).encode(), policy
            )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stack": ""}, "names no stack"),
        ({"locations": {}}, "no location"),
        ({"locations": {"rul": {**POLICY["locations"]["rul"], "user": "0:0"}}}, "user of rul"),
        ({"locations": {"rul": {**POLICY["locations"]["rul"], "networks": []}}}, "networks of rul"),
        (
            {"locations": {"rul": {**POLICY["locations"]["rul"], "binds": ["/:/host:rw"]}}},
            "/:/host",
        ),
        ({"locations": {"rul": {**POLICY["locations"]["rul"], "memory": "much"}}}, "no size"),
        ({"locations": {"rul": {}}}, "POLICY has no"),
        ({"locations": 3}, "not as in compose.yaml"),
    ],
)
def test_a_policy_that_would_let_too_much_through_is_refused(socket_proxy, change, told):
    with pytest.raises(ValueError, match=told):
        socket_proxy.Policy.read(json.dumps({**POLICY, **change}))
