"""The model behind BentoML, with adaptive batching; run by an interpreter that has BentoML."""

import os

import bentoml
import numpy as np
from catboost import CatBoostRegressor


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Pumps:
    """One worker, which batches the rows that come together."""

    def __init__(self) -> None:
        self._model = CatBoostRegressor()
        self._model.load_model(os.environ["BENCHMARK_MODEL"])

    @bentoml.api(batchable=True)
    def predict(self, features: np.ndarray) -> np.ndarray:
        """(n,) of (n, features)."""
        return self._model.predict(features)
