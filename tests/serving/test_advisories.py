"""People act on advisories: each step with its version, its reason and its refusals."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from litestar.testing import TestClient

from rul_core.prognosis import Prognosis, State
from rul_serving.problems import Kind
from rul_serving.settings import AccessMode
from rul_store import advisories, audit, fleets, keys, ledger, unit_lives
from rul_store.database import begin
from rul_store.keys import Author
from tests.serving.conftest import Platform

LATER = "2099-01-01T00:00:00Z"
LIST = "/v1/fleets/pumps/advisories"
BODIES: dict[str, dict[str, Any]] = {
    "acknowledge": {"reason": "seen"},
    "plan": {"reason": "on Sunday", "due_time": LATER},
    "shelve": {"reason": "bad sensor", "until_time": LATER},
    "unshelve": {"reason": "sensor mended"},
    "close": {"reason": "greased"},
}


def say(platform: Platform, unit: str, *safe: float, first: int = 1) -> None:
    """One prognosis after another, each judged as it is recorded."""
    fleet = fleets.load(platform.root, "pumps")
    for cycle, one in enumerate(safe, first):
        said = Prognosis(
            fleet="pumps",
            unit=unit,
            life=1,
            cycle=cycle,
            state=State.ESTIMATED,
            safe_cycles=one,
            computed_at=datetime.now(UTC),
        )
        with begin(platform.engine) as connection:
            unit_lives.introduce(connection, "pumps", unit)
            ledger.append(connection, "pumps", [said])
            advisories.judge(connection, fleet, [unit])


@pytest.fixture
def warned(platform: Platform) -> Platform:
    """One unit with an open advisory, and one that is well."""
    say(platform, "ill", 4.0, 3.0)
    say(platform, "well", 90.0, 90.0)
    return platform


@pytest.fixture
def client(warned: Platform) -> Generator[TestClient]:
    with warned.client() as client:
        yield client


@pytest.fixture
def key_of(warned: Platform) -> Callable[..., dict[str, str]]:
    """The headers of somebody with a role."""

    def make(role: str, fleets: list[str] | None = None) -> dict[str, str]:
        made = keys.create(
            warned.engine, name=role, roles=[role], fleets=fleets, by=Author(principal="a test")
        )
        return {"Authorization": f"Bearer {made.secret}"}

    return make


@contextmanager
def guarded(platform: Platform) -> Generator[TestClient]:
    with platform.client(access=AccessMode.KEYS) as client:
        yield client


def address(client: TestClient, action: str = "") -> str:
    (advisory,) = client.get(LIST).json()["advisories"]
    return f"/v1/advisories/{advisory['advisory_id']}" + (f"/{action}" if action else "")


def act(client: TestClient, action: str, version: int, **changed: Any) -> httpx.Response:
    return client.post(
        address(client, action),
        json={**BODIES[action], **changed},
        headers={"If-Match": f'"{version}"'},
    )


def problem(response: httpx.Response, kind: Kind, told: str = "") -> None:
    body = response.json()
    assert (response.status_code, body["type"]) == (kind.status, kind.type), response.text
    assert told in body["detail"]


def audited(platform: Platform) -> list[tuple[str, str, str | None, dict[str, Any]]]:
    entries = audit.page(platform.engine, limit=100).entries
    return [(one.principal, one.action, one.fleet, one.detail) for one in reversed(entries)]


def test_advisories_are_listed_with_what_may_be_done(client):
    body = client.get(LIST).json()
    (advisory,) = body["advisories"]
    assert (advisory["unit"], advisory["state"]) == ("ill", "active_unacknowledged")
    assert advisory["allowed"] == ["acknowledge", "plan", "shelve", "close"]
    assert (advisory["safe_cycles"], advisory["rule"]["horizon_cycles"]) == (3.0, 9.0)
    assert advisory["rule"]["consequence"].startswith("The unit may fail in service")
    assert body["record"] == {"confirmed": 0, "false_alarms": 0, "not_said": 1}
    assert body["next_cursor"] is None


def test_the_list_filters_and_its_pages_follow_the_link(warned):
    for unit in ("b", "c", "d"):
        say(warned, unit, 8.0, 8.0)
    with warned.client() as client:
        act_on = client.get(f"{LIST}?unit=d").json()["advisories"][0]["advisory_id"]
        path = f"/v1/advisories/{act_on}/close"
        client.post(path, json={"reason": "x"}, headers={"If-Match": "*"}).raise_for_status()
        seen, at = [], f"{LIST}?limit=2&priority=medium&open=true"
        while at:
            response = client.get(at)
            assert response.status_code == 200, response.text
            seen += [one["unit"] for one in response.json()["advisories"]]
            at = response.links.get("next", {}).get("url")
        assert seen == ["c", "b"]
        found = client.get(f"{LIST}?state=closed&unit=d").json()["advisories"]
        assert [one["state"] for one in found] == ["closed"]


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("limit=0", Kind.INVALID_REQUEST),
        ("state=fine", Kind.INVALID_REQUEST),
        ("unit=%00", Kind.INVALID_REQUEST),
        ("cursor=nonsense", Kind.INVALID_CURSOR),
        ("cursor=WzAuMTcsInB1bXAtNyJd", Kind.INVALID_CURSOR),
    ],
)
def test_a_wrong_question_is_refused(client, query, kind):
    problem(client.get(f"{LIST}?{query}"), kind)


def test_each_step_bears_the_next_etag_and_says_who_and_why(warned, client):
    assert client.get(address(client)).headers["etag"] == '"1"'
    states = []
    steps = ("acknowledge", "plan", "shelve", "unshelve", "close")
    for version, action in enumerate(steps, 1):
        response = act(client, action, version)
        assert response.status_code == 200, response.text
        assert response.headers["etag"] == f'"{version + 1}"'
        states.append(response.json()["state"])
    assert states == [
        "active_acknowledged", "planned", "shelved", "active_unacknowledged", "closed",
    ]  # fmt: skip
    events = client.get(address(client, "events")).json()["events"]
    assert [event["version"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert [(event["who"], event["why"]) for event in events[1:3]] == [
        ("anonymous", "seen"),
        ("anonymous", "on Sunday"),
    ]
    entries = audited(warned)
    assert [action for _, action, _, _ in entries] == [f"advisory.{step}" for step in steps]
    assert entries[2][3]["why"] == "bad sensor"
    assert {fleet for _, _, fleet, _ in entries} == {"pumps"}


def test_events_are_paged(client):
    for version in range(1, 4):
        act(client, "acknowledge", version)
    path = address(client, "events")
    first = client.get(f"{path}?limit=3")
    rest = client.get(first.links["next"]["url"])
    assert [one["version"] for one in first.json()["events"]] == [1, 2, 3]
    assert [one["version"] for one in rest.json()["events"]] == [4]
    assert "link" not in rest.headers
    problem(client.get(f"{path}?cursor=x"), Kind.INVALID_CURSOR)


@pytest.mark.parametrize("action", BODIES)
def test_a_step_without_the_version_it_was_decided_on_is_refused(client, action):
    response = client.post(address(client, action), json=BODIES[action])
    problem(response, Kind.PRECONDITION_REQUIRED, "If-Match is missing")


def test_the_second_of_two_people_gets_412_and_learns_what_happened(client):
    assert act(client, "plan", 1).status_code == 200
    problem(act(client, "close", 1), Kind.PRECONDITION_FAILED, "at version 2 (planned, since")


def test_of_two_at_the_same_moment_one_wins(warned, client):
    path, answers = address(client, "acknowledge"), []

    def post() -> None:
        headers = {"If-Match": '"1"'}
        answers.append(client.post(path, json={"reason": "seen"}, headers=headers).status_code)

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 412, 412, 412]
    assert len(audited(warned)) == 1


@pytest.mark.parametrize(
    ("header", "status"),
    [('"1"', 200), ('"9", "1"', 200), ("*", 200), ('W/"1"', 412), ("1", 412), ("", 412)],
)
def test_if_match_is_read_as_http_says(client, header, status):
    path = address(client, "acknowledge")
    response = client.post(path, json={"reason": "seen"}, headers={"If-Match": header})
    assert response.status_code == status


def test_what_is_not_allowed_is_refused_with_what_is(client):
    told = "it can take acknowledge, plan, shelve, close"
    problem(act(client, "unshelve", 1), Kind.STEP_REFUSED, told)
    past = {"due_time": "2020-01-01T00:00:00Z"}
    problem(act(client, "plan", 1, **past), Kind.STEP_REFUSED, "give a later time")


@pytest.mark.parametrize(
    ("action", "body", "told"),
    [
        ("close", {}, "missing required field `reason`"),
        ("close", {"reason": "  "}, "matching regex"),
        ("close", {"reason": "a\x00b"}, "matching regex"),
        ("close", {"reason": 7}, "Expected `str`, got `int`"),
        ("close", {"reason": "x", "who": "me"}, "unknown field `who`"),
        ("shelve", {"reason": "x"}, "missing required field `until_time`"),
        ("shelve", {"reason": "x", "until_time": "2099-01-01T00:00:00"}, "timezone"),
        ("plan", {"reason": "x", "due_time": "9999-12-31T23:59:59-14:00"}, "years 1 to 9999"),
        ("acknowledge", {"reason": "x", "until": "worse", "until_time": LATER}, "keep one"),
        ("acknowledge", {"reason": "x", "until": "christmas"}, "Invalid enum value"),
    ],
)
def test_a_body_that_cannot_be_read_is_named(client, action, body, told):
    headers = {"If-Match": '"1"'}
    response = client.post(address(client, action), json=body, headers=headers)
    problem(response, Kind.INVALID_REQUEST, told)


def test_a_body_that_is_no_json_is_refused(client):
    response = client.post(address(client, "close"), content=b"x", headers={"If-Match": '"1"'})
    problem(response, Kind.UNSUPPORTED_MEDIA_TYPE)


@pytest.mark.parametrize(
    ("body", "until"),
    [
        ({"reason": "x"}, (None, "worse")),
        ({"reason": "x", "until": "next_reading"}, (None, "next_reading")),
        ({"reason": "x", "until_time": LATER}, (LATER, None)),
    ],
)
def test_an_acknowledgement_holds_as_long_as_is_said(client, body, until):
    response = client.post(address(client, "acknowledge"), json=body, headers={"If-Match": "*"})
    told = response.json()
    assert (told["until"], told["until_event"]) == until


def test_an_unknown_advisory_is_404(client):
    nobody = f"/v1/advisories/{UUID(int=7)}"
    problem(client.get(nobody), Kind.UNKNOWN_ADVISORY, str(UUID(int=7)))
    problem(client.get(f"{nobody}/events"), Kind.UNKNOWN_ADVISORY)
    response = client.post(f"{nobody}/close", json={"reason": "x"}, headers={"If-Match": "*"})
    problem(response, Kind.UNKNOWN_ADVISORY)
    problem(client.get("/v1/advisories/7"), Kind.NOT_FOUND)
    problem(client.get("/v1/fleets/fans/advisories"), Kind.UNKNOWN_FLEET)


def test_technicians_take_note_planners_decide_and_viewers_look(warned, key_of):
    viewer, technician, planner = (key_of(role) for role in ("viewer", "technician", "planner"))
    with guarded(warned) as client:
        advisory = client.get(LIST, headers=viewer).json()["advisories"][0]["advisory_id"]
        answers = {
            (role, action): client.post(
                f"/v1/advisories/{advisory}/{action}",
                json=BODIES[action],
                headers={**key, "If-Match": "*"},
            ).status_code
            for role, key in (("viewer", viewer), ("technician", technician), ("planner", planner))
            for action in ("acknowledge", "plan", "close")
        }
    assert answers == {
        ("viewer", "acknowledge"): 403, ("viewer", "plan"): 403, ("viewer", "close"): 403,
        ("technician", "acknowledge"): 200, ("technician", "plan"): 403,
        ("technician", "close"): 403,
        ("planner", "acknowledge"): 200, ("planner", "plan"): 200, ("planner", "close"): 200,
    }  # fmt: skip
    assert [who for who, action, _, _ in audited(warned) if action == "advisory.close"] == [
        "planner"
    ]


def test_a_key_for_another_fleet_sees_no_advisory(warned, key_of):
    stranger, admin = key_of("planner", ["fans"]), key_of("viewer")
    with guarded(warned) as client:
        advisory = client.get(LIST, headers=admin).json()["advisories"][0]["advisory_id"]
        path = f"/v1/advisories/{advisory}"
        problem(client.get(LIST, headers=stranger), Kind.FORBIDDEN)
        problem(client.get(path, headers=stranger), Kind.FORBIDDEN, "not for fleet 'pumps'")
        problem(client.get(f"{path}/events", headers=stranger), Kind.FORBIDDEN)
        for action, body in [("close", BODIES["close"]), ("verdict", {"finding": "found_damage"})]:
            response = client.post(
                f"{path}/{action}", json=body, headers={**stranger, "If-Match": "*"}
            )
            problem(response, Kind.FORBIDDEN)


def test_a_repeat_with_the_same_idempotency_key_acts_once(warned, client):
    path = address(client, "acknowledge")
    headers = {"If-Match": '"1"', "Idempotency-Key": "k1"}
    first = client.post(path, json={"reason": "seen"}, headers=headers)
    again = client.post(path, json={"reason": "seen"}, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert len(audited(warned)) == 1


def test_without_postgresql_it_is_503(warned):
    with warned.client(database_url="postgresql://u:secret@127.0.0.1:1/rul") as client:
        problem(client.get(LIST), Kind.UNAVAILABLE)
        problem(client.get(f"/v1/advisories/{UUID(int=7)}"), Kind.UNAVAILABLE)


def test_evidence_does_not_get_in_the_way_of_a_person(warned, client):
    etag = client.get(address(client)).headers["etag"]
    say(warned, "ill", 3.5, 3.4, first=3)
    response = client.post(address(client, "plan"), json=BODIES["plan"], headers={"If-Match": etag})
    assert response.status_code == 200
    assert response.json()["prognoses"] == 3


def test_a_shelf_that_has_run_out_is_no_shelf_for_the_next_person(warned, client):
    soon = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert act(client, "shelve", 1, until_time=soon).status_code == 200
    with begin(warned.engine) as connection:
        connection.execute(sa.text("UPDATE advisories SET until = now() - interval '1 second'"))
    assert act(client, "plan", 2).json()["version"] == 4
    kinds = [one["kind"] for one in client.get(address(client, "events")).json()["events"]]
    assert kinds == ["opened", "shelved", "lapsed", "planned"]


def test_a_repeat_of_a_step_is_for_the_version_that_it_was_decided_on(client):
    assert act(client, "plan", 1).status_code == 200
    path, body = address(client, "close"), {"reason": "seen"}
    headers = {"If-Match": '"1"', "Idempotency-Key": "k"}
    for replayed in (None, "true"):
        late = client.post(path, json=body, headers=headers)
        assert late.status_code == 412
        assert late.headers.get("idempotency-replayed") == replayed
    again = client.post(path, json=body, headers=headers | {"If-Match": '"2"'})
    problem(again, Kind.IDEMPOTENCY_KEY_REUSED, "give each request a key of its own")
