"""Readings are judged, nothing is lost, and blocking checks hold back what follows."""

import dagster as dg
import msgspec
import numpy as np
import polars as pl
import pytest

from rul_assets import inspection
from rul_assets.defs.detection import sample_of_failed
from rul_core.features import Pipeline
from rul_core.labels import label
from rul_core.model import Recipe, fit_pipeline
from rul_core.schema import KEY
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_store import lives

FEW = Simulation(units=3, running_units=2, sensors=4, settings=1, mean_life_cycles=40, seed=5)
TABLE = simulate(FEW).table


def core(house) -> pl.DataFrame:
    return house.lake.scan("core_readings", "pumps").collect()


def made(house, *tables: pl.DataFrame, fails: bool = False) -> dg.ExecuteInProcessResult:
    for number, table in enumerate(tables):
        house.drop(table, f"{number}.parquet")
    return house.make("raw_readings", "core_readings", fails=fails)


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {found.check_name: found.passed for found in result.get_asset_check_evaluations()}


def test_core_readings_are_sorted_and_each_key_is_there_once(house):
    shuffled = TABLE.sample(fraction=1.0, shuffle=True, seed=1)
    made(house, shuffled, TABLE.head(30))
    assert core(house).equals(core(house).unique(KEY).sort(KEY))
    assert core(house).height == TABLE.height


def test_overlapping_exports_are_no_loss(house):
    result = made(house, *(TABLE.head(TABLE.height - left) for left in (9, 6, 3, 0)))
    aside = house.lake.scan_beside("core_readings", "pumps", "set_aside").collect()
    assert core(house).height == TABLE.height
    assert aside["reason"].unique().to_list() == ["duplicate"]
    assert checks_of(result)["few_rows_are_set_aside"]


def test_issues_are_kept_beside_the_readings(house):
    gap = TABLE.filter(~((pl.col("unit") == "unit-000001") & pl.col("cycle").is_between(5, 9)))
    made(house, gap)
    issues = house.lake.scan_beside("core_readings", "pumps", "issues").collect()
    assert issues.select("kind", "unit", "cycle").rows() == [("gap", "unit-000001", 10.0)]


def test_walking_in_small_batches_gives_the_same_readings(house, monkeypatch):
    made(house, TABLE)
    whole = core(house)
    monkeypatch.setattr(inspection, "BATCH_READINGS", 50)
    house.make("core_readings")
    table = house.lake.current("core_readings", "pumps")
    assert len(table.shards) > 3
    assert core(house).equals(whole)


@pytest.mark.parametrize(
    ("damaged", "check"),
    [
        (TABLE.with_columns(sensor_2=pl.lit(None, pl.Float64)), "no_column_is_missing"),
        (TABLE.clear(), "some_readings_are_usable"),
        (
            TABLE.with_columns(
                pl.when(pl.col("cycle") % 3 == 0)
                .then(pl.lit("?"))
                .otherwise("cycle")
                .alias("cycle")
            ),
            "few_rows_are_set_aside",
        ),
    ],
)
def test_a_failed_check_holds_back_training(house, damaged, check):
    house.drop(damaged.write_csv().encode(), "damaged.csv")
    result = house.run("everything", fails=True)
    assert not checks_of(result)[check]
    done = {event.step_key for event in result.all_events if event.is_step_success}
    assert done == {"raw_readings"}
    assert house.lake.current("features", "pumps") is None
    assert house.bundles.list("pumps") == ()


def test_checks_tell_their_figures_also_when_they_pass(house):
    figures = {
        found.check_name: {name: value.value for name, value in found.metadata.items()}
        for found in made(house, TABLE).get_asset_check_evaluations()
    }
    assert figures["some_readings_are_usable"] == {"usable": TABLE.height}
    assert figures["few_rows_are_set_aside"] == {"share": 0.0, "limit": 0.2}


def test_an_unseen_condition_is_told_once_there_is_a_champion(lived_in):
    moved = simulate(FEW).table.with_columns(
        pl.col("unit") + " moved", setting_1=pl.lit(1000.0), outcome=pl.lit("running")
    )
    lived_in.drop(moved, "moved.parquet")
    lived_in.make("raw_readings", "core_readings")
    issues = lived_in.lake.scan_beside("core_readings", "pumps", "issues").collect()
    assert issues["kind"].unique().to_list() == ["unseen_condition"]
    assert issues["unit"].n_unique() == 5


def test_a_damaged_champion_does_not_hold_up_readings(lived_in):
    (version,) = lived_in.bundles.list("pumps")
    (lived_in.root / "models" / "pumps" / version / "model.cbm").write_bytes(b"damaged")
    assert lived_in.make("core_readings").success


def test_a_sensor_that_the_description_gains_is_null_in_what_came_before(house):
    fewer = Simulation(**{**{n: getattr(FEW, n) for n in FEW.__struct_fields__}, "sensors": 3})
    house.describe(fewer)
    made(house, TABLE)
    house.describe(FEW)
    result = house.make("core_readings", fails=True)
    assert core(house)["sensor_4"].null_count() == TABLE.height
    assert not checks_of(result)["no_column_is_missing"]


def test_features_are_those_of_a_pipeline_that_saw_failed_lives_alone(house):
    made(house, TABLE)
    house.make("features")
    table = house.lake.current("features", "pumps")
    readings, known = core(house), lives.read(house.engine, "pumps")
    fitted = fit_pipeline(label(readings, known), simulated_fleet(FEW, "pumps"), Recipe())
    assert msgspec.json.decode(table.notes["pipeline"], type=Pipeline) == fitted
    kept = house.lake.scan("features", "pumps").collect()
    assert kept.select(KEY).equals(readings.select(KEY))
    expected = fitted.compiled().matrix(readings)
    assert np.array_equal(kept.select(fitted.names).to_numpy(), expected, equal_nan=True)


def test_a_fleet_of_which_no_life_has_failed_has_no_features_and_no_failed_run(house):
    result = made(house, TABLE.filter(pl.col("outcome") == "running"))
    assert result.success
    house.make("features")
    assert house.lake.current("features", "pumps") is None


def test_a_long_history_is_thinned_by_whole_lives_for_the_fit(house):
    made(house, TABLE)
    known = lives.read(house.engine, "pumps")
    some = sample_of_failed(core(house).lazy(), known, most_rows=60)
    assert 0 < some["unit"].n_unique() < 3
    whole = core(house).filter(pl.col("unit").is_in(some["unit"].unique().implode()))
    assert some.equals(whole)
