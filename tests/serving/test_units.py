"""What is said of a unit: now, ever, and why."""

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import polars as pl
import pytest
import sqlalchemy as sa
from litestar.testing import TestClient

from rul_core.explain import explained
from rul_core.lookalikes import LOOKALIKES
from rul_core.prognose import prognose
from rul_core.prognosis import Prognosis, Provenance, State
from rul_core.schema import UNIT
from rul_serving import refresh
from rul_store import fleets, leases, ledger, lives
from rul_store.database import begin
from rul_store.models import load_model, save_model
from rul_store.registry import BundleStore
from tests.serving.conftest import RECIPE, Platform
from tests.serving.test_ledger import id_of
from tests.serving.test_readings import body, life_of, said, send

NAME = "unit-000001"
PATH = f"/v1/fleets/pumps/units/{NAME}"


@pytest.fixture
def unit(platform: Platform) -> pl.DataFrame:
    return life_of(platform, NAME)


def known(platform: Platform, *rows: tuple[str, int, str, float | None]) -> None:
    """Lives that are known."""
    for row in rows:
        life = pl.DataFrame([row], schema=lives.LIVES_SCHEMA, orient="row")
        lives.upsert(platform.engine, "pumps", life, source="a person")


def get(client: TestClient, path: str, status: int = 200) -> dict[str, Any]:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


def prognosis_of(client: TestClient, path: str) -> Prognosis:
    return msgspec.convert(get(client, path), Prognosis, strict=False)


def release_with(platform: Platform, **described: Any) -> str:
    """A model that learnt under another description, live."""
    learnt = platform.learnt
    model = learnt.training.model
    fleet = msgspec.structs.replace(model.fleet, **described)
    changed = type(model)(
        fleet=fleet, pipeline=model.pipeline, booster=model.booster, bands=model.bands,
        support=model.support,
    )  # fmt: skip
    version = platform.train()
    origin = load_model(BundleStore(platform.root), "pumps", version).manifest.origin
    assert origin.recipe == RECIPE
    made = save_model(
        BundleStore(platform.root),
        type(learnt.training)(changed, learnt.training.out_of_fold),
        origin=origin,
        examples=learnt.readings,
        reference=learnt.reference,
        trajectories=learnt.trajectories,
        metrics=learnt.metrics,
        gate=Provenance(),
        card="",
        now=datetime(2026, 4, 1, tzinfo=UTC),
    )
    fleets.save(platform.root, fleet, replace=True)
    platform.promote(made)
    return made


def test_a_known_unit_without_a_model_is_not_configured(platform):
    known(platform, ("b", 1, "running", None))
    with platform.client() as client:
        one = prognosis_of(client, "/v1/fleets/pumps/units/b/prognosis")
        page = get(client, "/v1/fleets/pumps/units")
        assert get(client, "/v1/fleets/pumps/units?state=estimated")["units"] == []
    assert (one.state, one.life, one.rul_cycles) == (State.NOT_CONFIGURED, 1, None)
    assert "has no released model" in one.detail
    assert one.provenance.ledger_id is None
    assert [(row["unit"], row["state"]) for row in page["units"]] == [("b", "not_configured")]
    assert page["units_by_state"]["not_configured"] == page["units_without_valid_prognosis"] == 1


def test_a_known_unit_of_which_nothing_was_said_yet_says_so(platform, unit):
    platform.release()
    known(platform, ("b", 1, "running", None), ("c", 1, "failed", 9.0))
    with platform.client() as client:
        running = prognosis_of(client, "/v1/fleets/pumps/units/b/prognosis?explain=true")
        over = prognosis_of(client, "/v1/fleets/pumps/units/c/prognosis")
        page = get(client, "/v1/fleets/pumps/units?state=insufficient_history")
        assert get(client, "/v1/fleets/pumps/units/b/prognoses")["entries"] == []
    assert running.state is over.state is State.INSUFFICIENT_HISTORY
    assert "no reading of this life was prognosed yet" in running.detail
    assert "5 readings are needed" in running.detail
    assert over.detail == "its last life ended before a prognosis was made of it"
    assert [row["unit"] for row in page["units"]] == ["b"]
    assert page["units_by_state"]["insufficient_history"] == 1


def test_that_there_was_no_model_is_no_longer_said_once_there_is_one(platform):
    known(platform, (NAME, 1, "running", None))
    one = Prognosis(
        fleet="pumps", unit=NAME, state=State.NOT_CONFIGURED, computed_at=datetime.now(UTC)
    )
    ledger.record(platform.engine, "pumps", [one])
    for state in (State.NOT_CONFIGURED, State.INSUFFICIENT_HISTORY):
        with platform.client() as client:
            assert prognosis_of(client, f"{PATH}/prognosis").state is state
            assert get(client, "/v1/fleets/pumps/units")["units"][0]["state"] == state
        platform.release()


def test_the_next_life_of_a_unit_is_not_that_before(platform, unit):
    platform.release()
    with platform.client() as client:
        first = said(send(client, body(platform, unit[:20])))
        known(platform, (NAME, 1, "failed", 20.0))
        assert prognosis_of(client, f"{PATH}/prognosis") == first
        known(platform, (NAME, 2, "running", None))
        then = prognosis_of(client, f"{PATH}/prognosis")
        assert (then.life, then.state) == (2, State.INSUFFICIENT_HISTORY)
        now = said(send(client, body(platform, unit[:9])))
        assert prognosis_of(client, f"{PATH}/prognosis") == now
        assert now.life == 2


@pytest.fixture
def stale(platform: Platform, unit: pl.DataFrame) -> pl.DataFrame:
    """Readings of which the last was a minute ago, of a fleet that allows an hour."""
    release_with(platform, freshness_limit_seconds=3600.0)
    return unit[:30].with_columns(pl.lit(datetime.now(UTC) - timedelta(minutes=1)).alias("time"))


def timed(platform: Platform, rows: pl.DataFrame) -> list[dict[str, Any]]:
    times = [time.isoformat() for time in rows["time"]]
    return [{**row, "time": time} for row, time in zip(body(platform, rows), times, strict=True)]


def test_a_prognosis_grows_stale_by_itself_and_a_get_writes_nothing(platform, stale):
    with platform.client() as client:
        fresh = said(send(client, timed(platform, stale)))
        assert fresh.state in (State.ESTIMATED, State.BEYOND_HORIZON)
        assert fresh.provenance.last_read_at is not None
        assert prognosis_of(client, f"{PATH}/prognosis") == fresh
    later = datetime.now(UTC) - timedelta(hours=2)
    provenance = msgspec.structs.replace(fresh.provenance, last_read_at=later)
    old = msgspec.structs.replace(fresh, provenance=provenance, cycle=31.0)
    ledger.record(platform.engine, "pumps", [old])
    head = ledger.head(platform.engine, "pumps")
    with begin(platform.engine) as connection:
        name = connection.execute(sa.text("SELECT current_database()")).scalar()
        connection.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    with platform.client() as client:
        found = prognosis_of(client, f"{PATH}/prognosis")
        page = get(client, "/v1/fleets/pumps/units?state=stale_data")
        counted = get(client, "/v1/fleets/pumps/units?limit=1")
        entries = get(client, f"{PATH}/prognoses")["entries"]
    assert found.state is State.STALE_DATA
    assert "s old, the limit is 3600 s" in found.detail
    assert found.rul_cycles == fresh.rul_cycles
    assert [(row["unit"], row["state"]) for row in page["units"]] == [(NAME, "stale_data")]
    assert counted["units_by_state"]["stale_data"] == 1
    assert counted["units_without_valid_prognosis"] == 1
    assert [entry["prognosis"]["state"] for entry in entries] == [fresh.state] * 2
    assert ledger.head(platform.engine, "pumps") == head


def test_a_prognosis_that_was_stale_when_it_was_made_can_be_replayed(platform, stale):
    old = stale.with_columns(pl.col("time") - timedelta(hours=3))
    with platform.client() as client:
        one = said(send(client, timed(platform, old)))
        assert one.state is State.STALE_DATA
        answer = client.post(f"/v1/ledger/{id_of(one)}/replay").json()
    assert answer["verdict"] == "equal"


def test_the_history_has_every_entry_once_the_newest_first(platform, unit):
    platform.release()
    with platform.client() as client:
        for row in range(7):
            rows = unit[row : row + 1]
            send(client, body(platform, rows) + body(platform, rows, unit="a b"))
        seen, address = [], f"{PATH}/prognoses?limit=3"
        while address:
            answer = client.get(address)
            assert answer.status_code == 200
            assert len(answer.json()["entries"]) <= 3
            seen += [entry["prognosis"]["cycle"] for entry in answer.json()["entries"]]
            address = answer.links.get("next", {}).get("url")
            assert (address is None) == (answer.json()["next_cursor"] is None)
        other = client.get("/v1/fleets/pumps/units/a%20b/prognoses?limit=6")
        rest = client.get(other.links["next"]["url"])
    assert seen == [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert [len(page.json()["entries"]) for page in (other, rest)] == [6, 1]


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("limit=0", "invalid-request"),
        ("limit=1001", "invalid-request"),
        ("cursor=x", "invalid-cursor"),
        ("cursor=WzFd", "invalid-cursor"),  # [1]
        ("cursor=MA", "invalid-cursor"),  # 0
        ("cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "invalid-cursor"),  # beyond all numbers
        ("cursor=" + "a" * 1001, "invalid-request"),
    ],
)
def test_a_wrong_parameter_of_the_history_is_named(platform, query, kind):
    known(platform, (NAME, 1, "running", None))
    with platform.client() as client:
        assert get(client, f"{PATH}/prognoses?{query}", 400)["type"] == f"/problems/{kind}"


@pytest.mark.parametrize("what", ["prognosis", "prognoses"])
def test_a_unit_that_nobody_has_heard_of_is_404(platform, what):
    with platform.client() as client:
        problem = get(client, f"/v1/fleets/pumps/units/zz/{what}", 404)
        fleet = get(client, f"/v1/fleets/fans/units/zz/{what}", 404)
    assert problem["type"] == "/problems/unknown-unit"
    assert "nobody has heard of a unit 'zz'" in problem["detail"]
    assert fleet["type"] == "/problems/unknown-fleet"


def test_an_explanation_is_that_of_the_readings_and_the_model_of_the_prognosis(platform, unit):
    # Nobody prognoses the unit by the second model, for that takes the lease.
    assert leases.hold(platform.engine, refresh.LEASE, "a test", 600)
    version = platform.release().version
    with platform.client() as client:
        plain = said(send(client, body(platform, unit[:40])))
        first = prognosis_of(client, f"{PATH}/prognosis?explain=true")
        platform.release()
    with platform.client() as client:  # another model answers now
        again = prognosis_of(client, f"{PATH}/prognosis?explain=true")
        unexplained = prognosis_of(client, f"{PATH}/prognosis")
    assert first == again
    assert unexplained == plain
    assert msgspec.structs.replace(first, contributions=(), explanation=None) == plain
    model = platform.learnt.training.model
    expected = explained(
        prognose(model, unit[:40], version=version, now=datetime.now(UTC))[0],
        model,
        unit[:40],
        platform.learnt.trajectories,
    )
    assert (first.contributions, first.explanation) == (
        expected.contributions,
        expected.explanation,
    )
    assert sum(part.cycles for part in first.contributions) == pytest.approx(first.rul_cycles)
    assert first.explanation is not None
    assert len(first.explanation.lookalikes) == LOOKALIKES
    assert NAME not in {one.unit for one in first.explanation.lookalikes}


def test_readings_that_came_late_since_do_not_change_the_explanation(platform, unit):
    platform.release()
    with platform.client() as client:
        send(client, body(platform, unit[10:40]))
        before = prognosis_of(client, f"{PATH}/prognosis?explain=true")
        with begin(platform.engine) as connection:  # as if its prognosis were still to come
            connection.execute(
                sa.text(
                    "INSERT INTO readings (fleet, unit, life, cycle, layout, measured) "
                    "SELECT fleet, unit, life, 0.5, layout, measured FROM readings WHERE cycle = 20"
                )
            )
        assert prognosis_of(client, f"{PATH}/prognosis?explain=true") == before


def test_without_figures_there_is_nothing_to_explain(platform, unit):
    platform.release()
    with platform.client() as client:
        few = said(send(client, body(platform, unit[:2])))
        assert prognosis_of(client, f"{PATH}/prognosis?explain=true") == few


def test_without_its_model_a_prognosis_cannot_be_explained_but_stands(platform, unit):
    # Nobody prognoses the unit by the second model, for that takes the lease.
    assert leases.hold(platform.engine, refresh.LEASE, "a test", 600)
    version = platform.release().version
    with platform.client() as client:
        plain = said(send(client, body(platform, unit[:40])))
    platform.release()
    shutil.rmtree(platform.bundle(version))
    with platform.client() as client:
        problem = get(client, f"{PATH}/prognosis?explain=true", 409)
        assert prognosis_of(client, f"{PATH}/prognosis") == plain
    assert problem["type"] == "/problems/irreproducible"
    assert "is not there" in problem["detail"]


def test_what_gives_something_else_now_is_not_explained(platform, unit):
    platform.release()
    with platform.client() as client:
        send(client, body(platform, unit[:40]))
        with begin(platform.engine) as connection:
            connection.execute(sa.text("DELETE FROM readings WHERE cycle = 20"))
        problem = get(client, f"{PATH}/prognosis?explain=true", 409)
    assert "give something else now" in problem["detail"]


def test_without_postgresql_an_explanation_is_unavailable(platform, unit):
    with platform.client(database_url="postgresql://u@127.0.0.1:1/rul") as client:
        assert get(client, f"{PATH}/prognosis?explain=true", 503)["type"].endswith("unavailable")


def test_a_unit_named_like_a_path_is_read_as_it_is(platform, unit):
    platform.release()
    odd = unit[:3].with_columns(pl.lit("a:b c").alias(UNIT))
    with platform.client() as client:
        send(client, body(platform, odd))
        assert len(get(client, "/v1/fleets/pumps/units/a%3Ab%20c/prognoses")["entries"]) == 1
