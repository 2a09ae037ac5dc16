"""The model behind a plain FastAPI application; run by an interpreter that has FastAPI."""

import os

import uvicorn
from catboost import CatBoostRegressor
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = CatBoostRegressor()
model.load_model(os.environ["BENCHMARK_MODEL"])


class Rows(BaseModel):
    """Feature rows."""

    features: list[list[float]]


@app.post("/predict")
async def predict(rows: Rows) -> list[float]:
    """What the model predicts of each row."""
    return model.predict(rows.features).tolist()


if __name__ == "__main__":
    port = int(os.environ["BENCHMARK_PORT"])
    uvicorn.run(app, port=port, access_log=False, server_header=False)
