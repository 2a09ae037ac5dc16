"""Directions of all sensors: fitted on labelled lives, the same for every name, causal."""

from types import SimpleNamespace

import msgspec
import numpy as np
import polars as pl
import pytest

from rul_core import conditions, projections
from rul_core.labels import RUL, label
from rul_core.simulator import Simulation, simulate, simulated_fleet


@pytest.fixture(scope="module")
def worn() -> SimpleNamespace:
    """Labelled lives of a fleet with four sensors, and what was fitted on them."""
    simulation = Simulation(units=12, running_units=0, sensors=4, mean_life_cycles=60, settings=0)
    made = simulate(simulation)
    labelled = label(made.readings, made.lives)
    fleet = simulated_fleet(simulation, "pumps")
    found = conditions.fit(labelled, fleet)
    cap = fleet.learning.label_cap_cycles
    return SimpleNamespace(
        labelled=labelled,
        fleet=fleet,
        found=found,
        cap=cap,
        smoothed=projections.smooth(labelled, found, projections.SMOOTHING).astype(np.float64),
        directions={d.name: d for d in projections.fit(labelled, found, cap)},
    )


def test_a_direction_has_a_standard_deviation_of_one_over_the_training_readings(worn):
    assert list(worn.directions) == ["wear", "late_wear", "pattern_1", "pattern_2", "pattern_3"]
    for direction in worn.directions.values():
        assert (worn.smoothed @ np.asarray(direction.weights)).std() == pytest.approx(1.0)


def test_wear_follows_the_remaining_life_better_than_any_sensor(worn):
    true = np.minimum(worn.labelled[RUL].to_numpy(), worn.cap)

    def follows(column: np.ndarray) -> float:
        return abs(float(np.corrcoef(column, true)[0, 1]))

    wear = worn.smoothed @ np.asarray(worn.directions["wear"].weights)
    assert follows(wear) > max(follows(sensor) for sensor in worn.smoothed.T)
    assert np.corrcoef(wear, true)[0, 1] > 0.8


def test_late_wear_looks_at_the_late_part_of_lives_alone(worn):
    late = worn.labelled[RUL] < projections.LATE * worn.cap
    early = pl.when(~late).then(pl.col(RUL) + 500.0).otherwise(pl.col(RUL))
    again = projections.fit(worn.labelled.with_columns(early.alias(RUL)), worn.found, worn.cap)
    weights = {d.name: d.weights for d in again}
    assert weights["late_wear"] == worn.directions["late_wear"].weights
    assert weights["wear"] != worn.directions["wear"].weights


def test_patterns_are_orthogonal_and_point_where_their_heaviest_sensor_grows(worn):
    patterns = [d for name, d in worn.directions.items() if name.startswith("pattern")]
    unit = np.array([p.weights / np.linalg.norm(p.weights) for p in patterns])
    np.testing.assert_allclose(unit @ unit.T, np.eye(len(patterns)), atol=1e-9)
    for direction in unit:
        assert direction[np.abs(direction).argmax()] > 0.0


def test_one_sensor_has_one_pattern(worn):
    columns = msgspec.structs.replace(worn.fleet.columns, sensors=("sensor_1",))
    found = conditions.fit(worn.labelled, msgspec.structs.replace(worn.fleet, columns=columns))
    names = [d.name for d in projections.fit(worn.labelled, found, worn.cap)]
    assert names == ["wear", "late_wear", "pattern_1"]


def test_a_direction_is_never_called_as_a_sensor_is(worn):
    names = {"sensor_1": "wear", "sensor_2": "pattern_2", "sensor_3": "pattern_2_of_all"}
    found = msgspec.structs.replace(
        worn.found, sensors=tuple(names.get(name, name) for name in worn.found.sensors)
    )
    again = projections.fit(worn.labelled.rename(names), found, worn.cap)
    assert [d.name for d in again] == [
        "wear_of_all",
        "late_wear",
        "pattern_1",
        "pattern_2_of_all_of_all",
        "pattern_3",
    ]
    assert [d.weights for d in again] == [d.weights for d in worn.directions.values()]


def test_lives_that_stop_before_they_are_late_give_no_direction_of_late_wear(worn):
    early = worn.labelled.with_columns(pl.col(RUL) + 0.6 * worn.cap)
    names = {d.name for d in projections.fit(early, worn.found, worn.cap)}
    assert "wear" in names
    assert "late_wear" not in names


def test_smoothing_knows_nothing_of_later_readings_or_other_lives(worn):
    soon = worn.labelled.filter(pl.col("cycle") <= 10)
    whole = worn.smoothed[(worn.labelled["cycle"] <= 10).to_numpy()]
    np.testing.assert_array_equal(projections.smooth(soon, worn.found, 10), whole)
    one = worn.labelled.filter(pl.col("unit") == worn.labelled["unit"][-1])
    np.testing.assert_array_equal(
        projections.smooth(one, worn.found, 10), worn.smoothed[-one.height :]
    )


def test_a_sensor_that_was_never_read_is_not_smoothed_to_a_number(worn):
    unread = worn.labelled.with_columns(sensor_2=pl.lit(None, pl.Float64))
    smoothed = projections.smooth(unread, worn.found, 10)
    column = worn.found.sensors.index("sensor_2")
    assert np.isnan(smoothed[:, column]).all()
    assert not np.isnan(np.delete(smoothed, column, axis=1)).any()
