"""The Open Inference Protocol (version 2): feature rows in, figures out, as JSON or as raw bytes.

What belongs here: the bodies of the protocol, to arrays and from arrays. What does not: the
addresses (``routes.inference``), the model (``rul_core.model``).

https://github.com/kserve/open-inference-protocol, with Triton's extension for binary tensors: a
body begins with JSON, whose length the header ``Inference-Header-Content-Length`` says, and the
tensors' bytes follow. What the protocol allows beyond this is not refused and not looked at.
"""

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from rul_core.model import BOUNDS, RulModel
from rul_core.trees import ENGINE
from rul_serving import bodies
from rul_serving.problems import Flaw, Kind, Refusal

HEADER_LENGTH = "inference-header-content-length"
FEATURES = "features"
OUTPUTS = ("rul_cycles", *(f"{name}_cycles" for name in BOUNDS), "failure_probability")
"""In the order of ``RulModel.figures``."""
DTYPES = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}


class InputParameters(msgspec.Struct, frozen=True):
    """What else is said of an input."""

    binary_data_size: int | None = None
    """Its bytes behind the JSON, little-endian and row by row, instead of ``data``."""


class InputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """The feature rows."""

    name: str
    """The name that the model's metadata gives: ``features``."""
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=2, max_length=2)]
    """Rows, and the model's features."""
    datatype: Literal["FP32", "FP64"]
    """The model works with FP32."""
    data: list[float | list[float | None] | None] = []
    """Numbers row by row in the order of the model's metadata, flat or an array a row; null where
    a feature is not known."""
    parameters: InputParameters | None = None


class OutputParameters(msgspec.Struct, frozen=True):
    """How an output is wanted."""

    binary_data: bool | None = None
    """Whether as bytes behind the JSON."""


class RequestedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """An output that is wanted."""

    name: Annotated[str, Meta(extra_json_schema={"enum": list(OUTPUTS)})]
    parameters: OutputParameters | None = None


class RequestParameters(msgspec.Struct, frozen=True):
    """How the answer is wanted."""

    binary_data_output: bool = False
    """Whether outputs come as bytes behind the JSON, where they do not say otherwise."""


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Feature rows for the model."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=1)]
    id: str | None = None
    """Given back with the answer."""
    outputs: list[RequestedOutput] | None = None
    """Which outputs are wanted, in this order; without any, all."""
    parameters: RequestParameters | None = None


class OutputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of every row."""

    name: str
    datatype: str = "FP64"
    shape: list[int]
    data: list[float] | msgspec.UnsetType = msgspec.UNSET
    """A number a row; left out where the bytes are behind the JSON."""
    parameters: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    """``binary_data_size``, where they are."""


class InferenceResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What the model says of the rows."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | msgspec.UnsetType = msgspec.UNSET
    """As the request brought it."""


class TensorMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a tensor must be, or will be; -1 is any number of rows."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, list[str]] | msgspec.UnsetType = msgspec.UNSET
    """``names``: the features in their order."""


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The model that answers for a fleet."""

    name: str
    """The fleet's."""
    versions: list[str]
    """Only the version that answers."""
    platform: str
    """What evaluates it."""
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, str]
    """``feature_spec``: the hash of how features are made of readings."""


class ServerMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The service."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(msgspec.Struct, frozen=True, kw_only=True):
    """The process answers."""

    live: bool = True


class ServerReady(msgspec.Struct, frozen=True, kw_only=True):
    """Whether models can answer."""

    ready: bool


class ModelReady(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a model can answer."""

    name: str
    """The fleet's."""
    ready: bool


class Question(msgspec.Struct, frozen=True):
    """A request that has been read."""

    rows: np.ndarray
    """(n, features) float32."""
    request: InferenceRequest


def metadata(fleet: str, version: str, model: RulModel) -> ModelMetadata:
    """What the model takes and gives."""
    names = list(model.pipeline.names)
    rows = TensorMetadata(
        name=FEATURES, datatype="FP32", shape=[-1, len(names)], parameters={"names": names}
    )
    return ModelMetadata(
        name=fleet,
        versions=[version],
        platform=ENGINE,
        inputs=[rows],
        outputs=[TensorMetadata(name=name, datatype="FP64", shape=[-1]) for name in OUTPUTS],
        parameters={"feature_spec": model.feature_spec},
    )


def read(body: bytes, header_length: bytes | None, features: int, most_rows: int) -> Question:
    """The feature rows of a body.

    Args:
        body: As it came.
        header_length: The header ``Inference-Header-Content-Length``, where there is one.
        features: How many the model takes.
        most_rows: In one request.

    Raises:
        Refusal: The body cannot be read, is not for this model, or has too many rows.
    """
    raw = b""
    if header_length is not None:
        length = int(header_length) if header_length.isdigit() else -1
        if not 0 <= length <= len(body):
            raise _refusal(
                "Inference-Header-Content-Length",
                f"{header_length.decode('latin-1')!r} is no length within the body's {len(body)}",
            )
        body, raw = body[:length], body[length:]
    try:
        request = bodies.parsed(body, InferenceRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal("body", f"it is no inference request: {error}") from error
    for output in request.outputs or ():
        if output.name not in OUTPUTS:
            raise _refusal("outputs", f"there is no {output.name!r}, only {', '.join(OUTPUTS)}")
    (tensor,) = request.inputs
    rows, width = tensor.shape
    if tensor.name != FEATURES or width != features:
        raise _refusal(
            "inputs[0]",
            f"it is {tensor.name!r} of shape {tensor.shape}; the model takes {FEATURES!r} of "
            f"shape [rows, {features}], in the order of its metadata",
        )
    if rows > most_rows:
        detail = f"{rows} rows in one request, at most {most_rows} are taken; ask several times"
        raise Refusal(Kind.TOO_LARGE, detail)
    values = _values(tensor, raw)
    if values.size != rows * width:
        message = f"there are {values.size} numbers, and shape {tensor.shape} has {rows * width}"
        raise _refusal("inputs[0]", message)
    # A number beyond float32 is infinite to the model, as it is when it computes features.
    with np.errstate(over="ignore"):
        return Question(values.reshape(rows, width).astype(np.float32), request)


def _values(tensor: InputTensor, raw: bytes) -> np.ndarray:
    """(numbers,) as they were given."""
    if tensor.parameters is not None and tensor.parameters.binary_data_size is not None:
        dtype, size = DTYPES[tensor.datatype], tensor.parameters.binary_data_size
        if size != len(raw) or size % dtype.itemsize:
            message = f"binary_data_size is {size}, and {len(raw)} bytes follow the JSON"
            raise _refusal("inputs[0].parameters", message)
        return np.frombuffer(raw, dtype)
    numbers: Any = tensor.data
    try:
        if numbers and isinstance(numbers[0], list):
            numbers = [number for row in numbers for number in row]
        return np.array(numbers, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        message = "give numbers row by row, flat or an array a row, and not both"
        raise _refusal("inputs[0].data", message) from error


def write(
    fleet: str, version: str, request: InferenceRequest, figures: np.ndarray
) -> tuple[bytes, int | None]:
    """The answer's body and, where bytes follow the JSON, the JSON's length.

    Args:
        fleet: The model's name.
        version: The model's.
        request: What was asked.
        figures: (n, ``OUTPUTS``) float64.
    """
    shape, columns = [len(figures)], figures.T.tolist()
    binary = request.parameters is not None and request.parameters.binary_data_output
    if not request.outputs and not binary:
        outputs = [
            OutputTensor(name=name, shape=shape, data=column)
            for name, column in zip(OUTPUTS, columns, strict=True)
        ]
        return _response(fleet, version, request, outputs), None
    outputs, behind = [], []
    for output in request.outputs or [RequestedOutput(name=name) for name in OUTPUTS]:
        column, wanted = OUTPUTS.index(output.name), output.parameters
        is_binary = binary
        if wanted is not None and wanted.binary_data is not None:
            is_binary = wanted.binary_data
        if is_binary:
            content = figures[:, column].astype(DTYPES["FP64"]).tobytes()
            behind.append(content)
            size = {"binary_data_size": len(content)}
            outputs.append(OutputTensor(name=output.name, shape=shape, parameters=size))
        else:
            outputs.append(OutputTensor(name=output.name, shape=shape, data=columns[column]))
    told = _response(fleet, version, request, outputs)
    return b"".join([told, *behind]), len(told) if behind else None


def _response(
    fleet: str, version: str, request: InferenceRequest, outputs: list[OutputTensor]
) -> bytes:
    id_ = msgspec.UNSET if request.id is None else request.id
    response = InferenceResponse(model_name=fleet, model_version=version, outputs=outputs, id=id_)
    return msgspec.json.encode(response)


def _refusal(at: str, message: str) -> Refusal:
    return Refusal(Kind.INVALID_REQUEST, f"{at}: {message}", [Flaw(at=at, message=message)])
