"""``/v1/advisories``: which units near their end, and what people do about it."""

from typing import Annotated, Any, NamedTuple
from uuid import UUID

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, QueryParameter, RawBody
from litestar.status_codes import HTTP_200_OK

from rul_core.advisory_terms import (
    Acknowledge,
    AdvisoryState,
    ByPeople,
    Close,
    Plan,
    Priority,
    Shelve,
    Unshelve,
    Until,
)
from rul_serving import bodies, examples, guard, tracing
from rul_serving.answers import Advisories, AdvisoryHistory
from rul_serving.bodies import takes
from rul_serving.deeds import Acknowledgement, Because, Planning, Shelving
from rul_serving.paging import Cursor, Limit, next_link
from rul_serving.preconditions import IfMatch, tag, wanted
from rul_serving.principal import PLAN, READ, WORK, Principal
from rul_serving.problems import Kind, declared
from rul_serving.routes.fleets import FleetName
from rul_serving.service import Service
from rul_serving.windows import LONGEST_UNIT, UNIT_PATTERN
from rul_store import advisory_rows, deeds, verdicts
from rul_store.advisory_rows import Advisory, Filter
from rul_store.deeds import Doer

_MAY_GO_WRONG = declared(
    Kind.INVALID_REQUEST,
    Kind.UNKNOWN_ADVISORY,
    Kind.STEP_REFUSED,
    Kind.PRECONDITION_FAILED,
    Kind.TOO_LARGE,
    Kind.UNSUPPORTED_MEDIA_TYPE,
    Kind.PRECONDITION_REQUIRED,
    Kind.UNAVAILABLE,
)


def _answers(summary: str) -> dict[int, ResponseSpec]:
    return examples.shown(examples.ADVISORY, summary) | _MAY_GO_WRONG


@get(
    "/fleets/{fleet:str}/advisories",
    operation_id="listAdvisories",
    summary="A fleet's advisories, the most urgent first",
    tags=["advisories"],
    opt={"roles": READ},
    responses=examples.shown(examples.ADVISORIES, "A page")
    | declared(
        Kind.INVALID_REQUEST,
        Kind.INVALID_CURSOR,
        Kind.UNKNOWN_FLEET,
        Kind.INVALID_FLEET,
        Kind.UNAVAILABLE,
    ),
)
async def list_advisories(
    fleet: FleetName,
    service: NamedDependency[Service],
    only: Annotated[
        AdvisoryState | None, QueryParameter(name="state", description="Only those that stand so.")
    ] = None,
    priority: Annotated[
        Priority | None, QueryParameter(description="Only those of this priority.")
    ] = None,
    unit: Annotated[
        str | None,
        QueryParameter(
            pattern=UNIT_PATTERN, max_length=LONGEST_UNIT, description="Only those of this unit."
        ),
    ] = None,
    is_open: Annotated[
        bool | None, QueryParameter(name="open", description="Only open ones, or only closed.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[Advisories]:
    """By priority, then by age, the newest first; a unit has one that is open at most.

    The header `Link` has the address of the next page (`rel="next"`), while there is one.
    """
    await service.descriptions.get(fleet)
    wanted = Filter(state=only, priority=priority, unit=unit, is_open=is_open)
    page = await service.database.ask(advisory_rows.page, fleet, wanted, limit=limit, after=cursor)
    answer = Advisories(
        fleet=fleet,
        advisories=list(page.advisories),
        record=await service.database.ask(verdicts.record, fleet),
        next_cursor=page.cursor,
    )
    link = next_link(
        f"/v1/fleets/{fleet}/advisories",
        page.cursor,
        state=only,
        priority=priority,
        unit=unit,
        open=None if is_open is None else str(is_open).lower(),
        limit=limit,
    )
    return Response(answer, headers=link)


@get(
    "/advisories/{advisory_id:uuid}",
    operation_id="getAdvisory",
    summary="An advisory",
    tags=["advisories"],
    opt={"roles": READ},
    responses=examples.shown(examples.ADVISORY, "The advisory")
    | declared(Kind.INVALID_REQUEST, Kind.UNKNOWN_ADVISORY, Kind.UNAVAILABLE),
)
async def get_advisory(
    advisory_id: FromPath[UUID],
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
) -> Response[Advisory]:
    """Why it was opened, how it stands, what may be done; `ETag` names its version.

    The version changes when something happens to the advisory, not with each prognosis that
    bears it out, so that a machine does not get in the way of people.
    """
    return _tagged(await visible(service, principal, advisory_id))


@get(
    "/advisories/{advisory_id:uuid}/events",
    operation_id="listAdvisoryEvents",
    summary="What happened to an advisory, and what was found",
    tags=["advisories"],
    opt={"roles": READ},
    responses=examples.shown(examples.HISTORY, "A page")
    | declared(Kind.INVALID_REQUEST, Kind.INVALID_CURSOR, Kind.UNKNOWN_ADVISORY, Kind.UNAVAILABLE),
)
async def list_events(
    advisory_id: FromPath[UUID],
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[AdvisoryHistory]:
    """Every change says who, when and why; `system` is what prognoses and time do."""
    await visible(service, principal, advisory_id)
    page = await service.database.ask(advisory_rows.events, advisory_id, limit=limit, after=cursor)
    answer = AdvisoryHistory(
        events=list(page.events),
        verdicts=list(await service.database.ask(verdicts.of_advisory, advisory_id)),
        next_cursor=page.cursor,
    )
    link = next_link(f"/v1/advisories/{advisory_id}/events", page.cursor, limit=limit)
    return Response(answer, headers=link)


@post(
    "/advisories/{advisory_id:uuid}/acknowledge",
    operation_id="acknowledgeAdvisory",
    operation_class=takes(Acknowledgement, "Until it gets worse", examples.ACKNOWLEDGEMENT),
    summary="Take note of an advisory",
    tags=["advisories"],
    status_code=HTTP_200_OK,
    opt={"roles": WORK},
    responses=_answers("It is acknowledged"),
)
async def acknowledge(
    request: Request[Any, Any, Any],
    body: RawBody,
    advisory_id: FromPath[UUID],
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[Advisory]:
    """Until the next reading, until a time, or until it gets worse.

    It is worse when the priority rises, or when the end comes nearer than it was by more than the
    rule's margin. One whose condition is over is closed by this.
    """
    said = bodies.read(request, body, Acknowledgement)
    step = Acknowledge(until=said.until_time or said.until or Until.WORSE)
    decided = _Decision(advisory_id, if_match, said.reason)
    return await _act(service, principal, decided, step)


@post(
    "/advisories/{advisory_id:uuid}/plan",
    operation_id="planAdvisory",
    operation_class=takes(Planning, "A day for the work", examples.PLANNING),
    summary="Plan work for a unit",
    tags=["advisories"],
    status_code=HTTP_200_OK,
    opt={"roles": PLAN},
    responses=_answers("It is planned"),
)
async def plan(
    request: Request[Any, Any, Any],
    body: RawBody,
    advisory_id: FromPath[UUID],
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[Advisory]:
    """It comes back when the time has passed, or the end comes nearer than was foreseen."""
    said = bodies.read(request, body, Planning)
    decided = _Decision(advisory_id, if_match, said.reason)
    return await _act(service, principal, decided, Plan(due=said.due_time))


@post(
    "/advisories/{advisory_id:uuid}/shelve",
    operation_id="shelveAdvisory",
    operation_class=takes(Shelving, "For a week", examples.SHELVING),
    summary="Put an advisory away for a time",
    tags=["advisories"],
    status_code=HTTP_200_OK,
    opt={"roles": PLAN},
    responses=_answers("It is shelved"),
)
async def shelve(
    request: Request[Any, Any, Any],
    body: RawBody,
    advisory_id: FromPath[UUID],
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[Advisory]:
    """Never for ever, never without a reason."""
    said = bodies.read(request, body, Shelving)
    decided = _Decision(advisory_id, if_match, said.reason)
    return await _act(service, principal, decided, Shelve(until=said.until_time))


@post(
    "/advisories/{advisory_id:uuid}/unshelve",
    operation_id="unshelveAdvisory",
    operation_class=takes(Because, "Back at once", examples.BECAUSE),
    summary="Take an advisory off the shelf",
    tags=["advisories"],
    status_code=HTTP_200_OK,
    opt={"roles": PLAN},
    responses=_answers("It is back, or closed where its condition is over"),
)
async def unshelve(
    request: Request[Any, Any, Any],
    body: RawBody,
    advisory_id: FromPath[UUID],
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[Advisory]:
    """Before its time."""
    said = bodies.read(request, body, Because)
    decided = _Decision(advisory_id, if_match, said.reason)
    return await _act(service, principal, decided, Unshelve())


@post(
    "/advisories/{advisory_id:uuid}/close",
    operation_id="closeAdvisory",
    operation_class=takes(Because, "The work is done", examples.BECAUSE),
    summary="Close an advisory",
    tags=["advisories"],
    status_code=HTTP_200_OK,
    opt={"roles": PLAN},
    responses=_answers("It is closed"),
)
async def close(
    request: Request[Any, Any, Any],
    body: RawBody,
    advisory_id: FromPath[UUID],
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[Advisory]:
    """Only what is said of the unit from now on can open the next one."""
    said = bodies.read(request, body, Because)
    decided = _Decision(advisory_id, if_match, said.reason)
    return await _act(service, principal, decided, Close())


async def visible(service: Service, principal: Principal, advisory_id: UUID) -> Advisory:
    """The advisory, for somebody who may see its fleet.

    Raises:
        Refusal: The principal may not see its fleet.
        UnknownAdvisory: There is none.
    """
    advisory = await service.database.ask(advisory_rows.one, advisory_id)
    guard.require_fleet(principal, advisory.fleet)
    return advisory


class _Decision(NamedTuple):
    advisory_id: UUID
    if_match: str | None
    reason: str


async def _act(
    service: Service,
    principal: Principal,
    decided: _Decision,
    step: ByPeople,
) -> Response[Advisory]:
    expected = wanted(decided.if_match)
    await visible(service, principal, decided.advisory_id)
    advisory = await service.database.ask(
        deeds.act,
        decided.advisory_id,
        step,
        why=decided.reason,
        by=Doer(principal=principal.name, trace_id=tracing.trace_id()),
        expected=expected,
    )
    service.live.tell(advisory.fleet)
    return _tagged(advisory)


def _tagged(advisory: Advisory) -> Response[Advisory]:
    return Response(advisory, headers=tag(advisory.version))
