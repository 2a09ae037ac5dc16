"""tsfresh's ``EfficientFCParameters``: not the same features, so the measure is time a value.

What belongs here: windows cut out of lives as tsfresh wants them, and its extraction.
"""

import warnings

import numpy as np
import pandas as pd
import polars as pl

WINDOW = 30
"""Readings in a window: about what the declared features look at."""


def windows(readings: pl.DataFrame, sensors: tuple[str, ...], count: int) -> pd.DataFrame:
    """Windows of the last readings at ``count`` moments, one after another.

    Args:
        readings: A readings frame sorted by unit, life, cycle.
        sensors: Those to take.
        count: How many moments, drawn from a fixed seed among those with a whole window behind.
    """
    place = readings.select(pl.int_range(pl.len()).over("unit", "life")).to_series().to_numpy()
    ends = np.random.default_rng(0).choice(np.flatnonzero(place >= WINDOW - 1), count)
    rows = (ends[:, None] + np.arange(1 - WINDOW, 1)).ravel()
    return (
        readings[rows]
        .select("cycle", *sensors)
        .with_columns(pl.Series("window", np.repeat(np.arange(count), WINDOW)))
        .to_pandas()
    )


def extract(table: pd.DataFrame, processes: int) -> pd.DataFrame:
    """One row a window, one column a feature of a sensor.

    Args:
        table: From ``windows``.
        processes: tsfresh's ``n_jobs``.
    """
    from tsfresh.feature_extraction import EfficientFCParameters, extract_features

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # short windows make many of its features divide by zero
        return extract_features(
            table,
            column_id="window",
            column_sort="cycle",
            default_fc_parameters=EfficientFCParameters(),
            n_jobs=processes,
            disable_progressbar=True,
        )
