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
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import msgspec
import numpy as np
import polars as pl

from rul_core import conditions as operating
from rul_core import kernel
from rul_core.conditions import Conditions
from rul_core.errors import ModelError
from rul_core.schema import CYCLE, KEY, LIFE, UNIT

ROLLING = frozenset({"mean", "std", "trend"})
WEIGHTED = frozenset({"ewm", "deviation", "spread"})
KINDS = ROLLING | WEIGHTED | {"value", "age"}
WHOLE_MACHINE = frozenset({"spread", "age"})
"""Kinds that are of no single channel."""
ALL_SENSORS = "all_sensors"
AGE = "age"
LEAST_READINGS_A_THREAD = 1_000
"""Fewer are not worth starting a thread for."""
MOST_READINGS_A_PART = 8_192
"""Readings that a thread computes at once: few enough to stay in the cache between two steps."""
_NAME = re.compile(
    rf"(?P<channel>.+)__(?P<kind>{'|'.join(sorted(KINDS))})(?:__w_(?P<window>[1-9]\d*))?"
)


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
        """The declaration that a column name stands for.

        Raises:
            ModelError: It stands for none.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise ModelError(f"{name!r} is no feature's name; expected <channel>__<kind>[__w_<n>]")
        return cls(found["channel"], found["kind"], int(found["window"] or 0))


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
    smoothing: int = 1
    """Span, in readings, of the mean that the projections were fitted on."""
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
        weights = np.asarray([p.weights for p in pipeline.projections])
        self._fitted = kernel.Fitted(
            setting_mean=np.asarray(found.setting_mean),
            setting_scale=np.asarray(found.setting_scale),
            centroids=np.asarray(found.centroids).reshape(
                len(found.centroids), len(found.settings)
            ),
            sensor_mean=np.asarray(found.sensor_mean),
            sensor_scale=np.asarray(found.sensor_scale),
            weights=np.ascontiguousarray(weights.reshape(-1, len(found.sensors)).T),
        )
        self._banks = _compile(pipeline)

    def start(self) -> np.ndarray:
        """The state of a life before its first reading: (size,) float64."""
        return kernel.start(self._fitted, self._banks)

    def step(self, state: np.ndarray, reading: Mapping[str, float | None]) -> np.ndarray:
        """One reading of a life, in the order of its cycles.

        Args:
            state: From ``start`` or an earlier step; updated in place.
            reading: ``cycle``, and settings and sensors by name; absent or None is not read.

        Returns:
            (features,) float32, NaN where nothing is known yet.
        """
        found = self.pipeline.conditions
        rows = np.empty((1, len(self.pipeline.names)), dtype=np.float32)
        kernel.advance(
            state,
            _row(reading, found.settings),
            _row(reading, found.sensors),
            _row(reading, (CYCLE,))[0],
            self._fitted,
            self._banks,
            rows,
        )
        return rows[0]

    def follow(
        self,
        states: np.ndarray,
        settings: np.ndarray,
        sensors: np.ndarray,
        cycles: np.ndarray,
        starts: np.ndarray,
    ) -> np.ndarray:
        """Go on with many lives, each by one or more readings in the order of its cycles.

        Args:
            states: (lives, size) float64, one a row as ``start`` gives; updated in place.
            settings: (n, settings of the conditions) float64, NaN where not read.
            sensors: (n, sensors of the conditions) float64, NaN where not read.
            cycles: (n,) float64.
            starts: (lives + 1,) int64, where each life's readings begin, and n; none is empty.

        Returns:
            (lives, features) float32: each life's features at its last reading.
        """
        rows = np.empty((len(states), len(self.pipeline.names)), dtype=np.float32)
        kernel.follow(states, settings, sensors, cycles, starts, self._fitted, self._banks, rows)
        return rows

    def held(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For how many readings each sensor stood still, and was not read.

        Args:
            states: (lives, size) float64.

        Returns:
            Two of (lives, sensors of the conditions) float64: how often in a row the last value was
            read, whatever lay between; and how many readings up to the last lacked the sensor.
        """
        sensors = len(self.pipeline.conditions.sensors)
        table = states[:, 1 : 1 + kernel.HELD * sensors].reshape(-1, kernel.HELD, sensors)
        return table[:, kernel.RUN], table[:, kernel.GAP]

    def matrix(self, readings: pl.DataFrame, threads: int | None = None) -> np.ndarray:
        """(n, features) float32 for readings (n) sorted by unit, life, cycle.

        Lives are shared out among threads, as many as Polars uses unless given; the result does not
        depend on how many.
        """
        threads = threads or pl.thread_pool_size()
        threads = max(1, min(threads, readings.height // LEAST_READINGS_A_THREAD))
        found = self.pipeline.conditions
        settings = operating.columns(readings, found.settings)
        sensors = operating.columns(readings, found.sensors)
        cycles = readings[CYCLE].to_numpy().astype(np.float64)
        starts = life_starts(readings)
        rows = np.empty((readings.height, len(self.pipeline.names)), dtype=np.float32)

        def sweep(first: int, last: int) -> None:
            """Fills the rows of lives, given by their places in ``starts``."""
            part = slice(starts[first], starts[last])
            kernel.sweep(
                operating.table(settings, part),
                operating.table(sensors, part),
                cycles[part],
                starts[first : last + 1] - starts[first],
                self._fitted,
                self._banks,
                rows[part],
            )

        count = threads * math.ceil(readings.height / (threads * MOST_READINGS_A_PART))
        cuts = np.searchsorted(starts, np.linspace(0, readings.height, count + 1))
        if threads == 1:
            for first, last in pairwise(cuts):
                sweep(first, last)
        else:  # plain threads: Numba's own pool must not be entered from two threads at once
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(sweep, cuts[:-1], cuts[1:]))
        return rows

    def frame(self, readings: pl.DataFrame) -> pl.DataFrame:
        """unit, life, cycle and one Float32 column a feature, NaN where nothing is known yet."""
        columns = np.asfortranarray(self.matrix(readings))
        names = list(self.pipeline.names)
        return readings.select(KEY).hstack(pl.from_numpy(columns, schema=names, orient="row"))


def life_starts(readings: pl.DataFrame) -> np.ndarray:
    """(lives + 1,) int64: where each life begins in sorted readings, and their number."""
    if readings.is_empty():
        return np.zeros(1, dtype=np.int64)
    begins = readings.select(
        (pl.struct(UNIT, LIFE) != pl.struct(UNIT, LIFE).shift()).fill_null(True)
    ).to_series()
    return np.append(begins.arg_true().to_numpy(), readings.height).astype(np.int64)


def _row(reading: Mapping[str, float | None], names: tuple[str, ...]) -> np.ndarray:
    values = (reading.get(name) for name in names)
    return np.array([[np.nan if v is None else v for v in values]], dtype=np.float64)


def _compile(pipeline: Pipeline) -> tuple[kernel.Bank, kernel.Bank]:
    """The declarations as the kernel runs them: those of the sensors, those of the projections."""
    features = [Feature.parse(name) for name in pipeline.names]
    sensors = pipeline.conditions.sensors
    projections = tuple(p.name for p in pipeline.projections)
    unknown = {f.channel for f in features if f.kind not in WHOLE_MACHINE}
    unknown -= {*sensors, *projections}
    if unknown:
        raise ModelError(
            f"features are declared of {sorted(unknown)}, which the pipeline does not have; "
            f"its channels are {[*sensors, *projections]}"
        )
    of_projections = {i: f for i, f in enumerate(features) if f.channel in projections}
    of_sensors = {i: f for i, f in enumerate(features) if i not in of_projections}
    return (
        _bank(of_sensors, sensors, pipeline.baseline),
        _bank(of_projections, projections, pipeline.baseline),
    )


def _bank(features: dict[int, Feature], channels: tuple[str, ...], baseline: int) -> kernel.Bank:
    """What the kernel runs for some channels.

    Args:
        features: By their place among all features.
        channels: Of the bank.
        baseline: In readings.
    """

    def lengths(*kinds: str) -> list[int]:
        return sorted({f.window for f in features.values() if f.kind in kinds})

    stds, trends, spreads = lengths("std"), lengths("trend"), lengths("spread")
    windows = sorted({*lengths("mean"), *stds, *trends, *(2 * w for w in trends)})
    spans, deviations = lengths(*WEIGHTED), lengths("deviation", "spread")
    filled = {"value": [0], "age": [0], "mean": windows, "std": stds, "trend": trends}
    filled |= {"ewm": spans, "deviation": deviations, "spread": spreads}
    blocks = [(kind, window) for kind, of_kind in filled.items() for window in of_kind]
    picks = [
        (
            blocks.index((f.kind, f.window)),
            0 if f.kind in WHOLE_MACHINE else channels.index(f.channel),
            place,
        )
        for place, f in features.items()
    ]
    return kernel.Bank(
        history=max(windows, default=0),
        windows=_integers(windows),
        stds=_integers([windows.index(w) for w in stds]),
        trends=_integers([(windows.index(w), windows.index(2 * w)) for w in trends], 2),
        spans=np.array(spans, dtype=np.float64),
        baseline=baseline,
        deviations=_integers([spans.index(w) for w in deviations]),
        spreads=_integers([deviations.index(w) for w in spreads]),
        picks=_integers(picks, 3),
    )


def _integers(rows: Sequence[int] | Sequence[tuple[int, ...]], width: int = 1) -> np.ndarray:
    table = np.array(rows, dtype=np.int64)
    return table.reshape(-1, width) if width > 1 else table
