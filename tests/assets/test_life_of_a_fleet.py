"""From a description and a file to prognoses, and on, as the daemon lives it, look by look."""

import polars as pl

from rul_core.prognosis import State
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_store import champions, current, fleets, ledger

SIMULATION = Simulation(
    units=16, running_units=4, sensors=4, settings=1, mean_life_cycles=40, seed=5
)
FUTURE = Simulation(units=24, running_units=0, sensors=4, settings=1, mean_life_cycles=40, seed=5)
"""The same fleet later: the four units that ran have failed, and so have four new ones."""


def test_new_data_is_learnt_from_and_the_new_champion_speaks(empty_house):
    house = empty_house
    fleets.save(house.root, simulated_fleet(SIMULATION, "pumps"))
    house.drop(simulate(SIMULATION).table, "march.parquet")

    assert house.live() == [
        "take_in",
        "core_readings, features, fleet_prognoses, realised_outcomes",
        "retrain (first_model)",
        "fleet_prognoses, realised_outcomes",
    ]
    first = champions.current(house.engine, "pumps")
    assert first is not None
    said = current.ranked(house.engine, "pumps").prognoses
    assert [one.unit for one in said] != []
    assert {one.provenance.model_version for one in said} == {first.version}

    newly_born = Simulation(**{**_fields(FUTURE), "units": 0, "running_units": 2, "first_unit": 31})
    house.drop(simulate(FUTURE).table, "april.parquet")
    house.drop(simulate(newly_born).table, "new machines.parquet")

    assert house.live() == [
        "take_in",
        "core_readings, features, fleet_prognoses, realised_outcomes",
        "retrain (ended_lives)",
        "fleet_prognoses, realised_outcomes",
    ]
    second = champions.current(house.engine, "pumps")
    assert second is not None
    assert second.version != first.version
    assert second.generation == 2
    assert second.reason.startswith("ended_lives; not worse than the champion")
    now = current.ranked(house.engine, "pumps").prognoses
    assert {one.unit for one in now} == {"unit-000031", "unit-000032"}
    assert {one.provenance.model_version for one in now} == {second.version}
    outcomes = house.lake.scan("realised_outcomes", "pumps").collect()
    assert set(outcomes["unit"]) == {f"unit-0000{number}" for number in (17, 18, 19, 20)}
    assert set(outcomes["model_version"]) == {first.version}
    assert house.live() == []


def test_two_fleets_live_side_by_side_and_one_that_is_broken_does_not_disturb_the_other(
    empty_house,
):
    house = empty_house
    for name in ("pumps", "fans"):
        fleets.save(house.root, simulated_fleet(SIMULATION, name))
    house.drop(simulate(SIMULATION).table, "march.parquet", "pumps")
    house.drop(b"nonsense", "march.parquet", "fans")
    (house.root / "fleets" / "broken.toml").write_text("name = 3")
    house.live()
    assert champions.current(house.engine, "pumps") is not None
    assert champions.current(house.engine, "fans") is None
    assert list((house.root / "landing" / "fans" / ".set-aside").glob("*.error.txt"))


def test_a_fleet_without_a_champion_shows_its_units_as_not_configured(empty_house):
    house = empty_house
    fleets.save(house.root, simulated_fleet(SIMULATION, "pumps"))
    running = simulate(SIMULATION).table.filter(pl.col("outcome") == "running")
    house.drop(running, "march.parquet")
    house.live()
    said = [entry.prognosis for entry in ledger.since(house.engine, "pumps", 0)]
    assert {(one.unit, one.state) for one in said} == {
        (f"unit-0000{number}", "not_configured") for number in (17, 18, 19, 20)
    }
    assert current.count_states(house.engine, "pumps")[State.NOT_CONFIGURED] == 4


def _fields(simulation: Simulation) -> dict:
    return {name: getattr(simulation, name) for name in simulation.__struct_fields__}
