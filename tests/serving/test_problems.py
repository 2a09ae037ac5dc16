"""Every error is a problem with a stable type and a trace id that finds the log."""

import re

import pytest
from litestar import Litestar, get
from litestar.testing import TestClient
from structlog.testing import capture_logs

from rul_serving import problems, tracing

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/v1", 404, "not-found"),
        ("GET", "/schema/redoc", 404, "not-found"),
        ("GET", "/problems/no-such", 404, "not-found"),
        ("DELETE", "/v1/prognoses", 405, "method-not-allowed"),
        ("POST", "/v1/fleets", 405, "method-not-allowed"),
        ("PUT", "/livez", 405, "method-not-allowed"),
    ],
)
def test_what_the_framework_refuses_is_a_problem_too(platform, method, path, status, kind):
    with platform.client() as client:
        response = client.request(method, path)
    problem = response.json()
    assert response.status_code == problem["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"/problems/{kind}"
    assert problem["title"] == problems.Kind[kind.upper().replace("-", "_")].title
    assert problem["detail"]
    assert problem["detail"] != problem["title"]
    assert problem["instance"] == path
    assert problem["trace_id"] == response.headers["x-request-id"]
    assert ("allow" in response.headers) == (status == 405)


def test_every_address_names_all_of_its_methods(platform):
    with platform.client() as client:
        told = {
            path: client.options(path).headers["allow"]
            for path in ("/livez", "/v1/prognoses", "/v1/keys", "/v1/fleets/pumps/units/a/lives")
        }
        refused = client.put("/v1/keys")
    assert told == {
        "/livez": "GET, OPTIONS",
        "/v1/prognoses": "OPTIONS, POST",
        "/v1/keys": "GET, OPTIONS, POST",
        "/v1/fleets/pumps/units/a/lives": "GET, OPTIONS, POST",
    }
    assert set(refused.headers["allow"].split(", ")) == {"GET", "OPTIONS", "POST"}


def test_what_nobody_foresaw_is_500_with_a_trace_id_and_no_secret():
    @get("/boom")
    async def boom() -> None:
        raise RuntimeError("password=hunter2")

    app = Litestar([boom], exception_handlers={Exception: problems.answer}, logging_config=None)
    app.asgi_handler = tracing.traced(app.asgi_handler)
    with TestClient(app, raise_server_exceptions=False) as client, capture_logs() as logs:
        response = client.get("/boom", headers={"traceparent": TRACEPARENT})
    assert response.status_code == 500
    assert response.json() == {
        "type": "/problems/internal-error",
        "title": "The service made a mistake",
        "status": 500,
        "detail": "the cause is in the log, under the trace id",
        "instance": "/boom",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "errors": [],
    }
    (line,) = (line for line in logs if line["event"] == "request failed")
    assert isinstance(line["exc_info"], RuntimeError)


@pytest.mark.parametrize(
    ("headers", "chosen"),
    [
        ({"traceparent": TRACEPARENT}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"traceparent": TRACEPARENT, "x-request-id": "a"}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"x-request-id": "Job_7.retry-2"}, "Job_7.retry-2"),
        ({"x-request-id": "a" * 128}, "a" * 128),
        ({"x-request-id": "a" * 129}, None),
        ({"x-request-id": "a b"}, None),
        ({"x-request-id": ""}, None),
        ({"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"}, None),
        ({"traceparent": "nonsense"}, None),
        ({}, None),
    ],
)
def test_a_well_formed_trace_id_is_taken_over_and_any_other_replaced(platform, headers, chosen):
    with platform.client() as client:
        given = client.get("/livez", headers=headers).headers["x-request-id"]
        again = client.get("/livez", headers=headers).headers["x-request-id"]
    if chosen is not None:
        assert given == again == chosen
    else:
        assert re.fullmatch("[0-9a-f]{32}", given)
        assert given != again


def test_every_request_has_one_log_line_and_good_probes_none(platform):
    with platform.client() as client, capture_logs() as logs:
        client.get("/nothing?secret=1", headers={"x-request-id": "abc"})
        client.get("/livez")
        client.put("/livez")
        client.post("/v1/prognoses", content="body-not-to-be-logged")
    lines = [line for line in logs if line["event"] == "request"]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/nothing", 404),
        ("PUT", "/livez", 405),
        ("POST", "/v1/prognoses", 415),
    ]
    assert all(line["duration_seconds"] >= 0 for line in lines)
    assert "body-not-to-be-logged" not in str(logs)
    assert "secret" not in str(logs)
