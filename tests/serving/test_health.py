"""Whether prognoses can be given, by what the service leans on; and what Prometheus reads."""

import socket

import msgspec

from rul_serving.settings import ServingSettings

NOBODY_LISTENS = "postgresql://u@127.0.0.1:1/rul"


def statuses(health: dict) -> dict[str, str]:
    return {name: found["status"] for name, found in health["dependencies"].items()}


def test_everything_there_is_ready(platform, redis_url):
    platform.release()
    with platform.client(redis_url=redis_url) as client:
        for path in ("/readyz", "/health"):
            response = client.get(path)
            assert response.status_code == 200
            assert response.json()["status"] == "ready"
            assert statuses(response.json()) == {
                "model_root": "ready", "postgres": "ready", "redis": "ready"
            }  # fmt: skip


def test_a_redis_that_is_not_configured_is_not_missed(platform):
    with platform.client() as client:
        health = client.get("/readyz").json()
    assert health["status"] == "ready"
    assert "redis" not in health["dependencies"]


def test_servers_that_are_down_degrade_and_say_how_to_mend_it(platform):
    platform.release()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        redis_url = f"redis://127.0.0.1:{closed.getsockname()[1]}/0"
        with platform.client(database_url=NOBODY_LISTENS, redis_url=redis_url) as client:
            response = client.get("/health")
    assert response.status_code == 200
    health = response.json()
    assert health["status"] == "degraded"
    assert statuses(health) == {"model_root": "ready", "postgres": "down", "redis": "down"}
    assert "see that it runs" in health["dependencies"]["postgres"]["detail"]
    assert "see that it runs" in health["dependencies"]["redis"]["detail"]


def test_without_the_data_root_and_a_model_nothing_can_be_said(platform, tmp_path):
    with platform.client(root=tmp_path / "nowhere") as client:
        ready, live = client.get("/readyz"), client.get("/livez")
    assert ready.status_code == 503
    assert ready.json()["status"] == "down"
    assert "is no folder that can be read" in ready.json()["dependencies"]["model_root"]["detail"]
    assert live.status_code == 200


def test_a_loaded_model_outlives_the_data_root(platform):
    platform.release()
    question = platform.question("unit-000001")
    with platform.client() as client:
        platform.root.rename(platform.root.with_name("gone"))
        health = client.get("/readyz")
        answer = client.post("/v1/prognoses", json=question)
        platform.root.with_name("gone").rename(platform.root)
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert answer.json()["prognoses"][0]["rul_cycles"] is not None


def test_readings_wait_for_a_data_root_that_is_away(platform):
    """An empty folder stands where it was mounted."""
    question = platform.question("unit-000001")
    (window,) = question["units"]
    path = "/v1/fleets/pumps/readings"
    rows = [{"unit": "unit-000001", **reading} for reading in window["readings"]]
    with platform.client() as client:
        assert client.post(path, json=rows[:2]).status_code == 200
    gone = platform.root.with_name("gone")
    platform.root.rename(gone)
    platform.root.mkdir()
    try:
        with platform.client() as client:
            answers = [client.post(path, json=rows[2:4]), client.get("/v1/fleets")]
            unknown = client.get("/v1/fleets/strangers/units")
            health = client.get("/readyz").json()
    finally:
        platform.root.rmdir()
        gone.rename(platform.root)
    for answer in (*answers, unknown):
        assert answer.status_code == 503, answer.text
        assert answer.headers["retry-after"]
        assert "describes no fleet, and units of pumps are known" in answer.json()["detail"]
    assert health["dependencies"]["model_root"]["status"] == "degraded"
    with platform.client() as client:
        assert client.post(path, json=rows[2:4]).json()["new"] == 2


def test_metrics_count_prognoses_by_state_and_name_the_model(platform):
    champion = platform.release()
    with platform.client() as client:
        before = client.get("/metrics").text
        client.post("/v1/prognoses", json=platform.question("unit-000001", "unit-000002", last=2))
        client.get("/v1/fleets/pumps/units/never-seen/prognosis")
        response = client.get("/metrics")
    after = response.text
    assert response.headers["content-type"].startswith("text/plain; version=")
    series = 'rul_predictions_total{fleet="pumps",state="insufficient_history"} '
    assert value(after, series) == value(before, series) + 2
    seconds = "rul_prediction_duration_seconds_count "
    assert value(after, seconds) == value(before, seconds) + 1
    assert f'rul_model_info{{fleet="pumps",version="{champion.version}"}} 1.0' in after
    assert value(after, 'rul_model_age_seconds{fleet="pumps"} ') > 0
    assert 'path="/v1/fleets/{fleet}/units/{unit}/prognosis",status_code="404"' in after
    assert "never-seen" not in after


def test_requests_are_counted_by_route_and_status_and_never_by_address(platform):
    labels = '{method="GET",path="unmatched",status_code="404"} '
    ready = '{method="GET",path="/readyz",status_code="503"} '
    with platform.client() as client:
        before = client.get("/metrics").text
        client.get("/nobody/lives/here")
        platform.root.rename(platform.root.with_name("gone"))
        client.get("/readyz")
        after = client.get("/metrics").text
        platform.root.with_name("gone").rename(platform.root)
    for series in (
        f"rul_requests_total{labels}",
        f"rul_request_duration_seconds_count{labels}",
        f"rul_requests_total{ready}",
        f"rul_requests_error_total{ready}",
    ):
        assert value(after, series) == value(before, series) + 1
    assert value(after, "rul_requests_in_progress ") == 1
    assert "/nobody" not in after


def value(exposition: str, series: str) -> float:
    lines = [line for line in exposition.splitlines() if line.startswith(series)]
    return float(lines[0].removeprefix(series)) if lines else 0.0


def test_only_the_model_that_answers_is_shown(platform, eventually):
    old = platform.release().version
    with platform.client() as client:
        assert old in client.get("/metrics").text
        new = platform.release().version
        eventually(lambda: new in client.get("/metrics").text)
        assert old not in client.get("/metrics").text


def test_settings_have_safe_defaults(monkeypatch):
    monkeypatch.setenv("RUL_DATABASE_URL", "postgresql://localhost/rul")
    monkeypatch.setenv("RUL_MODEL_POLL_SECONDS", "0.5")
    settings = ServingSettings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.model_poll_seconds == 0.5
    assert msgspec.to_builtins(settings.max_units) == 1000
