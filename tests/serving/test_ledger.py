"""The ledger over HTTP: what was said, for good, and computed again to the last bit."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar.testing import TestClient

from rul_core.prognosis import Prognosis, Provenance, Seen, State
from rul_core.schema import UNIT
from rul_serving.settings import AccessMode
from rul_store import fleets, histories, ledger
from rul_store.database import begin
from rul_store.lake import Lake
from rul_store.replay import Versions
from tests.serving.conftest import Platform
from tests.serving.test_readings import body, life_of, said, send

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NAME = "unit-000001"


@pytest.fixture
def released(platform: Platform) -> Platform:
    platform.release()
    return platform


@pytest.fixture
def unit(platform: Platform) -> pl.DataFrame:
    return life_of(platform, NAME)


def id_of(prognosis: Prognosis) -> UUID:
    assert prognosis.provenance.ledger_id is not None
    return prognosis.provenance.ledger_id


def replayed(client: TestClient, ledger_id: object) -> dict[str, Any]:
    answer = client.post(f"/v1/ledger/{ledger_id}/replay")
    assert answer.status_code == 200, answer.text
    return answer.json()


def verdicts(client: TestClient, platform: Platform) -> list[str]:
    """Of every entry, in order."""
    entries = ledger.since(platform.engine, "pumps", 0)
    return [replayed(client, entry.ledger_id)["verdict"] for entry in entries]


def land(platform: Platform, name: str, rows: pl.DataFrame) -> None:
    """Readings that came in a file."""
    landed = histories.with_source(rows).with_columns(pl.lit(f"{name}.csv").alias("source"))
    Lake(platform.root).append(histories.RAW, "pumps", f"{histories.FILE_RUN}{name}", landed)


def test_an_entry_is_shown_with_its_place_in_the_chain(released, unit):
    with released.client() as client:
        first = said(send(client, body(released, unit[:9])))
        second = said(send(client, body(released, unit[9:10])))
        shown = [client.get(f"/v1/ledger/{id_of(one)}").json() for one in (first, second)]
    assert [entry["position"] for entry in shown] == [1, 2]
    assert shown[1]["prev_hash"] == shown[0]["hash"]
    assert shown[0]["prev_hash"] == "00" * 32
    found = msgspec.convert(shown[1]["prognosis"], Prognosis, strict=False)
    assert found == second
    assert shown[1]["ledger_id"] == str(id_of(second))


def test_whatever_was_said_in_order_is_said_again_to_the_last_bit(released, unit):
    with released.client() as client:
        for row in range(unit.height):
            send(client, body(released, unit[row : row + 1]))
        assert verdicts(client, released) == ["equal"] * unit.height


def test_late_readings_and_those_after_it_do_not_break_a_replay(released, unit):
    with released.client() as client:
        send(client, body(released, unit[[*range(4), *range(6, 12)]]))
        send(client, body(released, unit[12:15]))
        send(client, body(released, unit[5:6]))
        send(client, body(released, unit[[4, 20]]))
        assert verdicts(client, released) == ["equal"] * 4
    seen = [entry.prognosis.provenance for entry in ledger.since(released.engine, "pumps", 0)]
    assert [one.readings for one in seen] == [10, 13, 14, 16]


@given(data=st.data())
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_whatever_order_readings_come_every_entry_can_be_replayed(released, data):
    unit, before = f"u{uuid4().hex}", ledger.head(released.engine, "pumps")
    rows = life_of(released, NAME).with_columns(pl.lit(unit).alias(UNIT))
    order = data.draw(st.permutations(range(16)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 15), max_size=4)))
    with released.client() as client:
        for start, stop in zip([0, *cuts], [*cuts, 16], strict=True):
            send(client, body(released, rows[order[start:stop]]))
        entries = ledger.since(released.engine, "pumps", before)
        assert len(entries) == len(cuts) + 1
        found = {replayed(client, entry.ledger_id)["verdict"] for entry in entries}
    assert found == {"equal"}


def test_files_that_come_between_and_after_do_not_break_a_replay(released, unit):
    other = unit[8:9].with_columns(pl.lit(1.5).alias("sensor_1"))
    with released.client() as client:
        land(released, "first", unit[:6])
        send(client, body(released, unit[6:8]))
        send(client, body(released, other))
        land(released, "second", unit[2:10])  # says something else of the ninth cycle, and counts
        send(client, body(released, unit[10:12]))
        land(released, "third", unit[11:30])
        assert verdicts(client, released) == ["equal"] * 3
        seen = [one.prognosis.provenance.seen for one in ledger.since(released.engine, "pumps", 0)]
    assert [one.landed_rows for one in seen] == [6, 6, 14]


def test_another_description_and_a_newer_model_do_not_break_a_replay(released, unit):
    with released.client() as client:
        send(client, body(released, unit[:9]))
    fleet = fleets.load(released.root, "pumps")
    columns = msgspec.structs.replace(fleet.columns, sensors=("new", *fleet.columns.sensors[1:]))
    changed = msgspec.structs.replace(
        fleet, columns=columns, ranges={"sensor_2": (-1.0, 1.0)}, freshness_limit_seconds=1.0
    )
    fleets.save(released.root, changed, replace=True)
    released.release()
    with released.client() as client:
        row = body(released, unit[9:10])[0]
        row["values"]["new"] = row["values"].pop(fleet.columns.sensors[0])
        send(client, [row])
        assert verdicts(client, released) == ["equal"] * 2
    entries = ledger.since(released.engine, "pumps", 0)
    assert len({entry.prognosis.provenance.model_version for entry in entries}) == 2


def lose(platform: Platform, version: str) -> None:
    shutil.rmtree(platform.bundle(version))


def damage(platform: Platform, version: str) -> None:
    path = platform.bundle(version) / "model.json"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "reason"), [(lose, "is not there"), (damage, "model.json differs")]
)
def test_without_its_bundle_an_entry_cannot_be_replayed_and_that_is_said(
    released, unit, harm: Callable[[Platform, str], None], reason
):
    version = released.release().version
    with released.client() as client:
        send(client, body(released, unit[:9]))
    released.release()
    with released.client() as client:
        send(client, body(released, unit[9:10]))
        harm(released, version)
        old, new = (
            replayed(client, entry.ledger_id) for entry in ledger.since(released.engine, "pumps", 0)
        )
    assert (old["verdict"], new["verdict"]) == ("impossible", "equal")
    assert reason in old["reason"]


def test_without_the_lakes_files_an_entry_cannot_be_replayed_and_that_is_said(released, unit):
    land(released, "first", unit[:9])
    with released.client() as client:
        one = id_of(said(send(client, body(released, unit[9:10]))))
        assert replayed(client, one)["verdict"] == "equal"
        (file,) = (released.root / "lake").glob("*/pumps/file-*/*.parquet")
        content = file.read_bytes()
        file.write_bytes(bytes(len(content)))
        spoilt = replayed(client, one)
        file.unlink()
        lost = replayed(client, one)
        shutil.rmtree(released.root / "lake")
        gone = replayed(client, one)
    assert {found["verdict"] for found in (spoilt, lost, gone)} == {"impossible"}
    assert "raw readings of fleet 'pumps' cannot be read" in spoilt["reason"]
    assert "is missing, " in lost["reason"]
    assert "9 raw readings of fleet 'pumps' had been seen" in gone["reason"]


def recorded(platform: Platform, **changed: Any) -> UUID:
    """A prognosis that somebody recorded."""
    provenance = msgspec.structs.replace(
        Provenance(model_version="v", seen=Seen(raw_rows=0)), **changed.pop("provenance", {})
    )
    one = Prognosis(
        fleet="pumps", unit="a", life=1, state=State.INSUFFICIENT_HISTORY, computed_at=NOW,
        provenance=provenance,
    )  # fmt: skip
    one = msgspec.structs.replace(one, **changed)
    ledger.record(platform.engine, "pumps", [one])
    return ledger.ledger_id_of(one)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"state": State.NOT_CONFIGURED}, "nothing was computed: the state is not_configured"),
        ({"state": State.MODEL_ERROR}, "nothing was computed: the state is model_error"),
        ({"provenance": {"model_version": None}}, "nothing was computed"),
        ({"provenance": {"engine": "trees-0"}}, "computed by engine 'trees-0', this version of"),
        ({"provenance": {"seen": Seen()}}, "does not say which readings had been seen"),
    ],
)
def test_what_was_not_computed_here_cannot_be_replayed_and_the_reason_is_told(
    released, changed, reason
):
    with released.client() as client:
        found = replayed(client, recorded(released, **changed))
    assert found["verdict"] == "impossible"
    assert reason in found["reason"]
    assert found["differences"] == []


def test_that_nothing_had_been_read_can_be_replayed_too(released, unit):
    champion = released.release()
    one = {"provenance": {"model_version": champion.version}, "detail": "0 of 5 readings collected"}
    ledger_id = recorded(released, **one)
    with released.client() as client:
        assert replayed(client, ledger_id)["verdict"] == "equal"
        land(released, "first", unit[:3].with_columns(pl.lit("a").alias(UNIT)))
        assert replayed(client, ledger_id)["verdict"] == "equal"
        one["provenance"]["seen"] = Seen(raw_rows=3)
        found = replayed(client, recorded(released, **one, life=1, unit="a", cycle=2.0))
    assert found["verdict"] == "different"


def test_a_forged_figure_is_named(released, unit):
    with released.client() as client:
        truth = said(send(client, body(released, unit[:30])))
        assert truth.rul_cycles is not None
        forged = msgspec.structs.replace(truth, rul_cycles=truth.rul_cycles + 1e-12)
        ledger.record(released.engine, "pumps", [forged])
        found = replayed(client, ledger.ledger_id_of(forged))
    assert found["verdict"] == "different"
    fields = {each["field"]: each for each in found["differences"]}
    assert set(fields) == {"rul_cycles", "provenance.ledger_id"}
    assert float(fields["rul_cycles"]["recorded"]) == forged.rul_cycles
    assert float(fields["rul_cycles"]["recomputed"]) == truth.rul_cycles


def test_a_changed_reading_is_found_out(released, unit):
    with released.client() as client:
        one = said(send(client, body(released, unit[:30])))
        with begin(released.engine) as connection:
            connection.execute(sa.text("DELETE FROM readings WHERE cycle = 3"))
        found = replayed(client, id_of(one))
    assert found["verdict"] == "different"
    (readings,) = (each for each in found["differences"] if each["field"] == "provenance.readings")
    assert (readings["recorded"], readings["recomputed"]) == ("30", "29")


def test_a_replay_writes_nothing(released, unit):
    with released.client() as client:
        one = id_of(said(send(client, body(released, unit[:9]))))
    with begin(released.engine) as connection:
        name = connection.execute(sa.text("SELECT current_database()")).scalar()
        connection.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    with released.client() as client:
        assert replayed(client, one)["verdict"] == "equal"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_no_entry_is_a_problem_of_its_kind(released, method):
    more = "" if method == "GET" else "/replay"
    with released.client() as client:
        missing = client.request(method, f"/v1/ledger/{UUID(int=7)}{more}")
        wrong = client.request(method, f"/v1/ledger/7{more}")
    with released.client(database_url="postgresql://u@127.0.0.1:1/rul") as client:
        away = client.request(method, f"/v1/ledger/{UUID(int=7)}{more}")
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/unknown-entry")
    assert (wrong.status_code, wrong.json()["errors"][0]["at"]) == (400, "ledger_id")
    assert (away.status_code, away.json()["type"]) == (503, "/problems/unavailable")


def test_who_may_not_see_a_fleet_does_not_see_its_entries(released, unit):
    with released.client() as client:
        one = id_of(said(send(client, body(released, unit[:9]))))
    allowed = {
        ("pumps", "engineer"): (200, 200),
        ("pumps", "viewer"): (200, 403),
        ("fans", "engineer"): (403, 403),
    }
    keys = {(fleet, role): released.key(role, fleets=[fleet]) for fleet, role in allowed}
    with released.client(access=AccessMode.KEYS) as client:
        for who, (shown, again) in allowed.items():
            key = {"X-API-Key": keys[who]}
            assert client.get(f"/v1/ledger/{one}", headers=key).status_code == shown
            assert client.post(f"/v1/ledger/{one}/replay", headers=key).status_code == again


def test_of_many_versions_the_last_few_stay_loaded(platform):
    versions = Versions(platform.root, kept=1)
    first, second = platform.train(), platform.train()
    loaded = versions.load("pumps", first)
    assert versions.load("pumps", first) is loaded
    assert versions.load("pumps", second).version == second
    assert versions.load("pumps", first) is not loaded
