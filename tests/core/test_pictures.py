"""Pictures need no display and no global state, and are the same for the same data."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BytesIO

import numpy as np
import polars as pl
import pytest
from matplotlib import image

from rul_core import pictures, scoring
from rul_core.errors import NotEnoughData


def pixels(png: bytes) -> np.ndarray:
    """(height, width, 3) of 0 … 1."""
    return image.imread(BytesIO(png), format="png")[..., :3]


def amount(png: bytes, colour: str) -> int:
    """How many pixels have just this colour."""
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    return int((np.round(pixels(png) * 255).astype(int) == wanted).all(axis=-1).sum())


TRUE = np.linspace(5, 180, 60)
PREDICTED = np.clip(TRUE + 12 * np.sin(TRUE), 0, 125)


def scatter(**options) -> bytes:
    return pictures.predicted_against_true(TRUE, PREDICTED, **options)


def life(readings: int = 80) -> pl.DataFrame:
    cycle = np.arange(1.0, readings + 1)
    point = np.clip(100 - cycle, 0, 125)
    return pl.DataFrame(
        {
            "cycle": cycle,
            "rul_cycles": point,
            **{f"lower_{level}": np.clip(point - width, 0, 125) for level, width in WIDTHS},
            **{f"upper_{level}": np.clip(point + width, 0, 125) for level, width in WIDTHS},
        }
    )


WIDTHS = ((50, 8), (90, 20))


def bands() -> tuple[scoring.BandReport, ...]:
    named = {
        level: (PREDICTED - width, PREDICTED + width) for level, width in ((0.5, 8), (0.9, 20))
    }
    return scoring.evaluate(TRUE, PREDICTED, bands=named, open_above_cycles=125, repeats=5).bands


def sizes(runs: int, names: int = 3) -> bytes:
    start = datetime(2026, 11, 20, tzinfo=UTC)
    times = [start + timedelta(minutes=30 * run) for run in range(runs)]
    series = {
        f"thing {name}": [(at, 10.0 * name + run / 100) for run, at in enumerate(times)]
        for name in range(1, names + 1)
    }
    return pictures.sizes_over_time(series, title="What runs kept")


@pytest.mark.parametrize("runs", [1, 2, 300])
def test_each_thing_has_a_line_of_its_own_colour_and_a_first_run_is_seen_too(runs: int):
    of_one, of_three = sizes(runs, names=1), sizes(runs)
    for colour in (pictures.ORANGE, pictures.RED):
        assert amount(of_one, colour) == 0
        assert amount(of_three, colour) > 20
    assert amount(of_one, pictures.BLUE) > 20


def test_every_picture_is_a_readable_png_of_a_readable_size():
    for png in (
        scatter(cap_cycles=125.0),
        pictures.fan_of_one_life(life(), end_cycle=100.0, cap_cycles=125.0, unit="engine 7"),
        pictures.importance({"sensor_1": 0.7, "age": 0.3}),
        pictures.coverage(bands()),
        sizes(1),
        sizes(1500),
    ):
        height, width, _ = pixels(png).shape
        assert 700 <= width <= 1000
        assert 200 <= height <= 1000
        assert len(png) < 200_000


def test_the_same_data_give_the_same_bytes_also_in_many_threads_at_once():
    drawn = {
        "scatter": scatter,
        "fan": lambda: pictures.fan_of_one_life(life(), end_cycle=100.0),
        "coverage": lambda: pictures.coverage(bands()),
        "sizes": lambda: sizes(20),
    }
    alone = {name: draw() for name, draw in drawn.items()}
    with ThreadPoolExecutor(6) as pool:
        together = [(name, pool.submit(draw)) for name, draw in list(drawn.items()) * 3]
        assert all(job.result() == alone[name] for name, job in together)


def test_other_data_give_another_picture():
    assert scatter() != pictures.predicted_against_true(TRUE, PREDICTED + 1)
    assert scatter() != scatter(title="of FD001")
    assert scatter() != scatter(unit_of_life="hours")


def test_matplotlib_waits_for_the_first_picture_and_pyplot_for_ever():
    code = (
        "import sys; from rul_core import pictures; assert 'matplotlib' not in sys.modules; "
        "pictures.importance({'a': 1.0}); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_whiskers_are_drawn_for_few_rows_and_left_out_for_many():
    few = scatter(lower_90=PREDICTED - 20, upper_90=PREDICTED + 20)
    assert few != scatter()
    many, said = np.tile(TRUE, 10), np.tile(PREDICTED, 10)
    plain = pictures.predicted_against_true(many, said)
    assert plain == pictures.predicted_against_true(
        many, said, lower_90=said - 20, upper_90=said + 20
    )


def test_a_huge_set_is_drawn_as_a_fixed_sample():
    true = np.random.default_rng(1).uniform(0, 125, 20_000)
    png = pictures.predicted_against_true(true, true)
    assert png == pictures.predicted_against_true(true, true)
    assert len(png) < 200_000


def test_the_truth_is_drawn_only_where_the_end_is_known():
    running = pictures.fan_of_one_life(life())
    ended = pictures.fan_of_one_life(life(), end_cycle=100.0)
    assert amount(ended, pictures.INK) > amount(running, pictures.INK) + 200


def test_one_reading_makes_a_picture():
    assert pixels(pictures.fan_of_one_life(life(1))).size


def test_the_smallest_groups_are_added_up_and_nothing_is_lost():
    shares = {f"sensor_{number}": 1.0 for number in range(30)}
    assert pictures.importance(shares) != pictures.importance(shares, most=10)
    assert pixels(pictures.importance(shares, most=10)).shape[0] < 700
    assert pictures.importance({"a": 2.0, "b": 1.0, "c": 1.0}, most=2) == pictures.importance(
        {"a": 2.0, "2 others": 2.0}
    )


def test_levels_differ_in_colour():
    png = pictures.coverage(bands())
    assert amount(png, pictures.BLUE) > 200
    assert amount(png, pictures.ORANGE) > 200
    assert amount(pictures.coverage(bands()[:1]), pictures.ORANGE) == 0


def test_nothing_to_draw_is_an_error():
    with pytest.raises(NotEnoughData, match="no rows"):
        pictures.predicted_against_true([], [])
    with pytest.raises(NotEnoughData, match="no predictions"):
        pictures.fan_of_one_life(life().clear())
    with pytest.raises(NotEnoughData, match="no importance"):
        pictures.importance({"age": 0.0})
    with pytest.raises(NotEnoughData, match="no bands"):
        pictures.coverage(())
