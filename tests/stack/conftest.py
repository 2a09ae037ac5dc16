"""One stack for all of these tests, made new and removed with all it kept."""

import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.backup import s3

from .engine import NAME, OFFSITE_PORT, WEBHOOK, Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    made = Stack(tmp_path_factory.mktemp("stack") / "secrets")
    remove(made)
    beyond = tmp_path_factory.mktemp("beyond")
    certificates = s3.certify(beyond, WEBHOOK[0])
    made.begin_secrets((beyond / "authority.pem").read_text())
    rul = str(Path(__file__).parents[2] / ".venv" / "bin" / "rul")
    made.run(rul, "secrets", "init", "--to", str(made.secrets))
    made.run(rul, "stack", "check", "--secrets", str(made.secrets)) if not made.left_out else None
    with s3.serving(beyond, "0.0.0.0", *certificates, port=OFFSITE_PORT):  # noqa: S104 - its address comes with the stack
        yield made
    remove(made)


def remove(stack: Stack) -> None:
    """Remove every container, network and volume of the stack under test."""
    # Nobody begins a run any more, and none is just beginning: Docker 20 keeps an end of a network
    # for ever whose container is removed while it starts. Who was stopped between making one and
    # starting it leaves one that never begins.
    stack.compose("stop", "--timeout=20", "dagster-daemon")
    deadline = time.monotonic() + 20
    while any(run["State"]["Status"] == "created" for run in stack.runs()):
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    for run in stack.runs():
        stack.run("docker", "rm", "--force", run["Id"])
    stack.down(
        "docker", "compose", "--profile=*", "down", "--volumes", "--remove-orphans", "--timeout=5"
    )
    # What Compose does not know: the volume of a restore that broke off.
    stack.run("docker", "volume", "rm", "--force", f"{NAME}_restoring")
