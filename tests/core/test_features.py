import math
import threading
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core.conditions import Conditions
from rul_core.errors import ModelError
from rul_core.features import (
    KINDS,
    WHOLE_MACHINE,
    Feature,
    Pipeline,
    Projection,
    Windows,
    declare,
    life_starts,
)
from rul_core.kernel import LIMIT


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Pipeline, pl.DataFrame]:
    """A fitted pipeline and readings of a few lives, with gaps and absurd values."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    setting_count = draw(st.integers(0, 2))
    sensor_count = draw(st.integers(1, 4))
    conditions = draw(st.integers(1, 3)) if setting_count else 1
    setting_names = tuple(f"setting_{j}" for j in range(setting_count))
    sensor_names = tuple(f"sensor_{j}" for j in range(sensor_count))
    projections = tuple(
        Projection(f"all_{p}", tuple(rng.normal(size=sensor_count).tolist()))
        for p in range(draw(st.integers(0, 2)))
    )
    channels = (*sensor_names, *(p.name for p in projections))
    lengths = st.sampled_from([1, 2, 3, 5, 7])
    features = st.one_of(
        st.builds(Feature, st.sampled_from(channels), st.just("value")),
        st.builds(Feature, st.just("age"), st.just("age")),
        st.builds(Feature, st.just("all_sensors"), st.just("spread"), lengths),
        st.builds(
            Feature,
            st.sampled_from(channels),
            st.sampled_from(sorted(KINDS - WHOLE_MACHINE - {"value"})),
            lengths,
        ),
    )
    names = draw(st.lists(features.map(lambda f: f.name), min_size=1, max_size=25, unique=True))
    fitted = Conditions(
        settings=setting_names,
        sensors=sensor_names,
        setting_mean=tuple(rng.normal(size=setting_count).tolist()),
        setting_scale=tuple(rng.uniform(0.5, 2, setting_count).tolist()),
        centroids=tuple(map(tuple, rng.normal(size=(conditions, setting_count)).tolist())),
        radius=1.0,
        sensor_mean=tuple(map(tuple, rng.normal(size=(conditions, sensor_count)).tolist())),
        sensor_scale=tuple(
            map(tuple, rng.uniform(0.1, 2, size=(conditions, sensor_count)).tolist())
        ),
    )
    pipeline = Pipeline(
        conditions=fitted,
        projections=projections,
        names=tuple(names),
        baseline=draw(st.integers(1, 4)),
    )
    lives = draw(st.lists(st.integers(1, 16), min_size=1, max_size=4))
    count = sum(lives)
    values = rng.normal(size=(count, setting_count + sensor_count))
    values[rng.random(values.shape) < draw(st.sampled_from([0.0, 0.1, 0.6]))] = np.nan
    values[:, setting_count:][rng.random((count, sensor_count)) < 0.05] = 1e300
    values[:, setting_count:][rng.random((count, sensor_count)) < 0.05] = -1e300
    numbers = np.repeat(np.arange(len(lives)), lives)
    readings = pl.DataFrame(
        {
            "unit": [f"unit-{n // 2}" for n in numbers],
            "life": numbers % 2 + 1,
            "cycle": np.concatenate([np.cumsum(rng.integers(1, 4, n)) for n in lives]).astype(
                float
            ),
            **dict(zip(setting_names + sensor_names, values.T, strict=True)),
        }
    ).with_columns(pl.col(*setting_names, *sensor_names).fill_nan(None))
    return pipeline, readings


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return np.array_equal(left, right, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_batch_and_online_agree_to_the_last_bit_on_every_prefix_of_every_life(world):
    pipeline, readings = world
    compiled = pipeline.compiled()
    whole = compiled.matrix(readings)
    starts = life_starts(readings)
    for first, last in pairwise(starts):
        state = compiled.start()
        for end in range(first, last):
            online = compiled.step(state, readings.row(end, named=True))
            assert same_bits(online, whole[end])
            assert same_bits(online, compiled.matrix(readings[first : end + 1])[-1])


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_every_kind_is_what_its_definition_says(world):
    pipeline, readings = world
    got = pipeline.compiled().matrix(readings).astype(np.float64)
    expected = by_definition(pipeline, readings)
    assert same_bits(np.isnan(got), np.isnan(expected))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(worlds(), st.data())
def test_what_comes_later_changes_nothing(world, data):
    pipeline, readings = world
    seen = data.draw(st.integers(0, readings.height - 1))
    names = pipeline.conditions.settings + pipeline.conditions.sensors
    scrambled = readings.with_columns(
        pl.when(pl.int_range(pl.len()) > seen).then(pl.col(name) * -3.0 + 1.0).otherwise(name)
        for name in names
    )
    compiled = pipeline.compiled()
    before, after = compiled.matrix(readings), compiled.matrix(scrambled)
    assert same_bits(before[: seen + 1], after[: seen + 1])


def by_definition(pipeline: Pipeline, readings: pl.DataFrame) -> np.ndarray:
    """(n, features), each cell computed from nothing but its life's readings so far."""
    channels = channels_by_definition(pipeline, readings)
    sensors = pipeline.conditions.sensors
    cycles = readings["cycle"].to_numpy()
    starts = life_starts(readings)
    expected = np.empty((readings.height, len(pipeline.names)))
    for first, last in pairwise(starts):
        for end in range(first, last):
            so_far = {name: values[first : end + 1] for name, values in channels.items()}
            for k, name in enumerate(pipeline.names):
                feature = Feature.parse(name)
                if feature.kind == "age":
                    cell = cycles[end]
                elif feature.kind == "spread":
                    moved = [
                        abs(deviation(so_far[s], feature.window, pipeline.baseline))
                        for s in sensors
                    ]
                    cell = mean(np.array(moved))
                else:
                    cell = of_channel(
                        feature.kind, so_far[feature.channel], feature.window, pipeline.baseline
                    )
                expected[end, k] = cell
    return expected


def channels_by_definition(pipeline: Pipeline, readings: pl.DataFrame) -> dict[str, np.ndarray]:
    found = pipeline.conditions
    channels: dict[str, list[float]] = {name: [] for name in found.sensors}
    channels |= {p.name: [] for p in pipeline.projections}
    for reading in readings.iter_rows(named=True):
        place = [
            math.nan if reading[name] is None else (reading[name] - mean) / scale
            for name, mean, scale in zip(
                found.settings, found.setting_mean, found.setting_scale, strict=True
            )
        ]
        distances = [math.dist(place, centroid) for centroid in found.centroids]
        condition = int(np.argmin(distances))
        normalised = {}
        for j, name in enumerate(found.sensors):
            if reading[name] is None or math.isnan(distances[condition]):
                normalised[name] = math.nan
                continue
            z = (reading[name] - found.sensor_mean[condition][j]) / (
                found.sensor_scale[condition][j]
            )
            normalised[name] = min(max(z, -LIMIT), LIMIT)
        for projection in pipeline.projections:
            parts = [
                weight * normalised[name]
                for name, weight in zip(found.sensors, projection.weights, strict=True)
                if not math.isnan(normalised[name])
            ]
            normalised[projection.name] = sum(parts) if parts else math.nan
        for name, value in normalised.items():
            channels[name].append(value)
    return {name: np.array(values) for name, values in channels.items()}


def of_channel(kind: str, values: np.ndarray, window: int, baseline: int) -> float:
    if kind == "value":
        return values[-1]
    if kind == "mean":
        return mean(values[-window:])
    if kind == "std":
        read = values[-window:][~np.isnan(values[-window:])]
        return float(np.std(read, ddof=1)) if len(read) > 1 else math.nan
    if kind == "trend":
        return mean(values[-window:]) - mean(values[: -window or None][-window:])
    if kind == "ewm":
        return ewm(values, window)
    return deviation(values, window, baseline)


def deviation(values: np.ndarray, window: int, baseline: int) -> float:
    return ewm(values, window) - mean(values[:baseline])


def ewm(values: np.ndarray, span: int) -> float:
    read = values[~np.isnan(values)]
    weights = (1 - 2 / (span + 1)) ** np.arange(len(read))[::-1]
    return float(read @ weights / weights.sum()) if len(read) else math.nan


def mean(values: np.ndarray) -> float:
    read = values[~np.isnan(values)]
    return float(read.mean()) if len(read) else math.nan


def simple_pipeline(*names: str, **changes) -> Pipeline:
    """One condition, one sensor ``x`` that is normalised to itself."""
    found = Conditions(
        settings=(),
        sensors=("x",),
        setting_mean=(),
        setting_scale=(),
        centroids=((),),
        radius=1.0,
        sensor_mean=((0.0,),),
        sensor_scale=((1.0,),),
    )
    return msgspec.structs.replace(Pipeline(conditions=found, names=names, baseline=3), **changes)


def life_of(values: Sequence[float | None], unit: str = "a") -> pl.DataFrame:
    return pl.DataFrame(
        {"unit": unit, "life": 1, "cycle": np.arange(1.0, len(values) + 1), "x": values},
        schema_overrides={"life": pl.Int64, "x": pl.Float64},
    )


def test_a_life_starts_anew_whatever_came_before_it():
    compiled = simple_pipeline("x__mean__w_3", "x__ewm__w_3", "x__deviation__w_3").compiled()
    one, other = life_of([1.0, 2.0, 4.0]), life_of([7.0, None, 5.0], unit="b")
    together = compiled.matrix(pl.concat([one, other]))
    assert same_bits(together, np.vstack([compiled.matrix(one), compiled.matrix(other)]))


def test_an_absurd_reading_is_forgotten_once_it_has_left_the_window():
    compiled = simple_pipeline("x__mean__w_3", "x__std__w_3").compiled()
    rows = compiled.matrix(life_of([1.0, 1e300, 1.0, 1.5, 1.0, 1.25]))
    assert rows[1, 0] == (1 + LIMIT) / 2
    np.testing.assert_allclose(rows[5], [1.25, 0.25], atol=1e-6)


def test_a_reading_without_a_sensor_is_one_that_was_not_read():
    compiled = simple_pipeline("x__value", "x__mean__w_2").compiled()
    state = compiled.start()
    assert compiled.step(state, {"cycle": 1.0, "x": 3.0}).tolist() == [3.0, 3.0]
    assert same_bits(compiled.step(state, {"cycle": 2.0}), np.array([np.nan, 3.0]))
    assert same_bits(compiled.step(state, {"cycle": 3.0, "x": None}), np.array([np.nan] * 2))


def test_a_state_can_be_kept_as_bytes_and_taken_up_again():
    compiled = simple_pipeline("x__mean__w_3", "x__deviation__w_2").compiled()
    state = compiled.start()
    compiled.step(state, {"cycle": 1.0, "x": 3.0})
    kept = np.frombuffer(state.tobytes()).copy()
    assert same_bits(
        compiled.step(kept, {"cycle": 2.0, "x": 5.0}),
        compiled.step(state, {"cycle": 2.0, "x": 5.0}),
    )


@pytest.fixture(scope="module")
def many() -> tuple[Pipeline, pl.DataFrame]:
    """Enough readings for several threads: 150 lives of unequal length."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 300, 150)
    readings = pl.DataFrame(
        {
            "unit": np.repeat([f"{n:03d}" for n in range(150)], lengths),
            "life": 1,
            "cycle": np.concatenate([np.arange(1.0, n + 1) for n in lengths]),
            "x": rng.normal(size=lengths.sum()),
        }
    )
    return simple_pipeline("x__mean__w_30", "x__ewm__w_10", "all_sensors__spread__w_5"), readings


def test_the_result_does_not_depend_on_the_number_of_threads(many):
    pipeline, readings = many
    alone = pipeline.compiled().matrix(readings, threads=1)
    for threads in (2, 3, 7):
        assert same_bits(pipeline.compiled().matrix(readings, threads=threads), alone)


def test_threads_may_use_one_compiled_pipeline_at_the_same_time(many):
    pipeline, readings = many
    compiled = pipeline.compiled()
    alone = compiled.matrix(readings, threads=1)
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(compiled.matrix(readings, threads=2)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(same_bits(result, alone) for result in results)


def test_one_long_life_is_computed_though_it_cannot_be_shared_out():
    values = np.random.default_rng(1).normal(size=12_000)
    rows = simple_pipeline("x__mean__w_2").compiled().matrix(life_of(values.tolist()), threads=2)
    np.testing.assert_allclose(rows[1:, 0], (values[1:] + values[:-1]) / 2, atol=1e-6)


def test_no_readings_give_no_rows():
    pipeline = simple_pipeline("x__value", "age__age")
    frame = pipeline.compiled().frame(life_of([]))
    assert frame.columns == ["unit", "life", "cycle", "x__value", "age__age"]
    assert frame.height == 0


def test_a_frame_names_its_rows_and_holds_single_precision():
    frame = simple_pipeline("x__value", "age__age").compiled().frame(life_of([2.0, None]))
    assert frame.schema == {
        "unit": pl.String,
        "life": pl.Int64,
        "cycle": pl.Float64,
        "x__value": pl.Float32,
        "age__age": pl.Float32,
    }
    assert frame.row(0) == ("a", 1, 1.0, 2.0, 1.0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_frame_has_the_rows_of_the_matrix_also_where_it_is_as_long_as_wide(count):
    compiled = simple_pipeline("x__value", "age__age").compiled()
    readings = life_of([5.0, 6.0, 7.0][:count])
    frame = compiled.frame(readings)
    assert same_bits(frame.select("x__value", "age__age").to_numpy(), compiled.matrix(readings))


@given(
    st.text(min_size=1).filter(lambda name: "\n" not in name) | st.just("a__mean__w_3"),
    st.sampled_from(sorted(KINDS)),
    st.integers(0, 10_000),
)
def test_a_column_name_parses_back_into_its_declaration(channel, kind, window):
    feature = Feature(channel, kind, window)
    assert Feature.parse(feature.name) == feature


@pytest.mark.parametrize("name", ["x", "x__median__w_3", "x__mean__w_", "__mean", "x__mean__w_0"])
def test_a_name_that_declares_nothing_is_refused(name):
    with pytest.raises(ModelError, match=f"'{name}' is no feature's name"):
        Feature.parse(name)


def test_a_feature_of_a_channel_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match=r"\['y'\].*its channels are \['x'\]"):
        simple_pipeline("x__value", "y__value").compiled()


def test_declarations_have_no_twins_and_each_can_be_computed():
    windows = Windows(
        means=(2,), stds=(3,), trends=(2,), spans=(2,), deviations=(2,), spreads=(2,), baseline=3
    )
    names = tuple(f.name for f in declare(["x"], windows, age=True))
    assert len(set(names)) == len(names) == 7
    rows = simple_pipeline(*names).compiled().matrix(life_of([1.0, 2.0, 4.0, 8.0]))
    assert np.isfinite(rows[-1]).all()


def test_age_is_left_out_where_it_is_not_wanted():
    with_age = declare(["x"], Windows(), age=True)
    without = declare(["x"], Windows(), age=False)
    assert [f.kind for f in set(with_age) - set(without)] == ["age"]


def test_windows_grow_with_the_lives_and_never_fall_below_two():
    windows = Windows(means=(5, 15), spans=(10,), baseline=20)
    assert windows.scaled(2.0).means == (10, 30)
    assert windows.scaled(2.0).baseline == 40
    assert windows.scaled(0.01).means == (2,)
    assert windows.scaled(0.01).baseline == 2


@settings(max_examples=15, deadline=None)
@given(worlds())
def test_a_pipeline_comes_back_from_json_with_its_hash_and_its_features(world):
    pipeline, readings = world
    again = msgspec.json.decode(msgspec.json.encode(pipeline), type=Pipeline)
    assert again == pipeline
    assert again.hash == pipeline.hash
    assert same_bits(again.compiled().matrix(readings), pipeline.compiled().matrix(readings))


@settings(max_examples=15, deadline=None)
@given(worlds(), st.data())
def test_the_hash_changes_with_any_fitted_number_and_any_declaration(world, data):
    pipeline, _ = world
    described = msgspec.json.decode(msgspec.json.encode(pipeline))
    branch, key = data.draw(st.sampled_from(leaves(described)))
    match branch[key]:
        case str() as word:
            branch[key] = word + "_"
        case int() as count:
            branch[key] = count + 1
        case float() as number:
            branch[key] = math.nextafter(number, math.inf)
    changed = msgspec.convert(described, Pipeline)
    assert changed != pipeline
    assert changed.hash != pipeline.hash


def leaves(branch: dict | list) -> list[tuple[dict | list, str | int]]:
    """Every place in a tree where a number or a word is."""
    items = branch.items() if isinstance(branch, dict) else enumerate(branch)
    found: list[tuple[dict | list, str | int]] = []
    for key, item in items:
        found += leaves(item) if isinstance(item, dict | list) else [(branch, key)]
    return found
