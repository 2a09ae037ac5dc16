"""``/v1/fleets/{fleet}/readings/set-aside``: what machines sent and is not believed."""

from typing import Annotated

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from rul_serving import examples
from rul_serving.paging import Cursor, Limit, next_link
from rul_serving.principal import READ
from rul_serving.problems import Kind, declared
from rul_serving.routes.fleets import FleetName
from rul_serving.service import Service
from rul_serving.windows import LONGEST_UNIT, UNIT_PATTERN
from rul_store import set_aside
from rul_store.lake import Lake
from rul_store.set_aside import SetAsidePage


@get(
    "/fleets/{fleet:str}/readings/set-aside",
    operation_id="listSetAside",
    summary="Readings that contradict kept ones",
    tags=["readings"],
    opt={"roles": READ},
    responses=examples.shown(examples.SET_ASIDE, "A page")
    | declared(
        Kind.INVALID_REQUEST,
        Kind.INVALID_CURSOR,
        Kind.UNKNOWN_FLEET,
        Kind.INVALID_FLEET,
        Kind.UNAVAILABLE,
    ),
)
async def list_set_aside(
    fleet: FleetName,
    service: NamedDependency[Service],
    unit: Annotated[
        str | None,
        QueryParameter(
            pattern=UNIT_PATTERN, max_length=LONGEST_UNIT, description="Only of this unit."
        ),
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[SetAsidePage]:
    """Each as it was sent, beside what is kept of its cycle, the newest first.

    The first reading of a cycle stays, and one of a file counts before one that was sent. The same
    contradiction again is not set aside again.
    """
    described = await service.descriptions.get(fleet)
    lake = Lake(service.settings.root)
    page = await service.database.ask(
        set_aside.page, lake, described, unit=unit, limit=limit, after=cursor
    )
    link = next_link(
        f"/v1/fleets/{fleet}/readings/set-aside", page.next_cursor, unit=unit, limit=limit
    )
    return Response(page, headers=link)
