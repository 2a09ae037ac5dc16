"""A life that is followed in portions, and one that is followed from its start."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core.following import Followed, Follower, Next
from rul_core.prognose import judge, prognose
from rul_core.schema import LIFE, UNIT

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def portion(readings: pl.DataFrame, follower: Follower, before: Followed) -> Followed:
    """One life's next readings."""
    (after,) = follower.follow(
        [before],
        Next(
            cycles=readings["cycle"].to_numpy(),
            values=readings.select(readings.columns[4:]).cast(pl.Float64).to_numpy(),
            starts=np.array([0, readings.height]),
            times=[readings["time"][-1]],
        ),
    )
    return after


def same(a: Followed, b: Followed) -> bool:
    """Whether two are equal to the last bit."""
    return msgspec.msgpack.encode(plain(a)) == msgspec.msgpack.encode(plain(b))


def plain(life: Followed) -> list[object]:
    fields = msgspec.structs.asdict(life).values()
    return [field.tobytes() if isinstance(field, np.ndarray) else field for field in fields]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_life_followed_in_any_portions_stands_where_one_followed_at_once_does(pumps, data):
    follower = pumps.model.follower
    unit = data.draw(st.sampled_from(pumps.running[UNIT].unique().sort().to_list()))
    life = pumps.running.filter(pl.col(UNIT) == unit)
    (whole,) = follower.follow_frame(life)
    cuts = sorted(data.draw(st.sets(st.integers(1, life.height - 1), max_size=4)))
    stands = follower.start(unit, 1)
    for first, last in zip([0, *cuts], [*cuts, life.height], strict=True):
        stands = portion(life[first:last], follower, stands)
    assert same(stands, whole)


def test_many_lives_go_on_together_as_each_would_alone(pumps):
    follower = pumps.model.follower
    together = follower.follow_frame(pumps.running)
    for life in together:
        own = pumps.running.filter((pl.col(UNIT) == life.unit) & (pl.col(LIFE) == life.life))
        assert same(life, *follower.follow_frame(own))


def test_following_changes_nothing_of_where_a_life_stood_before(pumps):
    follower, life = (
        pumps.model.follower,
        pumps.running.filter(pl.col(UNIT) == pumps.running[UNIT][0]),
    )
    (before,) = follower.follow_frame(life[:10])
    kept = plain(before)
    portion(life[10:], follower, before)
    assert plain(before) == kept


def test_what_is_said_of_a_followed_life_is_what_is_said_of_all_its_readings(pumps):
    model = pumps.model
    said = judge(model, model.follower.follow_frame(pumps.running), version="v1", now=NOW)
    assert said == prognose(model, pumps.running, version="v1", now=NOW)
    assert len(said) == 6


def test_no_lives_go_nowhere_and_nothing_is_said_of_them(pumps):
    nothing = Next(
        cycles=np.empty(0), values=np.empty((0, 7)), starts=np.zeros(1, dtype=np.int64), times=[]
    )
    assert pumps.model.follower.follow([], nothing) == []
    assert judge(pumps.model, [], version="v1", now=NOW) == []


@pytest.mark.parametrize(
    ("readings", "run", "gap"),
    [
        ([1.0, 1.0, 2.0], 1, 0),
        ([1.0, 2.0, 2.0], 2, 0),
        ([2.0, None, 2.0], 2, 0),
        ([2.0, 2.0, None, None], 2, 2),
        ([None, None], 0, 2),
        ([3.0, 9999.0, 3.0], 2, 0),
        ([3.0, 9999.0], 1, 1),
    ],
)
def test_a_life_knows_how_long_a_sensor_stood_still_and_was_lost(pumps, readings, run, gap):
    model = pumps.model
    (sensor,) = model.pipeline.conditions.sensors[:1]
    fleet = msgspec.structs.replace(model.fleet, ranges={sensor: (-500.0, 500.0)})
    follower = Follower(model.compiled, fleet)
    life = pumps.running[: len(readings)].with_columns(pl.Series(sensor, readings, pl.Float64))
    runs, gaps = follower.held(follower.follow_frame(life))
    assert (runs[0, 0], gaps[0, 0]) == (run, gap)
