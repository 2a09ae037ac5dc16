"""Why a point is where it is: contributions in cycles that add up to it, and how firm they are.

What belongs here: SHAP values of the point model, grouped by sensor; how much those of the readings
before agree with them. What does not: words for people about what to do.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import polars as pl
from catboost import CatBoostRegressor, Pool

from rul_core import lookalikes, projections
from rul_core.features import Feature, Pipeline
from rul_core.labels import RUL
from rul_core.model import RulModel
from rul_core.prognosis import Contribution, Explanation, Prognosis
from rul_core.quality import within_limits

TYPICAL = "typical"
LIMITS = "limits"
COMPARED = 4
"""Readings before the last whose contributions are compared with its own."""


def explained(
    said: Prognosis, model: RulModel, readings: pl.DataFrame, trajectories: pl.DataFrame
) -> Prognosis:
    """The prognosis with contributions, their stability, and the lives that it resembles.

    Args:
        said: With figures.
        model: That said it.
        readings: That it was said of: one life, sorted, from its start.
        trajectories: ``lookalikes.learn`` of the model's training.
    """
    possible = within_limits(readings, model.fleet)
    # Before that many readings the model may not speak, so nothing was to be explained.
    first = max(readings.height - 1 - COMPARED, model.fleet.learning.minimum_readings - 1)
    features = model.compiled.matrix(possible)[first:]
    smoothed = projections.smooth(possible, model.pipeline.conditions, model.pipeline.smoothing)
    points = model.predict_rows(features)[RUL].to_numpy()
    *before, now = contributions(model.booster, model.pipeline, features, smoothed[first:], points)
    return msgspec.structs.replace(
        said,
        contributions=now,
        explanation=Explanation(
            stability=stability(now, before),
            readings=len(before),
            lookalikes=lookalikes.find(trajectories, readings, model.fleet, model.pipeline),
        ),
    )


def stability(
    now: Sequence[Contribution], before: Sequence[Sequence[Contribution]]
) -> float | None:
    """How much of what is said now was said at the readings before: 0 to 1.

    The mean over the readings before of the weighted Jaccard similarity (Ruzicka 1958) of
    contributions: what both say in common over what either says, where cycles added and cycles
    taken away are different things to say. So it is 1 where every group moved the point by as much
    at each of these readings, and 0 where none moved it the same way. ``typical``, which never
    changes, and ``limits``, which is no sensor's, do not count.

    Args:
        now: The contributions to be judged.
        before: Of the readings before.

    Returns:
        None without readings before.
    """
    if not before:
        return None
    rows = [_by_direction(parts) for parts in (now, *before)]
    names = sorted(set().union(*rows))
    values = np.array([[row.get(name, 0.0) for name in names] for row in rows])
    common = np.minimum(values[0], values[1:]).sum(axis=1)
    either = np.maximum(values[0], values[1:]).sum(axis=1)
    # Where neither says anything they agree.
    return float(np.divide(common, either, out=np.ones_like(common), where=either > 0.0).mean())


def _by_direction(parts: Sequence[Contribution]) -> dict[tuple[str, bool], float]:
    """How many cycles each group adds, or takes away."""
    return {
        (part.group, part.cycles > 0.0): abs(part.cycles)
        for part in parts
        if part.group not in (TYPICAL, LIMITS)
    }


def contributions(
    booster: CatBoostRegressor,
    pipeline: Pipeline,
    features: np.ndarray,
    smoothed: np.ndarray,
    points: np.ndarray,
) -> list[tuple[Contribution, ...]]:
    """What each sensor adds to each point, in cycles, the largest first.

    Exact tree SHAP (Lundberg et al. 2020), summed over the features of a channel. What a projected
    channel adds is shared among the sensors by how far each moves that channel from the average
    machine: ``|weight x smoothed value|``. ``typical`` is the model's mean output; ``limits`` is
    what keeping the point within 0, the cap and its 50 % band changed.

    Args:
        booster: The point model.
        pipeline: Of its features.
        features: (n, features) float32.
        smoothed: (n, sensors) normalised and smoothed by the pipeline's span, as
            ``projections.smooth`` gives.
        points: (n,) in cycles, as given out.

    Returns:
        One tuple a row; its ``cycles`` add up to the row's point.
    """
    values = booster.get_feature_importance(Pool(features), type="ShapValues")
    by_channel: dict[str, np.ndarray] = {}
    for name, column in zip(pipeline.names, values[:, :-1].T, strict=True):
        channel = Feature.parse(name).channel
        by_channel[channel] = by_channel.get(channel, 0.0) + column
    groups = _by_sensor(by_channel, pipeline, np.nan_to_num(smoothed.astype(np.float64)))
    explained = []
    for i, (typical, point) in enumerate(zip(values[:, -1], points, strict=True)):
        parts = [Contribution(group=g, cycles=float(column[i])) for g, column in groups.items()]
        parts.sort(key=lambda part: -abs(part.cycles))
        limits = float(point - typical - sum(part.cycles for part in parts))
        explained.append(
            (
                Contribution(group=TYPICAL, cycles=float(typical)),
                *parts,
                Contribution(group=LIMITS, cycles=limits),
            )
        )
    return explained


def _by_sensor(
    by_channel: dict[str, np.ndarray], pipeline: Pipeline, smoothed: np.ndarray
) -> dict[str, np.ndarray]:
    """Contributions (n,) of every sensor and of the channels that are not projections."""
    projected = {p.name: np.asarray(p.weights) for p in pipeline.projections}
    groups = {name: column for name, column in by_channel.items() if name not in projected}
    for name, weights in projected.items():
        moved = np.abs(smoothed * weights)
        total = moved.sum(axis=1, keepdims=True)
        even = np.full_like(moved, 1.0 / moved.shape[1])
        shares = np.divide(moved, total, out=even, where=total > 0.0)
        for sensor, share in zip(pipeline.conditions.sensors, shares.T, strict=True):
            groups[sensor] = groups.get(sensor, 0.0) + share * by_channel[name]
    return groups
