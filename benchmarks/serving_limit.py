"""The limit: Litestar endpoints that decode the very bodies of the service and answer at once.

What belongs here: nothing that a service would have to do. What does not: keys, limits, logs,
metrics, models, databases.

It is served as the service is: by uvicorn with ``wire.Protocol``, its garbage frozen. No Litestar
application that looks at such a body can be faster than this by more than the work that it avoids
in Litestar itself.
"""

import gc
import os

import uvicorn
from litestar import Litestar, post
from litestar.params import JSONBody

from rul_serving.inference import OUTPUTS, InferenceRequest, InferenceResponse, OutputTensor
from rul_serving.rows import Reading
from rul_serving.wire import Protocol

ANSWER = InferenceResponse(
    model_name="pumps",
    model_version="none",
    outputs=[OutputTensor(name=name, shape=[1], data=[0.0]) for name in OUTPUTS],
)


@post("/infer", status_code=200)
async def infer(data: JSONBody[InferenceRequest]) -> InferenceResponse:  # noqa: ARG001 - decoded
    """The same answer to every feature row."""
    return ANSWER


@post("/readings", status_code=200)
async def readings(data: JSONBody[list[Reading]]) -> dict[str, int]:
    """How many readings there were."""
    return {"new": len(data)}


def main() -> None:
    """Serve."""
    app = Litestar([infer, readings], openapi_config=None)
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        http=Protocol,
        ws="none",
        port=int(os.environ["BENCHMARK_PORT"]),
        log_config=None,
        access_log=False,
        server_header=False,
    )


if __name__ == "__main__":
    main()
