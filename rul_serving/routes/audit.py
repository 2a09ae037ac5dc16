"""``/v1/audit``: who changed what."""

from typing import Annotated

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from rul_serving import examples
from rul_serving.paging import next_link
from rul_serving.principal import ADMINISTER
from rul_serving.problems import Kind, declared
from rul_serving.service import Service
from rul_store import audit
from rul_store.audit import AuditPage


@get(
    "/audit",
    operation_id="listAudit",
    summary="Who changed what",
    tags=["administration"],
    opt={"roles": ADMINISTER},
    responses=examples.shown(examples.AUDIT, "A page")
    | declared(Kind.INVALID_REQUEST, Kind.INVALID_CURSOR),
)
async def list_audit(
    service: NamedDependency[Service],
    limit: Annotated[
        int, QueryParameter(ge=1, le=1000, description="Entries on a page at most.")
    ] = 50,
    cursor: Annotated[
        str | None,
        QueryParameter(max_length=1000, description="`next_cursor` of the page before."),
    ] = None,
) -> Response[AuditPage]:
    """Every change that a person, a machine or the platform made, the newest first.

    Each entry's hash takes in the one before, so that none can be changed unseen: `rul audit
    verify` walks along them.
    """
    page = await service.database.ask(audit.page, limit=limit, after=cursor)
    return Response(page, headers=next_link("/v1/audit", page.next_cursor, limit=limit))
