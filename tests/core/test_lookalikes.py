"""Lives that stood where a unit stands now: few, real, and never the unit's own."""

import msgspec
import numpy as np
import polars as pl
import pytest

from rul_core import lookalikes
from rul_core.labels import RUL
from rul_core.lookalikes import POSITION
from rul_core.schema import CYCLE, LIFE, UNIT


@pytest.fixture(scope="module")
def trajectories(pumps) -> pl.DataFrame:
    return lookalikes.learn(pumps.readings, pumps.lives, pumps.fleet, pumps.model.pipeline)


def life_of(pumps, unit: str, left: float = 0.0) -> pl.DataFrame:
    """The unit's readings until so many cycles before the last."""
    whole = pumps.readings.filter(pl.col(UNIT) == unit)
    return whole.filter(pl.col(CYCLE) <= pl.col(CYCLE).max() - left)


def found(pumps, trajectories: pl.DataFrame, readings: pl.DataFrame):
    return lookalikes.find(trajectories, readings, pumps.fleet, pumps.model.pipeline)


def test_the_table_holds_failed_lives_to_their_ends(pumps, trajectories):
    failed = pumps.lives.filter(pl.col("outcome") == "failed")
    assert trajectories.select(UNIT, LIFE).n_unique() == failed.height == 24
    ends = trajectories.join(failed, on=[UNIT, LIFE])
    assert (ends[CYCLE] + ends[RUL] == ends["end_cycle"]).all()
    assert (trajectories.group_by(UNIT, LIFE).agg(pl.min(RUL))[RUL] == 0).all()


def test_the_table_stays_small_however_much_was_learnt_from(pumps, monkeypatch):
    monkeypatch.setattr(lookalikes, "MOST_LIVES", 5)
    monkeypatch.setattr(lookalikes, "MOST_POINTS", 7)
    table = lookalikes.learn(pumps.readings, pumps.lives, pumps.fleet, pumps.model.pipeline)
    counted = table.group_by(UNIT, LIFE).agg(pl.len(), pl.min(RUL), steps=pl.col(RUL).diff())
    assert counted.height == 5
    assert counted["len"].is_between(4, 7).all()
    assert (counted[RUL] == 0).all()
    assert all(steps.drop_nulls().n_unique() == 1 for steps in counted["steps"])
    lengths = pumps.lives.filter(pl.col("outcome") == "failed")["end_cycle"].sort()
    kept = table.group_by(UNIT).agg(pl.max(CYCLE))[CYCLE].sort()
    assert kept[0] == lengths[0]
    assert kept[-1] >= lengths[-6]


def test_lookalikes_are_three_other_lives_the_nearest_first(pumps, trajectories):
    readings = life_of(pumps, pumps.running[UNIT][0])
    said = found(pumps, trajectories, readings)
    assert len({(one.unit, one.life) for one in said}) == 3
    assert [one.distance for one in said] == sorted(one.distance for one in said)
    ends = {row[UNIT]: row["end_cycle"] for row in pumps.lives.iter_rows(named=True)}
    for one in said:
        assert one.end_cycle == ends[one.unit] == one.cycle + one.rul_cycles


def test_no_other_reading_of_the_table_is_nearer(pumps, trajectories):
    readings = life_of(pumps, pumps.running[UNIT][0])
    whole = lookalikes.learn(
        readings, pl.DataFrame([(readings[UNIT][0], 1, "failed", 1e6)], pumps.lives.schema,
        orient="row"), pumps.fleet, pumps.model.pipeline,
    )  # fmt: skip
    here = whole[POSITION].to_numpy()[-1]
    distances = np.sqrt(np.mean((trajectories[POSITION].to_numpy() - here) ** 2, axis=1))
    nearest = found(pumps, trajectories, readings)[0]
    assert nearest.distance == pytest.approx(distances.min(), rel=1e-5)
    row = trajectories.row(int(distances.argmin()), named=True)
    assert (nearest.unit, nearest.cycle) == (row[UNIT], row[CYCLE])


def test_a_unit_does_not_resemble_itself(pumps, trajectories):
    unit = trajectories[UNIT][0]
    assert unit not in {one.unit for one in found(pumps, trajectories, life_of(pumps, unit, 3))}
    renamed = life_of(pumps, unit).with_columns(pl.lit("x").alias(UNIT))
    nearest = found(pumps, trajectories, renamed)[0]
    assert (nearest.unit, nearest.rul_cycles) == (unit, 0.0)
    assert nearest.distance == pytest.approx(0.0, abs=1e-6)
    second_life = life_of(pumps, unit).with_columns(pl.lit(2, pl.Int64).alias(LIFE))
    assert found(pumps, trajectories, second_life)[0].unit == unit


def test_lookalikes_of_a_worn_machine_were_near_their_end_too(pumps, trajectories):
    failed = pumps.lives.filter(pl.col("outcome") == "failed")[UNIT].to_list()
    near, far = (
        np.median([
            one.rul_cycles for unit in failed
            for one in found(pumps, trajectories, life_of(pumps, unit, left))
        ])
        for left in (2.0, 25.0)
    )  # fmt: skip
    assert near < 8 < far


def test_values_outside_their_limits_are_as_good_as_not_read(pumps):
    sensor = pumps.model.support.drivers[0]
    fleet = msgspec.structs.replace(pumps.fleet, ranges={sensor: (-1e5, 1e5)})
    pipeline, odd = pumps.model.pipeline, pl.int_range(pl.len()) % 7 == 3
    tables = [
        lookalikes.learn(
            pumps.readings.with_columns(pl.when(~odd).then(sensor).otherwise(value).alias(sensor)),
            pumps.lives, fleet, pipeline,
        )
        for value in (pl.lit(None), pl.lit(1e6))
    ]  # fmt: skip
    assert tables[0].equals(tables[1])


def test_without_directions_the_sensors_themselves_are_compared(pumps):
    pipeline = msgspec.structs.replace(pumps.model.pipeline, projections=())
    table = lookalikes.learn(pumps.readings, pumps.lives, pumps.fleet, pipeline)
    assert table.schema[POSITION] == pl.Array(pl.Float32, 5)
    readings = life_of(pumps, pumps.running[UNIT][0])
    assert len(lookalikes.find(table, readings, pumps.fleet, pipeline)) == 3
