"""Does any one feature know when the machine will die? Statistics over a table of features.

What belongs here: what can be seen in one feature's values beside the lives' ends, whoever made
the feature. What does not: rerunning the code that made it, labels, splits, models (``leakage``).

The statistics look for what only the future can give, not for mere accuracy. A good feature may
predict well; but a machine's sensors differ from another's at the same remaining life, and early in
life they hardly tell a long life from a short one. A feature computed from the end does not differ,
and does tell. Figures in the comments were measured on the training lives of C-MAPSS FD001 … FD004
with some 180 honest features each (raw, per-condition z-scores, exponential and rolling means and
deviations, deviation from the life's start, running extremes, cycles since new) and on planted
leaks.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
import scipy  # ``scipy.stats`` loads once it is used: serving never does, and it takes a second

LEAST_LIVES = 10
"""Fewer ends rank by chance alone."""
SAME_AT_EQUAL_RUL = 0.97
"""Share of a feature's variance that the remaining life explains. Honest on C-MAPSS: at most 0.90
(the mean deviation of all sensors), 0.94 with 10 lives; simulated without any noise 0.95. A capped
label with noise half as wide as its spread: 0.98."""
BEYOND_AGE = 0.1
"""… and what it leaves open must be under this share of what age leaves open: where all lives are
about as long, age explains all features, honest ones too."""
EARLY_LIFE = 0.25
"""The first part of a life (of the median length, at most half the shortest) …"""
KNOWS_THE_LENGTH = 0.9
"""… where honest features have a rank correlation with the life's length of at most 0.64 on C-MAPSS
and 0.78 simulated without noise; the share of life used or any copy of the end 0.95 or more."""
CHANCE = 0.01
"""All features of a table together: the chance that a correlation is flagged for nothing."""


class Lives(NamedTuple):
    """A table's rows, sorted by life and cycle, and where their lives end."""

    life: np.ndarray
    """(n,) int64, 0 … lives - 1."""
    cycle: np.ndarray
    """(n,) float64."""
    rul: np.ndarray
    """(n,) float64, to the known end, never capped."""

    @property
    def number(self) -> int:
        """How many lives there are."""
        return int(self.life[-1]) + 1 if len(self.life) else 0


class Suspect(NamedTuple):
    """A feature that knows too much, and by which figure."""

    feature: str
    figure: float
    why: str


def same_at_equal_rul(lives: Lives, features: pl.DataFrame) -> tuple[list[Suspect], float]:
    """Features that are the same in all machines with the same time left.

    Catches the label, copies of it (scaled, capped, noisy, switched at a limit, "is the last
    reading"), and anything that was computed from it. Noise is smoothed away first: what a leak
    hides in noise returns in the mean of neighbouring rows, what a machine's own nature adds does
    not.

    Returns:
        The suspects, and the highest share explained among the others.
    """
    by_rul = _groups(lives.rul, lives.number)
    by_age = _groups(lives.cycle, lives.number)
    rows_a_life = len(lives.rul) / max(lives.number, 1)
    window = max(1, 2 * round(rows_a_life / 20) + 1)
    suspects, highest = [], 0.0
    for name, values in _variants(features):
        smooth = _smoothed(values, lives.life, window)
        open_by_rul = _unexplained(smooth, by_rul)
        if open_by_rul is None:
            continue
        if open_by_rul < 1 - SAME_AT_EQUAL_RUL:
            open_by_age = _unexplained(smooth, by_age)
            if open_by_age is not None and open_by_rul < BEYOND_AGE * open_by_age:
                why = (
                    f"{name} is nearly the same in all lives at the same remaining life: "
                    f"that explains {1 - open_by_rul:.1%} of it, age {1 - open_by_age:.1%}"
                )
                suspects.append(Suspect(name, 1 - open_by_rul, why))
                continue
        highest = max(highest, 1 - open_by_rul)
    return suspects, highest


def knows_the_length(lives: Lives, features: pl.DataFrame) -> tuple[list[Suspect], float] | None:
    """Features that rank the machines by the length of their lives while they are young.

    Catches the share of life used, the last cycle, the label beyond its cap, with noise or without.

    Returns:
        The suspects and the highest correlation among the others, or None where too few lives
        begin together.
    """
    early = early_rows(lives)
    if early is None:
        return None
    length = _ends(lives)
    return _ranked(
        features.filter(early),
        lives.life[early],
        length,
        "already ranks the lives by their length in their first cycles",
    )


def constant_in_life(lives: Lives, features: pl.DataFrame) -> tuple[list[Suspect], float] | None:
    """Features that never change within a life and rank the lives by their length.

    Catches the last cycle, the mean or total of the whole life, a group made from the outcome.
    A nameplate figure (a model, a plant) is constant too, but does not rank lives so well.

    Returns:
        The suspects and the highest correlation among the others, or None with too few lives.
    """
    if lives.number < LEAST_LIVES:
        return None
    constant = constant_names(lives, features)
    return _ranked(
        features.select(constant),
        lives.life,
        _ends(lives),
        "never changes within a life and ranks the lives by their length",
    )


def constant_names(lives: Lives, features: pl.DataFrame) -> list[str]:
    """Features with one value a life, and not the same in all lives."""
    varied = (
        features.with_columns(pl.Series("__life", lives.life))
        .group_by("__life")
        .agg(pl.all().n_unique())
        .drop("__life")
    )
    return [
        name
        for name in features.columns
        if (varied[name] == 1).all() and features[name].n_unique() > 1
    ]


def scaled_by_whole_life(lives: Lives, features: pl.DataFrame) -> list[Suspect]:
    """Features that were scaled with a figure of the whole life.

    Catches min-max scaling and standardising per machine over all of its readings, the commonest
    fault in public code: the scale is known only when the life is over. Every life then has the
    same least and greatest value, each reached once, or mean 0 and deviation 1.
    """
    named = features.with_columns(pl.Series("__life", lives.life))
    suspects = []
    for name in features.columns:
        x = pl.col(name).cast(pl.Float64).fill_nan(None)
        found = (
            named.group_by("__life")
            .agg(
                x.min().alias("low"),
                x.max().alias("high"),
                x.mean().alias("mean"),
                x.std(ddof=0).alias("std"),
                x.std(ddof=1).alias("std_sample"),
                (x == x.max()).sum().alias("at_high"),
                x.n_unique().alias("values"),
            )
            .filter((pl.col("values") > 10) & (pl.col("high") > pl.col("low")))
        )
        if found.height < 5:
            continue
        span = found["high"].to_numpy() - found["low"].to_numpy()
        tolerance = 1e-5 * float(np.median(span))

        def same(column: str, found: pl.DataFrame = found, tolerance: float = tolerance) -> bool:
            return bool(np.ptp(found[column].to_numpy()) <= tolerance)

        if same("low") and same("high") and found["at_high"].median() == 1:
            why = f"{name} goes from the same least to the same greatest value in every life"
            suspects.append(Suspect(name, float(found.height), why))
        elif same("mean") and (same("std") or same("std_sample")):
            why = f"{name} has the same mean and the same deviation in every life"
            suspects.append(Suspect(name, float(found.height), why))
    return suspects


def early_rows(lives: Lives) -> np.ndarray | None:
    """(n,) bool, the rows in which all lives are young, or None where too few begin together."""
    if lives.number < LEAST_LIVES:
        return None
    start = lives.cycle.min()
    length = _ends(lives) - start
    until = start + min(EARLY_LIFE * float(np.median(length)), 0.5 * float(length.min()))
    early = lives.cycle <= until
    # Where tables begin late in life, the few lives that are young are the short ones.
    present = len(np.unique(lives.life[early]))
    return early if present >= max(LEAST_LIVES, 0.9 * lives.number) else None


def _ends(lives: Lives) -> np.ndarray:
    """(lives,) the cycle at which each ends."""
    first = np.flatnonzero(np.diff(lives.life, prepend=-1))
    return lives.cycle[first] + lives.rul[first]


def _variants(features: pl.DataFrame) -> list[tuple[str, np.ndarray]]:
    """Every feature as float64 with NaN, and where it has gaps, whether it has a value."""
    found = []
    for name in features.columns:
        values = features[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        found.append((name, values))
        missing = np.isnan(values)
        if missing.any() and not missing.all():
            found.append((f"{name} (is missing)", missing.astype(np.float64)))
    return found


def _groups(values: np.ndarray, size: int) -> np.ndarray:
    """(n,) int64: groups of about ``size`` rows of like values; equal values stay together."""
    rank = scipy.stats.rankdata(values, method="min") - 1
    return np.unique(rank.astype(np.int64) // max(size, 5), return_inverse=True)[1]


def _smoothed(values: np.ndarray, life: np.ndarray, window: int) -> np.ndarray:
    """The centred mean of the window within each life."""
    frame = pl.DataFrame({"life": life, "x": values}).with_columns(pl.col("x").fill_nan(None))
    mean = pl.col("x").rolling_mean(window, min_samples=1, center=True).over("life")
    return frame.select(mean.fill_null(np.nan)).to_series().to_numpy()


def _unexplained(values: np.ndarray, groups: np.ndarray) -> float | None:
    """Share of the variance within groups, both with their degrees of freedom; None if constant."""
    known = np.isfinite(values)
    x, g = values[known], groups[known]
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    x = (x - x.mean()) / x.std()
    count = np.bincount(g)
    mean = np.bincount(g, x) / np.maximum(count, 1)
    free = len(x) - np.count_nonzero(count)
    if free < 1:
        return None
    return float(((x - mean[g]) ** 2).sum() / free / ((x**2).sum() / (len(x) - 1)))


def _ranked(
    features: pl.DataFrame, life: np.ndarray, length: np.ndarray, why: str
) -> tuple[list[Suspect], float]:
    suspects, highest = [], 0.0
    if not features.width:
        return suspects, highest
    means = (
        features.select(pl.all().cast(pl.Float64).fill_nan(None))
        .with_columns(pl.Series("__life", life))
        .group_by("__life")
        .agg(pl.all().mean())
        .sort("__life")
    )
    ends = length[means["__life"].to_numpy()]
    for name in features.columns:
        mean = means[name].fill_null(np.nan).to_numpy()
        known = np.isfinite(mean)
        if known.sum() < LEAST_LIVES or np.ptp(mean[known]) == 0 or np.ptp(ends[known]) == 0:
            continue
        found = scipy.stats.spearmanr(mean[known], ends[known])
        strength = float(abs(found.statistic))
        if strength >= KNOWS_THE_LENGTH and found.pvalue * features.width < CHANCE:
            suspects.append(
                Suspect(name, strength, f"{name} {why} (rank correlation {strength:.2f})")
            )
        else:
            highest = max(highest, strength)
    return suspects, highest
