"""Whether live readings still look like those that the model learnt from.

What belongs here: a reference that fits in a bundle, the score of live data against it, and when a
drift counts as confirmed. What does not: values that are wrong (``quality``), prognoses that are
wrong (``metrics``).

Everything is compared within an operating condition, else a busy month at another altitude would
look like worn sensors. The mix of conditions is itself compared, as one more channel.

The score is the population stability index over the reference's decile bins, PSI = sum of
(p - q) ln(p / q). Two samples of the same law have a PSI above 0: about (bins - 1)(1/n + 1/m) for
independent rows (B. Yurdakul, J. Naranjo, "Statistical Properties of the Population Stability
Index", 2020). So what chance gives is taken off, and a two-sample test says whether the rest is
beyond noise.

Readings of one machine resemble each other, so a thousand rows of ten machines are not a thousand
facts. What chance does is taken from how the machines differ in the data: the test is that of
J. Rao, A. Scott, "The Analysis of Categorical Data from Complex Sample Surveys", JASA 76, 1981,
with Satterthwaite's degrees of freedom (their second correction) and the F distribution of
D. Thomas, J. Rao, "Small-Sample Comparisons of Level and Power for Simple Goodness-of-Fit
Statistics under Cluster Sampling", JASA 82, 1987.

Compare like with like: a young fleet against whole lives drifts by its age alone. Take references
and live windows at the same stage of life, or put the stage into the condition column.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
from scipy import special

from rul_core.errors import NotEnoughData, ReadingsError
from rul_core.schema import UNIT

EVERYWHERE = "all"
"""The condition of a score that is not of one condition."""
MIX = "operating_condition"
"""The channel whose values are the conditions."""

LEAST_ROWS, LEAST_UNITS = 50, 5
"""Fewer say too little to be scored: five expected in each of ten bins; spread between units."""
MATERIAL_PSI = 0.2
"""An excess from which a shift matters; the trade calls 0.1 to 0.25 moderate, more is large."""
FALSE_ALARM = 0.01
"""Chance that a window of the same law has any score beyond noise, all scores together."""


class Bins(msgspec.Struct, frozen=True, kw_only=True):
    """How one channel was spread in one condition."""

    condition: str
    channel: str
    edges: tuple[float, ...]
    """Inner edges; a value at an edge belongs to the bin below it."""
    counts: tuple[int, ...]
    """One a bin from lowest to highest, then the rows without a value."""
    noise: float
    """How far chance alone moves the shares: the expected sum of (error of share)² / share."""
    noise_norm: float
    """The Frobenius norm of the matrix whose trace ``noise`` is."""


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What live data is compared with; JSON by msgspec, a few kilobytes."""

    condition_column: str | None
    unit_column: str
    conditions: tuple[str, ...]
    mix: Bins | None
    bins: tuple[Bins, ...]


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How far one channel has moved in one condition."""

    condition: str
    channel: str
    psi: float
    excess_psi: float
    """The index less what two samples of one law would show."""
    p_value: float
    """Of the chi-square test with design effects: the chance of so much under one law."""
    reference_rows: int
    live_rows: int
    drifted: bool
    """The excess is material, and beyond noise among all scores of the report."""


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """One live window against the reference."""

    scores: tuple[Score, ...]
    too_few: tuple[str, ...]
    """Conditions with too few rows or units, live or in the reference, to be scored."""
    unseen: tuple[str, ...]
    """Live conditions that the reference does not know."""

    @property
    def drifted(self) -> tuple[Score, ...]:
        """The scores that moved."""
        return tuple(score for score in self.scores if score.drifted)

    def by_channel(self) -> dict[str, float]:
        """The largest excess of each channel over the conditions."""
        worst: dict[str, float] = {}
        for score in self.scores:
            worst[score.channel] = max(worst.get(score.channel, -np.inf), score.excess_psi)
        return worst


def learn_reference(
    frame: pl.DataFrame,
    channels: Sequence[str],
    *,
    condition: str | None = None,
    unit: str = UNIT,
    bins: int = 10,
) -> Reference:
    """What the channels looked like.

    Args:
        frame: Readings or features, one row each; null and NaN are a bin of their own.
        channels: The numeric columns to watch.
        condition: The column of operating conditions, of any kind that prints; null rows are left
            out. Without it, all rows are one condition.
        unit: The column of machines.
        bins: How many quantile bins. A channel of fewer than twice as many distinct values gets
            a bin for each value, and one beyond either end.

    Raises:
        ReadingsError: A column is missing.
        NotEnoughData: There are no rows.
    """
    named = _named(frame, channels, condition, unit)
    if named.is_empty():
        raise NotEnoughData("no rows to take a reference from; give training readings")
    found = []
    parts = _by_condition(named)
    for name, rows in parts.items():
        units = _codes(rows["unit"])
        for channel in channels:
            values = rows[channel].to_numpy()
            edges = _edges(values[~np.isnan(values)], bins)
            counted = _count(values, edges, units)
            found.append(
                Bins(
                    condition=name,
                    channel=channel,
                    edges=tuple(edges.tolist()),
                    counts=tuple(counted.counts.tolist()),
                    noise=counted.noise,
                    noise_norm=counted.noise_norm,
                )
            )
    conditions = tuple(parts)
    mix = None
    if condition is not None:
        counted = _count_mix(named, conditions)
        mix = Bins(
            condition=EVERYWHERE,
            channel=MIX,
            edges=(),
            counts=tuple(counted.counts.tolist()),
            noise=counted.noise,
            noise_norm=counted.noise_norm,
        )
    return Reference(
        condition_column=condition,
        unit_column=unit,
        conditions=conditions,
        mix=mix,
        bins=tuple(found),
    )


def compare(reference: Reference, live: pl.DataFrame) -> DriftReport:
    """A live window against the reference.

    Args:
        reference: From ``learn_reference``.
        live: A frame with the same channels, condition and unit columns.

    Raises:
        ReadingsError: A column is missing.
    """
    channels = list(dict.fromkeys(bins.channel for bins in reference.bins))
    named = _named(live, channels, reference.condition_column, reference.unit_column)
    parts = _by_condition(named)
    pairs: list[tuple[Bins, _Counted]] = []
    too_few = []
    if reference.mix:
        pairs.append((reference.mix, _count_mix(named, reference.conditions)))
    for name in reference.conditions:
        rows = parts.get(name)
        if rows is None:
            continue
        units = _codes(rows["unit"])
        if rows.height < LEAST_ROWS or units.max() + 1 < LEAST_UNITS:
            too_few.append(name)
            continue
        for bins in reference.bins:
            if bins.condition == name:
                values = rows[bins.channel].to_numpy()
                pairs.append((bins, _count(values, np.array(bins.edges), units)))
    scored = [
        (bins, counted)
        for bins, counted in pairs
        if min(sum(bins.counts), counted.counts.sum()) >= LEAST_ROWS
    ]
    too_few += [bins.condition for bins, _ in pairs if sum(bins.counts) < LEAST_ROWS]
    return DriftReport(
        scores=tuple(_score(bins, counted, len(scored)) for bins, counted in scored),
        too_few=tuple(dict.fromkeys(too_few)),
        unseen=tuple(name for name in parts if name not in reference.conditions),
    )


def confirmed(reports: Sequence[DriftReport], *, windows: int = 3) -> tuple[tuple[str, str], ...]:
    """What drifted in each of the last windows: (condition, channel), sorted.

    One window may be a hot week; a drift that a model should be retrained for stays.

    Args:
        reports: Of consecutive windows, the oldest first.
        windows: How many must agree; fewer reports confirm nothing.
    """
    if windows < 1 or len(reports) < windows:
        return ()
    moved = [
        {(score.condition, score.channel) for score in report.drifted}
        for report in reports[-windows:]
    ]
    return tuple(sorted(set.intersection(*moved)))


class _Counted(NamedTuple):
    counts: np.ndarray
    units: int
    noise: float
    noise_norm: float


def _named(
    frame: pl.DataFrame, channels: Sequence[str], condition: str | None, unit: str
) -> pl.DataFrame:
    """unit, condition (String), and the channels as Float64 with NaN for null."""
    missing = [
        name for name in (unit, condition, *channels) if name is not None and name not in frame
    ]
    if missing:
        raise ReadingsError(f"columns {missing} are missing; there are {frame.columns}")
    return frame.select(
        pl.col(unit).cast(pl.String).alias("unit"),
        (pl.lit(EVERYWHERE) if condition is None else pl.col(condition).cast(pl.String)).alias(
            "condition"
        ),
        *(pl.col(channel).cast(pl.Float64).fill_null(np.nan) for channel in channels),
    ).drop_nulls(["unit", "condition"])


def _by_condition(named: pl.DataFrame) -> dict[str, pl.DataFrame]:
    parts = named.partition_by("condition", as_dict=True)
    return {str(name): part for (name,), part in sorted(parts.items())}


def _codes(units: pl.Series) -> np.ndarray:
    return np.unique(units.to_numpy(), return_inverse=True)[1]


def _edges(values: np.ndarray, bins: int) -> np.ndarray:
    distinct = np.unique(values)
    if len(distinct) == 0:
        return np.zeros(0)
    if len(distinct) < 2 * bins:
        # A constant or a switch: any other value must fall into a bin of its own.
        return np.concatenate([[np.nextafter(distinct[0], -np.inf)], distinct])
    return np.unique(np.quantile(values, np.arange(1, bins) / bins))


def _count(values: np.ndarray, edges: np.ndarray, units: np.ndarray) -> _Counted:
    at = np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="left"))
    return _tally(at, len(edges) + 2, units)


def _count_mix(named: pl.DataFrame, conditions: Sequence[str]) -> _Counted:
    """Rows a condition; the last count is of conditions that the reference does not know."""
    position = {name: number for number, name in enumerate(conditions)}
    at = np.array([position.get(name, len(conditions)) for name in named["condition"]], dtype=int)
    return _tally(at, len(conditions) + 1, _codes(named["unit"]))


def _tally(at: np.ndarray, size: int, units: np.ndarray) -> _Counted:
    """Counts a bin, and what chance does to the shares, from how the units differ."""
    rows, count = len(at), int(units.max(initial=-1)) + 1
    by_unit = np.bincount(units * size + at, minlength=count * size).reshape(count, size)
    counts = by_unit.sum(axis=0)
    used = counts > 0
    free = max(int(used.sum()) - 1, 0)
    # Units that differ less than independent rows would are luck, not knowledge.
    noise, norm = free / max(rows, 1), np.sqrt(free) / max(rows, 1)
    if free and count > 1:
        share = counts[used] / rows
        apart = (by_unit[:, used] - by_unit.sum(axis=1, keepdims=True) * share) / np.sqrt(share)
        matrix = apart.T @ apart * (count / (count - 1) / rows**2)
        noise, norm = max(noise, np.trace(matrix)), max(norm, np.linalg.norm(matrix))
    return _Counted(counts, count, float(noise), float(norm))


def _score(bins: Bins, live: _Counted, scores: int) -> Score:
    old, new = np.asarray(bins.counts, dtype=float), live.counts.astype(float)
    used = (old + new) > 0
    free = int(used.sum()) - 1
    p, q = old[used] / old.sum(), new[used] / new.sum()
    rows = float(1 / old.sum() + 1 / new.sum())
    noise = max(bins.noise + live.noise, free * rows)
    norm = max(bins.noise_norm + live.noise_norm, math.sqrt(free) * rows)
    # As many independent rows would be moved as far by chance.
    n = free / bins.noise if bins.noise else old.sum()
    m = free / live.noise if live.noise else new.sum()
    pooled = (n * p + m * q) / (n + m)
    p_value = 1.0
    if free:
        statistic = ((p - q) ** 2 / pooled).sum()
        degrees = noise**2 / norm**2
        p_value = float(special.fdtrc(degrees, degrees * max(live.units - 1, 1), statistic / noise))
    # Half a row in each bin: an empty one is not infinitely far.
    smooth_p, smooth_q = ((s * k + 0.5) / (k + 0.5 * (free + 1)) for s, k in ((p, n), (q, m)))
    psi = float(((smooth_p - smooth_q) * np.log(smooth_p / smooth_q)).sum())
    return Score(
        condition=bins.condition,
        channel=bins.channel,
        psi=psi,
        excess_psi=psi - noise,
        p_value=p_value,
        reference_rows=int(old.sum()),
        live_rows=int(new.sum()),
        drifted=psi - noise >= MATERIAL_PSI and p_value < FALSE_ALARM / scores,
    )
