"""Fleets, their units ranked by risk, the current prognosis of each: reads that write nothing."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from litestar.testing import TestClient

from rul_core.prognosis import Prognosis, State
from rul_store import fleets, ledger
from rul_store.database import begin

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOBODY_LISTENS = "postgresql://u:secret@127.0.0.1:1/rul"


def said(unit: str, state: State, probability: float | None = None) -> Prognosis:
    return Prognosis(
        fleet="pumps", unit=unit, life=1, cycle=9.0, state=state, failure_probability=probability,
        computed_at=NOW,
    )  # fmt: skip


@pytest.fixture
def five(platform):
    """Five units with a prognosis."""
    prognoses = [
        said("a", State.ESTIMATED, 0.2),
        said("b", State.ESTIMATED, 0.9),
        said("c", State.BEYOND_HORIZON, 0.0),
        said("d", State.SENSOR_FAULT),
        said("e", State.ESTIMATED, 0.2),
    ]
    ledger.record(platform.engine, "pumps", prognoses)
    return platform


def test_units_are_ranked_by_risk_beside_the_headline_counts(five):
    with five.client() as client:
        response = client.get("/v1/fleets/pumps/units")
    body = response.json()
    assert [unit["unit"] for unit in body["units"]] == ["b", "a", "e", "c", "d"]
    assert body["units_by_state"]["estimated"] == 3
    assert body["units_by_state"]["model_error"] == 0
    assert sum(body["units_by_state"].values()) == 5
    assert body["units_without_valid_prognosis"] == 1
    assert body["next_cursor"] is None
    assert "link" not in response.headers


def test_pages_follow_the_link_header_to_the_end(five):
    seen, address = [], "/v1/fleets/pumps/units?limit=2"
    with five.client() as client:
        while address:
            response = client.get(address)
            assert response.status_code == 200, response.text
            seen += [unit["unit"] for unit in response.json()["units"]]
            address = response.links.get("next", {}).get("url")
            assert (address is None) == (response.json()["next_cursor"] is None)
    assert seen == ["b", "a", "e", "c", "d"]


def test_a_filter_holds_on_every_page_and_leaves_the_counts(five):
    with five.client() as client:
        first = client.get("/v1/fleets/pumps/units?state=estimated&limit=2")
        second = client.get(first.links["next"]["url"])
    assert [unit["unit"] for unit in first.json()["units"]] == ["b", "a"]
    assert [unit["unit"] for unit in second.json()["units"]] == ["e"]
    assert first.json()["units_by_state"] == second.json()["units_by_state"]


@pytest.mark.parametrize(
    ("query", "kind", "told"),
    [
        ("limit=0", "invalid-request", "limit: Expected `int` >= 1"),
        ("limit=1001", "invalid-request", "limit: Expected `int` <= 1000"),
        ("limit=many", "invalid-request", "limit: Expected `int`, got `str`"),
        ("state=fine", "invalid-request", "state: Invalid enum value 'fine'"),
        ("cursor=nonsense", "invalid-cursor", "begin again without one"),
        ("cursor=" + "a" * 1001, "invalid-request", "cursor: Expected `str` of length <= 1000"),
        ("cursor=WzAuNSwiXHUwMDAwIl0", "invalid-cursor", ""),  # [0.5,"\u0000"]
    ],
)
def test_a_wrong_parameter_is_named(five, query, kind, told):
    with five.client() as client:
        response = client.get(f"/v1/fleets/pumps/units?{query}")
    assert response.status_code == 400
    assert response.json()["type"] == f"/problems/{kind}"
    assert told in response.json()["detail"]


def test_a_units_current_prognosis_is_the_newest_one(five):
    newer = said("a", State.ESTIMATED, 0.4)
    ledger.record(five.engine, "pumps", [Prognosis(**{
        name: getattr(newer, name) for name in newer.__struct_fields__ if name != "cycle"
    }, cycle=10.0)])  # fmt: skip
    with five.client() as client:
        prognosis = client.get("/v1/fleets/pumps/units/a/prognosis").json()
    assert (prognosis["unit"], prognosis["cycle"]) == ("a", 10.0)
    assert prognosis["failure_probability"] == 0.4


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/fleets/fans/units", "unknown-fleet"),
        ("/v1/fleets/fans/units/a/prognosis", "unknown-fleet"),
        ("/v1/fleets/pumps/units/zz/prognosis", "unknown-unit"),
        ("/v1/fleets/pumps/units/%FF/prognosis", "unknown-unit"),
        ("/v1/fleets/pumps/units/a%2Fb/prognosis", "not-found"),
    ],
)
def test_what_is_not_there_is_404_of_its_kind(five, path, kind):
    with five.client() as client:
        response = client.get(path)
    assert response.status_code == 404
    assert response.json()["type"] == f"/problems/{kind}"


@pytest.mark.parametrize(
    "path",
    ["/v1/fleets/a%20b/units", "/v1/fleets/.hidden/units", "/v1/fleets/pumps/units/%00/prognosis"],
)
def test_a_name_that_cannot_be_one_is_refused(five, path):
    with five.client() as client:
        response = client.get(path)
    assert response.status_code == 400
    assert response.json()["errors"][0]["at"] in {"fleet", "unit"}


def test_fleets_are_listed_with_what_their_readings_must_bring(platform):
    champion = platform.release()
    fleets.path_of(platform.root, "broken").write_text("name = 1")
    with platform.client() as client:
        body = client.get("/v1/fleets").json()
    (pumps,) = body["fleets"]
    assert pumps["name"] == "pumps"
    assert pumps["settings"] + pumps["sensors"] == list(
        platform.learnt.training.model.fleet.channels
    )
    assert pumps["served_version"] == champion.version
    assert pumps["horizon_cycles"] == 9.0
    (broken,) = body["broken"]
    assert broken["name"] == "broken"
    assert "Expected `str`, got `int`" in broken["problem"]


def get_everything(client: TestClient) -> dict[str, int]:
    paths = [
        "/v1/fleets", "/v1/fleets/pumps/units", "/v1/fleets/pumps/units?state=estimated&limit=1",
        "/v1/fleets/pumps/units/a/prognosis", "/v1/models", "/livez", "/readyz", "/health",
        "/metrics", "/schema", "/problems/not-found",
    ]  # fmt: skip
    return {path: client.get(path).status_code for path in paths}


def test_a_get_writes_nothing(five):
    five.release()
    with begin(five.engine) as connection:
        name = connection.execute(sa.text("SELECT current_database()")).scalar()
        connection.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    files = {path: path.stat().st_mtime_ns for path in five.root.rglob("*")}
    with five.client() as client:
        assert set(get_everything(client).values()) == {200}
    assert {path: path.stat().st_mtime_ns for path in five.root.rglob("*")} == files


def test_without_postgresql_the_ranking_says_so_at_once_and_all_else_answers(five):
    five.release()
    with five.client(database_url=NOBODY_LISTENS) as client:
        statuses = get_everything(client)
        problem = client.get("/v1/fleets/pumps/units")
        question = client.post("/v1/prognoses", json=five.question("unit-000001"))
    need_it = {path for path in statuses if path.startswith("/v1/fleets/pumps")}
    assert {path for path, status in statuses.items() if status != 200} == need_it
    assert problem.status_code == 503
    assert problem.json()["type"] == "/problems/unavailable"
    assert problem.headers["retry-after"] == "5"
    assert "127.0.0.1:1/rul" in problem.json()["detail"]
    assert "secret" not in problem.text
    assert question.json()["prognoses"][0]["state"] in {"estimated", "beyond_horizon"}


def test_a_database_without_our_tables_is_unavailable_and_says_why(five, servers):
    with five.client(database_url=servers.database_url) as client:
        response = client.get("/v1/fleets/pumps/units")
        (window,) = five.question("unit-000001", last=1)["units"]
        reading = {"unit": "unit-000001", **window["readings"][0]}
        sent = client.post("/v1/fleets/pumps/readings", json=[reading])
    for answer in (response, sent):
        assert answer.status_code == 503, answer.text
        assert "has no tables of ours yet; migrate it" in answer.json()["detail"]
