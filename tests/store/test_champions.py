"""One function moves the champion; PostgreSQL decides, live.json follows."""

import logging
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rul_core.errors import BundleError, StoreError, Unavailable
from rul_store import champions, files
from rul_store.cache import connect_redis
from rul_store.champions import Action, Champion
from rul_store.database import begin, connect
from rul_store.registry import BundleStore
from rul_store.swallowed import counts


@pytest.fixture
def versions(tmp_path: Path) -> list[str]:
    """Four bundles of the fleet "pumps", oldest first."""
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    return [
        BundleStore(tmp_path).write("pumps", {"m": b"%d" % n}, {}, now=noon + timedelta(days=n))
        for n in range(4)
    ]


def release(engine: sa.Engine, root: Path, version: str, expected: int) -> Champion:
    return champions.move(
        engine,
        root,
        "pumps",
        version,
        expected_generation=expected,
        action=Action.RELEASE,
        by="run-1",
        reason="better by 2 cycles",
    )


def test_a_release_is_live_in_the_database_and_in_the_file(
    engine: sa.Engine, tmp_path: Path, versions: list[str]
):
    assert champions.current(engine, "pumps") is None
    assert champions.read_live(tmp_path, "pumps") is None
    moved = release(engine, tmp_path, versions[0], expected=0)
    assert (moved.version, moved.generation, moved.action) == (versions[0], 1, Action.RELEASE)
    assert champions.current(engine, "pumps") == moved
    assert champions.read_live(tmp_path, "pumps") == moved
    assert champions.history(engine, "pumps") == (moved,)


def test_all_champions_are_given_at_once(engine: sa.Engine, tmp_path: Path, versions: list[str]):
    assert champions.current_all(engine) == {}
    release(engine, tmp_path, versions[0], expected=0)
    second = release(engine, tmp_path, versions[1], expected=1)
    fans = BundleStore(tmp_path).write("fans", {"m": b"f"}, {}, now=datetime.now(UTC))
    first = champions.move(
        engine, tmp_path, "fans", fans,
        expected_generation=0, action=Action.PROMOTE, by="me", reason="it is the first",
    )  # fmt: skip
    assert champions.current_all(engine) == {"pumps": second, "fans": first}


def test_the_loser_is_told_who_won(engine: sa.Engine, tmp_path: Path, versions: list[str]):
    first = release(engine, tmp_path, versions[0], expected=0)
    with pytest.raises(StoreError, match=rf"run-1 made {versions[0]} live .*better by 2 cycles"):
        release(engine, tmp_path, versions[1], expected=0)
    second = release(engine, tmp_path, versions[1], expected=1)
    with pytest.raises(StoreError, match="generation 1 was expected"):
        release(engine, tmp_path, versions[2], expected=1)
    assert champions.history(engine, "pumps") == (first, second)
    assert champions.read_live(tmp_path, "pumps") == second


def test_moving_a_champion_that_does_not_exist_says_so(
    engine: sa.Engine, tmp_path: Path, versions: list[str]
):
    with pytest.raises(StoreError, match=r"has no champion yet.*expect 0"):
        release(engine, tmp_path, versions[0], expected=3)


def test_a_missing_or_damaged_bundle_is_never_made_live(
    engine: sa.Engine, tmp_path: Path, versions: list[str]
):
    (tmp_path / "models" / "pumps" / versions[0] / "m").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="m differs"):
        release(engine, tmp_path, versions[0], expected=0)
    with pytest.raises(BundleError, match="is not there"):
        release(engine, tmp_path, "20990101T000000Z-000000", expected=0)
    assert champions.current(engine, "pumps") is None


def test_rolling_back_goes_one_version_back_each_time(
    engine: sa.Engine, tmp_path: Path, versions: list[str]
):
    for generation, version in enumerate(versions[:3]):
        release(engine, tmp_path, version, expected=generation)
    began = time.monotonic()
    back = champions.rollback(engine, tmp_path, "pumps", by="ada", reason="worse in the field")
    assert time.monotonic() - began < 1
    assert (back.version, back.generation, back.action) == (versions[1], 4, Action.ROLLBACK)
    release(engine, tmp_path, versions[3], expected=4)
    for expected in (versions[1], versions[0]):
        back = champions.rollback(engine, tmp_path, "pumps", by="ada", reason="worse")
        assert back.version == expected
        assert champions.read_live(tmp_path, "pumps") == back
    with pytest.raises(StoreError, match=rf"has no version before {versions[0]}"):
        champions.rollback(engine, tmp_path, "pumps", by="ada", reason="worse")
    with pytest.raises(StoreError, match="has no version before its first"):
        champions.rollback(engine, tmp_path, "fans", by="ada", reason="worse")


def test_a_rollback_returns_to_the_version_before_a_promotion(
    engine: sa.Engine, tmp_path: Path, versions: list[str]
):
    for generation, number in enumerate((0, 1, 0, 0)):
        release(engine, tmp_path, versions[number], expected=generation)
    back = champions.rollback(engine, tmp_path, "pumps", by="ada", reason="x")
    assert back.version == versions[1]
    back = champions.rollback(engine, tmp_path, "pumps", by="ada", reason="x")
    assert back.version == versions[0]


def test_what_was_live_at_a_time_is_known(engine: sa.Engine, tmp_path: Path, versions: list[str]):
    first = release(engine, tmp_path, versions[0], expected=0)
    second = release(engine, tmp_path, versions[1], expected=1)
    microsecond = timedelta(microseconds=1)
    assert champions.live_at(engine, "pumps", first.promoted_at - microsecond) is None
    assert champions.live_at(engine, "pumps", first.promoted_at) == first
    assert champions.live_at(engine, "pumps", second.promoted_at - microsecond) == first
    assert champions.live_at(engine, "pumps", second.promoted_at + timedelta(days=9)) == second


def test_times_grow_even_when_the_clock_is_set_back(
    engine: sa.Engine, tmp_path: Path, versions: list[str]
):
    release(engine, tmp_path, versions[0], expected=0)
    with begin(engine) as connection:
        for statement in (
            "UPDATE champions SET promoted_at = promoted_at + interval '1 hour'",
            "UPDATE champion_history SET from_at = from_at + interval '1 hour'",
        ):
            connection.execute(sa.text(statement))
    second = release(engine, tmp_path, versions[1], expected=1)
    first = champions.history(engine, "pumps")[0]
    assert second.promoted_at == first.promoted_at + timedelta(microseconds=1)


def test_the_projection_is_repaired_from_the_database(
    engine: sa.Engine, tmp_path: Path, versions: list[str]
):
    moved = release(engine, tmp_path, versions[0], expected=0)
    live = tmp_path / "models" / "pumps" / "live.json"
    live.write_text("{")
    with pytest.raises(StoreError, match=r"live\.json is damaged: .*repair the projection"):
        champions.read_live(tmp_path, "pumps")
    assert champions.repair_projection(engine, tmp_path, "pumps") == moved
    assert champions.read_live(tmp_path, "pumps") == moved
    (tmp_path / "models" / "fans").mkdir()
    (tmp_path / "models" / "fans" / "live.json").write_bytes(live.read_bytes())
    assert champions.repair_projection(engine, tmp_path, "fans") is None
    assert not (tmp_path / "models" / "fans" / "live.json").exists()


def test_a_move_whose_projection_fails_says_that_it_happened(
    engine: sa.Engine, tmp_path: Path, versions: list[str], monkeypatch: pytest.MonkeyPatch
):
    def full(target: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(StoreError, match=rf"is {versions[0]} now \(generation 1\), but .*space"):
        release(engine, tmp_path, versions[0], expected=0)
    monkeypatch.undo()
    moved = champions.current(engine, "pumps")
    assert moved is not None
    assert moved.version == versions[0]
    assert champions.read_live(tmp_path, "pumps") is None


def test_a_slow_writer_does_not_put_an_older_champion_over_a_newer(
    engine: sa.Engine, tmp_path: Path, versions: list[str], monkeypatch: pytest.MonkeyPatch
):
    release(engine, tmp_path, versions[0], expected=0)
    inside, go_on = threading.Event(), threading.Event()
    write_json = files.write_json

    def slowly(target: Path, value: object) -> None:
        if threading.current_thread() is slow:
            inside.set()
            go_on.wait(10)
        write_json(target, value)

    monkeypatch.setattr(files, "write_json", slowly)
    slow = threading.Thread(target=champions.repair_projection, args=(engine, tmp_path, "pumps"))
    fast = threading.Thread(target=release, args=(engine, tmp_path, versions[1], 1))
    slow.start()
    inside.wait(10)
    fast.start()
    fast.join(0.3)
    assert fast.is_alive(), "the second waits for the first one's lock"
    go_on.set()
    slow.join()
    fast.join()
    live = champions.read_live(tmp_path, "pumps")
    assert live is not None
    assert live.version == versions[1]


def test_a_projection_lock_that_is_never_given_back_is_unavailable(
    engine: sa.Engine, tmp_path: Path, versions: list[str], monkeypatch: pytest.MonkeyPatch
):
    release(engine, tmp_path, versions[0], expected=0)
    monkeypatch.setattr(champions, "LOCK_TIMEOUT_MS", 50)
    with begin(engine) as connection:
        lock = sa.func.pg_advisory_xact_lock(champions.PROJECTION_LOCK, sa.func.hashtext("pumps"))
        connection.execute(sa.select(lock))
        with pytest.raises(Unavailable, match="lock timeout"):
            champions.repair_projection(engine, tmp_path, "pumps")


def test_a_move_is_told_on_the_release_channel(
    engine: sa.Engine, tmp_path: Path, versions: list[str], redis_url: str
):
    with connect_redis(redis_url) as client, client.pubsub() as subscriber:
        subscriber.subscribe("rul:released")
        subscriber.get_message(timeout=2)
        moved = champions.move(
            engine, tmp_path, "pumps", versions[0], expected_generation=0,
            action=Action.PROMOTE, by="ada", reason="x", redis_client=client,
        )  # fmt: skip
        message = subscriber.get_message(timeout=2)
    assert message is not None
    assert msgspec.json.decode(message["data"], type=Champion) == moved


def test_a_redis_that_is_down_does_not_stop_a_move_but_is_counted(
    engine: sa.Engine,
    tmp_path: Path,
    versions: list[str],
    caplog: pytest.LogCaptureFixture,
):
    before = counts().get("release_channel", 0)
    with (
        connect_redis("redis://127.0.0.1:1") as client,
        caplog.at_level(logging.WARNING),
    ):
        began = time.monotonic()
        champions.move(
            engine, tmp_path, "pumps", versions[0], expected_generation=0,
            action=Action.RELEASE, by="ada", reason="x", redis_client=client,
        )  # fmt: skip
    assert time.monotonic() - began < 3
    live = champions.read_live(tmp_path, "pumps")
    assert live is not None
    assert live.version == versions[0]
    assert counts()["release_channel"] == before + 1
    assert "release_channel: serving learns of the move by looking" in caplog.text


def test_a_database_that_is_down_moves_nothing(tmp_path: Path, versions: list[str]):
    with pytest.raises(Unavailable):
        release(connect("postgresql://u@127.0.0.1:1/rul"), tmp_path, versions[0], expected=0)
    assert champions.read_live(tmp_path, "pumps") is None


@given(plans=st.lists(st.lists(st.booleans(), max_size=3), min_size=2, max_size=4))
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_movers_at_once_each_win_or_lose_and_the_file_follows_the_last(
    engine: sa.Engine, tmp_path: Path, plans: list[list[bool]]
):
    fleet = f"f{uuid.uuid4().hex}"
    store = BundleStore(tmp_path)
    pair = [store.write(fleet, {"m": b"%d" % n}, {}) for n in range(2)]
    won, lost, unexpected = list[Champion](), list[StoreError](), list[BaseException]()

    def mover(plan: list[bool]) -> None:
        for second in plan:
            present = champions.current(engine, fleet)
            try:
                won.append(
                    champions.move(
                        engine, tmp_path, fleet, pair[second],
                        expected_generation=present.generation if present else 0,
                        action=Action.RELEASE, by="run", reason="x",
                    )
                )  # fmt: skip
            except Unavailable as error:
                unexpected.append(error)
            except StoreError as error:
                lost.append(error)

    threads = [threading.Thread(target=mover, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unexpected == []
    assert len(won) + len(lost) == sum(map(len, plans))
    moves = champions.history(engine, fleet)
    assert sorted(won, key=lambda champion: champion.generation) == list(moves)
    assert [step.generation for step in moves] == list(range(1, len(won) + 1))
    assert champions.read_live(tmp_path, fleet) == champions.current(engine, fleet)
    assert (moves[-1] if moves else None) == champions.current(engine, fleet)
