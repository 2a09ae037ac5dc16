"""What is said of machines in service, what came of it, and whether they still are as learnt."""

import dagster as dg
import msgspec
import polars as pl
import pytest
import sqlalchemy as sa

from rul_core import watch
from rul_core.prognosis import State
from rul_core.simulator import Simulation, simulate
from rul_store import champions, current, fleets, lives
from rul_store.database import begin
from rul_store.models import load_model

FUTURE = Simulation(units=20, running_units=0, sensors=4, settings=1, mean_life_cycles=40, seed=5)
"""The furnished house's fleet, later: the four machines that ran have failed."""
RUNNING = ["unit-000017", "unit-000018", "unit-000019", "unit-000020"]
WHOLE = simulate(FUTURE).table.filter(pl.col("unit").is_in(RUNNING))


def go_on(house, share: float, outcome: str = "running", *, later: int = 0) -> None:
    """The running machines live on to a share of their life, and some readings more."""
    ends = pl.col("cycle").max().over("unit")
    seen = WHOLE.filter(pl.col("cycle") <= (share * ends).ceil())
    last = seen.filter(pl.col("cycle") == ends)
    more = [last.with_columns(pl.col("cycle") + 1 + i) for i in range(later)]
    table = pl.concat([seen, *more]).with_columns(outcome=pl.lit(outcome))
    house.drop(table, f"{outcome} {share} {later}.parquet")
    house.make("raw_readings", "core_readings")


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict:
    events = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in events[-1].metadata.items()}


def check_of(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    return next(found for found in result.get_asset_check_evaluations() if found.check_name == name)


def count(house, table: str) -> int:
    with begin(house.engine) as connection:
        return connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608


def test_every_machine_in_service_has_one_current_prognosis(lived_in):
    said = current.ranked(lived_in.engine, "pumps").prognoses
    assert sorted(one.unit for one in said) == RUNNING
    risks = [one.failure_probability or 0.0 for one in said]
    assert risks == sorted(risks, reverse=True)
    champion = champions.current(lived_in.engine, "pumps")
    assert champion is not None
    assert {one.provenance.model_version for one in said} == {champion.version}
    assert all(one.contributions for one in said)


def test_a_prognosis_equals_what_the_bundle_says_when_it_is_loaded_anew(lived_in):
    champion = champions.current(lived_in.engine, "pumps")
    assert champion is not None
    model = load_model(lived_in.bundles, "pumps", champion.version).model
    core = lived_in.lake.scan("core_readings", "pumps").collect()
    for one in current.ranked(lived_in.engine, "pumps").prognoses:
        last = model.predict(core.filter(pl.col("unit") == one.unit)).row(-1, named=True)
        assert one.rul_cycles == last["rul_cycles"]
        assert one.safe_cycles == last["safe"]


def test_the_same_readings_again_add_nothing_to_the_ledger(lived_in):
    before = count(lived_in, "ledger")
    result = lived_in.make("fleet_prognoses")
    assert count(lived_in, "ledger") == before == 4
    assert metadata_of(result, "fleet_prognoses")["new_in_ledger"] == 0


def test_new_readings_bring_a_new_prognosis_and_the_old_one_stays_in_the_ledger(lived_in):
    go_on(lived_in, 0.99)
    result = lived_in.make("fleet_prognoses")
    assert metadata_of(result, "fleet_prognoses")["new_in_ledger"] == 4
    assert count(lived_in, "ledger") == 8
    assert count(lived_in, "current_prognoses") == 4
    assert "fan_of_the_unit_most_at_risk" in metadata_of(result, "fleet_prognoses")


def test_a_machine_without_a_usable_reading_is_not_hidden(lived_in):
    unread = pl.DataFrame(
        {"unit": ["x"], "life": [1], "outcome": ["running"], "end_cycle": [None]},
        schema=lives.read(lived_in.engine, "pumps").schema,
    )
    lives.upsert(lived_in.engine, "pumps", unread, source="a person")
    result = lived_in.make("fleet_prognoses")
    found = current.one(lived_in.engine, "pumps", "x")
    assert found is not None
    assert found.prognosis is not None
    one = found.prognosis
    assert (one.state, one.detail) == (
        State.INSUFFICIENT_HISTORY,
        "0 of 5 readings collected",
    )
    assert metadata_of(result, "fleet_prognoses")["units_without_a_valid_prognosis"] == 1


def test_a_sensor_that_is_described_no_more_is_a_sensor_fault_and_no_failed_run(lived_in):
    champion = champions.current(lived_in.engine, "pumps")
    assert champion is not None
    lost = load_model(lived_in.bundles, "pumps", champion.version).model.support.drivers[0]
    fleet = fleets.load(lived_in.root, "pumps")
    sensors = tuple(name for name in fleet.columns.sensors if name != lost)
    columns = msgspec.structs.replace(fleet.columns, sensors=sensors)
    fleets.save(lived_in.root, msgspec.structs.replace(fleet, columns=columns), replace=True)
    for later in (0, 9):  # at first some have hardly missed it
        go_on(lived_in, 0.99, later=later)
        lived_in.make("fleet_prognoses")
    said = current.ranked(lived_in.engine, "pumps").prognoses
    assert {one.state for one in said} == {State.SENSOR_FAULT}
    assert all(lost in one.detail for one in said)


def test_outcomes_stand_beside_what_was_said_once_the_machines_have_failed(lived_in):
    go_on(lived_in, 0.9)
    lived_in.make("fleet_prognoses", "realised_outcomes")
    assert lived_in.lake.scan("realised_outcomes", "pumps").collect().is_empty()
    go_on(lived_in, 1.0, "failed")
    result = lived_in.make("realised_outcomes")
    outcomes = lived_in.lake.scan("realised_outcomes", "pumps").collect()
    assert outcomes.schema == watch.OUTCOMES_SCHEMA
    assert outcomes.group_by("unit").len().sort("unit")["len"].to_list() == [2, 2, 2, 2]
    ends = WHOLE.group_by("unit").agg(end=pl.max("cycle"))
    found = outcomes.join(ends, on="unit")
    assert (found["cycle"] + found["true_rul_cycles"] == found["end"]).all()
    assert metadata_of(result, "realised_outcomes")["lives"] == 4
    assert {"share_50", "share_90"} <= check_of(result, "bands_hold_in_life").metadata.keys()


def test_a_machine_that_has_failed_is_ranked_no_more(lived_in):
    go_on(lived_in, 1.0, "failed")
    lived_in.make("fleet_prognoses")
    assert current.ranked(lived_in.engine, "pumps").prognoses == ()


def test_a_replaced_machine_is_censored(lived_in):
    go_on(lived_in, 0.95, "replaced")
    result = lived_in.make("realised_outcomes")
    assert metadata_of(result, "realised_outcomes")["lives"] == 0
    assert metadata_of(result, "realised_outcomes")["censored_prognoses"] == 4


@pytest.mark.parametrize("shifted", [False, True])
def test_a_drift_is_confirmed_by_three_windows_in_a_row(lived_in, shifted):
    later = Simulation(
        units=60, running_units=0, sensors=4, settings=1, mean_life_cycles=40, seed=5, first_unit=61
    )
    moved = pl.col("sensor_1") + (2 * pl.col("sensor_1").std() if shifted else 0)
    units = simulate(later).table.with_columns(moved).partition_by("unit", maintain_order=True)
    confirmed = []
    for window in range(3):
        unit = units[20 * window : 20 * (window + 1)]
        lived_in.drop(pl.concat(unit), f"window {window}.parquet")
        lived_in.make("raw_readings", "core_readings")
        result = lived_in.make("fleet_prognoses")
        check = check_of(result, "readings_resemble_training")
        confirmed.append(check.metadata["confirmed"].value)
        assert check.passed is not bool(confirmed[-1])
    assert confirmed == [[], [], ["sensor_1"] if shifted else []]
    windows = lived_in.lake.scan("drift", "pumps").collect()
    assert windows["from_row"].to_list()[1:] == windows["to_row"].to_list()[:-1]
