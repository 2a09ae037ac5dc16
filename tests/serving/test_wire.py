"""An answer's head leaves together with its body, and nothing is lost or turned round."""

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rul_serving.server import Server
from rul_serving.settings import ServingSettings
from rul_serving.wire import Protocol, Together

HEAD, BODY = b"HTTP/1.1 200 OK\r\n\r\n", b"{}"


class Recording:
    """What asyncio's transport would be told."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed_after: int | None = None

    def write(self, data: bytes) -> None:
        assert self.closed_after is None
        self.written.append(data)

    def close(self) -> None:
        self.closed_after = len(self.written)

    def is_closing(self) -> bool:
        return self.closed_after is not None


def in_turns(*turns: list[bytes]) -> list[bytes]:
    """What is written when these are, each list in a turn of the loop."""
    below = Recording()
    later: list[Callable[[], None]] = []
    above: Any = Together(below, later.append)  # ty: ignore[invalid-argument-type]
    for turn in turns:
        for data in turn:
            above.write(data)
        calls, later[:] = later[:], []
        for call in calls:
            call()
    return below.written


def test_head_and_body_are_one_write():
    assert in_turns([HEAD, BODY, HEAD, BODY]) == [HEAD + BODY, HEAD + BODY]


def test_a_head_that_nothing_follows_does_not_wait_for_it():
    assert in_turns([HEAD], [b"event: 1\n\n"], [b"event: 2\n\n"]) == [
        HEAD, b"event: 1\n\n", b"event: 2\n\n",
    ]  # fmt: skip


def test_what_is_held_back_is_written_before_the_connection_is_closed():
    below = Recording()
    above: Any = Together(below, lambda _: None)  # ty: ignore[invalid-argument-type]
    above.write(HEAD)
    assert not above.is_closing()
    above.close()
    assert (below.written, below.closed_after) == ([HEAD], 1)


@given(st.lists(st.lists(st.sampled_from([HEAD, BODY, b"", b"x" * 9]), max_size=5), max_size=5))
def test_all_that_was_written_arrives_in_order(turns: list[list[bytes]]):
    assert b"".join(in_turns(*turns)) == b"".join(map(b"".join, turns))


def test_the_server_writes_so():
    async def answer(_scope: Any, _receive: Any, _send: Any) -> None: ...

    async def protocol() -> Any:
        settings = ServingSettings(database_url="postgresql://nobody@localhost/none")
        server = Server(answer, settings)  # ty: ignore[invalid-argument-type]
        server.config.load()
        return server.config.http_protocol_class

    assert asyncio.run(protocol()) is Protocol
