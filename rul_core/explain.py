"""Why a point is where it is: contributions in cycles that add up to it.

What belongs here: SHAP values of the point model, grouped by sensor. What does not: words for
people about what to do.
"""

import numpy as np
from catboost import CatBoostRegressor, Pool

from rul_core.features import Feature, Pipeline
from rul_core.prognosis import Contribution

TYPICAL = "typical"
LIMITS = "limits"


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
