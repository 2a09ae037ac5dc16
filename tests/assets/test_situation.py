"""What is known of a fleet before it is decided whether to learn anew."""

import polars as pl

from rul_assets import situation
from rul_assets.retraining import Learnt
from rul_core.schema import LIVES_SCHEMA
from rul_core.simulator import Simulation, simulate
from rul_store import champions, fleets, lives

FEW = Simulation(units=2, running_units=1, sensors=4, settings=1, mean_life_cycles=40, seed=5)


def of(house) -> situation.Situation:
    return situation.of(house.engine, house.lake, fleets.load(house.root, "pumps"))


def test_nothing_is_known_of_a_fleet_before_its_first_file(house):
    assert of(house) == situation.Situation(failed_lives=0, failed_units=0)


def test_lives_cannot_be_learnt_from_until_features_were_made_of_their_readings(house):
    house.drop(simulate(FEW).table, "march.parquet")
    house.make("raw_readings")
    assert of(house).under_way == "core_readings has not been made yet"
    house.make("core_readings")
    assert of(house).under_way == "features has not caught up with core_readings"
    house.make("features")
    assert of(house).under_way == ""
    end = pl.DataFrame(
        {"unit": ["unit-000003"], "life": [1], "outcome": ["failed"], "end_cycle": [99.0]},
        schema=LIVES_SCHEMA,
    )
    lives.upsert(house.engine, "pumps", end, source="a person")
    assert of(house).under_way == "a life has failed since core_readings was made"
    assert of(house).failed_lives == 3
    house.make("core_readings", "features")
    assert of(house).under_way == ""


def test_more_readings_of_running_machines_do_not_keep_a_fleet_from_learning(house):
    table = simulate(FEW).table
    running = pl.col("outcome") == "running"
    house.drop(table.filter(~running | (pl.col("cycle") < 5)), "march.parquet")
    house.make("raw_readings", "core_readings", "features")
    house.drop(table.filter(running), "april.parquet")
    house.make("raw_readings")
    assert of(house).under_way == ""


def test_the_newest_candidate_counts_whether_it_was_released_or_not(lived_in):
    champion = champions.current(lived_in.engine, "pumps")
    assert champion is not None
    found = of(lived_in).learnt
    assert isinstance(found, Learnt)
    assert (found.version, found.lives) == (champion.version, 16)
