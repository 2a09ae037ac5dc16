"""Who is told of which alert, by the very image that runs in the stack and the files it reads."""

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from rul_cli import stack_secrets

from .engine import PROJECT, image_of, wait_until

pytestmark = pytest.mark.stack

RULES = yaml.safe_load((PROJECT / "monitoring/prometheus/rules/alerts.yml").read_text())
ALERTS = {rule["alert"]: rule["labels"] for group in RULES["groups"] for rule in group["rules"]}
BEGUN = stack_secrets.RECEIVERS
EXAMPLE = re.sub("^# ", "", BEGUN.partition("# For example:\n")[2], flags=re.MULTILINE)
PORT = 19094
OPTIONS = ("--rm", "--read-only", "--tmpfs=/tmp:mode=1777", "--cap-drop=ALL", "--user=65534:65534")


def volumes(receivers: Path) -> list[str]:
    """The files that Compose gives the container."""
    receivers.chmod(0o644)
    routes = PROJECT / "monitoring" / "alertmanager" / "routes.yml"
    start = PROJECT / "docker" / "alertmanager" / "start.sh"
    return [
        f"--volume={routes}:/etc/alertmanager/routes.yml:ro",
        f"--volume={start}:/etc/alertmanager/start.sh:ro",
        f"--volume={receivers}:/run/secrets/alert_receivers:ro",
    ]


Amtool = Callable[[str, str], subprocess.CompletedProcess]


@pytest.fixture
def amtool(tmp_path: Path) -> Amtool:
    """Runs a shell beside the files, with these receivers."""

    def run(receivers: str, script: str) -> subprocess.CompletedProcess:
        file = tmp_path / "receivers"
        file.write_text(receivers)
        return subprocess.run(
            ["docker", "run", *OPTIONS, "--network=none", *volumes(file), "--entrypoint=sh",
             image_of("alertmanager"), "-ec", script],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


JOIN = "cat /etc/alertmanager/routes.yml /run/secrets/alert_receivers >/tmp/all.yml\n"


def test_every_alert_goes_to_whom_its_severity_names(amtool: Amtool):
    script = JOIN + "".join(
        f"amtool config routes test --config.file=/tmp/all.yml --verify.receivers={wanted} "
        f"alertname={name} severity={labels['severity']} service={labels['service'].split()[0]}\n"
        for name, labels in ALERTS.items()
        for wanted in [labels["severity"] if labels["severity"] != "none" else "watchdog"]
    )
    told = amtool(BEGUN, script.replace("{{", "x"))
    assert told.returncode == 0, told.stdout + told.stderr
    assert set(told.stdout.split()) == {"critical", "warning", "info", "watchdog"}


def test_an_alert_of_a_severity_that_nobody_knows_is_still_told(amtool: Amtool):
    told = amtool(
        BEGUN, JOIN + "amtool config routes test --config.file=/tmp/all.yml severity=novel"
    )
    assert told.stdout.split() == ["warning"]


def test_the_example_in_the_file_of_receivers_is_one_that_works(amtool: Amtool):
    only = "receivers:\n" + EXAMPLE
    rest = "".join(f"  - name: {name}\n" for name in ("warning", "info", "watchdog"))
    assert yaml.safe_load(only)["receivers"][0]["email_configs"]
    told = amtool(only + rest, JOIN + "amtool check-config /tmp/all.yml")
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize(
    ("receivers", "said"),
    [
        ("receivers:\n  - name: critical\n", 'undefined receiver "info"'),
        (BEGUN + "nonsense: 1\n", "field nonsense not found"),
        (BEGUN.replace("name: info", "name: critical"), "is not unique"),
    ],
)
def test_receivers_that_make_no_sense_keep_it_from_starting_with_the_reason(
    amtool: Amtool, receivers: str, said: str
):
    told = amtool(receivers, "sh /etc/alertmanager/start.sh --storage.path=/tmp")
    assert told.returncode != 0
    assert said in told.stdout + told.stderr


@pytest.fixture
def alertmanager(tmp_path: Path) -> Generator[Callable[..., Any]]:
    """One that runs alone; asks it."""
    file = tmp_path / "receivers"
    file.write_text(BEGUN)
    name = f"rul-test-alertmanager-{PORT}"
    started = subprocess.run(
        ["docker", "run", "--detach", f"--name={name}", *OPTIONS,
         f"--publish=127.0.0.1:{PORT}:9093", *volumes(file), "--entrypoint=sh",
         image_of("alertmanager"), "/etc/alertmanager/start.sh", "--storage.path=/tmp",
         "--cluster.listen-address="],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert started.returncode == 0, started.stderr

    def ask(path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORT}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            content = answer.read()
        return json.loads(content) if content and path.startswith("/api") else None

    def is_ready() -> bool:
        try:
            ask("/-/ready")
        except OSError:
            return False
        return True

    try:
        wait_until(is_ready, 30, "Alertmanager is ready", every=0.2)
        yield ask
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


SILENCED = {
    "ServiceDown": (
        "redis",
        {"MemoryHigh": "redis", "ErrorRateHigh": "redis"},
        {"LatencyHigh": "api"},
    ),
    **{
        f"ServiceDown of the {what}": (
            service,
            {"DaemonSilent": "dagster", "RunQueueStuck": "dagster", "JanitorFails": "dagster"},
            {"DagsterUnwatched": "dagster", "ReadingsNotTakenIn": "dagster"},
        )
        for what, service in (("daemon", "dagster-daemon"), ("proxy", "socket-proxy"))
    },
    "ApiDown": (
        "api",
        {"ApiInstanceDown": "api", "ErrorRateHigh": "api", "ErrorBudgetBurnsFast": "api"},
        {"DiskAlmostFull": "node", "ModelTooOld": "models", "AuditChainBroken": "api"},
    ),
    "DatabaseUnreachable": (
        "postgres",
        {"ErrorRateHigh": "api", "LatencyHigh": "api", "ErrorBudgetBurnsFast": "api",
         "DaemonSilent": "dagster", "DagsterUnwatched": "dagster"},
        {"AuditChainBroken": "api", "DiskAlmostFull": "node"},
    ),
    "ErrorBudgetBurnsFast": (
        "api",
        {"ErrorBudgetBurns": "api", "ErrorRateHigh": "api"},
        {"LatencyHigh": "api", "AuditChainBroken": "api"},
    ),
    "LatencyBudgetBurnsFast": (
        "api",
        {"LatencyBudgetBurns": "api", "LatencyHigh": "api"},
        {"ErrorRateHigh": "api", "AuditChainBroken": "api"},
    ),
}  # fmt: skip
"""Each source with its service, what it silences, and what it does not."""


@pytest.mark.parametrize("source", SILENCED)
def test_what_follows_from_a_dead_service_is_not_told_beside_it(alertmanager, source: str):
    service, silenced, told = SILENCED[source]
    ends = datetime.now(UTC) + timedelta(minutes=5)

    def alert(name: str, service: str) -> dict[str, Any]:
        labels = {**ALERTS[name], "alertname": name, "service": service}
        return {"labels": labels, "endsAt": ends.isoformat()}

    def inhibited() -> set[tuple[str, str]]:
        found = alertmanager("/api/v2/alerts")
        return {
            (one["labels"]["alertname"], one["labels"]["service"])
            for one in found
            if one["status"]["inhibitedBy"]
        }

    followers = [alert(*each) for each in (*silenced.items(), *told.items())]
    alertmanager("/api/v2/alerts", followers)
    time.sleep(0.5)
    assert inhibited() != set(silenced.items())
    alertmanager("/api/v2/alerts", [alert(source.partition(" ")[0], service)])
    wait_until(lambda: inhibited() == set(silenced.items()), 10, "what is inhibited", every=0.2)
