"""The one step that turns a unit's state and a reading into the next state and a feature row.

What belongs here: compiled loops over plain arrays. What does not: names, frames, fitting
(``features``). Batch and online use run the same ``_advance``, so they agree to the last bit and
nothing can look ahead.

State of a life, one flat float64 array: the count of readings, then a block a channel, which holds
only what the declarations need::

    ring      the channel's last values, as many as its longest window, NaN where nothing was read
    windows   per rolling window: sum, sum of squares, count of the values in it
    spans     per exponential span: weighted sum, sum of weights
    baseline  sum and count over the life's first ``baseline`` readings

The compiled declarations are a tuple:

    channels  (channels, 4) int64: where each one's ring, windows, spans and baseline begin
    windows   int64, the lengths of all rolling windows, channel by channel
    spans     float64, the same for exponential spans
    baseline  how many first readings of a life make its baseline
    program   (features, 4) int64: operation, channel, one or two places in the state
    pairs     (m, 2) int64: places of the spans and baselines that SPREAD runs over
"""

import numpy as np
from numba import njit, prange

VALUE, MEAN, STD, TREND, EWM, DEVIATION, SPREAD, AGE = range(8)
"""Operations. SPREAD is over all sensors, AGE is the cycle itself."""

LIMIT = 20.0
"""Normalised values are kept within ±LIMIT: one absurd reading must not drown a running sum."""


@njit(cache=True, nogil=True)
def _advance(state, values, cycle, compiled, row):
    """One reading's channels: updates ``state`` in place and writes the feature row."""
    channels, windows, spans, baseline, program, pairs = compiled
    seen = int(state[0])
    state[0] = seen + 1
    next_window = 0
    next_span = 0
    for c in range(channels.shape[0]):
        ring, sums, weighted, first = channels[c, 0], channels[c, 1], channels[c, 2], channels[c, 3]
        length = sums - ring
        value = values[c]
        present = not np.isnan(value)
        for at in range(sums, weighted, 3):
            window = windows[next_window]
            next_window += 1
            if seen >= window:
                old = state[ring + (seen - window) % length]
                if not np.isnan(old):
                    state[at] -= old
                    state[at + 1] -= old * old
                    state[at + 2] -= 1.0
            if present:
                state[at] += value
                state[at + 1] += value * value
                state[at + 2] += 1.0
        if length > 0:
            state[ring + seen % length] = value
        for at in range(weighted, first, 2):
            keep = 1.0 - 2.0 / (spans[next_span] + 1.0)
            next_span += 1
            if present:
                state[at] = value + keep * state[at]
                state[at + 1] = 1.0 + keep * state[at + 1]
        if present and seen < baseline:
            state[first] += value
            state[first + 1] += 1.0

    for i in range(program.shape[0]):
        op, channel, a, b = program[i, 0], program[i, 1], program[i, 2], program[i, 3]
        result = np.nan
        if op == MEAN:
            if state[a + 2] > 0.0:
                result = state[a] / state[a + 2]
        elif op == STD:
            count = state[a + 2]
            if count > 1.0:
                variance = (state[a + 1] - state[a] * state[a] / count) / (count - 1.0)
                result = np.sqrt(variance) if variance > 0.0 else 0.0
        elif op == TREND:
            recent = state[a + 2]
            before = state[b + 2] - recent
            if recent > 0.0 and before > 0.0:
                result = state[a] / recent - (state[b] - state[a]) / before
        elif op == EWM:
            if state[a + 1] > 0.0:
                result = state[a] / state[a + 1]
        elif op == DEVIATION:
            if state[a + 1] > 0.0 and state[b + 1] > 0.0:
                result = state[a] / state[a + 1] - state[b] / state[b + 1]
        elif op == SPREAD:
            total = 0.0
            count = 0.0
            for k in range(a, b):
                smooth, start = pairs[k, 0], pairs[k, 1]
                if state[smooth + 1] > 0.0 and state[start + 1] > 0.0:
                    total += abs(
                        state[smooth] / state[smooth + 1] - state[start] / state[start + 1]
                    )
                    count += 1.0
            if count > 0.0:
                result = total / count
        elif op == AGE:
            result = cycle
        else:
            result = values[channel]
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
        compiled: The declarations, as above.
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
