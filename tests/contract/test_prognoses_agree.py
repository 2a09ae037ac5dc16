"""The assets and the service say the same of the same readings, and either can be replayed."""

import json
from collections.abc import Generator
from datetime import UTC, datetime, timedelta

import dagster as dg
import msgspec
import polars as pl
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from rul_assets import outlook
from rul_cli.ledger import app
from rul_core.prognosis import Prognosis, Seen, State
from rul_core.schema import UNIT
from rul_core.simulator import simulate
from rul_store import current, ledger, lives
from rul_store.database import begin, connect
from tests.assets.conftest import House, living
from tests.assets.test_prognoses_and_outcomes import metadata_of
from tests.serving.conftest import SIMULATION, Platform
from tests.serving.test_readings import body, life_of, send
from tests.serving.test_units import release_with

UNITS = ["unit-000003", "unit-000004", "unit-000016", "unit-000017"]
"""Two that failed in the training, cut short, and two that ran."""


@pytest.fixture
def house(platform: Platform, database_url: str, definitions: dg.Definitions) -> Generator[House]:
    """The assets over the data root and the database of the service."""
    with living(platform.root, database_url, definitions) as made:
        made.instance.add_dynamic_partitions("fleet", ["pumps"])
        yield made


def sent(platform: Platform) -> dict[str, pl.DataFrame]:
    """Readings of some units: as they were; with an impossible value before the end, and at it;
    too few."""
    sensor = platform.learnt.training.model.support.drivers[0]
    cut = {unit: life_of(platform, unit)[:-2] for unit in UNITS}
    for unit, back in ((UNITS[1], 3), (UNITS[2], 1)):
        odd = pl.int_range(pl.len()) == pl.len() - back
        cut[unit] = cut[unit].with_columns(pl.when(odd).then(1e6).otherwise(sensor).alias(sensor))
    cut[UNITS[3]] = cut[UNITS[3]][:3]
    return cut


def plain(prognosis: Prognosis) -> Prognosis:
    """All that it says, but what was seen, the trace and the time."""
    return msgspec.structs.replace(
        prognosis,
        computed_at=None,
        provenance=msgspec.structs.replace(prognosis.provenance, seen=Seen(), trace_id=None),
    )


def spoken(house: House, unit: str) -> Prognosis:
    """The current prognosis of a unit, as it was recorded."""
    found = current.one(house.engine, "pumps", unit)
    assert found is not None
    assert found.prognosis is not None
    return found.prognosis


def test_the_assets_and_the_service_say_the_same_of_the_same_readings(platform, house):
    sensors = platform.learnt.training.model.fleet.columns.sensors
    release_with(platform, ranges=dict.fromkeys(sensors, (-1e5, 1e5)))
    over_http: dict[str, Prognosis] = {}
    with platform.client() as client:
        for unit, rows in sent(platform).items():
            for part in (rows[1:], rows[:1]):  # the first reading comes late
                answer = send(client, body(platform, part))
            asked = client.get(f"/v1/fleets/pumps/units/{unit}/prognosis?explain=true").json()
            explained = msgspec.convert(asked, Prognosis, strict=False)
            (unexplained,) = msgspec.convert(answer["prognoses"], list[Prognosis], strict=False)
            assert plain(msgspec.structs.replace(
                explained, contributions=(), explanation=None
            )) == plain(unexplained)  # fmt: skip
            over_http[unit] = msgspec.structs.replace(explained, explanation=None)
    before = ledger.head(platform.engine, "pumps")
    house.make("raw_readings", "core_readings", "fleet_prognoses")
    assert ledger.head(platform.engine, "pumps") == before
    by_assets = {one.unit: one for one in current.ranked(house.engine, "pumps").prognoses}
    assert by_assets.keys() == over_http.keys() == set(UNITS)
    for unit, one in by_assets.items():
        assert plain(one) == plain(over_http[unit])
        assert one.provenance.seen == Seen(raw_rows=sum(map(len, sent(platform).values())))
        assert ledger.ledger_id_of(one) == ledger.ledger_id_of(over_http[unit])
    states = [by_assets[unit].state for unit in UNITS]
    assert states[1] in (State.ESTIMATED, State.BEYOND_HORIZON)
    assert states[2:] == [State.SENSOR_FAULT, State.INSUFFICIENT_HISTORY]


def test_what_the_assets_recorded_can_be_replayed_whatever_came_since(platform, house):
    platform.release()
    table = simulate(SIMULATION).table.filter(pl.col(UNIT).is_in(UNITS))
    table = table.with_columns(outcome=pl.lit("running"))
    house.drop(table.filter(pl.col("cycle") <= 20, pl.col("cycle") != 7), "first.parquet")
    unread = pl.DataFrame([("x", 1, "running", None)], lives.LIVES_SCHEMA, orient="row")
    lives.upsert(house.engine, "pumps", unread, source="a person")
    house.make("raw_readings", "core_readings", "fleet_prognoses")
    with platform.client() as client:
        send(client, body(platform, life_of(platform, UNITS[0])[[6, 20, 21]]))
    house.drop(table.filter(pl.col("cycle").is_in([7.0, 21.0, 22.0, 23.0])), "second.parquet")
    house.make("raw_readings", "core_readings", "fleet_prognoses")
    platform.release()
    entries = ledger.since(house.engine, "pumps", 0)
    with platform.client() as client:
        verdicts = [client.post(f"/v1/ledger/{entry.ledger_id}/replay").json() for entry in entries]
    assert [found["verdict"] for found in verdicts] == ["equal"] * 10
    assert {found.prognosis.unit for found in entries} == {*UNITS, "x"}
    assert sum(bool(entry.prognosis.contributions) for entry in entries) >= 6


def test_what_was_said_on_a_late_reading_stays_when_a_batch_did_not_have_it(platform, house):
    platform.release()
    rows = life_of(platform, UNITS[0])[:30]
    with platform.client() as client:
        send(client, body(platform, rows.filter(pl.col("cycle") != 7)))
        send(client, body(platform, life_of(platform, UNITS[1])[:30]))
        house.make("raw_readings", "core_readings")
        late = send(client, body(platform, rows.filter(pl.col("cycle") == 7)))
    (said,) = msgspec.convert(late["prognoses"], list[Prognosis], strict=False)
    before = ledger.head(platform.engine, "pumps")
    result = house.make("fleet_prognoses")
    assert metadata_of(result, "fleet_prognoses")["units_heard_of_since"] == 1
    assert spoken(house, UNITS[0]) == said
    assert spoken(house, UNITS[1]).provenance.seen == Seen(raw_rows=59)
    assert ledger.head(platform.engine, "pumps") == before
    house.make("raw_readings", "core_readings", "fleet_prognoses")
    assert plain(spoken(house, UNITS[0])) == plain(
        msgspec.structs.replace(
            said, contributions=spoken(house, UNITS[0]).contributions, explanation=None
        )
    )
    assert spoken(house, UNITS[0]).provenance.seen == Seen(raw_rows=60)


def test_what_arrives_while_a_batch_is_computed_has_the_last_word(platform, house, monkeypatch):
    platform.release()
    rows = life_of(platform, UNITS[0])[:30]
    compute, late = outlook.prognoses, []
    with platform.client() as client:
        send(client, body(platform, rows.filter(pl.col("cycle") != 7)))

        def and_then_a_reading_comes(*args, **kwargs):
            said = compute(*args, **kwargs)
            late.append(send(client, body(platform, rows.filter(pl.col("cycle") == 7))))
            return said

        monkeypatch.setattr(outlook, "prognoses", and_then_a_reading_comes)
        house.make("raw_readings", "core_readings", "fleet_prognoses")
    (said,) = msgspec.convert(late[0]["prognoses"], list[Prognosis], strict=False)
    assert spoken(house, UNITS[0]) == said


def test_what_came_in_a_file_after_the_core_readings_waits_for_the_next_batch(platform, house):
    platform.release()
    table = simulate(SIMULATION).table.filter(pl.col(UNIT).is_in(UNITS[:2]))
    table = table.with_columns(outcome=pl.lit("running"))
    house.drop(table.filter(pl.col("cycle") <= 20, pl.col("cycle") != 7), "first.parquet")
    house.make("raw_readings", "core_readings", "fleet_prognoses")
    before = ledger.head(platform.engine, "pumps")
    late = (pl.col("cycle") == 7) & (pl.col(UNIT) == UNITS[0])
    house.drop(table.filter(late), "second.parquet")
    house.make("raw_readings")
    result = house.make("fleet_prognoses")
    assert metadata_of(result, "fleet_prognoses")["units_heard_of_since"] == 1
    assert ledger.head(platform.engine, "pumps") == before
    house.make("core_readings", "fleet_prognoses")
    assert ledger.head(platform.engine, "pumps") == before + 1


def test_a_life_that_ends_while_a_batch_is_computed_gets_no_prognosis(platform, house, monkeypatch):
    platform.release()
    with platform.client() as client:
        for unit in UNITS[:2]:
            send(client, body(platform, life_of(platform, unit)[:30]))
    house.make("raw_readings", "core_readings")
    current_before = spoken(house, UNITS[0])
    compute = outlook.prognoses

    def and_then_it_fails(*args, **kwargs):
        said = compute(*args, **kwargs)
        ended = pl.DataFrame([(UNITS[0], 1, "failed", 30.0)], lives.LIVES_SCHEMA, orient="row")
        lives.upsert(house.engine, "pumps", ended, source="a person")
        return said

    monkeypatch.setattr(outlook, "prognoses", and_then_it_fails)
    result = house.make("fleet_prognoses")
    assert metadata_of(result, "fleet_prognoses")["units_heard_of_since"] == 1
    assert spoken(house, UNITS[0]) == current_before
    assert spoken(house, UNITS[1]).provenance.seen == Seen(raw_rows=60)


def test_prognoses_of_a_batch_bear_the_time_of_postgresql(platform, house, database_url):
    slow = timedelta(hours=1)
    engine = connect(database_url)
    with begin(engine) as connection:
        connection.execute(sa.text("CREATE SCHEMA slow"))
        connection.execute(sa.text(
            "CREATE FUNCTION slow.clock_timestamp() RETURNS timestamptz LANGUAGE sql "
            "AS $$ SELECT pg_catalog.clock_timestamp() - interval '1 hour' $$"
        ))  # fmt: skip
        connection.execute(sa.text("GRANT USAGE ON SCHEMA slow TO PUBLIC"))
        name = connection.execute(sa.text("SELECT current_database()")).scalar_one()
        connection.execute(sa.text(
            f'ALTER DATABASE "{name}" SET search_path = slow, pg_catalog, public'
        ))  # fmt: skip
    engine.dispose()
    platform.release()
    table = simulate(SIMULATION).table.filter(pl.col(UNIT).is_in(UNITS[:2]), pl.col("cycle") <= 20)
    house.drop(table.with_columns(outcome=pl.lit("running")), "first.parquet")
    house.make("raw_readings", "core_readings", "fleet_prognoses")
    for unit in UNITS[:2]:
        at = spoken(house, unit).computed_at
        assert at is not None
        assert abs(datetime.now(UTC) - slow - at) < timedelta(minutes=10)


def test_units_are_prognosed_in_batches_without_a_difference(platform, house, monkeypatch):
    platform.release()
    with platform.client() as client:
        for rows in sent(platform).values():
            send(client, body(platform, rows))
    monkeypatch.setattr("rul_assets.inspection.BATCH_READINGS", 10)
    before = ledger.head(platform.engine, "pumps")
    house.make("raw_readings", "core_readings", "fleet_prognoses")
    assert ledger.head(platform.engine, "pumps") == before == len(UNITS)


def test_the_track_record_is_that_of_the_lives_that_ended(platform, house):
    platform.release()
    with platform.client() as client:
        empty = client.get("/v1/fleets/pumps/track-record").json()
        assert (empty["as_of"], empty["record"]) == (None, None)
        ends = {}
        for unit in UNITS[:3]:
            rows = life_of(platform, unit)
            ends[unit] = rows["cycle"][-1]
            send(client, body(platform, rows[: rows.height // 2]))
            send(client, body(platform, rows[rows.height // 2 : -3]))
        for unit, outcome in zip(ends, ("failed", "failed", "replaced"), strict=True):
            ended = pl.DataFrame([(unit, 1, outcome, ends[unit])], lives.LIVES_SCHEMA, orient="row")
            lives.upsert(house.engine, "pumps", ended, source="a person")
        house.make("raw_readings", "core_readings", "fleet_prognoses", "realised_outcomes")
        found = client.get("/v1/fleets/pumps/track-record").json()
        assert client.get("/v1/fleets/fans/track-record").status_code == 404
    moment = msgspec.convert(found["as_of"], datetime)
    assert timedelta(0) <= datetime.now(UTC) - moment < timedelta(minutes=1)
    overall, (version,) = found["record"]["overall"], found["record"]["versions"]
    assert (overall["lives"], overall["prognoses"], overall["censored_lives"]) == (2, 4, 1)
    assert [held["level"] for held in overall["coverage"]] == [0.5, 0.9]
    assert version == {**overall, "model_version": version["model_version"]}


def test_the_command_replays_what_the_service_recorded(
    platform, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    platform.release()
    with platform.client() as client:
        answer = send(client, body(platform, life_of(platform, UNITS[0])[:30]))
    (truth,) = msgspec.convert(answer["prognoses"], list[Prognosis], strict=False)
    forged = msgspec.structs.replace(truth, rul_cycles=1.25)
    ledger.record(platform.engine, "pumps", [forged])
    monkeypatch.setenv("RUL_ROOT", str(platform.root))
    monkeypatch.setenv("RUL_DATABASE_URL", database_url)
    runs = {
        (name, *options): CliRunner().invoke(app, ["replay", str(one), *options])
        for name, one in (
            ("truth", truth.provenance.ledger_id), ("forged", ledger.ledger_id_of(forged))
        )
        for options in ((), ("--json",))
    }  # fmt: skip
    assert {name: run.exit_code for (name, *_), run in runs.items()} == {"truth": 0, "forged": 1}
    assert runs["truth",].stderr == "Equal to the last bit.\n"
    assert json.loads(runs["truth", "--json"].stdout)["verdict"] == "equal"
    assert "rul_cycles" in runs["forged",].stderr
    assert "1.25" in runs["forged",].stderr
    found = json.loads(runs["forged", "--json"].stdout)
    assert [each["field"] for each in found["differences"]] == [
        "rul_cycles", "provenance.ledger_id"
    ]  # fmt: skip
