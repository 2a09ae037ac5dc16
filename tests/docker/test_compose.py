"""What compose.yaml promises of every service, read as it stands, without Docker.

``make stack-test`` looks at the same in the running containers.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rul_backup import stack
from rul_cli.stack_secrets import FILES, Made

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"migrate", "run-secrets", "rul", "rul-backup", "rul-drill"}
each_service = pytest.mark.parametrize("name", SERVICES)


def defaults() -> dict[str, set[str]]:
    """Every variable of compose.yaml, with the defaults that stand there."""
    found: dict[str, set[str]] = {}
    for name, default in re.findall(r"\$\{(STACK_[A-Z_]+):-([^}]*)\}", TEXT):
        found.setdefault(name, set()).add(default)
    return found


def variables(path: str) -> dict[str, str]:
    """The variables of a file, those that are commented out too."""
    lines = (PROJECT / path).read_text().splitlines()
    matches = [re.fullmatch(r"#?(STACK_[A-Z_]+)=(.*)", line) for line in lines]
    return {found[1]: found[2] for found in matches if found}


@each_service
def test_a_service_is_confined(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"} & set(service)
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    assert service["stop_grace_period"]
    for place in service["tmpfs"]:
        assert place.startswith("/var/run/postgresql:") or place.endswith("noexec,nosuid,nodev")
    assert int(service["user"].partition(":")[0]) > 0


@each_service
def test_a_service_has_limits(name):
    resources = SERVICES[name]["deploy"]["resources"]
    assert set(resources["limits"]) == {"cpus", "memory", "pids"}
    assert SERVICES[name]["cpu_shares"] > 0
    if name not in ONE_SHOT:
        assert resources["reservations"]["memory"]


@each_service
def test_a_service_is_started_again_and_asked_how_it_is(name):
    service = SERVICES[name]
    if name in ONE_SHOT:
        assert service["healthcheck"] == {"disable": True}
        assert service["restart"] in {"no", "on-failure:3"}
        return
    assert service["restart"] == "unless-stopped"
    if name == "nginx-exporter":  # its image has no program that could ask
        return
    assert {"interval", "timeout", "retries", "start_period", "test"} == set(service["healthcheck"])


def test_only_the_guard_mounts_anything_of_the_host():
    mounts = {
        name: [v for v in service.get("volumes", ()) if v.startswith(("/", "."))]
        for name, service in SERVICES.items()
    }
    assert {name for name, found in mounts.items() if found} == {"socket-proxy"}
    used = {v.partition(":")[0] for s in SERVICES.values() for v in s.get("volumes", ())}
    assert used - {"/var/run/docker.sock"} <= set(COMPOSE["volumes"])


def test_ports_are_published_to_this_machine_alone_but_for_nginx():
    published = {name: s["ports"] for name, s in SERVICES.items() if "ports" in s}
    for name, ports in published.items():
        assert name == "nginx" or all(port.startswith("127.0.0.1:") for port in ports)
    assert "nginx" in published


def test_a_secret_is_a_file_that_the_service_s_own_user_may_read():
    owners = {file.name: file.owner for file in FILES}
    for name, service in SERVICES.items():
        for secret in service.get("secrets", ()):
            source = secret["source"] if isinstance(secret, dict) else secret
            assert str(owners[source]) == service["user"].partition(":")[0], (name, source)
    assert {*COMPOSE["secrets"]} == {file.name for file in FILES if is_mounted(file.name)}


def is_mounted(name: str) -> bool:
    """Whether a container gets it; the passwords of people are for people."""
    file = next(file for file in FILES if file.name == name)
    return not (isinstance(file, Made) and file.owner is None)


def test_no_secret_is_in_an_environment():
    for name, service in SERVICES.items():
        for variable, value in (service.get("environment") or {}).items():
            looks_secret = re.search(r"PASS|SECRET|TOKEN|KEY", variable)
            assert not looks_secret or str(value).startswith("/run/secrets/"), (name, variable)
            assert not re.search(r"://[^/@]*:[^/@]+@", str(value)), (name, variable)


def test_only_what_tells_of_alerts_or_brings_backups_may_call_out():
    networks = COMPOSE["networks"]
    closed = {
        name
        for name, said in networks.items()
        if said.get("internal")
        or said.get("driver_opts", {}).get("com.docker.network.bridge.enable_ip_masquerade")
        == "false"
    }
    assert set(networks) - closed == {"egress"}
    joined = {n for n, s in SERVICES.items() if "egress" in s.get("networks", ())}
    assert joined == {"alertmanager", "wal-bringer"}
    for name in joined:  # and reaches no server that has what is not for the world
        assert set(SERVICES[name]["networks"]) == {"monitoring", "egress"}


def test_the_guard_s_network_has_only_those_who_need_docker():
    joined = {name for name, s in SERVICES.items() if "docker" in s.get("networks", ())}
    assert joined == {"socket-proxy", "dagster-daemon", "dagster-webserver", "dagster-janitor"}
    asks = {n for n, s in SERVICES.items() if "DOCKER_HOST" in (s.get("environment") or {})}
    assert asks == joined - {"socket-proxy"}


def test_the_documents_have_every_service_with_its_networks_and_user():
    table = (PROJECT / "docs" / "stack.md").read_text().partition("<!-- networks -->")[2]
    rows = {}
    for line in table.partition("<!-- end -->")[0].strip().splitlines()[2:]:
        service, networks, _, user, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        rows[service] = (set(re.findall(r"`(\w+)`", networks)), user)
    described = {
        name: (set(s.get("networks", ())), s["user"].partition(":")[0])
        for name, s in SERVICES.items()
    }
    for run in ("run", "run of backup", "run of drill"):
        assert rows.pop(run) == ({"backend"}, "10002")
    assert rows == described


def test_a_variable_has_one_default_which_the_example_states():
    found = defaults()
    assert {name: values for name, values in found.items() if len(values) > 1} == {}
    example = variables(".env.example")
    assert example == {name: values.pop() for name, values in found.items()}


def test_the_small_profile_changes_what_there_is():
    assert set(variables("docker/two-cores.env")) <= set(defaults())


def test_what_a_run_may_have_is_the_same_for_who_asks_and_for_the_guard():
    policy = json.loads(filled(SERVICES["socket-proxy"]["environment"]["POLICY"]))
    asked = {}
    for service in SERVICES.values():
        environment = service.get("environment") or {}
        if context := environment.get("DAGSTER_CONTAINER_CONTEXT"):
            told = json.loads(filled(context))["docker"]
            kwargs = told["container_kwargs"]
            asked[kwargs["labels"]["rul.location"]] = {
                "image": filled(environment["DAGSTER_CURRENT_IMAGE"]),
                "networks": told["networks"],
                "binds": kwargs["volumes"],
                "memory": kwargs["mem_limit"],
                "nano_cpus": kwargs["nano_cpus"],
                "pids": kwargs["pids_limit"],
                "user": SERVICES["dagster-code"]["user"],
            }
    assert asked == policy["locations"]
    assert set(asked) == {"rul", "backup", "drill"}


def test_who_makes_backups_cannot_read_them_and_nothing_that_stays_up_can(tmp_path):
    def holders(wanted: str) -> set[str]:
        return {
            name
            for name, service in SERVICES.items()
            for secret in service.get("secrets", ())
            if (secret["source"] if isinstance(secret, dict) else secret) == wanted
        }

    assert holders("backup_identity") == {"run-secrets", "rul-drill"} <= ONE_SHOT
    makers = holders("backup_signing_key")
    assert makers == {"run-secrets", "rul-backup", "wal-archiver"}
    assert makers & holders("backup_identity") == {"run-secrets"}  # which gives each run its own
    script = SERVICES["run-secrets"]["command"][-1].replace("$$", "$")
    source, to = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    for secret in SERVICES["run-secrets"]["secrets"]:
        (source / secret).write_text(secret)
    for location in ("runs", "backup", "drill"):
        (to / location).mkdir(parents=True)
        (to / location / "of_before").write_text("gone")
    configuration, files = to / "configuration", tmp_path / "stack-files"
    for folder in (configuration, files):
        (folder / "docker").mkdir(parents=True)
    (configuration / "docker" / "of_before").write_text("gone")
    (files / "docker" / "redis.conf").write_text("appendonly yes")
    script = script.replace("/run/secrets", str(source)).replace("/run-secrets", str(to))
    script = script.replace("/stack-files", str(files))
    settings = {
        "STACK_HTTP_PORT": "80",
        "RUL_ADMIN_KEY": "admin_api_key",
        "PATH": os.environ["PATH"],
    }
    subprocess.run(["/bin/sh", "-euc", script], check=True, env=settings)
    set_to = {
        path.relative_to(configuration).as_posix(): path.read_text()
        for path in configuration.rglob("*")
        if path.is_file()
    }
    assert set_to == {"docker/redis.conf": "appendonly yes", "settings.env": "STACK_HTTP_PORT=80\n"}
    shutil.rmtree(configuration)
    given = {
        path.name: {file.name: file.read_text() for file in path.iterdir()} for path in to.iterdir()
    }
    assert given["runs"].keys() == {"assets_database_url", "assets_redis_url", "dagster_pgpass"}
    assert given["backup"]["database_url"] == "backup_database_url"
    assert given["backup"]["replication_url"] == "backup_replication_url"
    assert given["backup"]["dagster_url"] == "backup_dagster_url"
    assert given["drill"]["database_url"] == "drill_database_url"
    assert given["drill"]["offsite_options"] == "drill_offsite_options"
    assert "backup_identity" not in given["backup"]
    assert not {"backup_signing_key", "redis_url"} & given["drill"].keys()
    assert {oct(path.stat().st_mode & 0o777) for path in to.rglob("*/*")} == {"0o400"}


def test_what_the_stack_was_started_with_is_handed_to_backups_and_no_secret_is_among_it():
    service = SERVICES["run-secrets"]
    handed = {each["source"]: each["target"] for each in service["configs"]}
    assert handed == {
        name: f"/stack-files/{said['file']}" for name, said in COMPOSE["configs"].items()
    }
    # The folder of secrets is a place on the machine that was.
    assert set(service["environment"]) == set(defaults()) - {"STACK_SECRETS"}
    images = {name for name in defaults() if name.endswith("_IMAGE")}
    assert {n for n, value in service["environment"].items() if value is not None} == images
    for said in COMPOSE["configs"].values():
        text = (PROJECT / said["file"]).read_text()
        assert not re.search(r"://[^/@\s]*:[^/@\s{$]+@", text), said["file"]
        assert "PRIVATE KEY" not in text


def test_who_backs_the_stack_up_reads_its_volumes_and_writes_to_none_of_them():
    mounts = {
        "configuration": "stack_configuration", "dagster_logs": "dagster_logs",
        "grafana": "grafana_data", "prometheus": "prometheus_data",
    }  # fmt: skip
    assert mounts.keys() == stack.SOURCES.keys()
    wanted = {f"{volume}:/stack/{source}:ro" for source, volume in mounts.items()}
    context = SERVICES["dagster-backup"]["environment"]["DAGSTER_CONTAINER_CONTEXT"]
    binds = json.loads(filled(context))["docker"]["container_kwargs"]["volumes"]
    assert {f"rul_{each}" for each in wanted} <= set(binds)
    assert wanted <= set(SERVICES["rul-backup"]["volumes"])
    # What Grafana writes is its group's to read, which is theirs.
    assert SERVICES["grafana"]["user"].partition(":")[2] == "10000"
    assert SERVICES["rul-backup"]["user"].partition(":")[2] == "10000"


def filled(text: str) -> str:
    """With the defaults of its variables, as for a project of the name rul with a store beyond."""
    text = text.replace("${COMPOSE_PROJECT_NAME}", "rul")
    text = re.sub(r"\$\{STACK_BACKUP_OFFSITE:\+([^}]*)\}", r"\1", text)
    return re.sub(r"\$\{STACK_[A-Z_]+:-([^}]*)\}", r"\1", text)


def test_a_container_s_file_passes_the_linter():
    files = sorted(PROJECT.glob("docker/*/Dockerfile"))
    assert {path.parent.name for path in files} == {"assets", "serving", "socket-proxy"}
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [program, "--failure-threshold", "info", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_built_from_is_named_and_nothing_else_comes_along():
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert not {"secrets", ".env", ".rul", ".git", "tests", "data"} & allowed


def test_images_install_by_hash_and_label_themselves():
    for path in PROJECT.glob("docker/*/Dockerfile"):
        text = path.read_text()
        installs = re.findall(r"pip install .*", text)
        assert all("--require-hashes" in line or "--no-deps" in line for line in installs), path
        for label in ("title", "description", "licenses", "version", "revision"):
            assert f"org.opencontainers.image.{label}" in text, path
        assert "HEALTHCHECK" in text, path
        assert re.search(r"^USER [1-9]\d{4}:", text, re.MULTILINE), path
