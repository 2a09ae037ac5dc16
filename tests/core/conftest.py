"""One small fleet and its model, shared by the tests of a worker."""

from dataclasses import dataclass

import polars as pl
import pytest

from rul_core.model import Recipe, RulModel, Training, train
from rul_core.schema import Fleet
from rul_core.simulator import Simulation, simulate, simulated_fleet


@dataclass(frozen=True)
class Pumps:
    """Two operating conditions, four sensors that follow the damage; 24 units failed, 6 run."""

    readings: pl.DataFrame
    lives: pl.DataFrame
    fleet: Fleet
    recipe: Recipe
    training: Training

    @property
    def model(self) -> RulModel:
        return self.training.model

    @property
    def cap(self) -> float:
        return self.fleet.learning.label_cap_cycles

    @property
    def running(self) -> pl.DataFrame:
        """Readings of the units that run."""
        runs = self.lives.filter(pl.col("outcome") == "running")
        return self.readings.join(runs, on=["unit", "life"], how="semi", maintain_order="left")


@pytest.fixture(scope="session")
def pumps() -> Pumps:
    simulation = Simulation(
        units=24,
        running_units=6,
        sensors=5,
        settings=2,
        conditions=2,
        mean_life_cycles=50,
        seed=3,
    )
    made, fleet = simulate(simulation), simulated_fleet(simulation, "pumps")
    recipe = Recipe(iterations=40, learning_rate=0.15, depth=4, folds=3, threads=1)
    return Pumps(
        made.readings, made.lives, fleet, recipe, train(made.readings, made.lives, fleet, recipe)
    )
