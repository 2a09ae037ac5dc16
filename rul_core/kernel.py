"""The one step that turns a unit's state and a reading into the next state and a feature row.

What belongs here: compiled loops over plain arrays. What does not: names, frames, fitting
(``features``). Batch and online use run the same ``_advance``, so they agree to the last bit and
nothing can look ahead.

Channels come in banks, the sensors and the projections; the channels of a bank share their windows,
so that a loop over them becomes vector instructions. The state of a life is one float64 array: the
count of its readings, then a table a bank with a column a channel and these rows::

    ring      the last readings, as many as the longest window, NaN where nothing was read
    windows   per rolling window: sum, sum of squares, count of the values in it
    spans     per exponential span: weighted sum, sum of weights
    baseline  sum and count over the life's first readings
"""

from typing import NamedTuple

import numpy as np
from numba import njit

LIMIT = 20.0
"""Normalised values are kept within ±LIMIT: one absurd reading must not drown a running sum."""

_NAN = np.float32(np.nan)


class Fitted(NamedTuple):
    """What training lives taught, for settings (S), conditions (C), sensors (K), projections (P).

    All are float64.
    """

    setting_mean: np.ndarray
    """(S,)"""
    setting_scale: np.ndarray
    """(S,)"""
    centroids: np.ndarray
    """(C, S), of standardised settings."""
    sensor_mean: np.ndarray
    """(C, K)"""
    sensor_scale: np.ndarray
    """(C, K)"""
    weights: np.ndarray
    """(K, P), of the sensors in each projection."""


class Bank(NamedTuple):
    """The declarations of some channels as ``_advance`` runs them.

    A reading of a bank fills blocks, one row of channels each, which follow one another in the
    order of these fields: the values, the cycle, then one for each window, std, trend and so on.
    """

    ring: int
    """How many readings it holds: at least 1, at least the longest window."""
    windows: np.ndarray
    """(windows,) int64, in readings; each fills a block with means."""
    stds: np.ndarray
    """(stds,) int64, indices of windows."""
    trends: np.ndarray
    """(trends, 2) int64, indices of windows: one, and the one twice as long."""
    spans: np.ndarray
    """(spans,) float64, in readings."""
    baseline: int
    """How many first readings of a life make its baseline."""
    deviations: np.ndarray
    """(deviations,) int64, indices of spans."""
    spreads: np.ndarray
    """(spreads,) int64, indices of deviations; each fills only the first cell of its block."""
    picks: np.ndarray
    """(picks, 2) int64: a cell of the blocks, row after row, and the feature that it is."""


VALUES, AGE, MEANS = range(3)
"""The first blocks."""


@njit(cache=True, nogil=True, error_model="numpy")
def _ratio(part, whole):
    """A sum over a count or over weights, as it goes out; NaN where nothing was read."""
    return np.float32(part) / np.float32(whole) if whole > 0.0 else _NAN


@njit(cache=True, nogil=True, error_model="numpy")
def _advance(seen, state, readings, cycles, bank, rows):
    """Readings of a bank, one after another: updates ``state`` in place, writes their features.

    Args:
        seen: How many readings of the life came before.
        state: (rows, channels) float64.
        readings: (n, channels) float64.
        cycles: (n,) float64.
        bank: The declarations.
        rows: (n, features) float32; of each, the bank's features are written.
    """
    channels = readings.shape[1]
    blocks = np.empty((_shape(bank)[1], channels), dtype=np.float32)
    cells = blocks.ravel()
    for n in range(readings.shape[0]):
        values, cycle, row = readings[n], cycles[n], rows[n]
        for c in range(channels):
            blocks[VALUES, c] = values[c]
            blocks[AGE, c] = cycle
        block, at = MEANS, bank.ring
        for w in range(bank.windows.shape[0]):
            old = state[(seen - bank.windows[w]) % bank.ring]
            sums, squares, counts, means = state[at], state[at + 1], state[at + 2], blocks[block]
            for c in range(channels):
                enters, leaves = not np.isnan(values[c]), not np.isnan(old[c])
                entering, leaving = values[c] if enters else 0.0, old[c] if leaves else 0.0
                sums[c] += entering - leaving
                squares[c] += entering * entering - leaving * leaving
                counts[c] += (1.0 if enters else 0.0) - (1.0 if leaves else 0.0)
                means[c] = _ratio(sums[c], counts[c])
            block, at = block + 1, at + 3
        newest = state[seen % bank.ring]
        for c in range(channels):
            newest[c] = values[c]
        for i in range(bank.stds.shape[0]):
            w = bank.ring + 3 * bank.stds[i]
            sums, squares, counts, stds = state[w], state[w + 1], state[w + 2], blocks[block]
            for c in range(channels):
                varied = squares[c] * counts[c] - sums[c] * sums[c]
                varied = varied if varied > 0.0 else 0.0
                stds[c] = np.sqrt(_ratio(varied, counts[c] * (counts[c] - 1.0)))
            block += 1
        for i in range(bank.trends.shape[0]):
            w, twice = bank.ring + 3 * bank.trends[i, 0], bank.ring + 3 * bank.trends[i, 1]
            sums, counts, both, both_counts = state[w], state[w + 2], state[twice], state[twice + 2]
            means, trends = blocks[MEANS + bank.trends[i, 0]], blocks[block]
            for c in range(channels):
                trends[c] = means[c] - _ratio(both[c] - sums[c], both_counts[c] - counts[c])
            block += 1
        ewms = block
        for s in range(bank.spans.shape[0]):
            keep = 1.0 - 2.0 / (bank.spans[s] + 1.0)
            sums, weights, smooth = state[at], state[at + 1], blocks[block]
            for c in range(channels):
                enters = not np.isnan(values[c])
                sums[c] = values[c] + keep * sums[c] if enters else sums[c]
                weights[c] = 1.0 + keep * weights[c] if enters else weights[c]
                smooth[c] = _ratio(sums[c], weights[c])
            block, at = block + 1, at + 2
        sums, counts = state[at], state[at + 1]
        if seen < bank.baseline:
            for c in range(channels):
                enters = not np.isnan(values[c])
                sums[c] += values[c] if enters else 0.0
                counts[c] += 1.0 if enters else 0.0
        deviations = block
        for i in range(bank.deviations.shape[0]):
            smooth, moved = blocks[ewms + bank.deviations[i]], blocks[block]
            for c in range(channels):
                moved[c] = smooth[c] - _ratio(sums[c], counts[c])
            block += 1
        for i in range(bank.spreads.shape[0]):
            moved = blocks[deviations + bank.spreads[i]]
            total, count = 0.0, 0.0
            for c in range(channels):
                if not np.isnan(moved[c]):
                    total += abs(moved[c])
                    count += 1.0
            blocks[block, 0] = _ratio(total, count)
            block += 1
        for i in range(bank.picks.shape[0]):
            row[bank.picks[i, 1]] = cells[bank.picks[i, 0]]
        seen += 1


@njit(cache=True, nogil=True, error_model="numpy")
def nearest_of_each(settings, mean, scale, centroids):
    """The condition of each reading and its squared distance, in standardised settings.

    A setting that was not read leaves the first condition and an infinite distance.

    Args:
        settings: (n, S) float64, NaN where not read.
        mean: (S,) float64.
        scale: (S,) float64.
        centroids: (C, S) float64, of standardised settings.

    Returns:
        (n,) int64 and (n,) float64.
    """
    found = np.zeros(settings.shape[0], dtype=np.int64)
    least = np.full(settings.shape[0], np.inf)
    place = np.empty(settings.shape[1])
    for i in range(settings.shape[0]):
        for j in range(place.shape[0]):
            place[j] = (settings[i, j] - mean[j]) / scale[j]
        for c in range(centroids.shape[0]):
            distance = 0.0
            for j in range(place.shape[0]):
                gap = place[j] - centroids[c, j]
                distance += gap * gap
            if distance < least[i]:
                least[i] = distance
                found[i] = c
    return found, least


@njit(cache=True, nogil=True, error_model="numpy")
def _normalise(settings, sensors, fitted):
    """Sensors (n, K) as z-scores in their condition, and their projections (n, P).

    In an unknown condition no sensor says anything, so the whole reading counts as not read.
    """
    known, projections = fitted.weights.shape
    normalised = np.empty((sensors.shape[0], known))
    projected = np.empty((sensors.shape[0], projections))
    condition, distance = nearest_of_each(
        settings, fitted.setting_mean, fitted.setting_scale, fitted.centroids
    )
    for i in range(sensors.shape[0]):
        unknown = np.isinf(distance[i])
        mean, scale = fitted.sensor_mean[condition[i]], fitted.sensor_scale[condition[i]]
        read, values = sensors[i], normalised[i]
        for j in range(known):
            z = (read[j] - mean[j]) / scale[j]
            z = LIMIT if z > LIMIT else z
            z = -LIMIT if z < -LIMIT else z
            values[j] = np.nan if unknown else z
        for p in range(projections):
            total, count = 0.0, 0
            for j in range(known):
                if not np.isnan(values[j]):
                    total += fitted.weights[j, p] * values[j]
                    count += 1
            projected[i, p] = total if count else np.nan
    return normalised, projected


@njit(cache=True, nogil=True, error_model="numpy")
def _shape(bank):
    """How many rows of state and how many blocks a bank takes."""
    kept = bank.ring + 3 * bank.windows.shape[0] + 2 * bank.spans.shape[0] + 2
    derived = bank.stds.shape[0] + bank.trends.shape[0]
    derived += bank.deviations.shape[0] + bank.spreads.shape[0]
    return kept, MEANS + bank.windows.shape[0] + bank.spans.shape[0] + derived


@njit(cache=True, nogil=True, error_model="numpy")
def _tables(state, fitted, banks):
    """The parts of a state that belong to the sensors and to the projections."""
    sensors, projections = fitted.weights.shape
    rows, more_rows = _shape(banks[0])[0], _shape(banks[1])[0]
    middle = 1 + rows * sensors
    return (
        state[1:middle].reshape((rows, sensors)),
        state[middle:].reshape((more_rows, projections)),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def start(fitted, banks):
    """(size,) float64: the state of a life before its first reading."""
    sensors, projections = fitted.weights.shape
    state = np.zeros(1 + sensors * _shape(banks[0])[0] + projections * _shape(banks[1])[0])
    of_sensors, of_projections = _tables(state, fitted, banks)
    of_sensors[: banks[0].ring] = np.nan
    of_projections[: banks[1].ring] = np.nan
    return state


@njit(cache=True, nogil=True, error_model="numpy")
def advance(state, settings, sensors, cycles, fitted, banks, rows):
    """The next readings of a life, as many as there are.

    Args:
        state: (size,) float64, from ``start`` or an earlier reading; updated in place.
        settings: (n, S) float64, NaN where not read.
        sensors: (n, K) float64, NaN where not read.
        cycles: (n,) float64.
        fitted: A ``Fitted``.
        banks: Two of ``Bank``: the sensors' and the projections'.
        rows: (n, features) float32, written.
    """
    seen = int(state[0])
    normalised, projected = _normalise(settings, sensors, fitted)
    of_sensors, of_projections = _tables(state, fitted, banks)
    _advance(seen, of_sensors, normalised, cycles, banks[0], rows)
    _advance(seen, of_projections, projected, cycles, banks[1], rows)
    state[0] += sensors.shape[0]


@njit(cache=True, nogil=True, error_model="numpy")
def sweep(settings, sensors, cycles, starts, fitted, banks, rows):
    """Whole lives, one after another.

    Args:
        settings: (readings, S) float64, NaN where not read.
        sensors: (readings, K) float64, NaN where not read.
        cycles: (readings,) float64.
        starts: (lives + 1,) int64, where each life begins, and the end.
        fitted: As ``advance`` takes.
        banks: As ``advance`` takes.
        rows: (readings, features) float32, written from the first start to the end.
    """
    for life in range(starts.shape[0] - 1):
        a, b = starts[life], starts[life + 1]
        state = start(fitted, banks)
        advance(state, settings[a:b], sensors[a:b], cycles[a:b], fitted, banks, rows[a:b])
