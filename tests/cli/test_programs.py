"""Programs are started, watched, and stopped with all that they started."""

import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rul_cli import programs
from rul_cli.programs import Program, ProgramError, free_port


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], Program]:
    """A program that is a line of shell."""
    return lambda line: Program("the shell", ["bash", "-c", line], os.environ, tmp_path / "log")


def wait_for(program: Program, pattern: str) -> str:
    """The first match in the program's log, as soon as it is written."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = re.search(pattern, program.log.read_text())
        if found:
            return found[0]
        time.sleep(0.01)
    raise AssertionError(f"{pattern} is not in {program.log.read_text()!r}")


def runs(pid: int) -> bool:
    """Whether a process has not ended; one that ended may still wait for somebody to ask how."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def has_ended(program: Program) -> bool:
    """Whether a program ends well very soon."""
    deadline = time.monotonic() + 5
    while not program.has_ended() and time.monotonic() < deadline:
        time.sleep(0.01)
    return program.has_ended()


def is_gone(pid: int) -> bool:
    """Whether a process ends very soon."""
    deadline = time.monotonic() + 5
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not runs(pid)


def test_stopping_a_program_stops_what_it_started(shell):
    with shell("sleep 600 & echo $$ $!; wait") as program:
        leader, child = map(int, wait_for(program, r"\d+ \d+(?=\n)").split())
        program.check()
        assert runs(leader)
        assert runs(child)
    assert is_gone(leader)
    assert is_gone(child)


def test_a_program_may_say_a_last_word(shell):
    with shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do :; done") as program:
        wait_for(program, "ready")
    assert program.end_of_log() == "ready\nbye"


def test_a_child_that_ignores_the_polite_signal_is_killed(shell):
    with shell("(trap '' TERM; echo $BASHPID; exec sleep 600) & wait") as program:
        child = int(wait_for(program, r"\d+(?=\n)"))
    assert is_gone(child)


def test_a_program_that_ignores_the_polite_signal_is_killed_after_a_while(shell, monkeypatch):
    monkeypatch.setattr(programs, "STOP_TIMEOUT_SECONDS", 0.2)
    with shell("trap '' TERM; echo $$; while :; do sleep 0.01; done") as program:
        leader = int(wait_for(program, r"\d+(?=\n)"))
    assert is_gone(leader)


def test_children_of_a_program_that_died_are_stopped_too(shell):
    with shell("sleep 600 & echo $!; exit 3") as program:
        child = int(wait_for(program, r"\d+(?=\n)"))
        with pytest.raises(ProgramError):
            program.wait_until_it_answers("http://127.0.0.1:9/", 20)
        assert runs(child)
    assert is_gone(child)


def test_an_error_meanwhile_stops_the_program_and_goes_on(shell):
    program = shell("echo $$; sleep 600")

    def fail() -> None:
        with program:
            wait_for(program, r"\d+(?=\n)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert is_gone(int(program.log.read_text()))


def test_a_program_that_stopped_by_itself_shows_its_code_and_the_end_of_its_log(shell):
    with shell("for i in $(seq 30); do echo line $i; done; echo 'no disk' >&2; exit 7") as program:
        wait_for(program, "no disk")
        with pytest.raises(ProgramError) as caught:
            program.wait_until_it_answers("http://127.0.0.1:9/", 20)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"the shell stopped with code 7; the end of {program.log}:"
    assert lines[1:] == [*(f"line {i}" for i in range(17, 31)), "no disk"]


def test_a_program_that_ends_well_is_told_from_one_that_runs_or_fails(shell):
    with shell("sleep 600") as program:
        assert not program.has_ended()
    with shell("exit 0") as program:
        assert has_ended(program)
    with shell("exit 4") as program, pytest.raises(ProgramError, match="stopped with code 4"):
        has_ended(program)


def test_a_program_that_need_not_be_waited_for_is_killed_soon(tmp_path):
    line = "trap '' TERM; echo $$; while :; do sleep 0.01; done"
    command = ["bash", "-c", line]
    log = tmp_path / "log"
    with Program("it", command, os.environ, log, stop_timeout_seconds=0.2) as program:
        wait_for(program, r"\d+(?=\n)")
        begun = time.monotonic()
    assert time.monotonic() - begun < 5


def test_a_program_that_is_not_installed_says_how_to_get_it(tmp_path):
    program = Program("Dagster", [str(tmp_path / "dg")], os.environ, tmp_path / "logs" / "log")
    with (
        pytest.raises(ProgramError, match=r"Dagster cannot be started: .*dg.*; run `make setup`"),
        program,
    ):
        raise AssertionError("it cannot have started")
    program.check()


def test_a_program_sees_the_environment_it_was_given_and_no_more(tmp_path):
    environment = {"PATH": os.environ["PATH"], "RUL_ROOT": "/somewhere"}
    line = "echo root=$RUL_ROOT home=$HOME in=$PWD; cat; echo end"
    with Program("the shell", ["bash", "-c", line], environment, tmp_path / "log") as program:
        said = wait_for(program, r"root=.*\nend")
    assert said == f"root=/somewhere home= in={programs.PROJECT}\nend"


SERVER = """
import http.server, sys

class Late(http.server.BaseHTTPRequestHandler):
    answers = [503, 404, 200]
    def do_GET(self):
        code = self.answers.pop(0)
        print(code, flush=True)
        self.send_response(code)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Late).serve_forever()
"""


def test_only_an_answer_of_success_counts_as_one(tmp_path):
    port = free_port(0)
    command = [sys.executable, "-c", SERVER, str(port)]
    with Program("the server", command, os.environ, tmp_path / "log") as server:
        server.wait_until_it_answers(f"http://127.0.0.1:{port}/", 20)
        assert re.findall(r"^\d{3}$", server.log.read_text(), re.MULTILINE) == ["503", "404", "200"]


def test_a_program_that_does_not_answer_in_time_is_given_up_with_its_log(shell):
    url = f"http://127.0.0.1:{free_port(0)}/"
    with shell("echo loading; sleep 600") as program:
        wait_for(program, "loading")
        with pytest.raises(ProgramError) as caught:
            program.wait_until_it_answers(url, 0.3)
    assert str(caught.value) == (
        f"the shell did not answer at {url} within 0 s; the end of {program.log}:\nloading"
    )


GREETER = """
import socketserver, sys

class Greeter(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(1000)
        self.request.sendall(b"hello\\r\\n")
        print("greeted", flush=True)

server = socketserver.TCPServer(("127.0.0.1", int(sys.argv[1])), Greeter)
print("ready", flush=True)
server.serve_forever()
"""


def test_an_answer_that_is_no_http_is_not_taken_for_one(tmp_path):
    port = free_port(0)
    command = [sys.executable, "-c", GREETER, str(port)]
    with Program("the greeter", command, os.environ, tmp_path / "log") as greeter:
        wait_for(greeter, "ready")
        with pytest.raises(ProgramError, match="did not answer"):
            greeter.wait_until_it_answers(f"http://127.0.0.1:{port}/", 0.5)
        assert wait_for(greeter, "greeted")


def test_the_wanted_port_is_taken_when_nobody_listens_there():
    wanted = free_port(0)
    assert free_port(wanted) == wanted


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - that is the point
def test_another_port_is_found_when_somebody_listens_at_the_wanted_one(host):
    with socket.create_server((host, 0)) as listener:
        taken = listener.getsockname()[1]
        other = free_port(taken)
        assert other != taken
        with socket.create_server(("127.0.0.1", other)):
            pass
