"""``/v2``: the Open Inference Protocol, so that its clients get figures without knowing us.

What belongs here: the addresses. What does not: the bodies (``rul_serving.inference``).

A model is named as its fleet; its version is the one that answers, and no other can be asked. A
request brings feature rows, not readings: nothing is kept, no state is judged, nothing is recorded.
Where ``/v1`` has a problem, so has ``/v2``, with its detail once more as ``error``: there the
protocol's clients look for it.
"""

from dataclasses import dataclass
from importlib.metadata import version as version_of
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.params import PathParameter, RawBody
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE
from litestar.types import ASGIApp

from rul_core.errors import Unavailable
from rul_serving import examples, health, inference
from rul_serving.answers import Readiness
from rul_serving.gathering import table
from rul_serving.inference import ModelMetadata, ModelReady, ServerLive, ServerMetadata, ServerReady
from rul_serving.principal import ASK
from rul_serving.problems import Kind, Refusal, declared
from rul_serving.routes.fleets import FleetName
from rul_serving.service import Service
from rul_serving.shortcut import LARGE_BYTES, Answer
from rul_store.models import LoadedModel

JSON, BYTES = "application/json", "application/octet-stream"
_HEADER_LENGTH = inference.HEADER_LENGTH.encode()
VersionName = Annotated[str, PathParameter(max_length=200, description="The model's version.")]
_OF_MODEL = declared(Kind.INVALID_REQUEST, Kind.UNKNOWN_MODEL, Kind.UNAVAILABLE)
_ASKED = examples.shown(examples.INFERRED, "Figures of every row, in the rows' order") | declared(
    Kind.INVALID_REQUEST, Kind.UNKNOWN_MODEL, Kind.TOO_LARGE, Kind.UNAVAILABLE
)


@dataclass
class _TakesRows(Operation):
    """Documents the bodies, which are decoded and encoded by hand."""

    def __post_init__(self) -> None:
        text = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
        answer = (self.responses or {})[str(HTTP_200_OK)]
        if isinstance(answer, OpenAPIResponse):
            answer.content = {**(answer.content or {}), BYTES: OpenAPIMediaType(schema=text)}
        self.request_body = RequestBody(
            required=True,
            content={
                JSON: OpenAPIMediaType(
                    schema=Reference(ref="#/components/schemas/InferenceRequest"),
                    examples={"one": examples.INFERENCE},
                ),
                BYTES: OpenAPIMediaType(schema=text),
            },
        )


def _or_not_now(type_: type) -> dict[int, ResponseSpec]:
    spec = ResponseSpec(type_, generate_examples=False, description="Not now")
    return {HTTP_503_SERVICE_UNAVAILABLE: spec}


@get(
    "/",
    operation_id="inferenceServer",
    summary="The service, as the Open Inference Protocol sees it",
    tags=["inference"],
    opt={"public": True},
    responses=declared(),
    sync_to_thread=False,
)
def server() -> ServerMetadata:
    """Its name and version, and which extensions of the protocol it knows."""
    return ServerMetadata(
        name="rul-platform", version=version_of("rul-platform"), extensions=["binary_tensor_data"]
    )


@get(
    "/health/live",
    operation_id="inferenceLive",
    summary="Whether the process answers",
    tags=["inference"],
    opt={"public": True},
    responses=declared(),
    sync_to_thread=False,
)
def live() -> ServerLive:
    """As `/livez`."""
    return ServerLive()


@get(
    "/health/ready",
    operation_id="inferenceReady",
    summary="Whether models can answer",
    tags=["inference"],
    opt={"public": True},
    responses=declared() | _or_not_now(ServerReady),
)
async def ready(service: NamedDependency[Service]) -> Response[ServerReady]:
    """As `/readyz`."""
    found = await health.check(service)
    is_ready = found.status is not Readiness.DOWN
    return Response(ServerReady(ready=is_ready), status_code=_status(is_ready))


@get(
    "/models/{fleet:str}",
    operation_id="inferenceModel",
    summary="What a model takes and gives",
    tags=["inference"],
    opt={"roles": ASK},
    responses=_OF_MODEL,
)
async def model(fleet: FleetName, service: NamedDependency[Service]) -> ModelMetadata:
    """Its tensors, with the names of the features in the order in which a row brings them."""
    found = _loaded(service, fleet)
    return inference.metadata(fleet, found.version, found.model)


@get(
    "/models/{fleet:str}/versions/{version:str}",
    operation_id="inferenceModelVersion",
    summary="What a version of a model takes and gives",
    tags=["inference"],
    opt={"roles": ASK},
    responses=_OF_MODEL,
)
async def model_version(
    fleet: FleetName, version: VersionName, service: NamedDependency[Service]
) -> ModelMetadata:
    """As without the version, which is the one that answers."""
    found = _loaded(service, fleet, version)
    return inference.metadata(fleet, found.version, found.model)


@get(
    "/models/{fleet:str}/ready",
    operation_id="inferenceModelReady",
    summary="Whether a model can answer",
    tags=["inference"],
    opt={"roles": ASK},
    responses=declared(Kind.INVALID_REQUEST, Kind.UNKNOWN_MODEL) | _or_not_now(ModelReady),
)
async def model_ready(fleet: FleetName, service: NamedDependency[Service]) -> Response[ModelReady]:
    """503 while the fleet's released model cannot be loaded and none answers in its place."""
    return _readiness(service, fleet)


@get(
    "/models/{fleet:str}/versions/{version:str}/ready",
    operation_id="inferenceModelVersionReady",
    summary="Whether a version of a model can answer",
    tags=["inference"],
    opt={"roles": ASK},
    responses=declared(Kind.INVALID_REQUEST, Kind.UNKNOWN_MODEL) | _or_not_now(ModelReady),
)
async def model_version_ready(
    fleet: FleetName, version: VersionName, service: NamedDependency[Service]
) -> Response[ModelReady]:
    """As without the version, which is the one that answers."""
    return _readiness(service, fleet, version)


@post(
    "/models/{fleet:str}/infer",
    operation_id="infer",
    operation_class=_TakesRows,
    summary="What the model says of feature rows",
    tags=["inference"],
    status_code=HTTP_200_OK,
    opt={"roles": ASK, "naturally_idempotent": True},
    responses=_ASKED,
)
async def infer(fleet: FleetName, request: Request[Any, Any, Any], body: RawBody) -> ASGIApp:
    """Remaining life in the fleet's unit of life, its bands, and the probability to fail.

    The figures are those of `RulModel.predict`, in the protocol's tensors (FP64, one number a row);
    whether a unit's state lets them stand is not judged. With the header
    `Inference-Header-Content-Length` the rows come as bytes behind the JSON.
    """
    return await _infer(request, body, fleet)


@post(
    "/models/{fleet:str}/versions/{version:str}/infer",
    operation_id="inferVersion",
    operation_class=_TakesRows,
    summary="What a version of the model says of feature rows",
    tags=["inference"],
    status_code=HTTP_200_OK,
    opt={"roles": ASK, "naturally_idempotent": True},
    responses=_ASKED,
)
async def infer_version(
    fleet: FleetName, version: VersionName, request: Request[Any, Any, Any], body: RawBody
) -> ASGIApp:
    """As without the version, which is the one that answers."""
    return await _infer(request, body, fleet, version)


async def _infer(
    request: Request[Any, Any, Any], body: bytes, fleet: str, version: str | None = None
) -> ASGIApp:
    service: Service = request.app.state.service
    found = _loaded(service, fleet, version)
    features, most = len(found.model.pipeline.names), service.settings.max_readings
    length = next((v for n, v in request.scope["headers"] if n == _HEADER_LENGTH), None)
    if len(body) > LARGE_BYTES:
        answer, told = await service.computing.run(_beside, found, fleet, body, length, most)
    else:
        question = inference.read(body, length, features, most)
        figures = await service.gathering.figures(found.model, question.rows)
        answer, told = inference.write(fleet, found.version, question.request, figures)
    return Answer(answer, told)


def _beside(
    found: LoadedModel, fleet: str, body: bytes, length: bytes | None, most_rows: int
) -> tuple[bytes, int | None]:
    question = inference.read(body, length, len(found.model.pipeline.names), most_rows)
    figures = table(found.model, question.rows)
    return inference.write(fleet, found.version, question.request, figures)


def _loaded(service: Service, fleet: str, version: str | None = None) -> LoadedModel:
    """The model that answers for the fleet.

    Raises:
        Refusal: There is none, or it is of another version.
        Unavailable: The released model cannot be loaded.
    """
    served = service.models.get(fleet)
    if served is None:
        refused = service.models.refused.get(fleet)
        if refused is not None:
            raise Unavailable(f"the model of fleet {fleet!r} cannot be used: {refused.reason}")
        raise Refusal(
            Kind.UNKNOWN_MODEL,
            f"no model {fleet!r} answers; models are named as their fleets, and a fleet has one "
            "once it is released (see GET /v1/models)",
        )
    if version is not None and version != served.loaded.version:
        raise Refusal(
            Kind.UNKNOWN_MODEL,
            f"version {version!r} of {fleet!r} does not answer, {served.loaded.version!r} does; "
            "ask that one, or without a version",
        )
    return served.loaded


def _readiness(service: Service, fleet: str, version: str | None = None) -> Response[ModelReady]:
    try:
        _loaded(service, fleet, version)
    except Unavailable:
        is_ready = False
    else:
        is_ready = True
    return Response(ModelReady(name=fleet, ready=is_ready), status_code=_status(is_ready))


def _status(is_ready: bool) -> int:
    return HTTP_200_OK if is_ready else HTTP_503_SERVICE_UNAVAILABLE
