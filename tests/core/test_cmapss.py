"""The C-MAPSS protocol on small files of its shape: 26 columns, engines counted from 1."""

from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
import polars as pl
import pytest

from rul_core import cmapss
from rul_core.formats import parse_file
from rul_core.labels import RUL
from rul_core.model import Recipe, train
from rul_core.readers import conform
from rul_core.schema import UNIT, Fleet, Outcome
from rul_core.simulator import Simulation, simulate

RECIPE = Recipe(iterations=15, learning_rate=0.2, depth=3, folds=3, threads=1)
SIMULATION = Simulation(
    units=15, running_units=12, sensors=21, settings=3, mean_life_cycles=40, seed=2
)
TEST_ENGINES = list(range(1, 13))


def cmapss_text(readings: pl.DataFrame) -> bytes:
    """As NASA writes it: engines counted from 1, blanks between and after the columns."""
    numbers = readings[UNIT].rle_id() + 1
    columns = [pl.col("cycle").cast(pl.Int64), pl.col(r"^setting_.*$"), pl.col(r"^sensor_.*$")]
    rows = readings.select(numbers.alias("number"), *columns).rows()
    return "".join(" ".join(map(str, row)) + "  \n" for row in rows).encode()


@dataclass(frozen=True)
class Subset:
    fleet: Fleet
    training: tuple[pl.DataFrame, pl.DataFrame]
    test: pl.DataFrame
    truth: np.ndarray


@pytest.fixture(scope="module")
def subset() -> Subset:
    made, fleet = simulate(SIMULATION), cmapss.fleet("FD001")
    runs = made.lives.filter(pl.col("outcome") == Outcome.RUNNING)
    running = pl.col(UNIT).is_in(runs[UNIT].implode())

    def read(readings: pl.DataFrame, name: str):
        return conform(parse_file(cmapss_text(readings), name), fleet, source=name)

    training = read(made.readings.filter(~running), "train_FD001.txt")
    test = read(made.readings.filter(running), "test_FD001.txt")
    seen = made.readings.filter(running).group_by(UNIT, maintain_order=True).len()["len"]
    ends = runs.join(made.true_end_cycles, on=UNIT, maintain_order="left")["end_cycle_right"]
    return Subset(
        fleet, (training.readings, training.lives), test.readings, (ends - seen).to_numpy()
    )


@pytest.fixture(scope="module")
def result(subset: Subset) -> cmapss.Result:
    return cmapss.predict(
        subset.training, subset.test, subset.truth, RECIPE, range(2), subset.fleet
    )


@pytest.mark.parametrize("name", cmapss.SUBSETS)
def test_a_subset_is_a_fleet_whose_test_engines_are_other_machines(name):
    fleet = cmapss.fleet(name)
    assert fleet.name == name
    assert (len(fleet.columns.settings), len(fleet.columns.sensors)) == (3, 21)
    training, test = fleet.rule_for(f"train_{name}.txt"), fleet.rule_for(f"test_{name}.txt")
    assert (training.outcome, test.outcome) == (Outcome.FAILED, Outcome.RUNNING)
    assert training.unit_prefix != test.unit_prefix


def test_predictions_are_one_row_an_engine_in_the_order_of_the_file(result):
    assert result.predictions.schema == {
        "unit": pl.Int64,
        RUL: pl.Float64,
        "lower_90": pl.Float64,
        "upper_90": pl.Float64,
        "lower_50": pl.Float64,
        "upper_50": pl.Float64,
        "safe": pl.Float64,
    }
    assert result.predictions["unit"].to_list() == TEST_ENGINES


def test_an_engine_gets_its_own_prediction_at_its_last_cycle(subset, result):
    """Engine 10 stands between 9 and 11, not between 1 and 2 as texts sort."""
    models = [train(*subset.training, subset.fleet, RECIPE, seed=seed).model for seed in (0, 1)]
    for engine, point in result.predictions.select("unit", RUL).iter_rows():
        readings = subset.test.filter(pl.col(UNIT) == f"test-{engine}")
        said = [model.predict(readings)[RUL][-1] for model in models]
        assert point == pytest.approx(np.mean(said))


def test_the_truth_is_scored_in_the_order_of_the_file(subset, result):
    truth = np.minimum(subset.truth, cmapss.CAP)
    d = result.predictions[RUL].to_numpy() - truth
    assert result.test.clipped.rmse_cycles.value == pytest.approx(np.sqrt((d**2).mean()))
    as_texts_sort = np.argsort([str(engine) for engine in TEST_ENGINES])
    shuffled = cmapss.predict(
        subset.training, subset.test, subset.truth[as_texts_sort], RECIPE, [0], subset.fleet
    )
    right = result.test_by_seed[0].clipped.rmse_cycles.value
    assert shuffled.test is not None
    assert shuffled.test.clipped.rmse_cycles.value > right
    assert shuffled.predictions["unit"].to_list() == TEST_ENGINES


def test_figures_are_those_of_the_mean_over_seeds_and_of_each_seed(subset, result):
    alone = [
        cmapss.predict(subset.training, subset.test, subset.truth, RECIPE, [seed], subset.fleet)
        for seed in (0, 1)
    ]
    mean = pl.mean_horizontal([one.predictions["lower_90"] for one in alone])
    np.testing.assert_allclose(
        result.predictions["lower_90"].to_numpy(), pl.select(mean).to_series().to_numpy()
    )
    assert result.test_by_seed == tuple(one.test for one in alone)
    assert result.cross_validation == tuple(one.cross_validation[0] for one in alone)


def test_without_a_truth_there_are_predictions_and_cross_validation(subset):
    found = cmapss.predict(subset.training, subset.test, None, RECIPE, [0], subset.fleet)
    assert found.predictions.height == len(TEST_ENGINES)
    assert (found.test, found.test_by_seed) == (None, ())
    assert found.cross_validation[0].clipped.units == 15


def test_bands_of_predictions_nest_and_safe_is_their_lowest(result):
    said = result.predictions
    order = ["lower_90", "lower_50", "upper_50", "upper_90"]
    assert all((said[a] <= said[b]).all() for a, b in pairwise(order))
    assert said["safe"].equals(said["lower_90"].alias("safe"))


def test_the_variant_without_age_has_no_age_and_is_else_the_same_recipe(subset):
    ageless = cmapss.without_age(RECIPE)
    assert msgspec.structs.replace(ageless, uses_age=None) == RECIPE
    names = train(*subset.training, subset.fleet, ageless).model.pipeline.names
    assert not any(name.startswith("age_") for name in names)
    assert any(
        name.startswith("age_")
        for name in train(*subset.training, subset.fleet, RECIPE).model.pipeline.names
    )
