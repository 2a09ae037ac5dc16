"""A champion moves while requests run: the new model answers within seconds, no request fails."""

import asyncio
import socket
import threading
import time

import msgspec
import pytest
import redis
from prometheus_client import REGISTRY
from sqlalchemy import event
from structlog.testing import capture_logs

from rul_core.errors import Unavailable
from rul_serving import served as served_module
from rul_serving.database import Database
from rul_serving.served import ServedModels
from rul_serving.threads import Lane
from rul_store import swallowed

NOBODY_LISTENS = "postgresql://u@127.0.0.1:1/rul"


def version(client) -> str | None:
    return client.get("/v1/models").json()["models"][0]["served_version"]


def test_a_release_under_load_fails_no_request(platform, eventually):
    old = platform.release().version
    question = platform.question("unit-000001", last=30)
    answers, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            response = client.post("/v1/prognoses", json=question)
            answers.append((response.status_code, response.json()["prognoses"][0]))

    with platform.client() as client:
        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        try:
            eventually(lambda: len(answers) > 5)
            new = platform.release().version
            released = time.monotonic()
            eventually(lambda: version(client) == new)
            assert time.monotonic() - released < 5
            more = len(answers) + 5
            eventually(lambda: len(answers) > more)
        finally:
            stop.set()
            for asker in askers:
                asker.join()
    assert {status for status, _ in answers} == {200}
    assert {p["state"] for _, p in answers} <= {"estimated", "beyond_horizon"}
    assert {p["provenance"]["model_version"] for _, p in answers} == {old, new}
    assert answers[0][1]["provenance"]["model_version"] == old
    assert answers[-1][1]["provenance"]["model_version"] == new


def test_folders_that_can_be_no_fleet_are_passed_over(platform):
    platform.release()
    for name in ("lost+found", ".trash"):
        (platform.root / "models" / name).mkdir()
    with platform.client() as client:
        assert client.get("/readyz").json()["status"] == "ready"


def test_the_first_release_of_a_fleet_is_served_without_a_restart(platform, eventually):
    with platform.client() as client:
        assert version(client) is None
        champion = platform.release()
        eventually(lambda: version(client) == champion.version)
        (model,) = client.get("/v1/models").json()["models"]
    assert model["loaded"]
    assert model["problem"] == ""
    assert model["live"] == msgspec.to_builtins(champion)
    assert model["manifest"]["origin"]["failed_lives"] == 15
    assert model["metrics"]["clipped"]["rmse_cycles"]["value"] > 0


def test_a_rollback_is_served_like_a_release(platform, eventually):
    first = platform.release().version
    second = platform.release().version
    with platform.client() as client:
        assert version(client) == second
        again = platform.promote(first)
        eventually(lambda: version(client) == first)
        (model,) = client.get("/v1/models").json()["models"]
    assert model["live"]["generation"] == again.generation


def damage(platform, version: str) -> None:
    path = platform.bundle(version) / "model.cbm"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def remove(platform, version: str) -> None:
    platform.bundle(version).rename(platform.root / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "told"), [(damage, "model.cbm differs: sha256"), (remove, "is not there")]
)
def test_a_damaged_or_missing_bundle_is_refused_and_the_old_model_stays(
    platform, eventually, harm, told
):
    old = platform.release().version
    with platform.client(model_poll_seconds=0.3) as client, capture_logs() as logs:
        new = platform.release().version
        harm(platform, new)
        eventually(lambda: client.get("/health").json()["status"] == "degraded")
        health = client.get("/health")
        (model,) = client.get("/v1/models").json()["models"]
        prognosis = client.post("/v1/prognoses", json=platform.question("unit-000001"))
        time.sleep(1)
    assert health.status_code == 200
    assert told in health.json()["dependencies"]["model_root"]["detail"]
    assert model["served_version"] == old
    assert not model["loaded"]
    assert model["live"]["version"] == new
    assert told in model["problem"]
    assert prognosis.json()["prognoses"][0]["provenance"]["model_version"] == old
    (line,) = (line for line in logs if line["event"] == "model refused")
    assert (line["log_level"], line["version"], line["still_served"]) == ("error", new, old)


def test_a_refused_bundle_that_is_restored_is_served(platform, eventually, monkeypatch):
    monkeypatch.setattr(served_module, "RETRY_SECONDS", 0.1)
    platform.release()
    with platform.client(model_poll_seconds=0.2) as client:
        new = platform.release().version
        remove(platform, new)
        eventually(lambda: client.get("/health").json()["status"] == "degraded")
        (platform.root / "elsewhere").rename(platform.bundle(new))
        eventually(lambda: version(client) == new)
        assert client.get("/health").json()["status"] == "ready"


def test_a_champion_whose_folder_is_away_is_told_instead_of_passed_over(platform):
    champion = platform.release()
    (platform.root / "models" / "pumps").rename(platform.root / "elsewhere")
    with platform.client() as client:
        health = client.get("/readyz").json()
        (model,) = client.get("/v1/models").json()["models"]
    assert health["status"] == "degraded"
    assert champion.version in health["dependencies"]["model_root"]["detail"]
    assert model["live"] == msgspec.to_builtins(champion)
    assert "is not there" in model["problem"]


def test_a_look_at_many_fleets_is_one_question(platform):
    platform.release()
    for number in range(20):
        (platform.root / "models" / f"fleet{number}").mkdir()
    asked = []

    async def scenario() -> None:
        database = Database(platform.settings.database_url.get_secret_value(), 5)

        @event.listens_for(database._engine, "before_cursor_execute")
        def count(_connection, _cursor, statement, *_rest) -> None:
            asked.append(statement)

        await ServedModels(platform.root, database).look()
        await database.close()

    asyncio.run(scenario())
    assert len([statement for statement in asked if "champion" in statement]) == 1


def test_a_damaged_first_bundle_leaves_the_fleet_not_configured_and_says_why(platform):
    damage(platform, platform.release().version)
    with platform.client() as client:
        health = client.get("/readyz")
        response = client.post("/v1/prognoses", json=platform.question("unit-000001"))
    assert health.json()["status"] == "degraded"
    assert response.json()["prognoses"][0]["state"] == "not_configured"


def test_without_postgresql_the_file_beside_the_bundles_names_the_champion(platform, eventually):
    first = platform.release().version
    with platform.client(database_url=NOBODY_LISTENS) as client:
        assert version(client) == first
        second = platform.release().version
        eventually(lambda: version(client) == second)


def test_postgresql_is_believed_before_the_file(platform, eventually):
    platform.release()
    live = platform.root / "models" / "pumps" / "live.json"
    before = live.read_bytes()
    second = platform.release().version
    for content in (before, b"{"):  # a writer was killed before it replaced the file; damage
        live.write_bytes(content)
        with platform.client() as client:
            assert version(client) == second
            assert client.get("/health").json()["status"] == "ready"


def test_without_postgresql_an_older_file_does_not_bring_back_an_older_model(platform):
    platform.release()
    live = platform.root / "models" / "pumps" / "live.json"
    before = live.read_bytes()
    second = platform.release().version
    with platform.client(database_url=NOBODY_LISTENS) as client:
        live.write_bytes(before)
        time.sleep(0.3)
        assert version(client) == second


def test_a_damaged_file_without_postgresql_is_told_and_the_model_stays(platform, eventually):
    served = platform.release().version
    with platform.client(database_url=NOBODY_LISTENS) as client:
        (platform.root / "models" / "pumps" / "live.json").write_bytes(b"{")
        eventually(
            lambda: (
                "live.json is damaged"
                in client.get("/readyz").json()["dependencies"]["model_root"]["detail"]
            )
        )
        assert version(client) == served


def test_a_message_on_redis_saves_waiting_for_the_poll(platform, eventually, redis_url):
    with (
        platform.client(redis_url=redis_url, model_poll_seconds=60) as client,
        redis.Redis.from_url(redis_url) as sender,
    ):
        eventually(lambda: dict(sender.pubsub_numsub("rul:released"))[b"rul:released"] == 1)
        new = platform.promote(platform.train(), redis_client=sender).version
        eventually(lambda: version(client) == new)


def test_a_lost_redis_is_counted_once_and_polling_goes_on(platform, eventually):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        before = swallowed.counts().get("release_listener", 0)
        url = f"redis://127.0.0.1:{closed.getsockname()[1]}/0"
        with platform.client(redis_url=url) as client:
            eventually(lambda: swallowed.counts().get("release_listener", 0) == before + 1)
            new = platform.release().version
            eventually(lambda: version(client) == new)
            assert client.get("/health").json()["status"] == "degraded"


def test_the_watcher_outlives_what_nobody_foresaw(platform, eventually):
    def fail() -> list[str]:
        raise RuntimeError("a surprise")

    with platform.client() as client:
        models = client.app.state.service.models
        before = swallowed.counts().get("model_watcher", 0)
        models._fleets = fail
        eventually(lambda: swallowed.counts().get("model_watcher", 0) > before)
        del models._fleets
        new = platform.release().version
        eventually(lambda: version(client) == new)
        shown = client.get("/metrics").text
    assert 'rul_swallowed_errors_total{component="model_watcher"}' in shown


def test_a_lane_gives_up_in_time_and_lets_others_in_once_the_hung_ones_return():
    hung = threading.Event()

    async def scenario() -> None:
        lane, started = Lane("thing", "the thing", 2, 0.1), []

        def hang() -> None:
            started.append(1)
            hung.wait()

        try:
            for _ in range(4):
                with pytest.raises(Unavailable, match=r"the thing did not answer within 0\.1 s"):
                    await lane.run(hang)
            await asyncio.sleep(0.1)  # whoever gave up waits no more
            assert len(started) == 2, "no more threads than the lane is wide"
            assert _gauge("rul_lane_threads", lane="thing") == 2
            assert _gauge("rul_lane_calls", lane="thing") == 2
        finally:
            hung.set()
        assert await lane.run(lambda: "back") == "back"
        await lane.close(1)
        assert _gauge("rul_lane_calls", lane="thing") == 0

    asyncio.run(scenario())


def _gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_a_postgresql_that_takes_connections_and_never_answers_hangs_nobody(platform):
    platform.release()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/rul"
        began = time.monotonic()
        with platform.client(database_url=url, database_timeout_seconds=0.3) as client:
            units = client.get("/v1/fleets/pumps/units")
            prognosis = client.post("/v1/prognoses", json=platform.question("unit-000001"))
            health = client.get("/health")
            assert time.monotonic() - began < 5
    assert units.status_code == 503
    assert "did not answer within 0.3 s" in units.json()["detail"]
    assert prognosis.status_code == 200
    assert health.json()["status"] == "degraded"
