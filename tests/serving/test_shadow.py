"""A challenger in the shadow: it sees what the champion sees, and nobody is told but who asks."""

import threading
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from litestar.testing import TestClient

from rul_serving import saying
from rul_serving import shadow as shadow_module
from rul_store import audit, ledger, shadow, swallowed
from rul_store.database import begin
from tests.serving.test_models import FLEET, problem, promote, standings
from tests.serving.test_readings import body, expected, life_of, plain, send
from tests.serving.test_refresh import (
    learnt_otherwise,
    other,
    units_of,
)
from tests.serving.test_served import damage

__all__ = ["learnt_otherwise", "other"]


def nominate(client: TestClient, version: str, **more: Any) -> httpx.Response:
    body = {"version": version, "reason": "a week beside the champion"}
    return client.post(f"{FLEET}/challenger", json=body, **more)


def withdraw(client: TestClient, reason: str = "it is enough") -> httpx.Response:
    return client.delete(f"{FLEET}/challenger", params={"reason": reason})


def report(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.get(f"{FLEET}/shadow", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def loaded(client: TestClient) -> bool:
    beside = client.app.state.service.shadow.get("pumps")
    return beside is not None and beside.loaded is not None


def kept(platform) -> list[Any]:
    with begin(platform.engine) as connection:
        query = "SELECT unit, cycle, version FROM shadow_prognoses ORDER BY unit, cycle"
        return list(connection.execute(sa.text(query)).all())


@pytest.fixture
def challenged(platform, other):
    """The champion's version and the challenger's."""
    champion, challenger = platform.release().version, other.train()
    shadow.nominate(
        platform.engine, platform.root, "pumps", challenger, by="Mia", reason="to compare"
    )
    return champion, challenger


def test_it_speaks_of_the_same_readings_and_never_in_the_ledger(
    platform, other, challenged, eventually
):
    champion, challenger = challenged
    with platform.client() as client:
        eventually(lambda: loaded(client))
        names = units_of(platform, 3)
        answers = {
            name: send(client, body(platform, life_of(platform, name)[:20])) for name in names
        }
        eventually(lambda: len(report(client)["pairs"]) == 3)
        told = report(client)
        (first,) = report(client, limit=1)["pairs"]
        rest = client.get(client.get(f"{FLEET}/shadow?limit=1").links["next"]["url"]).json()
        pairs = shadow.page(platform.engine, "pumps", challenger, limit=9).pairs
    assert (told["version"], told["challenger"]["nominated_by"]) == (challenger, "Mia")
    assert told["problem"] == ""
    assert [first["unit"], rest["pairs"][0]["unit"]] == names[:2]
    for pair in pairs:
        life = life_of(platform, pair.unit)[:20]
        assert plain(pair.champion) == expected(platform, champion, life)
        assert plain(pair.challenger) == expected(other, challenger, life)
        assert pair.cycle == 20.0
        (said,) = answers[pair.unit]["prognoses"]
        assert str(pair.champion.provenance.ledger_id) == said["provenance"]["ledger_id"]
        assert pair.challenger.provenance.ledger_id is None
        if pair.difference_cycles is not None:
            a, b = pair.challenger.rul_cycles, pair.champion.rul_cycles
            assert a is not None
            assert b is not None
            assert pair.difference_cycles == a - b
    frame = ledger.ledger_frame(platform.engine, "pumps")
    assert set(frame["model_version"]) == {champion}
    assert frame.height == 3


def test_of_a_life_few_rows_are_kept_and_the_newest_is_told(platform, challenged, eventually):
    name = units_of(platform, 1)[0]
    life = life_of(platform, name)[:40]
    step_cycles = platform.learnt.training.model.fleet.learning.label_cap_cycles / shadow.STEPS
    with platform.client() as client:
        eventually(lambda: loaded(client))
        for end in range(10, 40):
            send(client, body(platform, life[end - 10 if end == 10 else end - 1 : end]))
        eventually(lambda: bool(kept(platform)) and kept(platform)[-1].cycle == 39.0)
        (pair,) = report(client)["pairs"]
    assert pair["cycle"] == 39.0
    steps = [row.cycle // step_cycles for row in kept(platform)]
    assert len(set(steps)) == len(steps)


def test_a_challenger_that_fails_touches_neither_the_champion_nor_its_neighbours(
    platform, challenged, eventually, monkeypatch
):
    champion, challenger = challenged
    bad, good = units_of(platform, 2)
    really = saying.judge

    def fail(model: Any, followed: Any, **named: Any) -> Any:
        if named["version"] == challenger and any(one.unit == bad for one in followed):
            raise ValueError("a division by zero")
        return really(model, followed, **named)

    monkeypatch.setattr(saying, "judge", fail)
    before = swallowed.counts().get("challenger", 0)
    with platform.client() as client:
        eventually(lambda: loaded(client))
        rows = [*body(platform, life_of(platform, bad)[:20])]
        rows += body(platform, life_of(platform, good)[:20])
        answer = send(client, rows)
        eventually(lambda: len(report(client)["pairs"]) == 2)
        pairs = {pair["unit"]: pair for pair in report(client)["pairs"]}
        assert client.get("/health").json()["status"] == "ready"
    assert {one["provenance"]["model_version"] for one in answer["prognoses"]} == {champion}
    assert "model_error" not in {one["state"] for one in answer["prognoses"]}
    assert pairs[bad]["challenger"]["state"] == "model_error"
    assert pairs[bad]["difference_cycles"] is None
    assert pairs[good]["challenger"]["state"] != "model_error"
    assert swallowed.counts()["challenger"] == before + 1


def test_a_shadow_that_hangs_or_breaks_holds_up_no_reading(
    platform, challenged, eventually, monkeypatch
):
    begun, go_on = threading.Event(), threading.Event()
    really = shadow_module.Shadow.step

    def hang(*args: Any) -> None:
        begun.set()
        assert go_on.wait(30)
        raise RuntimeError("something nobody foresaw")

    monkeypatch.setattr(shadow_module.Shadow, "step", hang)
    name, next_one = units_of(platform, 2)
    with platform.client() as client:
        eventually(lambda: loaded(client))
        send(client, body(platform, life_of(platform, name)[:20]))
        assert begun.wait(10)
        answer = send(client, body(platform, life_of(platform, next_one)[:20]))
        assert answer["new"] == 20
        assert kept(platform) == []
        before = swallowed.counts().get("shadow", 0)
        monkeypatch.setattr(shadow_module.Shadow, "step", really)
        go_on.set()
        eventually(lambda: [pair["unit"] for pair in report(client)["pairs"]] == [next_one])
        assert swallowed.counts()["shadow"] == before + 1


@pytest.mark.usefixtures("challenged")
def test_units_beyond_the_most_that_may_wait_have_no_shadow(platform, eventually, monkeypatch):
    monkeypatch.setattr(shadow_module, "MOST_WAITING", 1)
    one, two = units_of(platform, 2)
    with platform.client() as client:
        shadows = client.app.state.service.shadow
        eventually(lambda: loaded(client))
        monkeypatch.setattr(shadows, "_speak", None)
        answers = [send(client, body(platform, life_of(platform, n)[:20])) for n in (one, two)]
        assert all(answer["new"] == 20 for answer in answers)
        assert set(shadows._waiting["pumps"]) == {one}
        send(client, body(platform, life_of(platform, one)[20:21]))
        assert shadows._waiting["pumps"][one].cycle == 21.0


def test_a_nomination_is_audited_and_ends_by_withdrawal_or_promotion(platform, other, eventually):
    champion, version = platform.release().version, other.train()
    with platform.client() as client:
        nominated = nominate(client, version)
        assert nominated.status_code == 200
        assert standings(client) == {champion: "champion", version: "challenger"}
        eventually(lambda: loaded(client))
        again = nominate(client, version)
        assert problem(again) == (409, "contradiction")
        assert "anonymous nominated version" in again.json()["detail"]
        assert withdraw(client).json() == nominated.json()
        eventually(lambda: not loaded(client))
        assert problem(withdraw(client)) == (409, "contradiction")
        assert problem(client.get(f"{FLEET}/shadow")) == (404, "unknown-model")
        assert report(client, version=version)["challenger"] is None
        assert nominate(client, version).status_code == 200
        assert promote(client, version).status_code == 200
        assert shadow.nominees(platform.engine) == {}
        assert problem(nominate(client, version)) == (409, "contradiction")
        assert nominate(client, champion).status_code == 200
    entries = audit.page(platform.engine, limit=9).entries
    assert [entry.action for entry in entries] == [
        "model.nominate", "model.promote", "model.nominate", "model.withdraw", "model.nominate",
        "model.release",
    ]  # fmt: skip
    assert entries[3].detail == {"why": "it is enough"}
    assert entries[4].target == version
    assert entries[4].trace_id == nominated.headers["x-request-id"]


def test_what_cannot_be_nominated_is_refused_and_says_why(platform):
    version = platform.train()
    with platform.client() as client:
        nobody = nominate(client, version)
        assert problem(nobody) == (409, "contradiction")
        assert "has no champion to speak beside" in nobody.json()["detail"]
        platform.promote(version)
        assert problem(nominate(client, version)) == (409, "contradiction")
        assert problem(nominate(client, "20200101T000000Z-000000")) == (404, "unknown-model")
        assert problem(nominate(client, "newest")) == (400, "invalid-request")
        assert problem(withdraw(client, "")) == (400, "invalid-request")
        assert problem(withdraw(client, " ")) == (400, "invalid-request")
        assert problem(client.delete(f"{FLEET}/challenger")) == (400, "invalid-request")
        broken = platform.train()
        damage(platform, broken)
        assert problem(nominate(client, broken)) == (409, "damaged-model")
        wrong = client.get(f"{FLEET}/shadow", params={"version": version, "cursor": "x"})
        assert problem(wrong) == (400, "invalid-cursor")
    assert shadow.nominees(platform.engine) == {}


def test_a_challenger_whose_bundle_is_damaged_is_told_and_speaks_once_it_is_restored(
    platform, challenged, eventually, monkeypatch
):
    monkeypatch.setattr(shadow_module, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(shadow_module, "LOOK_SECONDS", 0.1)
    champion, challenger = challenged
    whole = (platform.bundle(challenger) / "model.cbm").read_bytes()
    damage(platform, challenger)
    with platform.client() as client:
        eventually(lambda: "model.cbm differs" in report(client)["problem"])
        assert client.get("/health").json()["status"] == "ready"
        answer = send(client, body(platform, life_of(platform, units_of(platform, 1)[0])[:20]))
        assert answer["prognoses"][0]["provenance"]["model_version"] == champion
        (platform.bundle(challenger) / "model.cbm").write_bytes(whole)
        eventually(lambda: loaded(client))
        assert report(client)["problem"] == ""


def test_both_are_held_against_lives_that_have_failed_since(platform, challenged, eventually):
    with platform.client() as client:
        eventually(lambda: loaded(client))
        failed = [name for name in units_of(platform, 15) if life_of(platform, name).height > 30][
            :3
        ]
        for name in failed:
            life = life_of(platform, name)
            for end in (life.height - 20, life.height - 8, life.height - 2):
                send(client, body(platform, life[:end]))
                eventually(
                    lambda name=name, end=end: (
                        (name, float(end)) in {(row.unit, row.cycle) for row in kept(platform)}
                    )
                )
        assert report(client)["comparison"]["pairs"] == 0
        assert report(client)["comparison"]["paired"] is None
        for name in failed[:2]:
            end = {"end": {"outcome": "failed", "end_cycle": life_of(platform, name).height}}
            client.post(f"/v1/fleets/pumps/units/{name}/lives", json=end)
        client.post(
            f"/v1/fleets/pumps/units/{failed[2]}/lives", json={"end": {"outcome": "replaced"}}
        )
        found = report(client)["comparison"]
    assert (found["champion"]["lives"], found["challenger"]["lives"]) == (2, 2)
    assert found["challenger"]["censored_lives"] == 1
    assert found["paired"]["units"] == 2
    assert 0 < found["pairs"] <= 6
    low, high = found["paired"]["low_cycles"], found["paired"]["high_cycles"]
    assert low <= found["paired"]["difference_cycles"] <= high
    assert {held["level"] for held in found["challenger"]["coverage"]} == {0.5, 0.9}


def test_what_a_former_challenger_said_is_removed_after_its_time(platform, challenged, eventually):
    with platform.client() as client:
        eventually(lambda: loaded(client))
        send(client, body(platform, life_of(platform, units_of(platform, 1)[0])[:20]))
        eventually(lambda: len(kept(platform)) == 1)
    with begin(platform.engine) as connection:
        old = "UPDATE shadow_prognoses SET computed_at = computed_at - interval '91 days'"
        connection.execute(sa.text(old))
    assert shadow.remove_old(platform.engine) == 0
    shadow.withdraw(platform.engine, "pumps", by="Mia", reason="enough")
    assert shadow.remove_old(platform.engine) == 1
    assert kept(platform) == []
