"""POST /v1/prognoses: whole windows in, prognoses out, nothing kept."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import polars as pl
import pytest
from catboost import CatBoostRegressor
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from rul_core.prognose import prognose
from rul_core.schema import UNIT
from rul_core.simulator import Simulation, simulated_fleet
from rul_serving.problems import Refusal
from rul_serving.windows import PrognosisRequest, UnitWindow, WindowReading, to_frame
from rul_store import fleets

UNITS = ("unit-000003", "unit-000001", "unit-000016")


def test_units_are_answered_in_the_order_of_the_question_as_the_core_does(platform):
    champion = platform.release()
    with platform.client() as client:
        response = client.post("/v1/prognoses", json=platform.question(*UNITS))
    assert response.status_code == 200, response.text
    answered = response.json()["prognoses"]
    assert [prognosis["unit"] for prognosis in answered] == list(UNITS)
    readings = platform.learnt.readings.filter(pl.col(UNIT).is_in(UNITS))
    model = platform.learnt.training.model
    for expected in prognose(model, readings, version=champion.version, now=datetime.now(UTC)):
        found = next(p for p in answered if p["unit"] == expected.unit)
        for name in ("state", "rul_cycles", "lower_90_cycles", "safe_cycles", "cycle", "life"):
            assert found[name] == getattr(expected, name), name
        assert found["provenance"]["model_version"] == champion.version
        assert found["provenance"]["trace_id"] == response.headers["x-request-id"]
        assert found["contributions"] == []


def test_an_explanation_adds_up_to_the_point(platform):
    platform.release()
    with platform.client() as client:
        question = platform.question("unit-000001", explain=True)
        (prognosis,) = client.post("/v1/prognoses", json=question).json()["prognoses"]
    total = sum(part["cycles"] for part in prognosis["contributions"])
    assert total == pytest.approx(prognosis["rul_cycles"])


def test_a_fleet_without_a_released_model_is_not_configured(platform):
    platform.train()
    with platform.client() as client:
        response = client.post("/v1/prognoses", json=platform.question(*UNITS))
    assert response.status_code == 200
    assert {p["state"] for p in response.json()["prognoses"]} == {"not_configured"}


def test_too_few_readings_are_insufficient_history(platform):
    platform.release()
    with platform.client() as client:
        question = platform.question("unit-000001", last=2)
        (prognosis,) = client.post("/v1/prognoses", json=question).json()["prognoses"]
    assert prognosis["state"] == "insufficient_history"
    assert prognosis["detail"].startswith("2 of ")
    assert prognosis["rul_cycles"] is None


def test_a_last_reading_past_the_freshness_limit_is_stale(platform):
    fleet = msgspec.structs.replace(
        platform.learnt.training.model.fleet, freshness_limit_seconds=3600.0
    )
    model = platform.learnt.training.model
    platform.release()
    question = platform.question("unit-000001")
    times = {"fresh": datetime.now(UTC), "stale": datetime.now(UTC) - timedelta(hours=2)}
    with platform.client() as client:
        served = client.app.state.service.models._served
        loaded = served["pumps"].loaded
        changed = type(model)(fleet, model.pipeline, model.booster, model.bands, model.support)
        served["pumps"] = msgspec.structs.replace(
            served["pumps"],
            loaded=type(loaded)(changed, loaded.version, loaded.manifest, loaded.bundle),
        )
        states = {}
        for name, time in times.items():
            question["units"][0]["readings"][-1]["time"] = time.isoformat()
            (prognosis,) = client.post("/v1/prognoses", json=question).json()["prognoses"]
            states[name] = prognosis["state"]
    assert states["fresh"] != "stale_data"
    assert states["stale"] == "stale_data"


def test_a_model_that_fails_is_an_answer_whose_trace_id_finds_the_log(platform):
    platform.release()
    with platform.client() as client:
        served = client.app.state.service.models._served
        loaded, model = served["pumps"].loaded, platform.learnt.training.model
        broken = type(model)(
            model.fleet, model.pipeline, CatBoostRegressor(), model.bands, model.support
        )
        served["pumps"] = msgspec.structs.replace(
            served["pumps"],
            loaded=type(loaded)(broken, loaded.version, loaded.manifest, loaded.bundle),
        )
        with capture_logs() as logs:
            response = client.post(
                "/v1/prognoses", json=platform.question(*UNITS), headers={"x-request-id": "abc-1"}
            )
    assert response.status_code == 200
    answered = response.json()["prognoses"]
    assert [p["state"] for p in answered] == ["model_error"] * 3
    assert "abc-1" in answered[0]["detail"]
    (line,) = (line for line in logs if line["event"] == "inference failed")
    assert line["log_level"] == "error"
    assert line["exc_info"]


READING = (
    '{"cycle": 1, "values": {"setting_1": 1, "sensor_1": 1, "sensor_2": 2, "sensor_3": 3, '
    '"sensor_4": %s}}'
)


def body(*readings: str) -> str:
    return '{"fleet": "pumps", "units": [{"unit": "u", "readings": [' + ", ".join(readings) + "]}]}"


@pytest.mark.parametrize(
    ("content", "at", "message"),
    [
        ("", "", "the body is not JSON: Input data was truncated"),
        ("{", "", "the body is not JSON"),
        ("[" * 100_000, "body", "Expected `object`, got `array`"),
        (body(READING % ("[" * 100_000)), "", "the body is not JSON: maximum recursion"),
        ("[]", "body", "Expected `object`, got `array`"),
        ('{"fleet": "pumps"}', "body", "missing required field `units`"),
        ('{"fleet": "pumps", "units": []}', "units", "length >= 1"),
        (body(), "units[0].readings", "length >= 1"),
        (body(READING % "1").replace('"u"', '""'), "units[0].unit", "length >= 1"),
        (body(READING % "1").replace('"u"', '"a\\u0000"'), "units[0].unit", "matching regex"),
        (body(READING % "NaN"), "", "the body is not JSON: JSON is malformed"),
        (body(READING % "-Infinity"), "", "the body is not JSON: JSON is malformed"),
        (
            body(READING % "1e999"),
            "units[0].readings[0].values.sensor_4",
            "Number out of range: 1e999; give a number, or null for none",
        ),
        (
            body(READING % "1", READING % '"21.3"'),
            "units[0].readings[1].values.sensor_4",
            'Expected `float | null`, got `str`: "21.3"; give a number, or null for none',
        ),
        (
            body(READING % "true"),
            "units[0].readings[0].values.sensor_4",
            "Expected `float | null`, got `bool`: true; give a number, or null for none",
        ),
        (
            body((READING % "1").replace('"cycle": 1', '"cycle": "1"')),
            "units[0].readings[0].cycle",
            "Expected `float`, got `str`",
        ),
        (
            body((READING % "1").replace('"cycle": 1', '"cycle": 1' + "0" * 400)),
            "units[0].readings[0].cycle",
            "Number out of range",
        ),
        (
            body((READING % "1").replace('"cycle"', '"time": "2026-01-01T00:00:00", "cycle"')),
            "units[0].readings[0].time",
            "Expected `datetime` with a timezone component",
        ),
        (
            body((READING % "1").replace('"cycle"', '"extra": 1, "cycle"')),
            "units[0].readings[0]",
            "Object contains unknown field `extra`",
        ),
        (body("7"), "units[0].readings[0]", "Expected `object`, got `int`"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_at_its_place(platform, content, at, message):
    with platform.client() as client:
        response = client.post(
            "/v1/prognoses", content=content, headers={"content-type": "application/json"}
        )
    problem = response.json()
    assert response.status_code == 400
    assert problem["type"] == "/problems/invalid-request"
    assert [flaw["at"] for flaw in problem["errors"]] == ([at] if at else [])
    assert message in problem["detail"]


def test_bytes_that_are_no_text_are_refused(platform):
    with platform.client() as client:
        response = client.post(
            "/v1/prognoses",
            content=b'{"fleet": "\xff"}',
            headers={"content-type": "application/json"},
        )
    assert response.status_code == 400
    assert "the body is not JSON" in response.json()["detail"]


def test_contradictions_name_unit_index_cycle_and_remedy(platform):
    question = platform.question("unit-000001", "unit-000002", last=4)
    readings = question["units"][1]["readings"]
    readings[2]["cycle"] = 2.0
    readings[3]["cycle"] = 1.0
    del readings[0]["values"]["sensor_2"]
    readings[0]["values"]["sensor_9"] = 1.0
    readings[1]["time"] = "0001-01-01T00:00:00+10:00"
    question["units"].append(question["units"][0])
    with platform.client() as client:
        response = client.post("/v1/prognoses", json=question)
    problem = response.json()
    assert response.status_code == 422
    assert problem["type"] == "/problems/invalid-readings"
    found = {(flaw["at"], flaw["message"]) for flaw in problem["errors"]}
    assert found == {
        (
            "units[1].readings[0].values",
            "unit 'unit-000002', reading 0, cycle 1: 'sensor_9' is no channel; the channels are "
            "setting_1, sensor_1, sensor_2, sensor_3, sensor_4",
        ),
        (
            "units[1].readings[0].values",
            "unit 'unit-000002', reading 0, cycle 1: 'sensor_2' is missing; give its value, or "
            "null where nothing was read",
        ),
        (
            "units[1].readings[1].time",
            "unit 'unit-000002', reading 1, cycle 2: 0001-01-01T00:00:00+10:00 is outside the "
            "years 1 to 9999 in UTC",
        ),
        (
            "units[1].readings[2].cycle",
            "unit 'unit-000002', reading 2, cycle 2: comes after cycle 2; cycles must increase: "
            "sort the readings, send each once, and give a new life a window of its own",
        ),
        (
            "units[1].readings[3].cycle",
            "unit 'unit-000002', reading 3, cycle 1: comes after cycle 2; cycles must increase: "
            "sort the readings, send each once, and give a new life a window of its own",
        ),
        (
            "units[2].unit",
            "unit 'unit-000001' comes twice; put all its readings into one window",
        ),
    }
    at_cycle = [flaw for flaw in problem["errors"] if flaw["at"].endswith("[3].cycle")]
    assert at_cycle[0]["unit"] == "unit-000002"
    assert at_cycle[0]["index"] == 3
    assert at_cycle[0]["cycle"] == 1.0


def test_no_more_than_twenty_flaws_are_told(platform):
    question = platform.question("unit-000001", last=40)
    for reading in question["units"][0]["readings"]:
        reading["cycle"] = 1
    with platform.client() as client:
        problem = client.post("/v1/prognoses", json=question).json()
    assert len(problem["errors"]) == 20


def test_an_unknown_fleet_is_named_with_the_known_ones(platform):
    for fleet in ("fans", "../pumps", "", "pumps\n"):
        question = platform.question("unit-000001", last=1) | {"fleet": fleet}
        with platform.client() as client:
            response = client.post("/v1/prognoses", json=question)
        assert response.status_code == 404
        assert response.json()["type"] == "/problems/unknown-fleet"
        assert "(fleets: pumps)" in response.json()["detail"]


def test_a_broken_description_is_our_fault_and_says_what_to_correct(platform):
    path = fleets.path_of(platform.root, "pumps")
    path.write_text(path.read_text().replace("unit_of_life", "unit_of_live"))
    with platform.client() as client:
        response = client.post("/v1/prognoses", json=platform.question("unit-000001", last=1))
    assert response.status_code == 500
    assert response.json()["type"] == "/problems/invalid-fleet"
    assert "unknown field `unit_of_live`" in response.json()["detail"]


def test_a_described_fleet_is_checked_against_its_description_before_it_has_a_model(platform):
    question = platform.question("unit-000001", last=1)
    del question["units"][0]["readings"][0]["values"]["sensor_1"]
    with platform.client() as client:
        assert client.post("/v1/prognoses", json=question).status_code == 422


@pytest.mark.parametrize(
    ("limit", "told"),
    [({"max_units": 2}, "3 units in one question, at most 2"),
     ({"max_readings": 11}, "12 readings in one question, at most 11"),
     ({"max_body_bytes": 1000}, "")],
)  # fmt: skip
def test_more_than_the_limits_allow_is_too_large(platform, limit, told):
    with platform.client(**limit) as client:
        response = client.post("/v1/prognoses", json=platform.question(*UNITS, last=4))
    assert response.status_code == 413
    assert response.json()["type"] == "/problems/too-large"
    assert told in response.json()["detail"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_only_json_is_read(platform, content_type):
    content = json.dumps(platform.question("unit-000001", last=1))
    with platform.client() as client:
        response = client.post(
            "/v1/prognoses", content=content, headers={"content-type": content_type}
        )
    assert response.status_code == 415
    assert response.json()["type"] == "/problems/unsupported-media-type"
    assert "Content-Type: application/json" in response.json()["detail"]


@given(cycles=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
@hypothesis_settings(max_examples=50, deadline=None)
def test_a_window_is_taken_exactly_when_its_cycles_increase(cycles):
    fleet = simulated_fleet(Simulation(sensors=1, settings=0), "lab")
    question = PrognosisRequest(
        fleet="lab",
        units=[
            UnitWindow(
                unit="u",
                readings=[WindowReading(cycle=c, values={"sensor_1": None}) for c in cycles],
            )
        ],
    )
    if all(later > earlier for earlier, later in pairwise(cycles)):
        assert to_frame(question, fleet)["cycle"].to_list() == cycles
    else:
        with pytest.raises(Refusal, match="cycles must increase"):
            to_frame(question, fleet)


FINITE = st.floats(allow_nan=False, allow_infinity=False)


def test_any_numbers_at_all_are_answered_with_a_state(platform):
    platform.release()
    channels = platform.learnt.training.model.fleet.channels
    reading = st.fixed_dictionaries(dict.fromkeys(channels, FINITE | st.none()))
    rows = st.lists(st.tuples(FINITE, reading), min_size=1, max_size=12, unique_by=lambda r: r[0])
    with platform.client() as client:

        @given(rows=rows)
        @hypothesis_settings(max_examples=30, deadline=None, phases=[Phase.generate])
        def ask(rows: list) -> None:
            readings = [{"cycle": c, "values": v} for c, v in sorted(rows, key=lambda r: r[0])]
            question = {"fleet": "pumps", "units": [{"unit": "u", "readings": readings}]}
            response = client.post("/v1/prognoses", json=question)
            assert response.status_code == 200, response.text
            assert response.json()["prognoses"][0]["state"] != "model_error"

        ask()
