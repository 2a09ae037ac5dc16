"""Models over HTTP: what each version is, what was live when, and moving the champion."""

import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from litestar.testing import TestClient

from rul_core.leakage_report import GateReport, failed
from rul_store import audit, champions, fleets, swallowed, versions
from rul_store.registry import BundleStore
from rul_store.versions import Inspector, Ruled
from tests.serving.test_served import damage, remove

FLEET = "/v1/fleets/pumps"
LEAKS = GateReport(findings=(failed("single_feature_canary", "hours alone knows the end"),))
NEVER = "20200101T000000Z-000000"


def promote(
    client: TestClient, version: str, if_match: str | None = "*", **more: Any
) -> httpx.Response:
    headers = dict(more.pop("headers", {}))
    if if_match is not None:
        headers["If-Match"] = if_match
    body = {"reason": "it is better", **more}
    return client.post(f"{FLEET}/models/{version}/promote", json=body, headers=headers)


def roll_back(client: TestClient, if_match: str = "*", **headers: str) -> httpx.Response:
    body = {"reason": "it sees ghosts"}
    headers = {"If-Match": if_match, **headers}
    return client.post(f"{FLEET}/champion/rollback", json=body, headers=headers)


def served_version(client: TestClient) -> str:
    return client.get("/v1/models").json()["models"][0]["served_version"]


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def standings(client: TestClient) -> dict[str, str]:
    told = client.get(f"{FLEET}/models").json()["versions"]
    return {one["version"]: one["standing"] for one in told}


def test_each_version_says_what_it_is_and_what_speaks_against_it(platform):
    first, second = platform.release().version, platform.release().version
    candidate, leaky, worse, broken = (
        platform.train(), platform.train(LEAKS), platform.train(), platform.train()
    )  # fmt: skip
    versions.keep_ruling(platform.engine, "pumps", worse, Ruled(passed=False, why="9 cycles off"))
    versions.keep_ruling(platform.engine, "pumps", candidate, Ruled(passed=True, why="as good"))
    damage(platform, broken)
    with platform.client() as client:
        answer = client.get(f"{FLEET}/models")
        told = {one["version"]: one for one in answer.json()["versions"]}
        detail = client.get(f"{FLEET}/models/{leaky}").json()
        damaged = client.get(f"{FLEET}/models/{broken}").json()
        remove(platform, first)
        gone = client.get(f"{FLEET}/models/{first}").json()["model"]
    assert list(told) == [broken, worse, leaky, candidate, second, first]
    assert {version: one["standing"] for version, one in told.items()} == {
        first: "earlier_champion",
        second: "champion",
        candidate: "candidate",
        leaky: "refused",
        worse: "refused",
        broken: "candidate",
    }
    assert told[leaky]["held_back"] == [
        "leakage gate, single feature canary: hours alone knows the end",
        "leakage gate: no test of it was passed",
    ]
    assert (told[worse]["held_back"], told[worse]["ruling"]) == (["9 cycles off"], "9 cycles off")
    assert (told[candidate]["held_back"], told[candidate]["ruling"]) == ([], "as good")
    assert "model.cbm differs: sha256" in told[broken]["damage"]
    assert answer.headers["etag"] == '"2"'
    assert told[second]["live_since"] is not None
    assert told[candidate]["live_since"] is None
    assert detail["gate"]["findings"][0]["outcome"] == "failed"
    assert detail["manifest"]["origin"]["failed_lives"] == 15
    assert (damaged["manifest"], damaged["model"]["standing"]) == (None, "candidate")
    assert (gone["standing"], "is not there" in gone["damage"]) == ("earlier_champion", True)


def test_pages_of_versions_and_moves_follow_one_another(platform):
    live = [platform.release().version for _ in range(3)]
    with platform.client() as client:
        for path, name in (("models", "versions"), ("champion/history", "moves")):
            first = client.get(f"{FLEET}/{path}?limit=2")
            assert first.links["next"]["url"].startswith(f"{FLEET}/{path}?limit=2&cursor=")
            rest = client.get(first.links["next"]["url"]).json()
            seen = [*first.json()[name], *rest[name]]
            assert [one["version"] for one in seen] == live[::-1]
            assert rest["next_cursor"] is None
            for cursor in ("x", first.json()["next_cursor"][:-4]):
                wrong = client.get(f"{FLEET}/{path}?cursor={cursor}")
                assert problem(wrong) == (400, "invalid-cursor")


def test_what_was_live_at_a_time_is_told(platform):
    first, second = platform.release(), platform.release()
    between = second.promoted_at - timedelta(microseconds=1)
    with platform.client() as client:

        def at(time: str) -> httpx.Response:
            return client.get(f"{FLEET}/champion", params={"at": time})

        now = client.get(f"{FLEET}/champion")
        assert now.json() == msgspec.to_builtins(second)
        assert now.headers["etag"] == '"2"'
        assert at(between.isoformat()).json()["version"] == first.version
        assert "etag" not in at(between.isoformat()).headers
        assert problem(at("2020-01-01T00:00:00Z")) == (404, "unknown-model")
        naive = at("2026-01-01T00:00:00")
        assert problem(naive) == (400, "invalid-request")
        assert "has no offset from UTC" in naive.json()["errors"][0]["message"]
        assert problem(at("0001-01-01T00:00:00+14:00")) == (400, "invalid-request")
        assert problem(at("yesterday")) == (400, "invalid-request")


def test_a_fleet_without_a_model_says_so_and_an_unknown_one_is_refused(platform):
    with platform.client() as client:
        assert client.get(f"{FLEET}/models").json()["versions"] == []
        assert client.get(f"{FLEET}/models").headers["etag"] == '"0"'
        assert problem(client.get(f"{FLEET}/champion")) == (404, "unknown-model")
        assert problem(client.get(f"{FLEET}/models/{NEVER}")) == (404, "unknown-model")
        assert problem(promote(client, NEVER)) == (404, "unknown-model")
        assert problem(roll_back(client)) == (409, "contradiction")
        for path in ("models", "champion", "champion/history", f"models/{NEVER}/card"):
            assert problem(client.get(f"/v1/fleets/fans/{path}")) == (404, "unknown-fleet")
        body = {"reason": "x"}
        for path in (f"models/{NEVER}/promote", "champion/rollback"):
            answer = client.post(f"/v1/fleets/fans/{path}", json=body, headers={"If-Match": "*"})
            assert problem(answer) == (404, "unknown-fleet")


@pytest.mark.parametrize("version", ["20260332T000000Z-0a1b2c", "20260331T000000Z-0a1b2c"])
def test_a_version_that_cannot_be_or_is_not_there_is_unknown(platform, version):
    with platform.client() as client:
        answer = client.get(f"/v1/fleets/pumps/models/{version}")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/unknown-model")


def test_a_card_and_its_pictures_are_sent_so_that_nothing_in_them_runs(platform):
    version = platform.train(pictures={"coverage.png": b"\x89PNG"})
    with platform.client() as client:
        card = client.get(f"{FLEET}/models/{version}/card")
        picture = client.get(str(card.url.join("coverage.png")))
        assert (card.text, picture.content) == ("# Pumps", b"\x89PNG")
        assert card.headers["content-type"] == "text/markdown; charset=utf-8"
        assert picture.headers["content-type"] == "image/png"
        for answer in (card, picture):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in answer.headers["content-security-policy"]
            assert "immutable" in answer.headers["cache-control"]
        assert problem(client.get(f"{FLEET}/models/{version}/fan.png")) == (404, "not-found")
        for name in ("model.cbm", "bundle.json", "..%2F..%2Flive.json", "%2e%2e"):
            assert client.get(f"{FLEET}/models/{version}/{name}").status_code in {400, 404}
        (platform.bundle(version) / "card.md").write_text("<script>")
        assert problem(client.get(f"{FLEET}/models/{version}/card")) == (409, "damaged-model")


def test_a_promotion_is_live_here_at_once_everywhere_soon_and_in_the_audit(platform, eventually):
    first = platform.release().version
    second = platform.train()
    slow = {"model_poll_seconds": 60}
    with platform.client(**slow) as client, platform.client() as other:
        moved = promote(client, second, '"1"')
        assert served_version(client) == second
        eventually(lambda: served_version(other) == second)
        history = client.get(f"{FLEET}/champion/history").json()["moves"]
        assert standings(client) == {first: "earlier_champion", second: "champion"}
    assert moved.status_code == 200
    assert moved.headers["etag"] == '"2"'
    assert moved.json()["warning"] == ""
    champion = champions.current(platform.engine, "pumps")
    assert moved.json()["champion"] == history[0] == msgspec.to_builtins(champion)
    assert (history[0]["action"], history[0]["promoted_by"]) == ("promote", "anonymous")
    assert champions.read_live(platform.root, "pumps") == champion
    entry, release = audit.page(platform.engine, limit=5).entries
    assert (entry.action, entry.target, entry.principal) == ("model.promote", second, "anonymous")
    assert entry.detail == {"generation": 2, "why": "it is better"}
    assert entry.trace_id == moved.headers["x-request-id"]
    assert (release.action, release.principal) == ("model.release", "a test")


def test_a_move_is_heard_over_the_release_channel(platform, eventually, redis_url):
    platform.release()
    second = platform.train()
    slow = {"model_poll_seconds": 60, "redis_url": redis_url}
    with platform.client(**slow) as client, platform.client(**slow) as other:
        promote(client, second)
        eventually(lambda: served_version(other) == second)


def test_a_rollback_takes_less_than_a_second_and_goes_on_back(platform):
    live = [platform.release().version for _ in range(3)]
    with platform.client(model_poll_seconds=60) as client:
        started = time.monotonic()
        assert roll_back(client, '"3"').json()["champion"]["action"] == "rollback"
        assert time.monotonic() - started < 1
        assert served_version(client) == live[1]
        assert roll_back(client).json()["champion"]["version"] == live[0]
        last = roll_back(client)
    assert problem(last) == (409, "contradiction")
    assert "has no version before" in last.json()["detail"]


def test_of_two_who_act_at_once_one_wins_and_the_other_is_told_who(platform):
    platform.release()
    wanted = [platform.train() for _ in range(4)]
    answers: list[httpx.Response] = []
    with platform.client() as client:
        begin = threading.Barrier(len(wanted))

        def act(version: str) -> None:
            begin.wait()
            answers.append(promote(client, version, '"1"'))

        threads = [threading.Thread(target=act, args=(version,)) for version in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (won,) = (answer for answer in answers if answer.status_code == 200)
        lost = [answer for answer in answers if answer.status_code != 200]
        assert served_version(client) == won.json()["champion"]["version"]
    assert {problem(answer) for answer in lost} == {(412, "precondition-failed")}
    champion = won.json()["champion"]
    for answer in lost:
        assert f"made {champion['version']} live (generation 2" in answer.json()["detail"]
    assert len(champions.history(platform.engine, "pumps")) == 2
    assert len(audit.page(platform.engine, limit=9).entries) == 2


def test_a_move_says_what_it_was_decided_on_and_why(platform):
    platform.release()
    second = platform.train()
    with platform.client() as client:
        assert problem(promote(client, second, None)) == (428, "precondition-required")
        for stale in ('"0"', '"7"', "W/x"):
            assert problem(promote(client, second, stale)) == (412, "precondition-failed")
            assert problem(roll_back(client, stale)) == (412, "precondition-failed")
        for reason in ("", " ", 1):
            answer = promote(client, second, reason=reason)
            assert problem(answer) == (400, "invalid-request")
        assert problem(promote(client, second, live=True)) == (400, "invalid-request")
        assert problem(promote(client, "newest")) == (400, "invalid-request")
        assert promote(client, second, '"0", "1"').status_code == 200
        again = promote(client, second)
    assert problem(again) == (409, "contradiction")
    assert "is the champion of fleet 'pumps' already" in again.json()["detail"]


def test_a_repeat_with_its_key_moves_once(platform):
    platform.release()
    second = platform.train()
    with platform.client() as client:
        key = {"Idempotency-Key": "k-1"}
        first, again = (promote(client, second, '"1"', headers=key) for _ in range(2))
        back = [roll_back(client, **{"Idempotency-Key": "k-2"}) for _ in range(2)]
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert [answer.status_code for answer in back] == [200, 200]
    assert len(champions.history(platform.engine, "pumps")) == 3


def test_what_the_gate_speaks_against_is_promoted_only_despite_it(platform):
    platform.release()
    leaky, worse = platform.train(LEAKS), platform.train()
    versions.keep_ruling(platform.engine, "pumps", worse, Ruled(passed=False, why="9 cycles off"))
    with platform.client() as client:
        refused = promote(client, leaky)
        assert problem(refused) == (409, "gate-not-passed")
        assert "hours alone knows the end" in refused.json()["detail"]
        assert problem(promote(client, worse)) == (409, "gate-not-passed")
        assert promote(client, worse, despite_gate=True).status_code == 200
        assert promote(client, leaky, despite_gate=True).status_code == 200
        # It came to be live against the gate, and that it was live does not speak for it.
        assert problem(promote(client, worse)) == (409, "gate-not-passed")
    last, before, *_ = audit.page(platform.engine, limit=5).entries
    assert before.detail["despite"] == ["9 cycles off"]
    assert "hours alone knows the end" in last.detail["despite"][0]


@pytest.mark.parametrize(
    ("harm", "kind"), [(damage, (409, "damaged-model")), (remove, (404, "unknown-model"))]
)
def test_a_bundle_corrupted_before_a_swap_is_refused_and_the_old_model_stays(platform, harm, kind):
    old = platform.release().version
    new = platform.train()
    harm(platform, new)
    with platform.client() as client:
        assert problem(promote(client, new, '"1"')) == kind
        assert served_version(client) == old
        assert client.get("/health").json()["status"] == "ready"
        said = client.post("/v1/prognoses", json=platform.question("unit-000001")).json()
        assert said["prognoses"][0]["provenance"]["model_version"] == old
        assert client.get(f"{FLEET}/champion").headers["etag"] == '"1"'
    assert len(audit.page(platform.engine, limit=9).entries) == 1


def test_a_model_that_answers_otherwise_than_when_it_was_trained_is_not_promoted(platform):
    platform.release()
    other = platform.train()
    folder = platform.bundle(other)
    golden = msgspec.json.decode((folder / "golden.json").read_bytes())
    golden["predictions"]["rul_cycles"][0] += 1.0
    contents: dict[str, Path | bytes] = {
        path.name: path
        for path in folder.iterdir()
        if path.name not in {"golden.json", "bundle.json", "SHA256SUMS"}
    }
    manifest = msgspec.json.decode((folder / "bundle.json").read_bytes())
    contents["golden.json"] = msgspec.json.encode(golden)
    lies = BundleStore(platform.root).write("pumps", contents, manifest)
    with platform.client() as client:
        answer = promote(client, lies)
    assert problem(answer) == (409, "damaged-model")
    assert "does not answer as it did when it was trained" in answer.json()["detail"]


def test_a_champion_corrupted_on_disk_can_be_rolled_back_over_http(platform, eventually):
    first, second = platform.release().version, platform.release().version
    damage(platform, second)
    with platform.client() as client:
        assert client.get("/health").json()["status"] == "degraded"
        assert roll_back(client, '"2"').status_code == 200
        assert served_version(client) == first
        eventually(lambda: client.get("/health").json()["status"] == "ready")
        damage(platform, first)
        back = promote(client, second)
    assert problem(back) == (409, "damaged-model")


def test_a_move_whose_file_cannot_be_written_is_made_and_says_so(platform, monkeypatch):
    platform.release()
    second = platform.train()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = swallowed.counts().get("champion_projection", 0)
    with platform.client() as client:
        monkeypatch.setattr(champions.files, "write_json", full)
        moved = promote(client, second, '"1"')
        assert served_version(client) == second
    assert moved.status_code == 200
    assert "live.json could not be written" in moved.json()["warning"]
    assert moved.json()["champion"]["generation"] == 2
    assert swallowed.counts()["champion_projection"] == before + 1


def test_a_look_that_began_before_a_move_does_not_undo_it(platform, monkeypatch):
    first = platform.release()
    second = platform.train()
    looking, go_on = threading.Event(), threading.Event()
    with platform.client(model_poll_seconds=0.05) as client:
        ask = champions.current_all

        def slow(engine):
            found = ask(engine)
            looking.set()
            assert go_on.wait(10)
            return found

        monkeypatch.setattr(champions, "current_all", slow)
        assert looking.wait(10)
        promote(client, second)
        monkeypatch.setattr(champions, "current_all", ask)
        served = client.app.state.service.models
        seen = []
        exchange = served._exchange
        monkeypatch.setattr(
            served,
            "_exchange",
            lambda champion, proven: (seen.append(champion), exchange(champion, proven)),
        )
        go_on.set()
        looks = []
        monkeypatch.setattr(
            champions, "current_all", lambda engine: (looks.append(1), ask(engine))[1]
        )
        deadline = time.monotonic() + 10
        while len(looks) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert served_version(client) == second
    assert seen == []
    assert first.version != second


def test_only_who_may_release_moves_a_champion(platform):
    platform.release()
    second = platform.train()
    others = [platform.key(role) for role in ("engineer", "planner", "viewer")]
    others.append(platform.key("ml_owner", fleets=["other"]))
    mia = platform.key("ml_owner", name="Mia")
    with platform.client(access="keys") as client:
        for key in others:
            answer = promote(client, second, headers={"X-API-Key": key})
            assert problem(answer) == (403, "forbidden")
        moved = promote(client, second, headers={"X-API-Key": mia})
    assert moved.json()["champion"]["promoted_by"] == "Mia"


def test_bundles_are_read_again_only_when_they_look_changed(platform, monkeypatch):
    version = platform.release().version
    inspector = Inspector(BundleStore(platform.root))
    about = versions.known(platform.engine, "pumps")
    assert inspector.one("pumps", about, version).damage == ""
    opened = []
    real = BundleStore.open
    monkeypatch.setattr(BundleStore, "open", lambda *named: (opened.append(named), real(*named))[1])
    assert inspector.one("pumps", about, version).damage == ""
    assert opened == []
    damage(platform, version)
    assert "model.cbm differs" in inspector.one("pumps", about, version).damage
    assert len(opened) == 1
    assert fleets.names(platform.root) == ("pumps",)
