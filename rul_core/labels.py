"""What a reading's remaining useful life was, and the moments at which a unit might be judged.

What belongs here: labels from lives whose end was seen, and random cuts through them. What does
not: who splits which units (``evaluation``).
"""

import numpy as np
import polars as pl

from rul_core.schema import CYCLE, LIFE, UNIT, Outcome

RUL = "rul_cycles"


def label(readings: pl.DataFrame, lives: pl.DataFrame) -> pl.DataFrame:
    """Readings of failed lives with their remaining useful life.

    Args:
        readings: A readings frame, or any with unit, life and cycle.
        lives: A lives frame; only ``failed`` lives have labels. A replaced or running life is
            censored: it lived at least as long, so it has none.

    Returns:
        The readings of failed lives up to the end, in order, with ``rul_cycles`` (Float64, 0 at
        the failure, not capped).
    """
    ends = lives.filter(pl.col("outcome") == Outcome.FAILED).select(UNIT, LIFE, "end_cycle")
    return (
        readings.join(ends, on=[UNIT, LIFE], how="inner", maintain_order="left")
        .with_columns((pl.col("end_cycle") - pl.col(CYCLE)).alias(RUL))
        .filter(pl.col(RUL) >= 0)
        .drop("end_cycle")
    )


def unit_codes(frame: pl.DataFrame) -> np.ndarray:
    """(n,) int64: the unit of each row as a number, in order of first appearance."""
    return frame[UNIT].rle_id().to_numpy().astype(np.int64) if frame.height else np.zeros(0, int)


def cut_weights(units: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """The chance of each row to be the one random cut of its unit.

    A fleet is judged at one random moment of each unit: rows of one unit are not independent, and
    a long life must not count more than a short one. Weighting every eligible row by this chance
    gives the expectation over all random cuts at once.

    Args:
        units: (n,) int64.
        eligible: (n,) bool, rows that a cut may fall on.

    Returns:
        (n,) float64; sums to 1 over the eligible rows of each unit, 0 elsewhere.
    """
    counts = np.bincount(units[eligible], minlength=int(units.max(initial=-1)) + 1)
    return np.where(eligible, 1.0 / np.maximum(counts[units], 1), 0.0)
