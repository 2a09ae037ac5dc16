"""The one step that turns a unit's state and a reading into the next state and a feature row.

What belongs here: compiled loops over plain arrays. What does not: names, frames, fitting
(``features``). Batch and online use run the same ``_advance``, so they agree to the last bit and
nothing can look ahead.

State of a life, one flat float64 array: the count of readings, then a block a channel::

    ring      the last ``longest`` values, NaN where nothing was read
    windows   per rolling window: sum, sum of squares, count of the values in it
    spans     per exponential span: weighted sum, sum of weights
    baseline  sum and count over the life's first ``baseline`` readings
"""

import numpy as np
from numba import njit, prange

VALUE, MEAN, STD, TREND, EWM, DEVIATION, SPREAD, AGE = range(8)
"""Operations. SPREAD is over all channels, AGE is the cycle itself."""

LIMIT = 20.0
"""Normalised values are kept within ±LIMIT: one absurd reading must not drown a running sum."""


def state_size(channels: int, longest: int, windows: int, spans: int) -> int:
    """How many float64 the state of one life takes."""
    return 1 + channels * (longest + 3 * windows + 2 * spans + 2)


@njit(cache=True, nogil=True)
def _advance(state, values, cycle, compiled, row):
    """One reading's channels: updates ``state`` in place and writes the feature row."""
    windows, spans, baseline, longest, program = compiled
    channels = values.shape[0]
    n_windows, n_spans = windows.shape[0], spans.shape[0]
    stride = longest + 3 * n_windows + 2 * n_spans + 2
    seen = int(state[0])
    slot = seen % longest
    for channel in range(channels):
        base = 1 + channel * stride
        value = values[channel]
        present = not np.isnan(value)
        sums = base + longest
        for w in range(n_windows):
            at = sums + 3 * w
            if seen >= windows[w]:
                old = state[base + (seen - windows[w]) % longest]
                if not np.isnan(old):
                    state[at] -= old
                    state[at + 1] -= old * old
                    state[at + 2] -= 1.0
            if present:
                state[at] += value
                state[at + 1] += value * value
                state[at + 2] += 1.0
        state[base + slot] = value
        weighted = sums + 3 * n_windows
        first = weighted + 2 * n_spans
        if present:
            for s in range(n_spans):
                keep = 1.0 - 2.0 / (spans[s] + 1.0)
                state[weighted + 2 * s] = value + keep * state[weighted + 2 * s]
                state[weighted + 2 * s + 1] = 1.0 + keep * state[weighted + 2 * s + 1]
            if seen < baseline:
                state[first] += value
                state[first + 1] += 1.0
    state[0] = seen + 1

    for i in range(program.shape[0]):
        op, channel, k = program[i, 0], program[i, 1], program[i, 2]
        base = 1 + channel * stride
        sums = base + longest
        weighted = sums + 3 * n_windows
        first = weighted + 2 * n_spans
        result = np.nan
        if op == MEAN:
            if state[sums + 3 * k + 2] > 0.0:
                result = state[sums + 3 * k] / state[sums + 3 * k + 2]
        elif op == STD:
            count = state[sums + 3 * k + 2]
            if count > 1.0:
                total = state[sums + 3 * k]
                variance = (state[sums + 3 * k + 1] - total * total / count) / (count - 1.0)
                result = np.sqrt(variance) if variance > 0.0 else 0.0
        elif op == TREND:
            double = program[i, 3]
            recent = state[sums + 3 * k + 2]
            before = state[sums + 3 * double + 2] - recent
            if recent > 0.0 and before > 0.0:
                earlier = (state[sums + 3 * double] - state[sums + 3 * k]) / before
                result = state[sums + 3 * k] / recent - earlier
        elif op == EWM:
            if state[weighted + 2 * k + 1] > 0.0:
                result = state[weighted + 2 * k] / state[weighted + 2 * k + 1]
        elif op == DEVIATION:
            if state[weighted + 2 * k + 1] > 0.0 and state[first + 1] > 0.0:
                smooth = state[weighted + 2 * k] / state[weighted + 2 * k + 1]
                result = smooth - state[first] / state[first + 1]
        elif op == SPREAD:
            total = 0.0
            count = 0.0
            for other in range(channels):
                there = 1 + other * stride + longest + 3 * n_windows
                start = there + 2 * n_spans
                if state[there + 2 * k + 1] > 0.0 and state[start + 1] > 0.0:
                    smooth = state[there + 2 * k] / state[there + 2 * k + 1]
                    total += abs(smooth - state[start] / state[start + 1])
                    count += 1.0
            if count > 0.0:
                result = total / count
        elif op == AGE:
            result = cycle
        else:
            result = state[base + slot]
        row[i] = result


@njit(cache=True, nogil=True)
def nearest(settings, mean, scale, centroids):
    """The condition of one reading and its squared distance, in standardised settings.

    A setting that was not read leaves the first condition and an infinite distance.
    """
    found = 0
    least = np.inf
    for c in range(centroids.shape[0]):
        distance = 0.0
        for j in range(settings.shape[0]):
            gap = (settings[j] - mean[j]) / scale[j] - centroids[c, j]
            distance += gap * gap
        if distance < least:
            least = distance
            found = c
    return found, least


@njit(cache=True, nogil=True)
def nearest_of_each(settings, mean, scale, centroids):
    """``nearest`` for every row of settings (n, S): (n,) int64 and (n,) float64."""
    found = np.empty(settings.shape[0], dtype=np.int64)
    distance = np.empty(settings.shape[0])
    for i in range(settings.shape[0]):
        found[i], distance[i] = nearest(settings[i], mean, scale, centroids)
    return found, distance


@njit(cache=True, nogil=True)
def _normalise(settings, sensors, fitted, values):
    """Writes the channels of one reading: z-scores in its condition, then their projections.

    ``fitted`` is (setting mean, setting scale, centroids, sensor mean, sensor scale, projections).
    """
    setting_mean, setting_scale, centroids, sensor_mean, sensor_scale, projections = fitted
    condition, _ = nearest(settings, setting_mean, setting_scale, centroids)
    known = sensors.shape[0]
    for j in range(known):
        z = (sensors[j] - sensor_mean[condition, j]) / sensor_scale[condition, j]
        if z > LIMIT:
            z = LIMIT
        elif z < -LIMIT:
            z = -LIMIT
        values[j] = z
    for p in range(projections.shape[0]):
        total = 0.0
        for j in range(known):
            if not np.isnan(values[j]):
                total += projections[p, j] * values[j]
        values[known + p] = total


@njit(cache=True, nogil=True)
def advance(state, settings, sensors, cycle, fitted, compiled, row):
    """The online use: one reading of one life.

    Args:
        state: (size,) float64, updated in place; zeros at the start of a life.
        settings: (S,) float64, NaN where not read.
        sensors: (K,) float64, NaN where not read.
        cycle: Of the reading.
        fitted: What ``_normalise`` takes.
        compiled: (windows, spans, baseline, longest, program).
        row: (features,) float32, written.
    """
    values = np.empty(sensors.shape[0] + fitted[5].shape[0])
    _normalise(settings, sensors, fitted, values)
    _advance(state, values, cycle, compiled, row)


@njit(cache=True, nogil=True, parallel=True)
def sweep(settings, sensors, cycles, starts, size, fitted, compiled, rows):
    """The batch use: down every life, lives in parallel.

    Args:
        settings: (readings, S) float64; lives one after another.
        sensors: (readings, K) float64.
        cycles: (readings,) float64.
        starts: (lives + 1,) int64, where each life begins, and the end.
        size: Of a life's state.
        fitted: As ``advance`` takes.
        compiled: As ``advance`` takes.
        rows: (readings, features) float32, written.
    """
    for life in prange(starts.shape[0] - 1):
        state = np.zeros(size)
        for i in range(starts[life], starts[life + 1]):
            advance(state, settings[i], sensors[i], cycles[i], fitted, compiled, rows[i])
