"""Lives end and begin over HTTP, units leave service, and people say what they found."""

from collections.abc import Generator
from typing import Any

import pytest
from litestar.testing import TestClient
from msgspec.structs import replace

from rul_core.schema import Outcome
from rul_serving.problems import Kind
from rul_serving.settings import AccessMode
from rul_store import fleets, keys, lives
from rul_store.keys import Author
from tests.serving.conftest import Platform
from tests.serving.test_advisories import LIST, audited, problem, say

UNIT = "/v1/fleets/pumps/units/ill"


@pytest.fixture
def warned(platform: Platform) -> Platform:
    say(platform, "ill", 4.0, 3.0)
    return platform


@pytest.fixture
def client(warned: Platform) -> Generator[TestClient]:
    with warned.client() as client:
        yield client


def kept(client: TestClient, unit: str = UNIT) -> list[tuple[Any, ...]]:
    answer = client.get(f"{unit}/lives")
    assert answer.status_code == 200, answer.text
    return [(life["life"], life["outcome"], life["end_cycle"]) for life in answer.json()["lives"]]


def states(client: TestClient) -> list[str]:
    return [one["state"] for one in client.get(LIST).json()["advisories"]]


def test_a_replacement_ends_one_life_starts_the_next_and_closes_the_advisory(warned, client):
    body = {
        "end": {"outcome": "replaced", "end_cycle": 2.5, "time": "2026-11-24T08:00:00+01:00"},
        "start": {"life": 2},
    }
    response = client.post(f"{UNIT}/lives", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["lives"][0]["end_time"] == "2026-11-24T07:00:00Z"
    assert kept(client) == [(1, "replaced", 2.5), (2, "running", None)]
    assert states(client) == ["closed"]
    ((who, action, fleet, detail),) = audited(warned)
    assert (who, action, fleet) == ("anonymous", "unit.lives", "pumps")
    assert detail["end"]["outcome"] == "replaced"
    again = client.post(f"{UNIT}/lives", json=body)
    assert again.json() == response.json(), "the same again changes nothing"
    assert len(audited(warned)) == 1


def test_an_end_without_a_cycle_is_at_the_newest_reading(client):
    assert client.post(f"{UNIT}/lives", json={"end": {"outcome": "failed"}}).status_code == 200
    assert kept(client) == [(1, "failed", 2.0)]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"end": {"outcome": "failed", "end_cycle": 1}}, "has a reading at cycle 2"),
        ({"end": {"outcome": "failed", "life": 7}, "start": {}}, "nothing was ever read of life 7"),
    ],
)
def test_an_end_that_contradicts_what_is_kept_is_409_and_changes_nothing(
    warned, client, body, told
):
    problem(client.post(f"{UNIT}/lives", json=body), Kind.CONTRADICTION, told)
    assert kept(client) == []
    assert audited(warned) == []
    client.post(f"{UNIT}/lives", json={"end": {"outcome": "failed"}}).raise_for_status()
    other = {"end": {"outcome": "removed"}, "start": {}}
    problem(client.post(f"{UNIT}/lives", json=other), Kind.CONTRADICTION, "kept as failed at cycle")
    assert kept(client) == [(1, "failed", 2.0)], "the start was not kept either"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "neither end nor start"),
        ({"end": {"outcome": "running"}}, "Invalid enum value 'running'"),
        ({"end": {"outcome": "failed", "end_cycle": "9"}}, "Expected `float | null`, got `str`"),
        ({"start": {"life": 0}}, "`int` >= 1"),
        ({"start": {"time": "0001-01-01T00:00:00+14:00"}}, "years 1 to 9999"),
    ],
)
def test_a_body_that_cannot_be_read_is_named(client, body, told):
    problem(client.post(f"{UNIT}/lives", json=body), Kind.INVALID_REQUEST, told)


def test_an_unknown_unit_is_taken_in_or_refused_by_the_fleets_description(platform):
    new = "/v1/fleets/pumps/units/new"
    with platform.client() as client:
        problem(client.get(f"{new}/lives"), Kind.UNKNOWN_UNIT, "unit 'new' of fleet 'pumps'")
        assert client.post(f"{new}/lives", json={"start": {}}).status_code == 200
        assert kept(client, new) == [(1, "running", None)]
    fleet = fleets.load(platform.root, "pumps")
    fleets.save(platform.root, replace(fleet, unknown_units="refuse"), replace=True)
    with platform.client() as client:
        newer = "/v1/fleets/pumps/units/newer"
        for _ in range(2):
            problem(client.post(f"{newer}/lives", json={"start": {}}), Kind.UNKNOWN_UNIT)
        started = client.post(f"{new}/lives", json={"end": {"outcome": "removed", "end_cycle": 1}})
        assert started.status_code == 200, "a known unit is no new one"
    assert lives.read(platform.engine, "pumps")["outcome"].to_list() == [Outcome.REMOVED]


def test_an_unknown_fleet_is_404(client):
    for method, path, body in [
        ("GET", "lives", None),
        ("POST", "lives", {"start": {}}),
        ("POST", "service-state", {"state": "in_service", "reason": "x"}),
        ("POST", "verdicts", {"finding": "found_damage"}),
    ]:
        response = client.request(method, f"/v1/fleets/fans/units/ill/{path}", json=body)
        problem(response, Kind.UNKNOWN_FLEET)


def test_a_unit_in_maintenance_suppresses_its_advisory_until_it_is_back(warned, client):
    body = {"state": "in_maintenance", "reason": "overhaul"}
    service = client.post(f"{UNIT}/service-state", json=body).json()
    assert (service["state"], service["by"], service["why"]) == (
        "in_maintenance",
        "anonymous",
        "overhaul",
    )
    assert states(client) == ["suppressed"]
    assert client.get(f"{UNIT}/lives").json()["service"] == service
    client.post(f"{UNIT}/service-state", json={"state": "in_service", "reason": "done"})
    assert states(client) == ["active_unacknowledged"]
    assert [action for _, action, _, _ in audited(warned)] == ["unit.service_state"] * 2
    nobody = client.post("/v1/fleets/pumps/units/nobody/service-state", json=body)
    problem(nobody, Kind.UNKNOWN_UNIT)


def advisory_of(client: TestClient) -> str:
    (advisory,) = client.get(LIST).json()["advisories"]
    return f"/v1/advisories/{advisory['advisory_id']}"


def test_nothing_found_and_the_unit_goes_on_is_a_false_alarm(warned, client):
    path = advisory_of(client)
    body = {"finding": "found_nothing", "note": "the sensor was loose"}
    verdict = client.post(f"{path}/verdict", json=body).json()
    assert (verdict["outcome"], verdict["given_by"]) == ("running", "anonymous")
    assert client.get(LIST).json()["record"]["false_alarms"] == 1
    assert states(client) == ["active_acknowledged"]
    history = client.get(f"{path}/events").json()
    assert history["verdicts"] == [verdict]
    assert history["events"][-1]["kind"] == "judged"
    assert lives.read(warned.engine, "pumps").is_empty(), "the life goes on"
    assert [action for _, action, _, _ in audited(warned)] == ["verdict.give"]


def test_damage_and_a_replacement_is_a_censored_life(warned, client):
    body = {"finding": "found_damage", "mode": "vibration", "end": {"outcome": "replaced"}}
    verdict = client.post(f"{UNIT}/verdicts", json=body).json()
    assert (verdict["outcome"], verdict["life"], verdict["mode"]) == ("replaced", 1, "vibration")
    assert verdict["advisory_id"] in advisory_of(client)
    assert kept(client) == [(1, "replaced", 2.0)]
    assert states(client) == ["closed"]
    assert lives.count_ended(warned.engine, "pumps", outcome=Outcome.FAILED) == 0
    late = client.post(f"{advisory_of(client)}/verdict", json={"finding": "found_nothing"})
    assert late.json()["outcome"] == "replaced", "the unit did not go on"
    assert client.get(LIST).json()["record"]["not_said"] == 1


def test_only_a_failure_is_a_failure(warned, client):
    body = {"finding": "found_damage", "end": {"outcome": "failed", "end_cycle": 3}}
    client.post(f"{advisory_of(client)}/verdict", json=body).raise_for_status()
    assert lives.read(warned.engine, "pumps").rows() == [("ill", 1, "failed", 3.0)]


def test_a_verdict_that_contradicts_itself_or_what_is_kept_is_refused(client):
    body = {"finding": "found_nothing", "end": {"outcome": "failed"}}
    problem(client.post(f"{UNIT}/verdicts", json=body), Kind.INVALID_REQUEST, "correct one")
    client.post(f"{UNIT}/lives", json={"end": {"outcome": "failed"}}).raise_for_status()
    body = {"finding": "found_damage", "end": {"outcome": "replaced"}}
    problem(client.post(f"{UNIT}/verdicts", json=body), Kind.CONTRADICTION, "is kept as failed")
    body = {"finding": "found_nothing"}
    problem(client.post(f"{UNIT}/verdicts", json=body), Kind.CONTRADICTION, "ended in failure")
    body = {"finding": "found_damage", "life": 9}
    problem(client.post(f"{UNIT}/verdicts", json=body), Kind.CONTRADICTION, "has no life 9")
    nobody = "/v1/fleets/pumps/units/nobody/verdicts"
    problem(client.post(nobody, json={"finding": "found_damage"}), Kind.UNKNOWN_UNIT)


def test_a_technician_says_what_was_found_but_ends_no_life(warned):
    made = keys.create(
        warned.engine, name="tom", roles=["technician"], by=Author(principal="a test")
    )
    headers = {"Authorization": f"Bearer {made.secret}"}
    with warned.client(access=AccessMode.KEYS) as client:
        ended = {"finding": "found_damage", "end": {"outcome": "failed"}}
        answer = client.post(f"{UNIT}/verdicts", json=ended, headers=headers)
        problem(answer, Kind.FORBIDDEN, "not end a life")
        found = client.post(f"{UNIT}/verdicts", json={"finding": "found_damage"}, headers=headers)
        assert (found.status_code, found.json()["given_by"]) == (200, "tom")
        problem(client.post(f"{UNIT}/lives", json={"start": {}}, headers=headers), Kind.FORBIDDEN)
