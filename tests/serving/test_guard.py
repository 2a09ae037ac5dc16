"""Every cell of roles and operations, as the OpenAPI document has them, with real keys."""

import json
from typing import Any

import pytest
from litestar import Litestar, get
from litestar.exceptions import ImproperlyConfiguredException

from rul_serving import guard
from rul_serving.app import create_app
from rul_serving.principal import READ
from rul_serving.schema import render
from rul_store.keys import Role

PARAMETERS = {
    "fleet": "pumps",
    "unit": "a",
    "key_id": "nobody00",
    "advisory_id": "0b7cf4a2-6a4f-4a39-9f0e-0d5c4c3b8a11",
}


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path with parameters filled in, and the operation; streams are not followed."""
    found = []
    for template, methods in json.loads(render())["paths"].items():
        path = template
        for name in {part[1:-1] for part in template.split("/") if part.startswith("{")}:
            path = path.replace(f"{{{name}}}", PARAMETERS.get(name, "1"))
        for method, told in methods.items():
            answers = told["responses"].get("200", {}).get("content", {})
            ends = "?follow=false" if "text/event-stream" in answers else ""
            found.append((method.upper(), path + ends, told))
    return found


def test_every_cell_of_roles_and_operations_is_as_the_document_says(platform):
    keys = {role.value: platform.key(role.value) for role in Role}
    cells = 0
    with platform.client(access="keys") as client:
        for method, path, told in operations():
            name = told["operationId"]
            if told["security"] == []:
                assert client.request(method, path).status_code not in {401, 403}, name
                continue
            nobody = client.request(method, path)
            assert nobody.status_code == 401, name
            assert nobody.headers["www-authenticate"] == 'Bearer realm="rul"'
            assert nobody.json()["type"] == "/problems/unauthenticated"
            for role, key in keys.items():
                answer = client.request(method, path, headers={"authorization": f"Bearer {key}"})
                cells += 1
                if role in told["x-roles"]:
                    assert answer.status_code not in {401, 403}, (name, role, answer.text)
                else:
                    assert answer.status_code == 403, (name, role, answer.text)
                    detail = answer.json()["detail"]
                    assert f"has the roles {role}; this needs one of: " in detail
                    assert detail.endswith(", ".join(told["x-roles"]))
                assert str(answer.status_code) in told["responses"], (name, answer.text)
    assert cells >= 10 * len(Role)


def test_only_what_needs_no_key_is_public_and_only_admins_administer():
    public = {name["operationId"] for _, _, name in operations() if name["security"] == []}
    probes = {"live", "ready", "health", "inferenceLive", "inferenceReady"}
    assert public == probes | {"explainProblem", "inferenceServer"}
    for _, path, told in operations():
        if path.startswith(("/v1/keys", "/v1/audit")):
            assert told["x-roles"] == ["admin"]
        elif "ingest" in told.get("x-roles", ()):
            asks = {"sendReadings", "prognoseWindows", "currentPrognosis"}
            assert told["operationId"] in asks or path.startswith("/v2/models/")


@pytest.mark.parametrize("opt", [{}, {"roles": frozenset()}, {"roles": READ, "public": True}])
def test_a_handler_that_does_not_say_who_may_call_it_is_an_error(opt):
    @get("/new", opt=opt)
    async def new() -> None: ...

    with pytest.raises(ImproperlyConfiguredException, match=r"new at /new must say who may call"):
        guard.check(Litestar([new], openapi_config=None))


def test_making_the_application_checks_its_handlers(platform, monkeypatch):
    checked = []
    monkeypatch.setattr(guard, "check", checked.append)
    app = create_app(platform.settings)
    assert checked == [app]


def test_options_and_unknown_addresses_need_no_key(platform):
    with platform.client(access="keys") as client:
        assert client.options("/v1/models").headers["allow"] == "GET, OPTIONS"
        assert client.get("/v1/nothing").status_code == 404
        refused = client.put("/v1/keys")
        assert refused.status_code == 405
        assert {"GET", "POST"} <= set(refused.headers["allow"].split(", "))
        assert client.get("/schema/openapi.json").status_code == 200
        assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/fleets/fans/units", None),
        ("GET", "/v1/fleets/fans/units/a/prognosis", None),
        ("POST", "/v1/fleets/fans/readings", {}),
        ("GET", "/v1/fleets/fans/advisories", None),
        ("POST", "/v1/fleets/fans/units/a/lives", {}),
        ("POST", "/v1/prognoses", {"fleet": "fans", "units": [{"unit": "a", "readings": [
            {"cycle": 1, "values": {}}]}]}),
    ],
)  # fmt: skip
def test_another_fleet_than_the_keys_is_403_known_or_not(platform, method, path, body):
    key = platform.key("engineer", fleets=["pumps", "other"])
    with platform.client(access="keys") as client:
        answer = client.request(method, path, json=body, headers={"x-api-key": key})
    assert answer.status_code == 403
    assert answer.json()["type"] == "/problems/forbidden"
    assert "is for other, pumps, not for fleet 'fans'" in answer.json()["detail"]


def test_lists_hold_only_what_the_key_is_for(platform):
    pumps, other = (platform.key("viewer", fleets=[fleet]) for fleet in ("pumps", "other"))
    with platform.client(access="keys") as client:
        for path, name in (("/v1/fleets", "fleets"), ("/v1/models", "models")):
            seen = client.get(path, headers={"x-api-key": pumps}).json()[name]
            unseen = client.get(path, headers={"x-api-key": other}).json()[name]
            assert (len(seen), unseen) == (1, [])
        question = platform.question("unit-000001", last=2)
        answer = client.post("/v1/prognoses", json=question, headers={"x-api-key": pumps})
    assert answer.status_code == 200
