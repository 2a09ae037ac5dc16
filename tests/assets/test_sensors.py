"""What the sensors ask for, and that they ask only once."""

from datetime import UTC, datetime

import dagster as dg
import polars as pl
import pytest

from rul_assets.defs import sensors
from rul_core import watch
from rul_core.schema import LIVES_SCHEMA, TIME, Outcome
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_store import champions, deeds, fleets, lives, readings
from rul_store.database import begin
from rul_store.deeds import Doer, End
from rul_store.verdicts import Finding, Said

FEW = Simulation(units=2, running_units=1, sensors=4, settings=1, mean_life_cycles=40, seed=5)
TABLE = simulate(FEW).table


def why(result: dg.SensorResult) -> str:
    assert isinstance(result.skip_reason, dg.SkipReason)
    return str(result.skip_reason.skip_message)


def added(house) -> list[str]:
    requests = house.look("new_fleets").dynamic_partitions_requests or ()
    return [name for request in requests for name in request.partition_keys]


def fail_lives(house, count: int) -> None:
    """Make so many more lives known as failed, as readings and features have them already."""
    ended = pl.DataFrame(
        {
            "unit": [f"late {number}" for number in range(count)],
            "life": [1] * count,
            "outcome": ["failed"] * count,
            "end_cycle": [50.0] * count,
        },
        schema=LIVES_SCHEMA,
    )
    lives.upsert(house.engine, "pumps", ended, source="a person")
    house.make("core_readings", "features")


def test_a_description_makes_a_fleet(empty_house):
    fleets.save(empty_house.root, simulated_fleet(FEW, "pumps"))
    assert added(empty_house) == ["pumps"]
    empty_house.instance.add_dynamic_partitions("fleet", ["pumps"])
    assert why(empty_house.look("new_fleets")) == "no new fleet"


def test_a_description_that_cannot_be_read_is_told_and_does_not_hide_another(empty_house):
    fleets.save(empty_house.root, simulated_fleet(FEW, "pumps"))
    (empty_house.root / "fleets" / "broken.toml").write_text("name = 3")
    assert added(empty_house) == ["pumps"]
    empty_house.instance.add_dynamic_partitions("fleet", ["pumps"])
    assert "broken.toml" in why(empty_house.look("new_fleets"))


def test_files_of_a_fleet_that_nobody_described_are_told_of_with_the_remedy(empty_house):
    empty_house.drop(TABLE, "march.parquet", "fans")
    assert "rul fleet init fans FILE" in why(empty_house.look("new_fleets"))
    assert empty_house.asks("new_files") == []


def test_a_known_fleet_whose_description_was_spoilt_does_not_hold_up_another(house):
    house.describe(name="fans")
    (house.root / "fleets" / "fans.toml").write_text("name = 3")
    house.drop(TABLE, "march.parquet", "fans")
    house.drop(TABLE, "march.parquet", "pumps")
    assert [request.partition_key for request in house.asks("new_files")] == ["pumps"]
    assert house.asks("new_rows") == []
    assert why(house.look("retraining")).startswith("pumps: ")


def test_new_files_ask_for_a_run_once(house):
    assert why(house.look("new_files")) == "no new file"
    house.drop(TABLE, "march.parquet")
    (first,) = house.asks("new_files")
    (again,) = house.asks("new_files")
    assert first.run_key == again.run_key
    assert first.partition_key == "pumps"
    house.run("take_in", tags=first.tags)
    assert house.asks("new_files") == []


def test_another_file_is_another_reason(house):
    house.drop(TABLE, "march.parquet")
    (first,) = house.asks("new_files")
    house.drop(TABLE.head(3), "april.parquet")
    (second,) = house.asks("new_files")
    assert first.run_key != second.run_key


def at_hour(monkeypatch, hour: int) -> None:
    """Make it that hour for the sensors."""

    class Then(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 11, 29, hour, 30, tzinfo=tz)

    monkeypatch.setattr(sensors, "datetime", Then)


def ask_and_fail(house, sensor: str, times: int) -> list[str | None]:
    """The keys of what is asked for, each of which fails once."""
    keys: list[str | None] = []
    for _ in range(times):
        (request,) = house.asks(sensor)
        keys.append(request.run_key)
        if request.run_key not in keys[:-1]:
            house.run("take_in", tags=request.tags, fails=True)
    return keys


def test_files_whose_run_failed_are_asked_for_again_at_once_and_then_every_hour(house, monkeypatch):
    house.drop(TABLE, "march.parquet")
    monkeypatch.setattr("rul_store.landing.Landing.read", _broken)
    at_hour(monkeypatch, 9)
    assert len(set(ask_and_fail(house, "new_files", 6))) == 4
    at_hour(monkeypatch, 10)
    assert len(set(ask_and_fail(house, "new_files", 3))) == 1
    monkeypatch.undo()
    (request,) = house.asks("new_files")
    house.run("take_in", tags=request.tags)
    assert house.asks("new_files") == []


def test_rows_are_taken_once_what_kept_them_out_has_passed_however_often_it_failed(
    house, monkeypatch
):
    fleet = fleets.load(house.root, "pumps")
    sent = TABLE.with_columns(pl.lit(None, pl.Datetime("us", "UTC")).alias(TIME))
    for part in (sent.head(5), sent.head(10), sent.head(15)):
        with begin(house.engine) as connection:
            readings.insert_many(connection, fleet, part)
    at_hour(monkeypatch, 9)
    with monkeypatch.context() as full:
        full.setattr("rul_store.lake.Lake.append", _broken)
        failed = ask_and_fail(house, "new_rows", 6)
    assert len(set(failed)) == 4
    assert house.asks("new_rows")[0].run_key in failed  # within the hour
    at_hour(monkeypatch, 10)
    (request,) = house.asks("new_rows")
    assert request.run_key not in failed
    house.run("take_in", tags=request.tags)
    assert house.asks("new_rows") == []


def test_rows_whose_run_somebody_cancelled_are_asked_for_again(house):
    fleet = fleets.load(house.root, "pumps")
    sent = TABLE.with_columns(pl.lit(None, pl.Datetime("us", "UTC")).alias(TIME))
    with begin(house.engine) as connection:
        readings.insert_many(connection, fleet, sent.head(10))
    (first,) = house.asks("new_rows")
    house.instance.create_run_for_job(
        house.definitions.resolve_job_def("take_in"),
        tags={**first.tags, "dagster/partition": "pumps"},
        status=dg.DagsterRunStatus.CANCELED,
    )
    (second,) = house.asks("new_rows")
    assert second.run_key != first.run_key


def test_a_file_still_being_written_asks_for_nothing(house, monkeypatch):
    monkeypatch.setattr("rul_assets.intake.SETTLE_SECONDS", 60.0)
    house.drop(TABLE, "march.parquet")
    house.drop(b"half a", "april.csv.part")
    assert why(house.look("new_files")) == "no new file"


def test_rows_that_were_sent_ask_for_a_run_until_they_are_taken(house):
    assert why(house.look("new_rows")) == "no new row"
    fleet = fleets.load(house.root, "pumps")
    sent = TABLE.with_columns(pl.lit(None, pl.Datetime("us", "UTC")).alias(TIME))
    with begin(house.engine) as connection:
        readings.insert_many(connection, fleet, sent.head(10))
    (first,) = house.asks("new_rows")
    (again,) = house.asks("new_rows")
    assert first.run_key == again.run_key
    house.run("take_in", tags=first.tags)
    assert house.asks("new_rows") == []
    with begin(house.engine) as connection:
        readings.insert_many(connection, fleet, sent)
    (more,) = house.asks("new_rows")
    assert more.run_key != first.run_key


def tell_of_a_failure(house, unit: str) -> None:
    """As a person does, over HTTP, without another reading."""
    deeds.change_lives(
        house.engine,
        "pumps",
        unit,
        end=End(outcome=Outcome.FAILED),
        start=None,
        introduces=False,
        by=Doer(principal="ann", trace_id=""),
    )


def test_failures_that_people_tell_of_are_learnt_from(lived_in):
    running = lives.read(lived_in.engine, "pumps").filter(pl.col("outcome") == "running")
    for number, unit in enumerate(running["unit"][:3], 1):
        tell_of_a_failure(lived_in, unit)
        assert why(lived_in.look("retraining")).endswith("has failed since core_readings was made")
        (request,) = lived_in.asks("new_rows")
        assert request.tags["rul/evidence"] == f"{16 + number} failed lives"
        lived_in.run("take_in", tags=request.tags)
        lived_in.make("core_readings", "features")
        assert lived_in.asks("new_rows") == []
    (training,) = lived_in.asks("retraining")
    assert training.tags["rul/detail"].startswith("3 lives have failed since ")


def test_a_machine_that_people_replaced_is_no_reason_to_learn(lived_in):
    unit = lives.read(lived_in.engine, "pumps").filter(pl.col("outcome") == "running")["unit"][0]
    deeds.judge(
        lived_in.engine,
        "pumps",
        unit,
        Said(finding=Finding.FOUND_DAMAGE),
        by=Doer(principal="tom", trace_id=""),
        end=End(outcome=Outcome.REPLACED),
    )
    assert lived_in.asks("new_rows") == []
    assert "0 of 3 newly failed lives" in why(lived_in.look("retraining"))


def test_a_fleet_at_rest_asks_for_no_training_and_says_why(lived_in):
    assert "nothing new to learn: 0 of 3 newly failed lives" in why(lived_in.look("retraining"))


def test_newly_failed_lives_ask_for_a_training_that_carries_its_reason(lived_in):
    fail_lives(lived_in, 3)
    (request,) = lived_in.asks("retraining")
    assert request.partition_key == "pumps"
    assert request.tags["rul/reason"] == "ended_lives"
    assert request.tags["rul/detail"].startswith("3 lives have failed since ")
    assert request.tags["rul/evidence"] == "19 failed lives"


def test_a_training_is_asked_for_once(lived_in):
    fail_lives(lived_in, 3)
    assert lived_in.asks("retraining")
    assert lived_in.asks("retraining") == []


def test_a_look_that_is_lost_asks_with_the_same_key(lived_in):
    """The daemon died between the look and the run: the cursor was not kept, the key is known."""
    fail_lives(lived_in, 3)
    (first,) = lived_in.asks("retraining")
    lived_in.sensor_cursors.clear()
    (again,) = lived_in.asks("retraining")
    assert first.run_key == again.run_key


def test_a_training_that_failed_is_asked_for_again_with_another_key(lived_in, monkeypatch):
    fail_lives(lived_in, 3)
    (first,) = lived_in.asks("retraining")
    with monkeypatch.context() as broken:
        broken.setattr("rul_core.release.run_gate", _broken)
        lived_in.run("retrain", tags=first.tags, fails=True)
    (second,) = lived_in.asks("retraining")
    assert second.tags["rul/evidence"] == first.tags["rul/evidence"]
    assert second.run_key != first.run_key


def test_no_training_is_asked_for_while_one_runs(lived_in, monkeypatch):
    fail_lives(lived_in, 3)
    looked = []
    monkeypatch.setattr(
        "rul_core.release.run_gate", lambda *_, **__: looked.append(lived_in.look("retraining"))
    )
    lived_in.run("retrain", fails=True)
    assert why(looked[0]) == "pumps: a training of this fleet is under way"


def test_broken_coverage_asks_for_a_training(lived_in):
    champion = champions.current(lived_in.engine, "pumps")
    assert champion is not None
    missed = watch.match(
        pl.DataFrame(
            {
                "unit": [f"unit {number}" for number in range(30)],
                "life": 1,
                "cycle": 20.0,
                "model_version": champion.version,
                "state": "estimated",
                "computed_at": datetime.now(UTC),
                "rul_cycles": 5.0,
                "lower_50_cycles": 4.0,
                "upper_50_cycles": 6.0,
                "lower_90_cycles": 3.0,
                "upper_90_cycles": 8.0,
                "failure_probability": 0.9,
                "outcome": "failed",
                "end_cycle": 40.0,
            }
        ),
        cap_cycles=24.0,
    )
    lived_in.lake.write("realised_outcomes", "pumps", "told", missed)
    (request,) = lived_in.asks("retraining")
    assert request.tags["rul/reason"] == "coverage_broken"


def test_an_old_model_asks_for_a_training(lived_in, monkeypatch):
    monkeypatch.setenv("RUL_RETRAIN_MAX_AGE_DAYS", "1e-9")
    (request,) = lived_in.asks("retraining")
    assert request.tags["rul/reason"] == "schedule"


def test_a_first_model_is_asked_for_once_enough_units_have_failed(house):
    enough = Simulation(
        units=13, running_units=0, sensors=4, settings=1, mean_life_cycles=40, seed=5
    )
    house.drop(simulate(FEW).table, "few.parquet")
    house.make("raw_readings", "core_readings", "features")
    assert "2 of 13 units with a failed life" in why(house.look("retraining"))
    house.drop(simulate(enough).table, "enough.parquet")
    house.make("raw_readings", "core_readings", "features")
    (request,) = house.asks("retraining")
    assert request.tags["rul/reason"] == "first_model"


@pytest.mark.parametrize("setting", ["RUL_RETRAIN_NEW_LIVES", "RUL_RETRAIN_COOL_DOWN_SECONDS"])
def test_the_policy_is_a_setting(lived_in, monkeypatch, setting):
    fail_lives(lived_in, 3)
    monkeypatch.setenv(setting, "1000")
    assert lived_in.asks("retraining") == []


def _broken(*_: object, **__: object) -> None:
    raise OSError("the disk is gone")
