"""Rerunning the code that makes features, to see whether it looks ahead.

What belongs here: tests that need the function from readings to features. What does not: judging
features that are already made (``leakage``, ``leakage_canary``).
"""

from collections.abc import Callable

import numpy as np
import polars as pl

from rul_core.errors import ModelError
from rul_core.leakage_report import GateReport, GateTest, failed, not_run, passed
from rul_core.schema import CYCLE, KEY, LIFE, UNIT

LEAST_READINGS = 4
"""A shorter life has no prefix worth comparing."""

FeatureFunction = Callable[[pl.DataFrame], pl.DataFrame]
"""Readings of any lives, in any order of rows, to a frame with unit, life, cycle and features.

It may leave out rows (a warm-up), but always the same. A pipeline that wants sorted readings is
given as ``lambda readings: compiled.frame(readings.sort(KEY))``.
"""


def check_features(
    feature_function: FeatureFunction,
    readings: pl.DataFrame,
    *,
    lives: int = 6,
    cuts: int = 3,
    seed: int = 0,
) -> GateReport:
    """Whether a feature row depends on nothing but its own life up to its own cycle.

    Equality is exact, to the last bit: a tolerance would let small leaks pass, and the same sum
    over the same readings has no reason to differ.

    Args:
        feature_function: See ``FeatureFunction``.
        readings: A readings frame.
        lives: How many lives are cut; thrice as many keep them company in the uncut run.
        cuts: How often each is cut, at a random reading.
        seed: Of what is sampled and shuffled.

    Returns:
        ``prefix_invariance``, ``shuffled_time`` and ``renamed_units``.

    Raises:
        ModelError: The function's frame lacks the key, or repeats one.
    """
    generator = np.random.default_rng(seed)
    long = (
        readings.group_by(UNIT, LIFE, maintain_order=True)
        .len()
        .filter(pl.col("len") >= LEAST_READINGS)
        .select(UNIT, LIFE)
        .sort(UNIT, LIFE)
    )
    if long.is_empty():
        detail = f"no life has {LEAST_READINGS} readings to cut; give longer ones"
        names = ("prefix_invariance", "shuffled_time", "renamed_units")
        return GateReport(findings=tuple(not_run(name, detail) for name in names))
    order = generator.permutation(long.height)[: 4 * lives]
    company = readings.join(long[order], on=[UNIT, LIFE]).sort(KEY)
    chosen = long[order[:lives]]
    whole = _run(feature_function, company)
    return GateReport(
        findings=(
            _prefixes(feature_function, company, chosen, whole, cuts, generator),
            _shuffles(feature_function, company, chosen, whole, generator),
            _renames(feature_function, company, whole),
        )
    )


def _prefixes(
    feature_function: FeatureFunction,
    company: pl.DataFrame,
    chosen: pl.DataFrame,
    whole: pl.DataFrame,
    cuts: int,
    generator: np.random.Generator,
) -> GateTest:
    for _ in range(cuts):
        ends = _random_cuts(company, chosen, generator)
        # Only the chosen lives, and only their beginnings: what looks sideways is caught too.
        prefixes = _until(company, ends).drop("cut")
        difference = _difference(
            _run(feature_function, prefixes), _until(whole, ends).drop("cut"), "of the prefix"
        )
        if difference:
            return failed(
                "prefix_invariance",
                f"features change when the future is cut off: {difference}; compute each row from "
                "its own life's readings up to its own cycle",
            )
    return passed(
        "prefix_invariance",
        f"{cuts} prefixes of each of {chosen.height} lives give the very features of whole lives",
        {"lives": chosen.height, "cuts": cuts},
    )


def _shuffles(
    feature_function: FeatureFunction,
    company: pl.DataFrame,
    chosen: pl.DataFrame,
    whole: pl.DataFrame,
    generator: np.random.Generator,
) -> GateTest:
    shuffled = company.sample(fraction=1, shuffle=True, seed=int(generator.integers(2**31)))
    difference = _difference(_run(feature_function, shuffled), whole, "of shuffled rows")
    if difference:
        return failed(
            "shuffled_time",
            f"features change with the order in which rows arrive: {difference}; sort by life and "
            "cycle first",
        )
    ends = _random_cuts(company, chosen, generator)
    late = company.join(ends, on=[UNIT, LIFE], how="left", maintain_order="left").select(
        (pl.col(CYCLE) > pl.col("cut")).fill_null(True).alias("late")
    )["late"]
    values = [name for name in company.columns if name not in KEY]
    mixed = generator.permutation(np.flatnonzero(late.to_numpy()))
    scrambled = company.with_columns(
        pl.Series(name, company[name]).scatter(
            np.flatnonzero(late.to_numpy()), company[name][mixed]
        )
        for name in values
    )
    difference = _difference(
        _until(_run(feature_function, scrambled), ends).drop("cut"),
        _until(whole, ends).drop("cut"),
        "before scrambled readings",
    )
    if difference:
        return failed(
            "shuffled_time",
            f"features change when later readings say something else: {difference}; use past "
            "readings alone",
        )
    return passed(
        "shuffled_time",
        "neither the order of rows nor what later readings say changes a feature",
        {"lives": chosen.height},
    )


def _renames(
    feature_function: FeatureFunction, company: pl.DataFrame, whole: pl.DataFrame
) -> GateTest:
    old = company[UNIT].unique().sort()
    new = pl.Series([f"renamed-{number}" for number in range(len(old))])[::-1]
    renamed = company.with_columns(pl.col(UNIT).replace_strict(old, new, return_dtype=pl.String))
    back = _run(feature_function, renamed).with_columns(
        pl.col(UNIT).replace_strict(new, old, return_dtype=pl.String)
    )
    difference = _difference(back.sort(KEY), whole, "of renamed machines")
    if difference:
        return failed(
            "renamed_units",
            f"features change with the machine's name: {difference}; a new machine has a name that "
            "no table knows",
        )
    return passed("renamed_units", "the machines' names carry nothing", {"units": len(old)})


def _run(feature_function: FeatureFunction, readings: pl.DataFrame) -> pl.DataFrame:
    features = feature_function(readings)
    missing = [name for name in KEY if name not in features.columns]
    if missing:
        raise ModelError(
            f"the feature function's frame lacks {missing}; return {', '.join(KEY)} and the "
            "features"
        )
    features = features.sort(KEY)
    twice = features.filter(pl.struct(KEY).is_duplicated())
    if not twice.is_empty():
        raise ModelError(
            f"the feature function gives {_place(twice, 0)} more than once; one row a reading"
        )
    return features


def _random_cuts(
    readings: pl.DataFrame, chosen: pl.DataFrame, generator: np.random.Generator
) -> pl.DataFrame:
    """unit, life, cut: a cycle after which at least one reading follows."""
    cycles = (
        chosen.join(readings, on=[UNIT, LIFE], maintain_order="left")
        .group_by(UNIT, LIFE, maintain_order=True)
        .agg(pl.col(CYCLE).sort())
    )
    cut = [float(own[int(generator.integers(1, len(own) - 1))]) for own in cycles[CYCLE]]
    return cycles.select(UNIT, LIFE).with_columns(pl.Series("cut", cut))


def _until(frame: pl.DataFrame, ends: pl.DataFrame) -> pl.DataFrame:
    return frame.join(ends, on=[UNIT, LIFE]).filter(pl.col(CYCLE) <= pl.col("cut")).sort(KEY)


def _difference(found: pl.DataFrame, expected: pl.DataFrame, which: str) -> str:
    """Where two sorted feature frames differ first, in words; empty where they do not."""
    if set(found.columns) != set(expected.columns):
        return f"columns {sorted(set(found.columns) ^ set(expected.columns))} are not in both"
    if not found.select(KEY).equals(expected.select(KEY)):
        return f"the features {which} have {found.height} rows where {expected.height} belong"
    for name in expected.columns:
        if not found[name].equals(expected[name], null_equal=True):
            at = int((found[name].ne_missing(expected[name])).arg_max() or 0)
            return (
                f"{name} {which} at {_place(expected, at)} is {found[name][at]} where "
                f"{expected[name][at]} belongs"
            )
    return ""


def _place(frame: pl.DataFrame, row: int) -> str:
    return f"unit {frame[UNIT][row]!r}, life {frame[LIFE][row]}, cycle {float(frame[CYCLE][row]):g}"
