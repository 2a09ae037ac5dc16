"""Whether the service works, for containers, load balancers and Prometheus; problems explained."""

import asyncio

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.enums import MediaType
from litestar.openapi import ResponseSpec
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE
from prometheus_client import CONTENT_TYPE_LATEST

from rul_serving import health, metrics
from rul_serving.answers import Alive, Health, ProblemKind, Readiness
from rul_serving.problems import Kind, Refusal, declared
from rul_serving.service import Service

_DOWN = {
    HTTP_503_SERVICE_UNAVAILABLE: ResponseSpec(
        Health, generate_examples=False, description="It cannot give any prognosis"
    )
}


@get(
    "/livez",
    operation_id="live",
    summary="Whether the process answers",
    tags=["service"],
    opt={"public": True},
    responses=declared(),
    sync_to_thread=False,
)
def live() -> Alive:
    """Asks nobody else."""
    return Alive()


@get(
    "/readyz",
    operation_id="ready",
    summary="Whether prognoses can be given, and what is missing",
    tags=["service"],
    opt={"public": True},
    responses=declared() | _DOWN,
)
async def ready(service: NamedDependency[Service]) -> Response[Health]:
    """By dependency; `degraded` still serves prognoses."""
    return _respond(await health.check(service))


@get(
    "/health",
    operation_id="health",
    summary="The same as /readyz, for containers",
    tags=["service"],
    opt={"public": True},
    responses=declared() | _DOWN,
)
async def summary(service: NamedDependency[Service]) -> Response[Health]:
    """200 while prognoses can be given, so that a container is not restarted for its database."""
    return _respond(await health.check(service))


@get("/metrics", include_in_schema=False, media_type=MediaType.TEXT, opt={"public": True})
async def scrape(service: NamedDependency[Service]) -> Response[bytes]:
    """For Prometheus: what the instance counts, and what it tells of whole fleets."""
    counted = await asyncio.to_thread(metrics.exposition, service.models.served)
    told = counted + await service.fleetwide.exposition()
    return Response(told, headers={"Content-Type": CONTENT_TYPE_LATEST})


@get(
    "/problems/{name:str}",
    operation_id="explainProblem",
    summary="What a kind of problem means",
    tags=["service"],
    opt={"public": True},
    responses=declared(Kind.INVALID_REQUEST, Kind.NOT_FOUND),
    sync_to_thread=False,
)
def explain(name: FromPath[str]) -> ProblemKind:
    """Where the `type` of every problem leads."""
    for kind in Kind:
        if kind.slug == name:
            return ProblemKind(type=kind.type, status=kind.status, title=kind.title)
    raise Refusal(Kind.NOT_FOUND, f"there is no problem {name!r}")


def _respond(found: Health) -> Response[Health]:
    down = found.status is Readiness.DOWN
    return Response(found, status_code=HTTP_503_SERVICE_UNAVAILABLE if down else HTTP_200_OK)
