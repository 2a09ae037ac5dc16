"""Gauges of whole fleets are told by one instance, and by another when that is gone."""

import asyncio
from datetime import UTC, datetime

import msgspec
import polars as pl
import pytest
import sqlalchemy as sa

from rul_core.prognosis import Prognosis, State
from rul_core.schema import UNIT
from rul_serving import examples, fleetwide
from rul_serving.database import Database
from rul_serving.fleetwide import FleetwideMetrics, of_track_records
from rul_serving.instance import Instance
from rul_serving.served import ServedModels
from rul_store import audit, ledger, lives, outcomes
from rul_store.database import begin
from rul_store.lake import Lake
from tests.serving.test_health import NOBODY_LISTENS
from tests.serving.test_readings import body, life_of, send


def prognosis(unit: str, safe: float | None, state: State = State.ESTIMATED) -> Prognosis:
    return Prognosis(
        fleet="pumps", unit=unit, life=1, state=state, safe_cycles=safe, horizon_cycles=30.0,
        computed_at=datetime(2026, 11, 23, tzinfo=UTC),
    )  # fmt: skip


def test_units_are_counted_by_band_and_by_what_they_lack(platform, eventually):
    stuck = prognosis("d", None, State.SENSOR_FAULT)
    said = [prognosis("a", 29.0), prognosis("b", 30.0), prognosis("c", 60.0), stuck]
    ledger.record(platform.engine, "pumps", [*said, prognosis("gone", 1.0)])
    gone = pl.DataFrame([("gone", 1, "failed", 9.0)], schema=lives.LIVES_SCHEMA, orient="row")
    lives.upsert(platform.engine, "pumps", gone, source="a person")
    with platform.client() as client:
        eventually(lambda: "rul_units{" in client.get("/metrics").text)
        told = client.get("/metrics").text
    for band in ("act", "plan", "well", "unknown"):
        assert f'rul_units{{band="{band}",fleet="pumps"}} 1.0' in told
    assert 'rul_units_without_prognosis{fleet="pumps",reason="sensor_fault"} 1.0' in told


def test_input_grows_stale_from_the_last_reading_on(platform, eventually):
    life = life_of(platform, platform.learnt.readings[UNIT][0])
    with platform.client() as client:
        assert "rul_input_staleness_seconds{" not in client.get("/metrics").text
        send(client, body(platform, life[:2]))
    with platform.client() as client:
        eventually(lambda: "rul_input_staleness_seconds{" in client.get("/metrics").text)
        told = client.get("/metrics").text
        assert 'rul_readings_received_total{fate="new",fleet="pumps"}' in told


@pytest.mark.parametrize("given_back", [True, False])
def test_one_instance_tells_until_it_is_gone(platform, monkeypatch, given_back):
    ledger.record(platform.engine, "pumps", [prognosis("a", 29.0)])
    monkeypatch.setattr(fleetwide, "FRESH_SECONDS", 0.0)

    async def take_turns() -> list[bool]:
        database = Database(platform.settings.database_url.get_secret_value(), 5.0)
        models = ServedModels(platform.root, database)
        first, second = (
            FleetwideMetrics(database, platform.root, models, Instance()) for _ in range(2)
        )
        told = []
        for one in (first, second, first):
            await database.ask(one.take_turn)
            told.append(b"rul_units" in await one.exposition())
        if given_back:
            await first.give_back()
        else:
            monkeypatch.setattr(fleetwide, "LEASE_SECONDS", -1.0)
            await database.ask(first.take_turn)
        await database.ask(second.take_turn)
        told.append(b"rul_units" in await second.exposition())
        await database.close()
        return told

    assert asyncio.run(take_turns()) == [True, False, True, True]


def test_a_broken_audit_chain_is_told_by_whose_turn_it_is(platform, monkeypatch):
    monkeypatch.setattr(fleetwide, "FRESH_SECONDS", 0.0)
    now = [1_000_000.0]
    monkeypatch.setattr(fleetwide.time, "time", lambda: now[0])
    for target in ("a", "b"):
        with begin(platform.engine) as connection:
            audit.append(
                connection, principal="ann", action="advisory.close", target=target, fleet="pumps",
                detail={}, trace_id="t",
            )  # fmt: skip

    async def tell() -> list[list[str]]:
        database = Database(platform.settings.database_url.get_secret_value(), 5.0)
        models = ServedModels(platform.root, database)
        one = FleetwideMetrics(database, platform.root, models, Instance())
        told = []
        for turn in (False, True, True, True):
            if turn:
                await database.ask(one.take_turn)
            await database.ask(one.walk_audit)
            lines = (await one.exposition()).decode().splitlines()
            told.append([line for line in lines if line.startswith("rul_audit_chain")])
            if len(told) == 2:
                forge(platform.engine)
            if len(told) == 3:
                now[0] += fleetwide.WALK_SECONDS
        await database.close()
        return told

    def forge(engine: sa.Engine) -> None:
        with begin(engine) as connection:
            connection.execute(sa.text("SET session_replication_role = replica"))
            connection.execute(sa.text("UPDATE audit SET principal = 'bob' WHERE position = 1"))

    whole = ["rul_audit_chain_intact 1.0", "rul_audit_chain_walked_timestamp_seconds 1e+06"]
    broken = [
        "rul_audit_chain_intact 0.0",
        "rul_audit_chain_walked_timestamp_seconds 1.0036e+06",
    ]
    assert asyncio.run(tell()) == [[], whole, whole, broken]


def test_without_postgresql_the_other_metrics_are_told_all_the_same(tmp_path):
    async def tell() -> bytes:
        database = Database(NOBODY_LISTENS, 1.0)
        fleets = FleetwideMetrics(database, tmp_path, ServedModels(tmp_path, database), Instance())
        fleets._my_turn = True  # it was, until PostgreSQL went away
        told = await fleets.exposition()
        await fleets.give_back()
        await database.close()
        return told

    assert asyncio.run(tell()) == b""


def test_units_of_which_nothing_was_said_are_counted_too(platform, eventually):
    waiting = pl.DataFrame([("w", 1, "running", None)], schema=lives.LIVES_SCHEMA, orient="row")
    lives.upsert(platform.engine, "pumps", waiting, source="a person")
    for reason in ("not_configured", "insufficient_history"):
        line = f'rul_units_without_prognosis{{fleet="pumps",reason="{reason}"}} 1.0'
        with platform.client() as client:
            eventually(lambda line=line: line in client.get("/metrics").text)
        platform.release()


def test_what_came_true_is_told_of_the_model_that_answers(platform):
    record = examples.TRACK_RECORD.record
    assert record is not None
    lake, name = Lake(platform.root), platform.release().version
    for version, expected in (("another", False), (name, True)):
        one = msgspec.structs.replace(record.overall, model_version=version)
        told = msgspec.structs.replace(record, versions=(one,))
        ticket = lake.ticket(outcomes.ASSET, "pumps")
        frame = pl.DataFrame({"unit": ["a"]})
        outcomes.write(lake, "pumps", "run", frame, told, ticket=ticket)
        with platform.client() as client:
            metrics = client.get("/metrics").text
        coverage = 'rul_interval_coverage_ratio{fleet="pumps",level="0.9"} 0.91'
        assert (coverage in metrics) is expected
    lake.write(outcomes.ASSET, "pumps", "run", frame, notes={outcomes.RECORD: "spoilt"})
    with platform.client() as client:
        assert "rul_interval_coverage_ratio{" not in client.get("/metrics").text
        problem = client.get("/v1/fleets/pumps/track-record")
    assert (problem.status_code, problem.json()["type"]) == (503, "/problems/unavailable")
    assert "make realised_outcomes again" in problem.json()["detail"]


def test_a_track_record_as_metrics_has_no_label_for_a_unit():
    overall = examples.TRACK_RECORD.record
    assert overall is not None
    coverage, error = of_track_records({"pumps": overall.overall})
    assert [(sample.name, sample.labels, sample.value) for sample in coverage.samples] == [
        ("rul_interval_coverage_ratio", {"fleet": "pumps", "level": "0.5"}, 0.53),
        ("rul_interval_coverage_ratio", {"fleet": "pumps", "level": "0.9"}, 0.91),
    ]
    assert [(sample.name, sample.labels, sample.value) for sample in error.samples] == [
        ("rul_realised_abs_error_cycles", {"fleet": "pumps", "lead": "0-12.5"}, 3.1)
    ]
