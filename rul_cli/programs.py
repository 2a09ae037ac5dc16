"""The platform's other programs on a laptop: started, watched, stopped with all their children.

What belongs here: which program is started how. What does not: servers of data
(``rul_cli.laptop``), what is done with a program once it runs.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rul_core.errors import RulError

PROJECT = Path(__file__).parent.parent
STOP_TIMEOUT_SECONDS = 15.0


class ProgramError(RulError):
    """A program of the platform stopped or did not answer; the message has the end of its log."""


class Program:
    """A program that runs while the context is open; its output goes to a log file.

    It leads a process group of its own, so that stopping it stops what it started. What does not
    stop when it is asked to is killed after ``stop_timeout_seconds``.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        stop_timeout_seconds: float | None = None,
    ) -> None:
        self.name, self._command, self._environment, self.log = name, command, environment, log
        self._stop_timeout_seconds = stop_timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own programs
                    self._command,
                    env=dict(self._environment),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    cwd=PROJECT,
                    start_new_session=True,
                )
            except OSError as error:
                raise ProgramError(
                    f"{self.name} cannot be started: {error}; run `make setup`, which installs it"
                ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        if process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
            except ProcessLookupError:
                break
            try:
                process.wait(self._stop_timeout_seconds or STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        process.wait()

    def check(self) -> None:
        """Raise ProgramError if it has stopped by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise ProgramError(
                f"{self.name} stopped with code {self._process.returncode}; the end of {self.log}:"
                f"\n{self.end_of_log()}"
            )

    def has_ended(self) -> bool:
        """Whether it has ended, and well; ProgramError if it failed."""
        if self._process is not None and self._process.poll() == 0:
            return True
        self.check()
        return False

    def end_of_log(self, lines: int = 15) -> str:
        """The last lines that it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_until_it_answers(self, url: str, timeout_seconds: float) -> None:
        """Return once the address answers with success.

        Raises:
            ProgramError: It stopped, or did not answer in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            self.check()
            try:
                with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own address
                    return
            except (OSError, http.client.HTTPException):  # no answer yet, or one cut short
                time.sleep(0.2)
        raise ProgramError(
            f"{self.name} did not answer at {url} within {timeout_seconds:.0f} s; the end of "
            f"{self.log}:\n{self.end_of_log()}"
        )


def dagster(environment: Mapping[str, str], port: int, log: Path) -> Program:
    """Dagster's web server, daemon and code server."""
    dg = str(Path(sys.executable).parent / "dg")
    environment = {**environment, "VIRTUAL_ENV": sys.prefix}
    command = [dg, "dev", "--host", "127.0.0.1", "--port", str(port)]
    return Program("Dagster", command, environment, log)


def api(environment: Mapping[str, str], port: int, log: Path) -> Program:
    """The HTTP API, open to this machine."""
    environment = {
        **{name: value for name, value in environment.items() if name != "RUL_ACCESS_FILE"},
        "RUL_HOST": "127.0.0.1",
        "RUL_PORT": str(port),
        "RUL_ACCESS": "open",
    }
    return Program("the API", [sys.executable, "-m", "rul_serving"], environment, log)


def job(environment: Mapping[str, str], log: Path, name: str, *fleet: str) -> Program:
    """A run of a job; it may be killed at any moment, and need not be waited for."""
    command = [sys.executable, "-m", "rul_cli.run_job", name, *fleet]
    return Program(f"the job {name}", command, environment, log, stop_timeout_seconds=1.0)


def free_port(wanted: int) -> int:
    """The wanted port if nobody listens there, or else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ProgramError("no free port on 127.0.0.1; stop a program that listens there")
