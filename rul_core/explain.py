"""Why a point is where it is: contributions in cycles that add up to it.

What belongs here: SHAP values of the point model, grouped by channel. What does not: words for
people about what to do.
"""

import numpy as np
from catboost import CatBoostRegressor, Pool

from rul_core.features import Feature
from rul_core.prognosis import Contribution

TYPICAL = "typical"
LIMITS = "limits"


def contributions(
    booster: CatBoostRegressor, names: tuple[str, ...], features: np.ndarray, points: np.ndarray
) -> list[tuple[Contribution, ...]]:
    """What each group of features adds to each point, in cycles, the largest first.

    Exact tree SHAP (Lundberg et al. 2020), summed over the features of a sensor. ``typical`` is
    the model's mean output; ``limits`` is what keeping the point within 0 and the cap changed.

    Args:
        booster: The point model.
        names: Its features' columns.
        features: (n, features) float32.
        points: (n,) in cycles, as given out.

    Returns:
        One tuple a row; its ``cycles`` add up to the row's point.
    """
    groups = [Feature.parse(name).channel for name in names]
    order = list(dict.fromkeys(groups))
    column = np.array([order.index(group) for group in groups])
    values = booster.get_feature_importance(Pool(features), type="ShapValues")
    summed = np.zeros((len(values), len(order)))
    np.add.at(summed.T, column, values[:, :-1].T)
    explained = []
    for row, typical, point in zip(summed, values[:, -1], points, strict=True):
        parts = [Contribution(group=g, cycles=float(c)) for g, c in zip(order, row, strict=True)]
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
