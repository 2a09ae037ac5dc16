"""``/v1/fleets/{fleet}/challenger`` and ``/shadow``: a model that speaks beside the champion."""

from typing import Annotated, Any

from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import QueryParameter, RawBody
from litestar.status_codes import HTTP_200_OK

from rul_core import shadow as core
from rul_serving import bodies, examples, tracing
from rul_serving.answers import ShadowReport
from rul_serving.bodies import takes
from rul_serving.deeds import Nomination
from rul_serving.paging import Cursor, Limit, next_link
from rul_serving.principal import READ, RELEASE, Principal
from rul_serving.problems import Kind, Refusal, declared
from rul_serving.routes.fleets import FleetName
from rul_serving.service import Service
from rul_store import shadow
from rul_store.registry import VERSION_PATTERN
from rul_store.shadow import Nominee

_OF_A_FLEET = (
    Kind.INVALID_REQUEST,
    Kind.UNKNOWN_FLEET,
    Kind.INVALID_FLEET,
    Kind.UNAVAILABLE,
)


@post(
    "/fleets/{fleet:str}/challenger",
    operation_id="nominate",
    operation_class=takes(Nomination, "To be compared in life", examples.NOMINATION),
    summary="Let a version speak in the shadow of the champion",
    tags=["models"],
    status_code=HTTP_200_OK,
    opt={"roles": RELEASE},
    responses=examples.shown(examples.NOMINEE, "It is the challenger")
    | declared(
        *_OF_A_FLEET,
        Kind.UNKNOWN_MODEL,
        Kind.CONTRADICTION,
        Kind.DAMAGED_MODEL,
        Kind.TOO_LARGE,
        Kind.UNSUPPORTED_MEDIA_TYPE,
    ),
)
async def nominate(
    request: Request[Any, Any, Any],
    body: RawBody,
    fleet: FleetName,
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
) -> Nominee:
    """From now on it sees what the champion sees, and nobody is told what it says but here.

    A fleet has one challenger at a time; that it is promoted or withdrawn ends the nomination. One
    that the release gate speaks against may be tried so, too.
    """
    said = bodies.read(request, body, Nomination)
    await service.fleet(fleet)
    await service.models.prove(fleet, said.version)
    nominee = await service.database.ask(
        shadow.nominate,
        service.settings.root,
        fleet,
        said.version,
        by=principal.name,
        reason=said.reason,
        trace_id=tracing.trace_id(),
    )
    service.shadow.look_soon()
    return nominee


@delete(
    "/fleets/{fleet:str}/challenger",
    operation_id="withdraw",
    summary="Withdraw the challenger",
    tags=["models"],
    status_code=HTTP_200_OK,
    opt={"roles": RELEASE},
    responses=examples.shown(examples.NOMINEE, "It was the challenger")
    | declared(*_OF_A_FLEET, Kind.CONTRADICTION),
)
async def withdraw(
    fleet: FleetName,
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
    reason: Annotated[
        str,
        QueryParameter(
            min_length=1, max_length=2000, pattern=r"[^\s\x00]", description="For people, later."
        ),
    ],
) -> Nominee:
    """What it said is kept for 90 days, and found by its version."""
    await service.fleet(fleet)
    nominee = await service.database.ask(
        shadow.withdraw, fleet, by=principal.name, reason=reason, trace_id=tracing.trace_id()
    )
    service.shadow.look_soon()
    return nominee


@get(
    "/fleets/{fleet:str}/shadow",
    operation_id="getShadow",
    summary="What the challenger says beside the champion",
    tags=["models"],
    opt={"roles": READ},
    responses=examples.shown(examples.SHADOW, "A page, and the comparison")
    | declared(*_OF_A_FLEET, Kind.INVALID_CURSOR, Kind.UNKNOWN_MODEL),
)
async def get_shadow(
    fleet: FleetName,
    service: NamedDependency[Service],
    version: Annotated[
        str | None,
        QueryParameter(
            pattern=f"^{VERSION_PATTERN}$(?!\n)",
            description="Also one that is no challenger any more; the present one unless given.",
        ),
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[ShadowReport]:
    """By unit: what both said of it at the cycle at which both spoke last, and how far apart.

    `comparison` holds both against lives that have failed since the nomination: errors pair by
    pair with their 95 % interval over units, how often the bands held, the dangerous side. A unit
    that sends nothing has no pair, and under load some readings are passed over.
    """
    described = await service.fleet(fleet)
    nominee = (await service.database.ask(shadow.nominees)).get(fleet)
    asked = version or (nominee.version if nominee else None)
    if asked is None:
        detail = f"fleet {fleet!r} has no challenger; nominate one, or name a version that was one"
        raise Refusal(Kind.UNKNOWN_MODEL, detail)
    page = await service.database.ask(shadow.page, fleet, asked, limit=limit, after=cursor)
    ended = await service.database.ask(shadow.ended, fleet, asked)
    cap = described.learning.label_cap_cycles
    is_nominee = nominee is not None and nominee.version == asked
    beside = service.shadow.get(fleet)
    answer = ShadowReport(
        fleet=fleet,
        version=asked,
        challenger=nominee if is_nominee else None,
        problem=beside.problem if is_nominee and beside and beside.nominee == nominee else "",
        comparison=await service.computing.run(core.compare, *ended, cap_cycles=cap),
        pairs=list(page.pairs),
        next_cursor=page.cursor,
    )
    path = f"/v1/fleets/{fleet}/shadow"
    return Response(answer, headers=next_link(path, page.cursor, version=version, limit=limit))
