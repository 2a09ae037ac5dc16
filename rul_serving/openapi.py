"""The OpenAPI document: Litestar's paths, msgspec's schemas, descriptions from our docstrings.

What belongs here: the form of the document. What does not: the operations (``routes``), the types
(beside what they describe), writing the committed file (``schema``).

Litestar's own schemas of structs leave out that unknown fields are refused, and say of
``tuple[X, ...]`` that an item is X or anything; msgspec's say what msgspec does.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from typing import Any, get_args, get_type_hints

import msgspec
from litestar import Litestar, Request, Response, Router
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import License, Tag
from litestar.status_codes import HTTP_404_NOT_FOUND

from rul_core.prognosis import Prognosis
from rul_serving import guard
from rul_serving.answers import (
    Advisories,
    AdvisoryHistory,
    Alive,
    ApiKeys,
    Backups,
    ChampionHistory,
    Fleets,
    FleetTrackRecord,
    Health,
    ModelDetail,
    Models,
    ModelVersions,
    Moved,
    NewApiKey,
    ProblemKind,
    Prognoses,
    RankedUnits,
    Received,
    ShadowReport,
    UnitHistory,
)
from rul_serving.deeds import (
    Acknowledgement,
    AdvisoryVerdict,
    Because,
    LifeChange,
    Nomination,
    Planning,
    Promotion,
    ServiceChange,
    Shelving,
    UnitVerdict,
)
from rul_serving.inference import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from rul_serving.live import StreamEnd, StreamReset
from rul_serving.problems import Problem
from rul_serving.routes.keys import KeyRequest, RotationRequest
from rul_serving.rows import Reading
from rul_serving.windows import PrognosisRequest
from rul_store.advisories import UnitService
from rul_store.advisory_rows import Advisory, AdvisoryEvent
from rul_store.audit import AuditPage
from rul_store.champions import Champion
from rul_store.keys import ApiKey
from rul_store.ledger import Recorded
from rul_store.news import NewsKind
from rul_store.replay import Replayed
from rul_store.set_aside import SetAsidePage
from rul_store.shadow import Nominee
from rul_store.unit_lives import UnitLives
from rul_store.verdicts import Verdict

BODIES = (
    PrognosisRequest, Prognoses, Prognosis, Fleets, RankedUnits, Models, Health, Alive, ProblemKind,
    Problem, Reading, Received, KeyRequest, RotationRequest, ApiKey, ApiKeys, NewApiKey, AuditPage,
    InferenceRequest, InferenceResponse, ModelMetadata, ModelReady, ServerLive, ServerMetadata,
    ServerReady,
    Acknowledgement, Planning, Shelving, Because, Advisory, Advisories, AdvisoryHistory,
    AdvisoryVerdict, UnitVerdict, Verdict, LifeChange, UnitLives, ServiceChange, UnitService,
    UnitHistory, FleetTrackRecord, Recorded, Replayed,
    ModelVersions, ModelDetail, Champion, ChampionHistory, Moved, Promotion,
    AdvisoryEvent, StreamReset, StreamEnd, NewsKind,
    Nomination, Nominee, ShadowReport, SetAsidePage, Backups,
)  # fmt: skip
"""Every body of a question or an answer, and types that stand in none; a test says when one is
missing."""
REFERENCE = "#/components/schemas/{name}"
DESCRIPTION = """How long the machines of a fleet will live: a state, a point, bands and reasons.

Every error is a problem (RFC 9457, `application/problem+json`) with a stable `type` and a
`trace_id`, which is also in the header `X-Request-Id` of every answer. A GET changes nothing."""


def config(version: str) -> OpenAPIConfig:
    """What Litestar shall document, and where: ``/schema``, plain JSON that needs no network."""
    return OpenAPIConfig(
        title="RUL platform",
        version=version,
        description=DESCRIPTION,
        license=License(name="Apache-2.0", identifier="Apache-2.0"),
        tags=[
            Tag(name="prognoses", description="What is said of units."),
            Tag(name="readings", description="What machines send."),
            Tag(name="fleets", description="Which fleets there are, ranked unit by unit."),
            Tag(name="advisories", description="Which units near their end, and what is done."),
            Tag(name="units", description="Their lives, their service, what was found."),
            Tag(name="ledger", description="What was said, for good, and computed again."),
            Tag(name="models", description="Which model speaks for which fleet."),
            Tag(name="inference", description="The Open Inference Protocol, version 2."),
            Tag(name="administration", description="API keys, and who changed what."),
            Tag(name="service", description="Whether the service works; errors explained."),
        ],
        use_handler_docstrings=True,
        render_plugins=[_Corrected()],
        openapi_router=Router(
            "/schema",
            route_handlers=[],
            include_in_schema=False,
            after_request=_refuse_html,
            opt={"public": True},
        ),
    )


def corrected(app: Litestar, document: dict[str, Any]) -> dict[str, Any]:
    """The document with what the guard asks for, and msgspec's schemas of all bodies."""
    types = {type_.__name__: type_ for body in BODIES for type_ in _parts(body)}
    _, schemas = msgspec.json.schema_components(BODIES, ref_template=REFERENCE)
    for name, schema in schemas.items():
        told = _attribute_docs(types[name])
        lines = [inspect.getdoc(types[name]) or ""]
        for attribute, text in told.items():
            if "properties" in schema:
                schema["properties"][attribute]["description"] = text
            else:
                lines.append(f"- `{getattr(types[name], attribute).value}`: {text}")
        schema["description"] = "\n".join(lines)
        schema.update(getattr(types[name], "also", {}))
    document = guard.described(app, document)
    return {**document, "components": {**document["components"], "schemas": schemas}}


class _Corrected(JsonRenderPlugin):
    """The corrected document as JSON."""

    def render(self, request: Request, openapi_schema: dict[str, Any]) -> bytes:
        return super().render(request, corrected(request.app, openapi_schema))


def _refuse_html(response: Response) -> Response:
    """Litestar answers unknown addresses below /schema with HTML; a problem it shall be."""
    if response.status_code == HTTP_404_NOT_FOUND:
        raise NotFoundException
    return response


def _parts(type_: Any) -> Iterator[type]:
    """The structs and enumerations that a type is made of."""
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        yield type_
        for hint in get_type_hints(type_).values():
            yield from _parts(hint)
    elif isinstance(type_, type) and issubclass(type_, Enum):
        yield type_
    else:
        for argument in get_args(type_):
            yield from _parts(argument)


def _attribute_docs(type_: type) -> dict[str, str]:
    """The docstrings that stand under the attributes of a class."""
    source = ast.parse(textwrap.dedent(inspect.getsource(type_)))
    (class_,) = (node for node in source.body if isinstance(node, ast.ClassDef))
    docs = {}
    for attribute, below in pairwise(class_.body):
        match attribute, below:
            case (
                (ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)])),
                ast.Expr(ast.Constant(str(text))),
            ):
                docs[name] = " ".join(text.split())
    return docs
