"""The one step that turns a unit's state and its next readings into the next state and features.

What belongs here: compiled loops over plain arrays. What does not: names, frames, fitting
(``features``). Batch and online use run the same ``advance``, over many readings or over one; it
computes every reading from the state and the readings before it, in the same order however many
there are, so both agree to the last bit and nothing can look ahead.

Channels come in banks, the sensors and the projections; the channels of a bank share their windows,
so that loops over readings and channels become vector instructions. The state of a life is one
float64 array: the count of its readings; what each sensor last read, how many readings in a row it
read that and for how many it was not read (``HELD`` rows); then a table a bank with a column a
channel and these rows::

    history   the last readings, as many as the longest window, NaN where nothing was read
    windows   per rolling window: sum and count of the values in it
    squares   per rolling window that a std is of: sum of their squares
    spans     per exponential span: weighted sum, sum of weights
    baseline  sum and count over the life's first readings
"""

from typing import NamedTuple

import numpy as np
from numba import njit

LIMIT = 20.0
"""Normalised values are kept within ±LIMIT: one absurd reading must not drown a running sum."""

_NAN = np.float32(np.nan)
LAST, RUN, GAP = range(3)
HELD = 3
"""Rows of the state that say what each sensor held: see ``held``."""


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

    Readings of a bank fill blocks (n, channels), which follow one another in this order: the
    values, the cycle, then one for each window, std, trend, span, deviation and spread.
    """

    history: int
    """How many earlier readings it needs: as many as its longest window."""
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
    """(spreads,) int64, indices of deviations; each fills only the first column of its block."""
    picks: np.ndarray
    """(picks, 3) int64: block, channel, and the feature that it is."""


CHUNK = 256
"""Readings of a life that are advanced at once: enough to be fast, few enough for the cache."""

VALUES, AGE, MEANS = range(3)
"""The first blocks."""


@njit(cache=True, nogil=True, error_model="numpy")
def _prepare(values, present, squares):
    """Puts 0 where nothing was read, and 1 in ``present`` where something was; all flat."""
    for k in range(values.size):
        missing = np.isnan(values[k])
        present[k] = 0.0 if missing else 1.0
        values[k] = 0.0 if missing else values[k]
        squares[k] = values[k] * values[k]


@njit(cache=True, nogil=True, error_model="numpy")
def _slide(values, window, sums, totals):
    """Sums (n, channels) over a window that moves down the last n rows of ``values``.

    ``sums`` (channels,) is what the state keeps of it.
    """
    first = values.shape[0] - totals.shape[0]
    for i in range(totals.shape[0]):
        for c in range(totals.shape[1]):
            sums[c] += values[first + i, c] - values[first + i - window, c]
            totals[i, c] = sums[c]


@njit(cache=True, nogil=True, error_model="numpy")
def _ratio(part, whole):
    """A sum over a count or over weights, as it goes out; NaN where nothing was read."""
    ratio = np.float32(part) / np.float32(whole)
    return ratio if whole > 0.0 else _NAN


@njit(cache=True, nogil=True, error_model="numpy")
def _mean(sums, counts, means):
    """Means over a window; all flat, as in the next two."""
    for k in range(means.size):
        means[k] = _ratio(sums[k], counts[k])


@njit(cache=True, nogil=True, error_model="numpy")
def _std(sums, squares, counts, stds):
    """Sample standard deviations over a window."""
    for k in range(stds.size):
        varied = squares[k] * counts[k] - sums[k] * sums[k]
        varied = varied if varied > 0.0 else 0.0
        stds[k] = np.sqrt(_ratio(varied, counts[k] * (counts[k] - 1.0)))


@njit(cache=True, nogil=True, error_model="numpy")
def _trend(means, sums, counts, twice_sums, twice_counts, trends):
    """Means over a window less those over the window before, from sums over both together."""
    for k in range(trends.size):
        trends[k] = means[k] - _ratio(twice_sums[k] - sums[k], twice_counts[k] - counts[k])


@njit(cache=True, nogil=True, error_model="numpy")
def _ewm(values, present, span, sums, weights, means):
    """Exponentially weighted means (n, channels), of the last n rows of ``values``."""
    keep = 1.0 - 2.0 / (span + 1.0)
    first = values.shape[0] - means.shape[0]
    for i in range(means.shape[0]):
        for c in range(means.shape[1]):
            enters = present[first + i, c] > 0.0
            sums[c] = values[first + i, c] + keep * sums[c] if enters else sums[c]
            weights[c] = 1.0 + keep * weights[c] if enters else weights[c]
            means[i, c] = _ratio(sums[c], weights[c])


@njit(cache=True, nogil=True, error_model="numpy")
def _baseline(values, present, missing, sums, counts, means):
    """Means (n, channels) of a life's first readings, of which so many are still to come."""
    first = values.shape[0] - means.shape[0]
    for i in range(means.shape[0]):
        for c in range(means.shape[1]):
            sums[c] += values[first + i, c] if i < missing else 0.0
            counts[c] += present[first + i, c] if i < missing else 0.0
            means[i, c] = _ratio(sums[c], counts[c])


@njit(cache=True, nogil=True, error_model="numpy")
def _spread(deviations, spreads):
    """The mean absolute deviation over all channels that have one, in the first column."""
    for i in range(deviations.shape[0]):
        total, count = 0.0, 0.0
        for c in range(deviations.shape[1]):
            if not np.isnan(deviations[i, c]):
                total += abs(deviations[i, c])
                count += 1.0
        spreads[i, 0] = _ratio(total, count)


@njit(cache=True, nogil=True, error_model="numpy")
def _pick(blocks, picks, rows):
    """Writes the features that were asked for."""
    n, channels = blocks.shape[1:]
    cells = blocks.ravel()
    places = picks[:, 0] * (n * channels) + picks[:, 1]
    features = picks[:, 2].copy()
    for i in range(n):
        row, here = rows[i], cells[i * channels :]
        for k in range(places.size):
            row[features[k]] = here[places[k]]


@njit(cache=True, nogil=True, error_model="numpy")
def _advance(seen, state, readings, cycles, bank, rows):
    """Readings of a bank: updates ``state`` in place and writes their features.

    Args:
        seen: How many readings of the life came before.
        state: (rows, channels) float64.
        readings: (n, channels) float64.
        cycles: (n,) float64.
        bank: The declarations.
        rows: (n, features) float32; of each, the bank's features are written.
    """
    n, channels = readings.shape
    cells = n * channels
    history, windows, spans = bank.history, bank.windows.shape[0], bank.spans.shape[0]
    values = np.empty((history + n, channels))
    values[:history], values[history:] = state[:history], readings
    state[:history] = values[n:]
    blocks = np.empty((_shape(bank)[1], n, channels), dtype=np.float32)
    for i in range(n):
        for c in range(channels):
            blocks[VALUES, i, c] = readings[i, c]
            blocks[AGE, i, c] = cycles[i]
    present, squares = np.empty_like(values), np.empty_like(values)
    _prepare(values.ravel(), present.ravel(), squares.ravel())
    sums, counts = np.empty((windows, n, channels)), np.empty((windows, n, channels))
    totals, first_means = np.empty((n, channels)), np.empty((n, channels), dtype=np.float32)
    flat, flat_sums = blocks.reshape((blocks.shape[0], cells)), sums.reshape((windows, cells))
    flat_counts, flat_first = counts.reshape((windows, cells)), first_means.ravel()

    block, at = MEANS, history
    for w in range(windows):
        _slide(values, bank.windows[w], state[at], sums[w])
        _slide(present, bank.windows[w], state[at + 1], counts[w])
        _mean(flat_sums[w], flat_counts[w], flat[block])
        block, at = block + 1, at + 2
    for i in range(bank.stds.shape[0]):
        w = bank.stds[i]
        _slide(squares, bank.windows[w], state[at], totals)
        _std(flat_sums[w], totals.ravel(), flat_counts[w], flat[block])
        block, at = block + 1, at + 1
    for i in range(bank.trends.shape[0]):
        w, twice = bank.trends[i, 0], bank.trends[i, 1]
        _trend(
            flat[MEANS + w],
            flat_sums[w],
            flat_counts[w],
            flat_sums[twice],
            flat_counts[twice],
            flat[block],
        )
        block += 1
    ewms = block
    for s in range(spans):
        _ewm(values, present, bank.spans[s], state[at], state[at + 1], blocks[block])
        block, at = block + 1, at + 2
    _baseline(values, present, bank.baseline - seen, state[at], state[at + 1], first_means)
    deviations = block
    for i in range(bank.deviations.shape[0]):
        for k in range(cells):
            flat[block, k] = flat[ewms + bank.deviations[i], k] - flat_first[k]
        block += 1
    for i in range(bank.spreads.shape[0]):
        _spread(blocks[deviations + bank.spreads[i]], blocks[block])
        block += 1
    _pick(blocks, bank.picks, rows)


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
    kept = bank.history + 2 * bank.windows.shape[0] + bank.stds.shape[0]
    kept += 2 * bank.spans.shape[0] + 2
    derived = bank.stds.shape[0] + bank.trends.shape[0]
    derived += bank.deviations.shape[0] + bank.spreads.shape[0]
    return kept, MEANS + bank.windows.shape[0] + bank.spans.shape[0] + derived


@njit(cache=True, nogil=True, error_model="numpy")
def _tables(state, fitted, banks):
    """The parts of a state: what sensors held, the sensors' bank, the projections' bank."""
    sensors, projections = fitted.weights.shape
    rows, more_rows = _shape(banks[0])[0], _shape(banks[1])[0]
    first = 1 + HELD * sensors
    middle = first + rows * sensors
    return (
        state[1:first].reshape((HELD, sensors)),
        state[first:middle].reshape((rows, sensors)),
        state[middle:].reshape((more_rows, projections)),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _hold(held, sensors):
    """Updates what each sensor last read, for how many readings, and for how many it was lost."""
    for i in range(sensors.shape[0]):
        for k in range(sensors.shape[1]):
            value = sensors[i, k]
            if np.isnan(value):
                held[GAP, k] += 1.0
            else:
                held[RUN, k] = held[RUN, k] + 1.0 if value == held[LAST, k] else 1.0
                held[LAST, k] = value
                held[GAP, k] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def start(fitted, banks):
    """(size,) float64: the state of a life before its first reading."""
    sensors, projections = fitted.weights.shape
    size = 1 + sensors * (HELD + _shape(banks[0])[0]) + projections * _shape(banks[1])[0]
    state = np.zeros(size)
    held, of_sensors, of_projections = _tables(state, fitted, banks)
    held[LAST] = np.nan
    of_sensors[: banks[0].history] = np.nan
    of_projections[: banks[1].history] = np.nan
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
    held, of_sensors, of_projections = _tables(state, fitted, banks)
    _hold(held, sensors)
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
        state = start(fitted, banks)
        for a in range(starts[life], starts[life + 1], CHUNK):
            b = min(a + CHUNK, starts[life + 1])
            advance(state, settings[a:b], sensors[a:b], cycles[a:b], fitted, banks, rows[a:b])


@njit(cache=True, nogil=True, error_model="numpy")
def follow(states, settings, sensors, cycles, starts, fitted, banks, rows):
    """Goes on with lives from where they stood; only the features at their last readings are kept.

    Args:
        states: (lives, size) float64, from ``start`` or an earlier call; updated in place.
        settings: (readings, S) float64, NaN where not read.
        sensors: (readings, K) float64, NaN where not read.
        cycles: (readings,) float64.
        starts: (lives + 1,) int64, where each life's readings begin, and the end; none is empty.
        fitted: As ``advance`` takes.
        banks: As ``advance`` takes.
        rows: (lives, features) float32, written.
    """
    scratch = np.empty((CHUNK, rows.shape[1]), dtype=np.float32)
    for life in range(starts.shape[0] - 1):
        for a in range(starts[life], starts[life + 1], CHUNK):
            b = min(a + CHUNK, starts[life + 1])
            some = scratch[: b - a]
            advance(states[life], settings[a:b], sensors[a:b], cycles[a:b], fitted, banks, some)
            rows[life] = some[b - a - 1]
