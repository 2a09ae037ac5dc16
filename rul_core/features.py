"""Features: declared once, computed by one kernel, in batch and reading by reading.

What belongs here: the declarations, and the pipeline that was fitted for them. What does not:
the loops (``kernel``), labels (``labels``).

A feature's column name can be parsed back into its declaration: ``sensor_11__mean__w_30`` is the
mean of sensor 11's normalised values over the last 30 readings. Kinds, for a channel x:

    value        the normalised value itself
    mean, std    over the last w readings; the sample standard deviation
    trend        the mean over the last w readings less the mean over the w before
    ewm          exponentially weighted mean of span w, weights adjusted for a short start
    deviation    ewm of span w less the mean of the life's first readings
    spread       mean absolute deviation (as above) over all sensors
    age          the cycle, which counts from new
"""

import hashlib
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
import polars as pl

from rul_core import conditions as operating
from rul_core import kernel
from rul_core.conditions import Conditions
from rul_core.schema import CYCLE, KEY, LIFE, UNIT

OPERATIONS = {
    "value": kernel.VALUE,
    "mean": kernel.MEAN,
    "std": kernel.STD,
    "trend": kernel.TREND,
    "ewm": kernel.EWM,
    "deviation": kernel.DEVIATION,
    "spread": kernel.SPREAD,
    "age": kernel.AGE,
}
ROLLING = frozenset({"mean", "std", "trend"})
WEIGHTED = frozenset({"ewm", "deviation", "spread"})
ALL_SENSORS = "all_sensors"
AGE = "age"


class Feature(msgspec.Struct, frozen=True):
    """One declaration. ``window`` counts readings; 0 where the kind has none."""

    channel: str
    kind: str
    window: int = 0

    @property
    def name(self) -> str:
        """The feature's column."""
        return f"{self.channel}__{self.kind}" + (f"__w_{self.window}" if self.window else "")

    @classmethod
    def parse(cls, name: str) -> "Feature":
        """The declaration that a column name stands for."""
        channel, kind, *window = name.split("__")
        return cls(channel, kind, int(window[0].removeprefix("w_")) if window else 0)


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """The lengths, in readings, that declarations are made with."""

    means: tuple[int, ...] = ()
    stds: tuple[int, ...] = (30,)
    trends: tuple[int, ...] = (15, 30, 60)
    spans: tuple[int, ...] = (5, 10, 30, 80)
    deviations: tuple[int, ...] = (10, 30, 80)
    spreads: tuple[int, ...] = (10,)
    baseline: int = 30

    def scaled(self, factor: float) -> "Windows":
        """The same lengths for lives that take ``factor`` times as many readings."""

        def scale(lengths: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(sorted({max(2, round(w * factor)) for w in lengths}))

        return Windows(
            means=scale(self.means),
            stds=scale(self.stds),
            trends=scale(self.trends),
            spans=scale(self.spans),
            deviations=scale(self.deviations),
            spreads=scale(self.spreads),
            baseline=max(2, round(self.baseline * factor)),
        )


def declare(channels: Iterable[str], windows: Windows, *, age: bool) -> tuple[Feature, ...]:
    """The features of every channel, then those of the whole machine."""
    features = []
    for channel in channels:
        features += [Feature(channel, "ewm", w) for w in windows.spans]
        features += [Feature(channel, "mean", w) for w in windows.means]
        features += [Feature(channel, "std", w) for w in windows.stds]
        features += [Feature(channel, "trend", w) for w in windows.trends]
        features += [Feature(channel, "deviation", w) for w in windows.deviations]
    features += [Feature(ALL_SENSORS, "spread", w) for w in windows.spreads]
    if age:
        features.append(Feature(AGE, "age"))
    return tuple(features)


class Projection(msgspec.Struct, frozen=True):
    """A channel made of all sensors: a weighted sum of their normalised values."""

    name: str
    weights: tuple[float, ...]
    """One a sensor of the conditions, in order."""


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """From a reading to a feature row: what was fitted, and the declarations.

    It travels in the bundle as JSON; ``hash`` names it.
    """

    conditions: Conditions
    projections: tuple[Projection, ...] = ()
    names: tuple[str, ...]
    """The features' columns, in order; each parses back into its declaration."""
    baseline: int

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name these declarations and what was fitted for them."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]

    def compiled(self) -> "Compiled":
        """Ready to run; make it once and keep it."""
        return Compiled(self)


class Compiled:
    """A pipeline compiled for the kernel. Safe to share between threads: it holds no state."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        found = pipeline.conditions
        channels = found.sensors + tuple(p.name for p in pipeline.projections)
        features = tuple(Feature.parse(name) for name in pipeline.names)
        self._fitted = (
            np.asarray(found.setting_mean),
            np.asarray(found.setting_scale),
            np.asarray(found.centroids).reshape(len(found.centroids), len(found.settings)),
            np.asarray(found.sensor_mean),
            np.asarray(found.sensor_scale),
            np.asarray([p.weights for p in pipeline.projections]).reshape(-1, len(found.sensors)),
        )
        self._compiled, self._size = _compile(
            features, channels, len(found.sensors), pipeline.baseline
        )

    def start(self) -> np.ndarray:
        """The state of a life before its first reading: (size,) float64."""
        return np.zeros(self._size)

    def step(self, state: np.ndarray, reading: Mapping[str, float | None]) -> np.ndarray:
        """One reading of a life, in the order of its cycles.

        Args:
            state: From ``start`` or an earlier step; updated in place.
            reading: ``cycle``, and settings and sensors by name; absent or None is not read.

        Returns:
            (features,) float32, NaN where nothing is known yet.
        """
        found = self.pipeline.conditions
        row = np.empty(len(self.pipeline.names), dtype=np.float32)
        kernel.advance(
            state,
            _vector(reading, found.settings),
            _vector(reading, found.sensors),
            float(reading[CYCLE] or 0.0),
            self._fitted,
            self._compiled,
            row,
        )
        return row

    def matrix(self, readings: pl.DataFrame) -> np.ndarray:
        """(n, features) float32 for readings (n) sorted by unit, life, cycle."""
        found = self.pipeline.conditions
        rows = np.empty((readings.height, len(self.pipeline.names)), dtype=np.float32)
        kernel.sweep(
            operating.matrix(readings, found.settings),
            operating.matrix(readings, found.sensors),
            readings[CYCLE].to_numpy().astype(np.float64),
            life_starts(readings),
            self._size,
            self._fitted,
            self._compiled,
            rows,
        )
        return rows

    def frame(self, readings: pl.DataFrame) -> pl.DataFrame:
        """unit, life, cycle and one Float32 column a feature, NaN where nothing is known yet."""
        return pl.concat(
            [
                readings.select(KEY),
                pl.from_numpy(self.matrix(readings), schema=list(self.pipeline.names)),
            ],
            how="horizontal",
        )


def life_starts(readings: pl.DataFrame) -> np.ndarray:
    """(lives + 1,) int64: where each life begins in sorted readings, and their number."""
    if readings.is_empty():
        return np.zeros(1, dtype=np.int64)
    begins = readings.select(
        (pl.struct(UNIT, LIFE) != pl.struct(UNIT, LIFE).shift()).fill_null(True)
    ).to_series()
    return np.append(begins.arg_true().to_numpy(), readings.height).astype(np.int64)


def _vector(reading: Mapping[str, float | None], names: tuple[str, ...]) -> np.ndarray:
    values = (reading.get(name) for name in names)
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _compile(
    features: tuple[Feature, ...], channels: tuple[str, ...], sensors: int, baseline: int
) -> tuple[tuple, int]:
    """The declarations as the kernel takes them (see there), and the size of a state."""
    windows: list[set[int]] = [set() for _ in channels]
    spans: list[set[int]] = [set() for _ in channels]
    for feature in features:
        at = range(sensors) if feature.kind == "spread" else ()
        if feature.channel in channels:
            at = (channels.index(feature.channel),)
        for c in at:
            if feature.kind in ROLLING:
                windows[c].add(feature.window)
            if feature.kind == "trend":
                windows[c].add(2 * feature.window)
            if feature.kind in WEIGHTED:
                spans[c].add(feature.window)
    place: dict[tuple[int, str, int], int] = {}
    blocks = np.empty((len(channels), 4), dtype=np.int64)
    size = 1
    for c, block in enumerate(blocks):
        block[0] = size
        block[1] = block[0] + max(windows[c], default=0)
        for k, window in enumerate(sorted(windows[c])):
            place[c, "window", window] = block[1] + 3 * k
        block[2] = block[1] + 3 * len(windows[c])
        for k, span in enumerate(sorted(spans[c])):
            place[c, "span", span] = block[2] + 2 * k
        block[3] = block[2] + 2 * len(spans[c])
        size = int(block[3]) + 2
    program = np.zeros((len(features), 4), dtype=np.int64)
    pairs: list[tuple[int, int]] = []
    for row, feature in zip(program, features, strict=True):
        row[0] = OPERATIONS[feature.kind]
        if feature.kind == "spread":
            row[2] = len(pairs)
            pairs += [(place[c, "span", feature.window], blocks[c, 3]) for c in range(sensors)]
            row[3] = len(pairs)
        if feature.channel not in channels:
            continue
        c = row[1] = channels.index(feature.channel)
        if feature.kind in ROLLING:
            row[2] = place[c, "window", feature.window]
        if feature.kind == "trend":
            row[3] = place[c, "window", 2 * feature.window]
        if feature.kind in WEIGHTED:
            row[2], row[3] = place[c, "span", feature.window], blocks[c, 3]
    compiled = (
        blocks,
        np.asarray([w for each in windows for w in sorted(each)], dtype=np.int64),
        np.asarray([s for each in spans for s in sorted(each)], dtype=np.float64),
        baseline,
        program,
        np.asarray(pairs, dtype=np.int64).reshape(-1, 2),
    )
    return compiled, size
