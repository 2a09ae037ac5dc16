"""The OpenAPI document: committed, complete, and true of what the service answers."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from litestar.testing import TestClient

from rul_core.prognosis import Prognosis, State
from rul_serving.openapi import BODIES
from rul_serving.problems import Kind, Reason
from rul_serving.schema import render
from rul_serving.settings import ServingSettings
from rul_store import ledger
from rul_store.settings import variable_of
from tests.serving.test_advisories import BODIES as BODIES_OF_STEPS
from tests.serving.test_advisories import say

CHANGES = {
    *(f"POST /v1/advisories/{{advisory_id}}/{step}" for step in (*BODIES_OF_STEPS, "verdict")),
    *(
        f"POST /v1/fleets/{{fleet}}/units/{{unit}}/{what}"
        for what in ("lives", "service-state", "verdicts")
    ),
}
MOVES = {
    "POST /v1/fleets/{fleet}/models/{version}/promote",
    "POST /v1/fleets/{fleet}/champion/rollback",
    "POST /v1/fleets/{fleet}/challenger",
    "DELETE /v1/fleets/{fleet}/challenger",
}
FILES = {
    "GET /v1/fleets/{fleet}/events": "text/event-stream",
    "GET /v1/fleets/{fleet}/models/{version}/card": "text/markdown",
    "GET /v1/fleets/{fleet}/models/{version}/{picture}": "image/png",
}
"""Operations that do not answer in JSON."""
PROBLEM = "#/components/schemas/Problem"
COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(render())


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def check(document: dict[str, Any], schema: dict[str, Any], value: object) -> None:
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def check_events(document: dict[str, Any], schemas: dict[str, Any], text: str) -> set[str]:
    """Which events there are, once each is what its schema says."""
    found = re.findall(r"event: (.*)\n(?:id: .*\n)?data: (.*)\n\n", text)
    for name, data in found:
        check(document, schemas[name], json.loads(data))
    return {name for name, _ in found}


def bodies(node: object) -> list[dict[str, Any]]:
    """Every media type object of the document."""
    if isinstance(node, list):
        return [found for item in node for found in bodies(item)]
    if not isinstance(node, dict):
        return []
    here = list(node["content"].values()) if isinstance(node.get("content"), dict) else []
    return here + [found for item in node.values() for found in bodies(item)]


def test_the_committed_document_is_what_the_application_generates():
    assert COMMITTED.read_bytes() == render(), (
        "write it anew: python -m rul_serving.schema > docs/openapi.json"
    )


def test_the_document_is_openapi_3_1_and_every_reference_leads_somewhere(document):
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "RUL platform"
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert references <= set(schemas)
    assert {body.__name__ for body in BODIES} <= set(schemas)


def test_every_operation_has_a_name_and_says_what_may_go_wrong(document):
    found = operations(document)
    names = [operation["operationId"] for operation in found.values()]
    assert len(names) == len(set(names)) == 55
    for name, operation in found.items():
        assert operation["summary"], name
        assert operation["description"], name
        assert len({"200", "201"} & set(operation["responses"])) == 1, name
        assert "500" in operation["responses"], name
        for status, response in operation["responses"].items():
            problem = response["content"].get("application/problem+json")
            if int(status) < 400 or (status == "503" and problem is None):
                kind = FILES.get(name, "application/json")
                assert kind in response["content"], (name, status)
            else:
                assert problem["schema"] == {"$ref": PROBLEM}, (name, status)


def test_bodies_of_questions_forbid_unknown_fields_and_describe_the_known(document):
    for name in (
        "PrognosisRequest",
        "UnitWindow",
        "WindowReading",
        "Reading",
        "KeyRequest",
        "Because",
    ):
        assert document["components"]["schemas"][name]["additionalProperties"] is False
    for name in ("Because", "Shelving", "LifeChange", "Ending", "UnitVerdict"):
        assert document["components"]["schemas"][name]["additionalProperties"] is False
    prognosis = document["components"]["schemas"]["Prognosis"]
    assert prognosis["properties"]["contributions"]["items"] == {
        "$ref": "#/components/schemas/Contribution"
    }
    assert "19 of 20 machines live longer" in prognosis["properties"]["safe_cycles"]["description"]
    assert (
        "- `not_configured`: The fleet has no released model."
        in (document["components"]["schemas"]["State"]["description"])
    )


def test_every_example_is_what_its_schema_says(document):
    examples = [
        (body["schema"], example)
        for body in bodies(document["paths"])
        for example in body.get("examples", {}).values()
    ]
    assert len(examples) > 20
    for schema, example in examples:
        assert set(example) <= {"summary", "description", "value"}
        check(document, schema, example["value"])


def test_the_example_of_a_stream_has_events_as_their_schemas_say(document):
    streams = [one for one in operations(document).values() if "x-events" in one]
    assert len(streams) == 1
    for operation in streams:
        content = operation["responses"]["200"]["content"]["text/event-stream"]
        (example,) = content["examples"].values()
        found = check_events(document, operation["x-events"], example["value"])
        assert found == {"prognosis", "advisory", "end"}


def advisory_answers(client: TestClient) -> dict[str, httpx.Response]:
    """Each operation on the one advisory, and each on its unit."""
    (advisory,) = client.get("/v1/fleets/pumps/advisories").json()["advisories"]
    path = f"/v1/advisories/{advisory['advisory_id']}"
    unit, any_version = "/v1/fleets/pumps/units/ill", {"If-Match": "*"}
    found = {"finding": "found_damage", "mode": "vibration"}
    serves = {"state": "in_service", "reason": "it never left"}
    answers = {
        f"POST /v1/advisories/{{advisory_id}}/{step}": client.post(
            f"{path}/{step}", json=body, headers=any_version
        )
        for step, body in BODIES_OF_STEPS.items()
    }
    return answers | {
        "POST /v1/advisories/{advisory_id}/verdict": client.post(f"{path}/verdict", json=found),
        "GET /v1/advisories/{advisory_id}": client.get(path),
        "GET /v1/advisories/{advisory_id}/events": client.get(f"{path}/events"),
        "POST /v1/fleets/{fleet}/units/{unit}/verdicts": client.post(
            f"{unit}/verdicts", json=found
        ),
        "POST /v1/fleets/{fleet}/units/{unit}/service-state": client.post(
            f"{unit}/service-state", json=serves
        ),
        "POST /v1/fleets/{fleet}/units/{unit}/lives": client.post(
            f"{unit}/lives", json={"end": {"outcome": "replaced"}, "start": {}}
        ),
    }


def model_answers(client: TestClient, before: str) -> dict[str, httpx.Response]:
    """Each operation on a fleet's champion and models; back and forth, so that all is as it was."""
    fleet = "/v1/fleets/pumps"
    any_generation = {"If-Match": "*"}
    because = {"reason": "a test"}
    now = client.get(f"{fleet}/champion")
    back = client.post(f"{fleet}/champion/rollback", json=because, headers=any_generation)
    forth = f"{fleet}/models/{now.json()['version']}/promote"
    nomination = {"version": before, **because}
    return {
        "GET /v1/fleets/{fleet}/champion": now,
        "POST /v1/fleets/{fleet}/champion/rollback": back,
        "POST /v1/fleets/{fleet}/models/{version}/promote": client.post(
            forth, json=because, headers=any_generation
        ),
        "POST /v1/fleets/{fleet}/challenger": client.post(f"{fleet}/challenger", json=nomination),
        "GET /v1/fleets/{fleet}/shadow": client.get(f"{fleet}/shadow"),
        "DELETE /v1/fleets/{fleet}/challenger": client.delete(f"{fleet}/challenger?reason=a test"),
        "GET /v1/fleets/{fleet}/champion/history": client.get(f"{fleet}/champion/history"),
        "GET /v1/fleets/{fleet}/models": client.get(f"{fleet}/models?limit=1"),
        "GET /v1/fleets/{fleet}/models/{version}": client.get(f"{fleet}/models/{before}"),
        "GET /v1/fleets/{fleet}/models/{version}/card": client.get(f"{fleet}/models/{before}/card"),
        "GET /v1/fleets/{fleet}/models/{version}/{picture}": client.get(
            f"{fleet}/models/{before}/coverage.png"
        ),
    }


def test_answers_are_what_their_schemas_say(document, platform):
    before = platform.promote(platform.train(pictures={"coverage.png": b"a picture"})).version
    version = platform.release().version
    one_version = f"/v2/models/pumps/versions/{version}"
    given = Prognosis(
        fleet="pumps", unit="a", state=State.NOT_CONFIGURED, computed_at=datetime.now(UTC)
    )
    ledger.record(platform.engine, "pumps", [given])
    entry = f"/v1/ledger/{ledger.ledger_id_of(given)}"
    asked = {
        "GET /v1/fleets": "/v1/fleets",
        "GET /v1/fleets/{fleet}/units": "/v1/fleets/pumps/units?limit=1",
        "GET /v1/fleets/{fleet}/units/{unit}/prognosis": "/v1/fleets/pumps/units/a/prognosis",
        "GET /v1/fleets/{fleet}/units/{unit}/prognoses": "/v1/fleets/pumps/units/a/prognoses",
        "GET /v1/fleets/{fleet}/track-record": "/v1/fleets/pumps/track-record",
        "GET /v1/fleets/{fleet}/events": "/v1/fleets/pumps/events?follow=false",
        "GET /v1/ledger/{ledger_id}": entry,
        "GET /v1/models": "/v1/models",
        "GET /livez": "/livez",
        "GET /readyz": "/readyz",
        "GET /health": "/health",
        "GET /problems/{name}": "/problems/not-found",
        "GET /v2": "/v2",
        "GET /v2/health/live": "/v2/health/live",
        "GET /v2/health/ready": "/v2/health/ready",
        "GET /v2/models/{fleet}": "/v2/models/pumps",
        "GET /v2/models/{fleet}/ready": "/v2/models/pumps/ready",
        "GET /v2/models/{fleet}/versions/{version}": one_version,
        "GET /v2/models/{fleet}/versions/{version}/ready": f"{one_version}/ready",
        "GET /v1/keys": "/v1/keys",
        "GET /v1/audit": "/v1/audit?limit=1",
        "GET /v1/system/backups": "/v1/system/backups",
        "GET /v1/fleets/{fleet}/readings/set-aside": "/v1/fleets/pumps/readings/set-aside",
        "GET /v1/fleets/{fleet}/advisories": "/v1/fleets/pumps/advisories",
        "GET /v1/fleets/{fleet}/units/{unit}/lives": "/v1/fleets/pumps/units/ill/lives",
    }
    say(platform, "ill", 4.0, 3.0)
    found = operations(document)
    with platform.client() as client:
        question = platform.question("unit-000001", explain=True)
        made = client.post("/v1/keys", json={"name": "a", "roles": ["viewer"]})
        assert made.status_code == 201, made.text
        address = f"/v1/keys/{made.json()['key']['key_id']}"
        answers = {name: client.get(path) for name, path in asked.items()}
        answers["POST /v1/keys"] = made
        answers["POST /v1/keys/{key_id}/rotate"] = client.post(f"{address}/rotate", json={})
        answers["DELETE /v1/keys/{key_id}"] = client.delete(address)
        answers["POST /v1/prognoses"] = client.post("/v1/prognoses", json=question)
        (window,) = question["units"]
        readings = [{"unit": "b", **reading} for reading in window["readings"]]
        path = "/v1/fleets/pumps/readings"
        answers["POST /v1/fleets/{fleet}/readings"] = client.post(path, json=readings)
        width = answers["GET /v2/models/{fleet}"].json()["inputs"][0]["shape"][1]
        rows = {"name": "features", "shape": [1, width], "datatype": "FP64", "data": [None] * width}
        for name in ("/v2/models/{fleet}", "/v2/models/{fleet}/versions/{version}"):
            path = name.format(fleet="pumps", version=version)
            answers[f"POST {name}/infer"] = client.post(f"{path}/infer", json={"inputs": [rows]})
        answers |= advisory_answers(client)
        answers |= model_answers(client, before)
        answers["POST /v1/ledger/{ledger_id}/replay"] = client.post(f"{entry}/replay")
        wrong = client.post("/v1/prognoses", json={})
        served = client.get("/schema/openapi.json")
    assert set(answers) == set(found)
    for name, answer in answers.items():
        assert answer.status_code in {200, 201}, (name, answer.text)
        told = found[name]["responses"][str(answer.status_code)]
        if name in FILES:
            assert answer.headers["content-type"].startswith(FILES[name])
            assert list(told["content"]) == [FILES[name]]
            if "x-events" in found[name]:
                check_events(document, found[name]["x-events"], answer.text)
            continue
        content = told["content"]["application/json"]
        check(document, content["schema"], answer.json())
    check(document, {"$ref": PROBLEM}, wrong.json())
    assert served.json() == document
    assert served.headers["content-type"] == "application/vnd.oai.openapi+json"


def test_operations_say_which_keys_they_take_and_which_repeats_they_know(document):
    schemes = set(document["components"]["securitySchemes"])
    for name, operation in operations(document).items():
        if operation["security"] == []:
            assert not {"x-roles", "401"} & {*operation, *operation["responses"]}, name
            continue
        assert {scheme for each in operation["security"] for scheme in each} == schemes
        assert {"401", "403", "429", "503"} <= set(operation["responses"]), name
        headers = {
            each["name"] for each in operation.get("parameters", ()) if each["in"] == "header"
        }
        once = {"POST /v1/keys", "POST /v1/keys/{key_id}/rotate", *CHANGES, *MOVES}
        assert ("Idempotency-Key" in headers) == (name in once), name
        if name in once:
            assert {"409", "422"} <= set(operation["responses"]), name


def test_every_kind_of_problem_is_explained_and_declared_where_it_can_come(document, platform):
    with platform.client() as client:
        for kind in Kind:
            told = client.get(kind.type).json()
            assert told == {"type": kind.type, "status": kind.status, "title": kind.title}
    text = json.dumps(document["paths"])
    everywhere = {Kind.METHOD_NOT_ALLOWED}
    assert {kind for kind in Kind if kind.type not in text} == everywhere


def test_the_page_on_the_api_names_every_problem_address_state_and_setting(document):
    page = (COMMITTED.parent / "api.md").read_text()
    for kind in Kind:
        assert f"| `{kind.type}` | {kind.status} |" in page
    for state in State:
        assert f"| `{state}` |" in page
    for reason in Reason:
        assert f"| `{reason}` |" in page
    for path in document["paths"]:
        assert path in page
    for name, field in ServingSettings.model_fields.items():
        assert f"`{variable_of(name)}`" in page
        if isinstance(field.default, int | float):
            assert f"{field.default:g}" in page or str(field.default) in page
