"""Keys and the audit over HTTP."""

import pytest
from litestar.testing import TestClient

from rul_store import keys

WANTED = {"name": "line 1", "roles": ["viewer", "planner"]}


@pytest.fixture
def admin(platform):
    key = platform.key("admin", name="ann")
    with platform.client(access="keys") as client:
        client.headers["x-api-key"] = key
        yield client


def status(client: TestClient, key: str) -> int:
    return client.get("/v1/fleets", headers={"x-api-key": key}).status_code


def test_a_key_is_made_used_listed_and_revoked(admin: TestClient):
    made = admin.post("/v1/keys", json=WANTED | {"fleets": ["pumps"], "expires_in_days": 30})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    body = made.json()
    assert body["api_key"].startswith(body["key"]["prefix"] + "_")
    assert (body["key"]["created_by"], body["key"]["fleets"]) == ("ann", ["pumps"])
    assert body["key"]["expires_at"] is not None
    listed = admin.get("/v1/keys")
    assert [key["name"] for key in listed.json()["keys"]] == ["ann", "line 1"]
    assert body["api_key"][13:] not in listed.text
    assert status(admin, body["api_key"]) == 200
    revoked = admin.delete(f"/v1/keys/{body['key']['key_id']}")
    assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
    assert status(admin, body["api_key"]) == 401
    assert admin.delete(f"/v1/keys/{body['key']['key_id']}").json() == revoked.json()


def test_a_rotated_key_and_its_successor_are_both_good_for_a_while(admin: TestClient):
    old = admin.post("/v1/keys", json=WANTED).json()
    address = f"/v1/keys/{old['key']['key_id']}/rotate"
    new = admin.post(address, json={"overlap_hours": 1})
    assert new.status_code == 201
    assert new.json()["key"]["replaces"] == old["key"]["key_id"]
    assert (status(admin, old["api_key"]), status(admin, new.json()["api_key"])) == (200, 200)
    assert admin.post(address, json={}).json()["type"] == "/problems/key-conflict"
    at_once = f"/v1/keys/{new.json()['key']['key_id']}/rotate"
    assert admin.post(at_once, json={"overlap_hours": 0}).status_code == 201
    assert status(admin, new.json()["api_key"]) == 401


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "body: Object missing required field `name`"),
        (WANTED | {"roles": []}, "roles: Expected `array` of length >= 1"),
        (WANTED | {"roles": ["seer"]}, "roles[0]: Invalid enum value 'seer'"),
        (WANTED | {"fleets": ["../x"]}, "fleets[0]: Expected `str` matching regex"),
        (WANTED | {"name": "cli:ann"}, "name: Expected `str` matching regex"),
        (WANTED | {"name": "anonymous"}, "cannot be the name of a key"),
        (WANTED | {"expires_in_days": 0}, "expires_in_days: Expected `float` > 0"),
        (WANTED | {"expires_in_days": "1"}, "expires_in_days: Expected `float | null`, got `str`"),
        (WANTED | {"roles": ["admin"], "fleets": ["pumps"]}, "is for all fleets"),
        (WANTED | {"more": 1}, "unknown field `more`"),
    ],
)
def test_what_cannot_be_a_key_is_refused_at_its_place(admin: TestClient, platform, body, told):
    answer = admin.post("/v1/keys", json=body)
    assert answer.status_code == 400
    assert told in answer.json()["detail"]
    assert len(keys.every(platform.engine)) == 1


def test_keys_that_are_not_there_or_no_longer_good_are_told_apart(admin: TestClient):
    for answer in (
        admin.delete("/v1/keys/nobody00"),
        admin.post("/v1/keys/nobody00/rotate", json={}),
    ):
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/unknown-key")
    assert admin.delete("/v1/keys/NOBODY").status_code == 400
    admin.post("/v1/keys", json=WANTED)
    again = admin.post("/v1/keys", json=WANTED)
    assert (again.status_code, again.json()["type"]) == (409, "/problems/key-conflict")
    assert admin.post("/v1/keys", content="name=a").status_code == 415
    assert admin.post("/v1/keys/nobody00/rotate", content="{}").status_code == 415


def test_a_key_in_the_path_is_not_repeated(admin: TestClient):
    secret = keys.generate()
    answer = admin.delete(f"/v1/keys/{secret}")
    assert answer.status_code == 400
    assert secret[13:] not in answer.text
    assert answer.json()["instance"] == f"/v1/keys/{secret[:12]}_…"


def test_the_audit_is_read_page_by_page_newest_first(admin: TestClient):
    for name in ("a", "b", "c"):
        admin.post("/v1/keys", json={"name": name, "roles": ["viewer"]})
    seen, address = [], "/v1/audit?limit=3"
    while address:
        page = admin.get(address)
        seen += page.json()["entries"]
        address = page.links.get("next", {}).get("url")
        assert (address is None) == (page.json()["next_cursor"] is None)
    assert [entry["detail"]["name"] for entry in seen] == ["c", "b", "a", "ann"]
    assert [entry["position"] for entry in seen] == [4, 3, 2, 1]
    assert {entry["principal"] for entry in seen[:3]} == {"ann"}
    assert seen[0]["prev_hash"] == seen[1]["hash"]


@pytest.mark.parametrize("cursor", ["nonsense", "MA", "eyJiZWZvcmUiOjB9", "eyJiZWZvcmUiOiIxIn0"])
def test_a_cursor_of_another_list_is_refused(admin: TestClient, cursor):
    answer = admin.get(f"/v1/audit?cursor={cursor}")
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems/invalid-cursor"
