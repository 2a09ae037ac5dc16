"""The model behind MLServer, by the runtime that its users would write for a regressor.

Run by an interpreter that has MLServer; its own CatBoost runtime loads a classifier.
"""

from catboost import CatBoostRegressor
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, NumpyRequestCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class CatBoostRegressorRuntime(MLModel):
    """What the model predicts of rows."""

    async def load(self) -> bool:
        """Read the model's file."""
        self._model = CatBoostRegressor()
        self._model.load_model(await get_model_uri(self._settings))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The protocol's tensors in and out."""
        rows = self.decode_request(payload, default_codec=NumpyRequestCodec)
        output = NumpyCodec.encode_output("predict", self._model.predict(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])
