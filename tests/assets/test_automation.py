"""What automation asks for, look by look."""

import dagster as dg
import polars as pl
import pytest

from rul_core import release
from rul_core.simulator import Simulation, simulate

FEW = Simulation(units=2, running_units=1, sensors=4, settings=1, mean_life_cycles=40, seed=5)
TABLE = simulate(FEW).table
WITHOUT_A_SENSOR = TABLE.with_columns(sensor_1=pl.lit(None, pl.Float64))
DOWNSTREAM = {"core_readings", "features", "fleet_prognoses", "realised_outcomes"}


def seen(house, *assets: str, fleet: str = "pumps") -> None:
    """Say that assets were made, without making them."""
    for asset in assets:
        house.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=fleet))


def drop_and_take_in(house, table: pl.DataFrame, file: str, fleet: str = "pumps") -> None:
    house.drop(table, file, fleet)
    house.make("raw_readings", fleet=fleet)


@pytest.fixture
def two_fleets(house):
    house.describe(name="fans")
    return house


def test_new_readings_go_down_the_graph_in_one_run_but_not_into_a_model(house):
    assert house.tick() == {}
    drop_and_take_in(house, TABLE, "march.parquet")
    assert house.tick() == {name: {"pumps"} for name in DOWNSTREAM}
    assert house.tick() == {}


def test_what_came_before_the_first_look_is_not_forgotten(house):
    drop_and_take_in(house, TABLE, "march.parquet")
    assert house.tick() == {name: {"pumps"} for name in DOWNSTREAM}


def test_what_one_run_made_all_of_is_not_made_again(house):
    house.tick()
    drop_and_take_in(house, TABLE, "march.parquet")
    house.make("raw_readings", *DOWNSTREAM)
    assert house.tick() == {}


def test_a_failed_check_holds_back_what_follows_until_it_passes(house):
    drop_and_take_in(house, WITHOUT_A_SENSOR, "march.parquet")
    house.make("core_readings", fails=True)
    house.tick()
    seen(house, "core_readings")
    assert house.tick() == {}
    drop_and_take_in(house, TABLE.with_columns(pl.col("unit") + " new"), "april.parquet")
    house.make("core_readings")
    assert {"features", "fleet_prognoses"} <= house.tick().keys()


def test_a_failed_check_of_one_fleet_does_not_hold_back_another(two_fleets):
    drop_and_take_in(two_fleets, WITHOUT_A_SENSOR, "march.parquet", "pumps")
    drop_and_take_in(two_fleets, TABLE, "march.parquet", "fans")
    two_fleets.tick()
    two_fleets.make("core_readings", fleet="fans")
    two_fleets.make("core_readings", fleet="pumps", fails=True)
    asked = two_fleets.tick()
    assert asked["features"] == asked["fleet_prognoses"] == {"fans"}


def test_a_run_that_failed_is_not_asked_for_again(house):
    drop_and_take_in(house, WITHOUT_A_SENSOR, "march.parquet")
    assert "core_readings" in house.tick()
    house.make("core_readings", fails=True)
    assert house.tick() == {}
    assert house.tick() == {}


def test_a_release_brings_new_prognoses(house):
    drop_and_take_in(house, TABLE, "march.parquet")
    house.tick()
    house.make(*DOWNSTREAM)
    assert house.tick() == {}
    seen(house, "rul_model", "released_model")
    assert house.tick() == {name: {"pumps"} for name in ("fleet_prognoses", "realised_outcomes")}


def test_a_release_right_after_prognoses_were_asked_for_is_not_lost(house):
    drop_and_take_in(house, TABLE, "march.parquet")
    assert "fleet_prognoses" in house.tick()
    house.make(*DOWNSTREAM)
    seen(house, "released_model")
    assert "fleet_prognoses" in house.tick()


def test_prognoses_do_not_wait_for_a_challenger_in_training(lived_in, monkeypatch):
    lived_in.make("raw_readings", *DOWNSTREAM)
    lived_in.tick()
    rule, asked = release.rule, []

    def rule_slowly(*contest):
        drop_and_take_in(lived_in, TABLE.with_columns(pl.col("unit") + " new"), "march.parquet")
        asked.append(lived_in.tick())
        return rule(*contest)

    monkeypatch.setattr(release, "rule", rule_slowly)
    lived_in.run("retrain")
    assert asked == [{name: {"pumps"} for name in DOWNSTREAM}]


def test_a_new_model_alone_asks_for_nothing(house):
    drop_and_take_in(house, TABLE, "march.parquet")
    house.tick()
    house.make(*DOWNSTREAM)
    house.tick()
    seen(house, "rul_model")
    assert house.tick() == {}


def test_a_fleet_moves_by_itself(two_fleets):
    two_fleets.tick()
    drop_and_take_in(two_fleets, TABLE, "march.parquet", "fans")
    assert two_fleets.tick() == {name: {"fans"} for name in DOWNSTREAM}
