"""Streams of events: nothing is missed, nothing comes twice, each ends for a reason it tells."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rul_core.errors import Unavailable
from rul_core.prognosis import Prognosis, State
from rul_serving import feeds, live, metrics
from rul_serving.access import Access
from rul_serving.database import Database
from rul_serving.live import EndReason, EventStream, Live, Stream, Wanted
from rul_serving.principal import ANONYMOUS, Principal
from rul_serving.problems import Kind, Refusal
from rul_serving.settings import AccessMode
from rul_store import ledger, news
from rul_store.cache import connect_redis
from rul_store.news import Cursor, NewsKind
from rul_store.swallowed import counts
from tests.serving.conftest import Platform
from tests.serving.test_advisories import BODIES, problem, say
from tests.store.test_news import forget

PATH = "/v1/fleets/pumps/events"
CALL = {"follow": "false"}
SCOPE: Any = {}
BEGINNING = Cursor()
_EVENT = re.compile(r"event: (\w+)\n(?:id: (\S+)\n)?data: (.*)")
_cycles = itertools.count(1)
_ID = re.compile(r"^id: (\S+)$", re.MULTILINE)


class Told(NamedTuple):
    """An event as a client reads it."""

    name: str
    id: str
    data: dict[str, Any]

    @property
    def place(self) -> tuple[str, int]:
        return self.name, self.data["position"]


def read(text: str) -> list[Told]:
    return [Told(name, at, json.loads(data)) for name, at, data in _EVENT.findall(text)]


def last_id(text: str) -> str:
    return _ID.findall(text)[-1]


def everything(
    platform: Platform, after: Cursor = BEGINNING, **wanted: Any
) -> list[tuple[str, int]]:
    """Every entry of both logs."""
    page = news.since(platform.engine, "pumps", after, limit=100_000, **wanted)
    assert page.is_last
    return [(one.kind.value, one.place.position) for one in page.news]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def record(platform: Platform, unit: str, cycle: float) -> None:
    said = Prognosis(
        fleet="pumps",
        unit=unit,
        life=1,
        cycle=cycle,
        state=State.INSUFFICIENT_HISTORY,
        detail="x" * 1_500,
        computed_at=datetime.now(UTC),
    )
    ledger.record(platform.engine, "pumps", [said])


# --- Over HTTP, until it has caught up


def test_from_the_beginning_it_tells_everything_once_with_an_id_to_go_on_from(platform):
    say(platform, "ill", 4.0, 3.0)
    with platform.client() as client:
        answer = client.get(PATH, params=CALL, headers={"Last-Event-ID": "0"})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "content-length" not in answer.headers
        assert answer.text.startswith("retry: 2000\nid: 0.00000000-0.00000000\n\n")
        *told, end = read(answer.text)
        assert [one.place for one in told] == everything(platform)
        assert {one.name for one in told} == {"prognosis", "advisory"}
        assert (end.name, end.data) == ("end", {"reason": "caught_up"})
        for seen, one in enumerate(told, 1):
            rest = client.get(PATH, params=CALL, headers={"Last-Event-ID": one.id})
            assert [one.place for one in read(rest.text)[:-1]] == everything(platform)[seen:]


def test_without_an_id_it_begins_now_and_tells_where_that_is(platform):
    say(platform, "ill", 4.0, 3.0)
    with platform.client() as client:
        first = client.get(PATH, params=CALL)
        assert [one.name for one in read(first.text)] == ["end"]
        say(platform, "ill", 2.0, first=3)
        then = client.get(PATH, params=CALL, headers={"Last-Event-ID": last_id(first.text)})
    assert [
        one.data["prognosis"]["cycle"] for one in read(then.text) if one.name == "prognosis"
    ] == [3]


def test_only_a_unit_or_a_type_is_told_of_and_the_id_passes_the_rest(platform):
    say(platform, "ill", 4.0, 3.0)
    say(platform, "well", 90.0, 91.0)
    beginning = {"Last-Event-ID": "0"}
    with platform.client() as client:
        for wanted in (
            {"unit": "well"},
            {"type": "advisory"},
            {"unit": "ill", "type": "prognosis"},
        ):
            answer = client.get(PATH, params={**CALL, **wanted}, headers=beginning)
            kind = NewsKind(wanted["type"]) if "type" in wanted else None
            expected = everything(platform, unit=wanted.get("unit"), kind=kind)
            assert [one.place for one in read(answer.text)[:-1]] == expected
            assert expected
            assert last_id(answer.text) == str(news.head(platform.engine, "pumps"))


def test_an_id_that_is_none_is_400_and_names_the_header(platform):
    with platform.client() as client:
        for wrong in ("", "7", "1-2", "a" * 200, "0.00000000-0.0000000g"):
            answer = client.get(PATH, params=CALL, headers={"Last-Event-ID": wrong})
            kind = Kind.INVALID_CURSOR if len(wrong) <= 100 else Kind.INVALID_REQUEST
            problem(answer, kind, "Last-Event-ID")
            assert answer.json()["errors"][0]["at"] == "Last-Event-ID"
        problem(client.get(PATH, params={"type": "gossip"}), Kind.INVALID_REQUEST, "type")
        problem(client.get(PATH, params={"unit": ""}), Kind.INVALID_REQUEST, "unit")
        problem(client.get("/v1/fleets/fans/events"), Kind.UNKNOWN_FLEET)


def test_an_id_that_the_database_does_not_know_is_told_and_it_goes_on_from_now(platform):
    say(platform, "well", 90.0, 91.0)
    unknown = "999.0a1b2c3d-5.0a1b2c3d"
    with platform.client() as client:
        answer = client.get(PATH, params=CALL, headers={"Last-Event-ID": unknown})
        reset, end = read(answer.text)
        assert (reset.name, reset.data) == ("reset", {"unknown_id": unknown})
        assert reset.id == str(news.head(platform.engine, "pumps"))
        assert end.name == "end"
        say(platform, "well", 92.0, first=3)
        then = client.get(PATH, params=CALL, headers={"Last-Event-ID": reset.id})
        assert [one.name for one in read(then.text)] == ["prognosis", "end"]


def test_without_postgresql_it_is_503(platform):
    with platform.client(database_url="postgresql://u:secret@127.0.0.1:1/rul") as client:
        problem(client.get(PATH), Kind.UNAVAILABLE)


def test_a_key_for_another_fleet_or_of_a_machine_sees_no_stream(platform):
    stranger = bearer(platform.key("viewer", fleets=["fans"]))
    machine, own = bearer(platform.key("ingest")), bearer(platform.key("viewer", fleets=["pumps"]))
    with platform.client(access=AccessMode.KEYS) as client:
        problem(client.get(PATH, headers=stranger), Kind.FORBIDDEN, "not for fleet 'pumps'")
        problem(client.get(PATH, headers=machine), Kind.FORBIDDEN, "this needs one of")
        problem(client.get(PATH), Kind.UNAUTHENTICATED)
        assert client.get(PATH, params=CALL, headers=own).status_code == 200


# --- In one process, with real servers


@asynccontextmanager
async def living(
    platform: Platform, redis_url: str | None = None, access: Access | None = None, **limits: int
) -> AsyncGenerator[Live]:
    """The streams of a process; they look at nothing between messages unless a test lets them."""
    database = Database(platform.settings.database_url.get_secret_value(), 5)
    given = {"most": 100, "most_of_one": 100, **limits}
    made = Live(database, access or Access(None), redis_url, **given)
    try:
        async with made.running():
            yield made
    finally:
        await database.close()


def opened(made: Live, at: str | None = "0", **wanted: Any) -> Any:
    return made.open(Wanted(fleet="pumps", **wanted), at, ANONYMOUS)


class Client:
    """Somebody who reads one stream, and comes again after it broke."""

    def __init__(self, last_id: str = "0") -> None:
        self.told: list[Told] = []
        self.last_id = last_id
        self.ended: str | None = None

    async def follow(self, stream: Stream, until: Callable[[], bool]) -> None:
        async with aclosing(stream.chunks()) as chunks:
            async for chunk in chunks:
                text = chunk.decode()
                for told in read(text):
                    if told.name == "end":
                        self.ended = told.data["reason"]
                    else:
                        self.told.append(told)
                if ids := _ID.findall(text):
                    self.last_id = ids[-1]
                if until():
                    return

    @property
    def places(self) -> list[tuple[str, int]]:
        return [one.place for one in self.told]


def by_log(places: list[tuple[str, int]]) -> dict[str, list[int]]:
    return {kind: [at for log, at in places if log == kind] for kind in ("prognosis", "advisory")}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(data=st.data())
def test_whoever_writes_and_whoever_is_cut_off_when_each_gets_each_once_in_order(
    platform, redis_url, data, monkeypatch
):
    """Writers, clients that break and come again to one of two processes, a feed of few entries."""
    monkeypatch.setattr(feeds, "KEPT", data.draw(st.integers(1, 6), label="kept"))
    monkeypatch.setattr(live, "PAGE", data.draw(st.integers(1, 4), label="page"))
    monkeypatch.setattr(live, "MOST_BYTES", data.draw(st.sampled_from([1, 3_000]), label="bytes"))
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.05)
    start = news.head(platform.engine, "pumps")
    cuts = data.draw(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=3))
    writes = data.draw(st.lists(st.sampled_from(["a", "b", "c"]), max_size=12), label="units")
    clients = [Client(str(start)) for _ in cuts]

    async def run() -> None:
        async with living(platform, redis_url) as one, living(platform, redis_url) as other:
            is_over = asyncio.Event()

            async def write() -> None:
                for unit in writes:
                    safe = 3.0 if unit == "a" else 50.0
                    await asyncio.to_thread(say, platform, unit, safe, first=next(_cycles))
                    one.tell("pumps")
                is_over.set()

            async def follow(client: Client, cuts: list[int]) -> None:
                for turn, cut in enumerate(cuts):
                    stop = len(client.told) + cut
                    stream = await opened((one, other)[turn % 2], client.last_id)
                    reading = client.follow(stream, lambda stop=stop: len(client.told) >= stop)
                    # It is cut off after so many, or when nothing more comes.
                    await asyncio.wait([asyncio.ensure_future(asyncio.wait_for(reading, 0.5))])
                await is_over.wait()
                goal = len(await asyncio.to_thread(everything, platform, start))
                if len(client.told) < goal:
                    stream = await opened(other, client.last_id)
                    reading = client.follow(stream, lambda: len(client.told) >= goal)
                    await asyncio.wait_for(reading, 20)

            await asyncio.gather(write(), *map(follow, clients, cuts))

    asyncio.run(run())
    expected = by_log(everything(platform, start))
    for client in clients:
        assert by_log(client.places) == expected


@pytest.mark.parametrize("turns", range(5))
def test_a_feed_ends_with_its_last_reader_also_where_news_comes_at_that_moment(
    platform, monkeypatch, turns
):
    monkeypatch.setattr(feeds, "POLL_SECONDS", 3_600)
    monkeypatch.setattr(feeds, "PACE_SECONDS", 0.0)

    async def run() -> None:
        async with (
            living(platform) as made,
            asyncio.timeout(20),
            made.feeds.of("pumps") as feed,
        ):
            while not feed._has_looked or feed._look.is_set():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            feed._look.set()
            for _ in range(turns):
                await asyncio.sleep(0)

    asyncio.run(run())


async def read_until(stream: Stream, is_enough: Callable[[Client], bool]) -> Client:
    client = Client()
    await asyncio.wait_for(client.follow(stream, lambda: is_enough(client)), 20)
    return client


def has(count: int) -> Callable[[Client], bool]:
    return lambda client: len(client.told) >= count


def is_over(client: Client) -> bool:
    return client.ended is not None


def test_ten_who_write_at_once_are_told_in_the_order_of_their_commits(platform, redis_url):
    def write(writer: int) -> None:
        for cycle in range(1, 6):
            say(platform, f"unit {writer % 3}", 3.0, first=10 * writer + cycle)

    async def run() -> Client:
        async with living(platform, redis_url) as made:
            reading = asyncio.create_task(read_until(await opened(made), has(50 + 3)))
            await asyncio.gather(*(asyncio.to_thread(write, writer) for writer in range(10)))
            made.tell("pumps")
            goal = len(everything(platform))
            assert goal >= 53
            await reading
            rest = await read_until(await opened(made, reading.result().last_id), has(goal - 53))
            rest.told = [*reading.result().told, *rest.told]
            return rest

    found = asyncio.run(run())
    assert by_log(found.places) == by_log(everything(platform))
    assert [at for kind, at in found.places if kind == "prognosis"] == [*range(1, 51)]


@pytest.mark.parametrize("through", ["redis", "memory"])
def test_a_message_is_enough_to_be_told_at_once(platform, servers, monkeypatch, through):
    monkeypatch.setattr(feeds, "POLL_SECONDS", 3_600)
    url = servers.redis_url if through == "redis" else None

    async def run() -> None:
        async with living(platform, url) as one, living(platform, url) as other:
            writer = one if url else other
            reading = asyncio.create_task(read_until(await opened(other), has(1)))
            while (followed := other.feeds._followed.get("pumps")) is None or not (
                followed.feed._has_looked
            ):
                await asyncio.sleep(0.01)
            await asyncio.to_thread(record, platform, "a", 1.0)
            while not reading.done():  # the first may come before anybody listens
                writer.tell("pumps")
                await asyncio.sleep(0.05)
            assert reading.result().places == [("prognosis", 1)]

    asyncio.run(run())


def test_news_of_which_no_message_came_is_found_by_looking(platform, monkeypatch):
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.05)

    async def run() -> None:
        async with living(platform, "redis://127.0.0.1:1") as made:
            reading = asyncio.create_task(read_until(await opened(made, None), has(1)))
            made.tell("pumps")
            await asyncio.to_thread(record, platform, "a", 1.0)
            assert (await reading).places == [("prognosis", 1)]

    asyncio.run(run())


class Reader:
    """The other side of a connection, which takes nothing until it is let."""

    def __init__(self) -> None:
        self.may_take = asyncio.Event()
        self.leaves = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            await self.may_take.wait()

    async def receive(self) -> Any:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


async def hold(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)


def test_a_reader_that_takes_nothing_grows_no_memory_and_misses_nothing(platform, monkeypatch):
    monkeypatch.setattr(feeds, "KEPT", 100)
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.05)
    record(platform, "first", 1.0)

    async def run() -> None:
        async with living(platform) as made:
            slow, quick = Reader(), Reader()
            quick.may_take.set()
            filled = metrics.GAPS_FILLED._value.get()
            tasks = [
                asyncio.create_task(
                    EventStream(made, await opened(made))(SCOPE, one.receive, one.send)
                )
                for one in (slow, quick)
            ]
            for cycle in range(2, 1_002):
                await asyncio.to_thread(record, platform, "u", float(cycle))
            await hold(lambda: len(read(quick.text)) == 1_001)
            feed = made.feeds._followed["pumps"].feed
            assert len(feed._kept) <= 100
            assert len(slow.sent) == 2  # the start, and one part that it has not taken
            slow.may_take.set()
            await hold(lambda: len(read(slow.text)) == 1_001)
            for reader in (slow, quick):
                assert [one.place for one in read(reader.text)] == everything(platform)
                largest = max(len(message.get("body", b"")) for message in reader.sent)
                assert largest <= max(live.MOST_BYTES + 4_000, live.PAGE * 4_000)
            assert metrics.GAPS_FILLED._value.get() > filled
            slow.leaves.set()
            quick.leaves.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 20)
            assert made._streams == set()
            assert made.feeds._followed == {}

    asyncio.run(run())


def test_a_reader_that_takes_nothing_for_long_is_left(platform, monkeypatch):
    monkeypatch.setattr(live, "STALLED_SECONDS", 0.05)

    async def run() -> None:
        async with living(platform) as made:
            stalled = Reader()
            answer = EventStream(made, await opened(made))
            assert metrics.STREAMS._value.get() == 1
            await asyncio.wait_for(answer(SCOPE, stalled.receive, stalled.send), 20)
            assert made._streams == set()
            assert metrics.STREAMS._value.get() == 0

    asyncio.run(run())


def test_while_nothing_comes_the_connection_is_kept_and_the_id_moves_on(platform, monkeypatch):
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.05)

    async def run() -> None:
        async with (
            living(platform) as made,
            aclosing((await opened(made, unit="nobody")).chunks()) as chunks,
        ):
            await anext(chunks)
            await asyncio.to_thread(record, platform, "a", 1.0)
            expected = f": nothing new\nid: {news.head(platform.engine, 'pumps')}\n\n".encode()
            async with asyncio.timeout(20):
                async for chunk in chunks:
                    assert chunk.startswith(b": nothing new\nid: ")
                    if chunk == expected:
                        return

    asyncio.run(run())


class Doorkeeper(Access):
    """Who holds a key until it is taken away."""

    def __init__(self) -> None:
        super().__init__(None)
        self.banned: set[str] = set()

    def holds(self, principal: Principal) -> bool:
        return principal.name not in self.banned


def test_streams_end_with_the_key_and_others_go_on(platform, monkeypatch):
    monkeypatch.setattr(live, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(live, "TRY_AGAIN_SECONDS", 3_600)
    ann, bob = (Principal(name=name, key_id=name, roles=frozenset()) for name in ("ann", "bob"))

    async def run() -> None:
        door = Doorkeeper()
        async with living(platform, access=door) as made:
            wanted = Wanted(fleet="pumps")
            reads = [
                asyncio.create_task(read_until(await made.open(wanted, "0", one), is_over))
                for one in (ann, bob)
            ]
            await hold(lambda: len(made.feeds._followed) == 1)
            door.banned.add("ann")
            assert (await reads[0]).ended == EndReason.KEY_ENDED
            assert not reads[1].done()
            made.stop()
            assert (await reads[1]).ended == EndReason.STOPPING
            with pytest.raises(Unavailable, match="is stopping"):
                await made.open(wanted, "0", bob)

    asyncio.run(run())


def test_there_are_only_so_many_streams_of_one_and_of_all(platform):
    ann, bob = (Principal(name=name, key_id=name, roles=frozenset()) for name in ("ann", "bob"))

    async def run() -> None:
        async with living(platform, most=3, most_of_one=2) as made:
            wanted = Wanted(fleet="pumps")
            first = await made.open(wanted, "0", ann)
            await made.open(wanted, "0", ann)
            with pytest.raises(Refusal, match="'ann' has 2 streams open here") as refused:
                await made.open(wanted, "0", ann)
            assert refused.value.kind is Kind.RATE_LIMITED
            assert int(refused.value.headers["Retry-After"]) >= 1
            await made.open(wanted, "0", bob)
            with pytest.raises(Unavailable, match="3 streams are open here already"):
                await made.open(wanted, "0", bob)
            made.left(first)
            await made.open(wanted, "0", ann)

    asyncio.run(run())


def test_a_stream_waits_for_postgresql_and_goes_on_where_it_was(platform, monkeypatch):
    monkeypatch.setattr(live, "TRY_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.01)
    is_away = True
    ask = Database.ask

    async def answer(self: Database, *question: Any, **named: Any) -> Any:
        if is_away:
            raise Unavailable("PostgreSQL is away")
        return await ask(self, *question, **named)

    monkeypatch.setattr(Database, "ask", answer)
    record(platform, "a", 1.0)

    async def run() -> None:
        nonlocal is_away
        before = counts().get("news", 0)
        async with living(platform) as made:
            reading = asyncio.create_task(read_until(await opened(made), has(3)))
            await hold(lambda: counts().get("news", 0) > before + 5)
            is_away = False
            await asyncio.to_thread(record, platform, "a", 2.0)
            await hold(lambda: made.feeds._followed["pumps"].feed._has_looked)
            is_away = True
            await asyncio.to_thread(record, platform, "a", 3.0)
            is_away = False
            assert (await reading).places == [("prognosis", 1), ("prognosis", 2), ("prognosis", 3)]

    asyncio.run(run())


def test_a_database_that_is_restored_under_a_stream_is_told(platform, monkeypatch):
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.02)
    for cycle in range(1, 6):
        record(platform, "a", float(cycle))

    async def run() -> None:
        async with living(platform) as made:
            client = Client()
            stream = await opened(made)
            reading = asyncio.create_task(client.follow(stream, lambda: len(client.told) >= 7))
            await hold(lambda: len(client.told) == 5)
            await asyncio.to_thread(forget, platform.engine, "ledger", 2)
            await hold(lambda: len(client.told) == 6)
            await asyncio.to_thread(record, platform, "b", 1.0)
            await asyncio.wait_for(reading, 20)
            assert [one.name for one in client.told[5:]] == ["reset", "prognosis"]
            assert client.told[6].place == ("prognosis", 3)

    asyncio.run(run())


def test_whoever_changes_something_says_so(platform, redis_url):
    platform.release()
    say(platform, "ill", 4.0, 3.0)
    with connect_redis(redis_url) as listening, listening.pubsub() as channel:
        channel.subscribe(news.CHANNEL)
        assert channel.get_message(timeout=5)["type"] == "subscribe"
        with platform.client(redis_url=redis_url) as client:
            (advisory,) = client.get("/v1/fleets/pumps/advisories").json()["advisories"]
            path = f"/v1/advisories/{advisory['advisory_id']}"
            unit = "/v1/fleets/pumps/units/ill"
            found = {"finding": "found_damage"}
            window = platform.question("unit-000001", last=1)["units"][0]["readings"]
            for address, body in (
                (f"{path}/plan", BODIES["plan"]),
                (f"{path}/verdict", found),
                (f"{unit}/verdicts", found),
                (f"{unit}/service-state", {"state": "in_maintenance", "reason": "oil"}),
                (f"{unit}/lives", {"end": {"outcome": "replaced"}}),
                ("/v1/fleets/pumps/readings", [{"unit": "new", **one} for one in window]),
            ):
                answer = client.post(address, json=body, headers={"If-Match": "*"})
                assert answer.status_code == 200, answer.text
                message = channel.get_message(timeout=20)
                assert message is not None, address
                assert json.loads(message["data"]) == ["pumps"]


def test_a_message_that_is_none_of_ours_is_left_alone(platform, redis_url, monkeypatch):
    monkeypatch.setattr(feeds, "POLL_SECONDS", 3_600)

    async def run() -> None:
        async with living(platform, redis_url) as made:
            reading = asyncio.create_task(read_until(await opened(made), has(1)))
            await hold(lambda: "pumps" in made.feeds._followed)
            await hold(lambda: made.feeds._followed["pumps"].feed._has_looked)
            await asyncio.to_thread(record, platform, "a", 1.0)
            with connect_redis(redis_url) as client:
                while not reading.done():
                    client.publish(news.CHANNEL, b"\xff{")
                    client.publish(news.CHANNEL, b'["fans", "pumps"]')
                    await asyncio.sleep(0.05)
            assert reading.result().places == [("prognosis", 1)]

    before = counts().get("news_listener", 0)
    asyncio.run(run())
    assert counts()["news_listener"] > before
