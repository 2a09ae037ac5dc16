"""When the champion moves, every unit's prognosis becomes one of the new model."""

import asyncio
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core.model import Recipe, train
from rul_core.schema import UNIT
from rul_core.simulator import simulate
from rul_serving import refresh, saying
from rul_serving import writer as writer_module
from rul_serving.database import Database
from rul_serving.ingest import Ingest
from rul_serving.instance import Instance
from rul_serving.refresh import Refresh
from rul_serving.served import ServedModels
from rul_serving.writer import Writer
from rul_store import current, leases, ledger, lives, outdated, swallowed
from rul_store.cache import connect_redis
from rul_store.database import begin
from rul_store.models import load_model
from rul_store.registry import BundleStore
from rul_store.states import States
from tests.serving.conftest import RECIPE, SIMULATION, Learnt, Platform
from tests.serving.test_models import promote, roll_back
from tests.serving.test_readings import body, cached, expected, life_of, plain, send

__all__ = ["cached"]


@pytest.fixture(scope="session")
def learnt_otherwise(learnt: Learnt) -> Learnt:
    """The same fleet with a model that says something else."""
    simulated = simulate(SIMULATION)
    fleet = learnt.training.model.fleet
    smaller = Recipe(iterations=5, folds=RECIPE.folds, threads=1)
    return replace(learnt, training=train(simulated.readings, simulated.lives, fleet, smaller))


@pytest.fixture
def other(platform: Platform, learnt_otherwise: Learnt) -> Platform:
    """The same platform, whose bundles are of the other model."""
    return replace(platform, learnt=learnt_otherwise)


@pytest.fixture
def refresher(platform: Platform) -> Iterator[Callable[..., Refresh]]:
    """Makes refreshes that run only when they are told to."""
    databases, told = [], []

    def make(name: str = "a", redis_url: str | None = None) -> Refresh:
        database = Database(platform.settings.database_url.get_secret_value(), 5)
        databases.append(database)
        models = ServedModels(platform.root, database)
        states = States(connect_redis(redis_url) if redis_url else None)
        writer = Writer(
            database, Ingest(platform.root, states), models, lambda _: None, lambda _: None
        )
        instance = Instance(name=name)
        return Refresh(platform.root, states, database, models, writer, instance, told.append)

    yield make
    for database in databases:
        asyncio.run(database.close())


@pytest.fixture
def refreshing(refresher: Callable[..., Refresh]) -> Refresh:
    return refresher()


def units_of(platform: Platform, count: int) -> list[str]:
    return sorted(platform.learnt.readings[UNIT].unique())[:count]


def start(platform: Platform, client: Any, count: int = 6, readings: int = 20) -> list[str]:
    """Units with so many readings each; their names."""
    names = units_of(platform, count)
    for name in names:
        send(client, body(platform, life_of(platform, name)[:readings]))
    return names


def behind(platform: Platform, version: str) -> int:
    return outdated.count(platform.engine, "pumps", version)


def kept(platform: Platform, unit: str) -> Any:
    found = current.one(platform.engine, "pumps", unit)
    assert found is not None
    return plain(found.prognosis)


def test_a_rollback_prognoses_every_unit_anew_without_a_reading(
    platform, other, eventually, cached
):
    old = platform.release().version
    new = other.release().version
    with platform.client(**cached) as client:
        names = start(platform, client)
        before = {name: kept(platform, name) for name in names}
        assert behind(platform, old) == len(names)
        roll_back(client)
        eventually(lambda: behind(platform, old) == 0)
        for name in names:
            now = kept(platform, name)
            assert now == expected(platform, old, life_of(platform, name)[:20])
            assert before[name] == expected(other, new, life_of(platform, name)[:20])
            assert now.rul_cycles != before[name].rul_cycles or now.rul_cycles is None
            told = client.get(f"/v1/fleets/pumps/units/{name}/prognosis").json()
            entry = told["provenance"]["ledger_id"]
            again = client.post(f"/v1/ledger/{entry}/replay").json()
            assert (told["provenance"]["model_version"], again["verdict"]) == (old, "equal")
        # The states that were left behind are those of readings: the next one goes on from them.
        answer = send(client, body(platform, life_of(platform, names[0])[20:21]))
        assert answer["prognoses"][0]["provenance"]["readings"] == 21
    assert ledger.head(platform.engine, "pumps") == 2 * len(names) + 1
    assert list(ledger.verify(platform.engine, "pumps")) == [2 * len(names) + 1]


def test_units_that_waited_for_a_first_model_are_prognosed_when_it_comes(platform, eventually):
    version = platform.train()
    with platform.client() as client:
        names = start(platform, client, count=3)
        assert ledger.head(platform.engine, "pumps") == 0
        assert promote(client, version, '"0"').status_code == 200
        eventually(lambda: behind(platform, version) == 0)
        for name in names:
            assert kept(platform, name) == expected(platform, version, life_of(platform, name)[:20])


def test_back_and_forth_says_the_same_again_and_records_nothing_new(platform, other, eventually):
    old = platform.release().version
    with platform.client() as client:
        names = start(platform, client, count=4)
        new = other.train()
        for version in (new, old, new):
            promote(client, version)
            eventually(lambda version=version: behind(platform, version) == 0)
        assert {kept(platform, name).provenance.model_version for name in names} == {new}
    assert ledger.head(platform.engine, "pumps") == 2 * len(names)


@pytest.mark.parametrize("seed", [1, 2])
def test_readings_that_arrive_meanwhile_and_the_refresh_never_disagree(
    platform, other, eventually, cached, monkeypatch, seed
):
    """Several move the champion back and forth while each unit's readings arrive, shuffled."""
    monkeypatch.setattr(refresh, "UNITS", (2, 3, 5))
    monkeypatch.setattr(refresh, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(refresh, "STUCK_SECONDS", 0.1)
    old, new = platform.release().version, other.train()
    chance = random.Random(seed)  # noqa: S311
    with (
        platform.client(**cached) as client,
        platform.client(**cached) as second,
        ThreadPoolExecutor(4) as threads,
    ):
        names = start(platform, client, count=8, readings=10)
        stop = threading.Event()

        def arrive(name: str, through: Any, order: list[int]) -> None:
            life = life_of(platform, name)
            for i in order:
                send(through, body(platform, life[i : i + 1]))

        def move() -> int:
            moves = 0
            for version in itertools.cycle((new, old)):
                if stop.is_set():
                    return moves
                moves += promote(chance.choice((client, second)), version).status_code == 200
            raise AssertionError

        moving = threads.submit(move)
        order = list(range(10, 30))
        arriving = []
        for name in names:
            chance.shuffle(order)
            through = chance.choice((client, second))
            arriving.append(threads.submit(arrive, name, through, order[:]))
        for one in arriving:
            one.result(60)
        stop.set()
        assert moving.result(60) > 2
        if client.get("/v1/fleets/pumps/champion").json()["version"] != new:
            assert promote(client, new).status_code == 200
        eventually(lambda: behind(platform, new) == 0)
        # A reading that an instance took in just before it heard of the move is behind again.
        models = (client, second)
        eventually(
            lambda: all(
                one.get("/v1/models").json()["models"][0]["served_version"] == new for one in models
            )
        )
        eventually(lambda: behind(platform, new) == 0)
        for name in names:
            assert kept(platform, name) == expected(other, new, life_of(platform, name)[:30])
    assert isinstance(list(ledger.verify(platform.engine, "pumps"))[-1], int)


def test_a_walk_that_dies_at_any_step_goes_on_elsewhere(platform, other, refresher, monkeypatch):
    platform.release()
    monkeypatch.setattr(refresh, "UNITS", (1, 1, 1))
    monkeypatch.setattr(refresh, "REST", 0.0)
    with platform.client() as client:
        names = start(platform, client, count=5)
    new = other.release().version
    dies_at = [("follow", 2), ("record", 1)]

    async def scenario() -> None:
        for where, after in dies_at:
            dying, calls = refresher(where), itertools.count()
            really = getattr(saying, where)

            def die(*args: Any, really=really, calls=calls, after=after, **named: Any) -> Any:
                if next(calls) >= after:
                    raise SystemExit  # as a killed process: nobody catches it
                return really(*args, **named)

            monkeypatch.setattr(saying, where, die)
            await dying._models.look()
            left = behind(platform, new)
            with pytest.raises(SystemExit):
                await dying.look()
            assert behind(platform, new) == left - after
            monkeypatch.setattr(saying, where, really)
        other_one = refresher("b")
        await other_one._models.look()
        assert await other_one.look()

    asyncio.run(scenario())
    assert behind(platform, new) == 0
    for name in names:
        assert kept(platform, name) == expected(other, new, life_of(platform, name)[:20])
    assert ledger.head(platform.engine, "pumps") == 2 * len(names)


def test_one_process_walks_at_a_time_and_gives_the_lease_back(platform, other, refresher):
    platform.release()
    with platform.client() as client:
        names = start(platform, client, count=2)
    new = other.release().version

    async def scenario() -> None:
        one = refresher()
        await one._models.look()
        assert leases.hold(platform.engine, refresh.LEASE, "somebody", 60.0)
        await one.look()
        assert behind(platform, new) == len(names)
        leases.release(platform.engine, refresh.LEASE, "somebody")
        await one.look()
        assert behind(platform, new) == 0

    asyncio.run(scenario())
    assert leases.hold(platform.engine, refresh.LEASE, "somebody", 60.0)


def step(refreshing: Refresh, platform: Platform, version: str, **more: Any) -> Any:
    loaded = load_model(BundleStore(platform.root), "pumps", version)
    given = {"limit": 100, "unheard": False, "trace_id": "t", **more}
    return refreshing.step(platform.engine, loaded, "", **given)


def test_a_process_that_has_not_heard_of_a_move_prognoses_nothing_by_the_old_model(
    platform, other, refreshing
):
    old = platform.release().version
    with platform.client() as client:
        start(platform, client, count=2)
    new = other.release().version
    assert step(refreshing, platform, old) is None
    assert len(step(refreshing, platform, new).said) == 2
    assert step(refreshing, platform, old) is None
    assert behind(platform, new) == 0


def test_a_life_that_grew_or_ended_while_it_was_followed_is_left_to_who_did_it(
    platform, other, refreshing, monkeypatch
):
    platform.release()
    with platform.client() as client:
        grown, ended, quiet = start(platform, client, count=3)
        new = other.release().version
        really = saying.follow

        def meanwhile(*args: Any) -> Any:
            old = platform.train()  # of the model before, as an instance that lags says it
            send(client, body(platform, life_of(platform, grown)[20:21]))
            end = {"end": {"outcome": "failed"}}
            answer = client.post(f"/v1/fleets/pumps/units/{ended}/lives", json=end)
            assert answer.status_code == 200, (answer.text, old)
            return really(*args)

        monkeypatch.setattr(saying, "follow", meanwhile)
        monkeypatch.setattr(Refresh, "look", lambda _: asyncio.sleep(0, True))
        taken = step(refreshing, platform, new)
    assert [one.unit for one in taken.said] == [quiet]
    assert kept(platform, grown).cycle == 21.0


def test_a_unit_that_the_model_fails_on_is_told_and_holds_nobody_up(
    platform, other, refreshing, monkeypatch
):
    platform.release()
    with platform.client() as client:
        bad, *good = start(platform, client, count=4)
    new = other.release().version
    really = saying.judge

    def fail(model: Any, followed: Any, **named: Any) -> Any:
        if any(life.unit == bad for life in followed):
            raise ValueError("a division by zero")
        return really(model, followed, **named)

    monkeypatch.setattr(saying, "judge", fail)
    before = swallowed.counts().get("inference", 0)
    taken = step(refreshing, platform, new)
    states = {one.unit: one.state for one in taken.said}
    assert states.pop(bad) == "model_error"
    assert set(states) == set(good)
    assert "model_error" not in states.values()
    assert swallowed.counts()["inference"] == before + 1
    assert behind(platform, new) == 0


def test_a_life_without_readings_is_passed_over(platform, other, refreshing):
    platform.release()
    with platform.client() as client:
        (name,) = start(platform, client, count=1)
    frame = pl.DataFrame([("silent", 1, "running", None)], schema=lives.LIVES_SCHEMA, orient="row")
    lives.upsert(platform.engine, "pumps", frame, source="a file")
    new = other.release().version
    taken = step(refreshing, platform, new, unheard=True)
    assert [one.unit for one in taken.said] == [name]
    assert taken.last == max(name, "silent")
    with begin(platform.engine) as connection:
        found = outdated.some(connection, "pumps", new, after="", limit=9, unheard=True)
    assert [(one.unit, one.cycle) for one in found] == [("silent", None)]
    assert behind(platform, new) == 0


def test_states_in_redis_are_gone_on_from_instead_of_reading_all_again(
    platform, other, refresher, redis_url, cached, monkeypatch
):
    old = platform.release().version
    with platform.client(**cached) as client:
        names = start(platform, client, count=2)
    other.release()
    platform.promote(old)
    with begin(platform.engine) as connection:
        connection.execute(sa.text("UPDATE current_prognoses SET model_version = 'another'"))
    read = []
    really = refresh.histories.read
    monkeypatch.setattr(
        refresh.histories, "read", lambda *args: (read.append(args[3]), really(*args))[1]
    )
    assert len(step(refresher(redis_url=redis_url), platform, old).said) == len(names)
    assert read == [[]]


def test_a_refresh_gives_way_to_readings_that_wait_but_not_for_ever(refreshing, monkeypatch):
    monkeypatch.setattr(writer_module, "LONGEST_WAIT_SECONDS", 0.2)
    writer = refreshing._writer

    async def scenario() -> tuple[float, float]:
        clock = asyncio.get_running_loop().time
        begun = clock()
        await writer.gives_way()
        idle = clock() - begun
        writer._waiting_rows = 1
        begun = clock()
        await writer.gives_way()
        return idle, clock() - begun

    idle, busy = asyncio.run(scenario())
    assert idle < busy
    assert busy >= 0.2


def test_units_behind_the_champion_are_told_per_fleet(platform, other, eventually, monkeypatch):
    platform.release()
    monkeypatch.setattr(Refresh, "look", lambda _: asyncio.sleep(0, True))
    with platform.client() as client:
        start(platform, client, count=3)
        other.release()
        gauge = 'rul_units_behind_champion{fleet="pumps"} 3.0'
        eventually(lambda: gauge in client.get("/metrics").text)


def test_what_goes_wrong_is_counted_and_tried_again(platform, eventually, monkeypatch):
    version = platform.release().version
    monkeypatch.setattr(refresh, "LOOK_SECONDS", 0.05)
    really, calls = outdated.count, []

    def fail_first(engine: sa.Engine, fleet: str, version: str) -> int:
        calls.append(version)
        if len(calls) < 3:
            raise RuntimeError("something nobody foresaw")
        return really(engine, fleet, version)

    monkeypatch.setattr(outdated, "count", fail_first)
    before = swallowed.counts().get("prognosis_refresh", 0)
    with platform.client():
        eventually(lambda: len(calls) > 3)
    assert swallowed.counts()["prognosis_refresh"] == before + 2
    assert set(calls) == {version}


def test_whatever_comes_in_whatever_order_the_last_step_leaves_what_following_gives(
    platform, other, refreshing, monkeypatch
):
    """Readings, moves and steps of processes that lag: afterwards one step makes all current."""
    monkeypatch.setattr(Refresh, "look", lambda _: asyncio.sleep(0, True))
    old, new = platform.train(), other.train()
    loaded = {v: load_model(BundleStore(platform.root), "pumps", v) for v in (old, new)}
    life = life_of(platform, units_of(platform, 1)[0])
    names = map("unit {}".format, itertools.count())
    kinds = st.sampled_from(["reading", "step old", "step new", "move"])

    def by(version: str) -> Any:
        given = {"limit": 999, "unheard": False, "trace_id": "t"}
        return refreshing.step(platform.engine, loaded[version], "", **given)

    with platform.client() as client:

        @settings(max_examples=15)
        @given(st.lists(kinds, max_size=12))
        def check(steps: list[str]) -> None:
            unit, taken, live = next(names), 12, old
            platform.promote(old)

            def arrive(rows: pl.DataFrame) -> None:
                send(client, [{**row, "unit": unit} for row in body(platform, rows)])

            arrive(life[:taken])
            for each in steps:
                if each == "reading":
                    arrive(life[taken : taken + 1])
                    taken += 1
                elif each == "move":
                    live = new if live == old else old
                    platform.promote(live)
                else:
                    by(old if each == "step old" else new)
            by(live)
            assert behind(platform, live) == 0
            whole = life[:taken].with_columns(pl.lit(unit).alias(UNIT))
            assert kept(platform, unit) == expected(platform if live == old else other, live, whole)

        check()
    assert isinstance(list(ledger.verify(platform.engine, "pumps"))[-1], int)
