"""``/v1/fleets/{fleet}/champion``: which model is live, which was, and moving it."""

from datetime import UTC, datetime
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import QueryParameter, RawBody
from litestar.status_codes import HTTP_200_OK

from rul_serving import bodies, examples, tracing
from rul_serving.answers import ChampionHistory, Moved
from rul_serving.bodies import takes
from rul_serving.deeds import Because, Promotion
from rul_serving.paging import Cursor, Limit, next_link
from rul_serving.preconditions import IfMatch, tag, wanted
from rul_serving.principal import READ, RELEASE, Principal
from rul_serving.problems import Flaw, Kind, Refusal, declared
from rul_serving.routes.fleets import FleetName
from rul_serving.routes.models import VersionName
from rul_serving.service import Service
from rul_store import champions, cursors
from rul_store.champions import Champion
from rul_store.deeds import Doer

LAST_GENERATION = 2**63 - 1
_OF_A_FLEET = (
    Kind.INVALID_REQUEST,
    Kind.UNKNOWN_FLEET,
    Kind.INVALID_FLEET,
    Kind.UNAVAILABLE,
)
_MAY_GO_WRONG = (
    *_OF_A_FLEET,
    Kind.UNKNOWN_MODEL,
    Kind.CONTRADICTION,
    Kind.DAMAGED_MODEL,
    Kind.PRECONDITION_FAILED,
    Kind.TOO_LARGE,
    Kind.UNSUPPORTED_MEDIA_TYPE,
    Kind.PRECONDITION_REQUIRED,
)


@get(
    "/fleets/{fleet:str}/champion",
    operation_id="getChampion",
    summary="The live model, now or at a time",
    tags=["models"],
    opt={"roles": READ},
    responses=examples.shown(examples.CHAMPION, "The champion")
    | declared(*_OF_A_FLEET, Kind.UNKNOWN_MODEL),
)
async def get_champion(
    fleet: FleetName,
    service: NamedDependency[Service],
    at: Annotated[
        datetime | None,
        QueryParameter(description="What was live then; with an offset from UTC, such as `Z`."),
    ] = None,
) -> Response[Champion]:
    """Since when and why; `ETag` names the generation of the present one, by which it is moved.

    As PostgreSQL has it: whether this server answers with it already is in `GET /v1/models`.
    """
    await service.fleet(fleet)
    if at is None:
        champion = await service.database.ask(champions.current, fleet)
    else:
        champion = await service.database.ask(champions.live_at, fleet, _moment(at))
    if champion is None:
        when = "yet" if at is None else f"at {at.isoformat()}"
        raise Refusal(Kind.UNKNOWN_MODEL, f"fleet {fleet!r} had no released model {when}")
    return Response(champion, headers=tag(champion.generation) if at is None else {})


@get(
    "/fleets/{fleet:str}/champion/history",
    operation_id="listChampions",
    summary="Every move of the champion",
    tags=["models"],
    opt={"roles": READ},
    responses=examples.shown(examples.CHAMPIONS, "A page")
    | declared(*_OF_A_FLEET, Kind.INVALID_CURSOR),
)
async def list_champions(
    fleet: FleetName,
    service: NamedDependency[Service],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[ChampionHistory]:
    """Who moved it to which version, when, how and why; the newest move first."""
    await service.fleet(fleet)
    before = None
    if cursor is not None:
        before = cursors.decode(cursor, int, "this history")
        if not 0 < before <= LAST_GENERATION:
            raise Refusal(Kind.INVALID_CURSOR, f"{cursor!r} is none; begin again without one")
    moves = await service.database.ask(
        champions.moves_before, fleet, limit=limit + 1, before=before
    )
    more = len(moves) > limit
    answer = ChampionHistory(
        fleet=fleet,
        moves=list(moves[:limit]),
        next_cursor=cursors.encode(moves[limit - 1].generation) if more else None,
    )
    path = f"/v1/fleets/{fleet}/champion/history"
    return Response(answer, headers=next_link(path, answer.next_cursor, limit=limit))


@post(
    "/fleets/{fleet:str}/models/{version:str}/promote",
    operation_id="promote",
    operation_class=takes(Promotion, "After a time in the shadow", examples.PROMOTION),
    summary="Make a version live",
    tags=["models"],
    status_code=HTTP_200_OK,
    opt={"roles": RELEASE},
    responses=examples.shown(examples.MOVED, "It is live")
    | declared(*_MAY_GO_WRONG, Kind.GATE_NOT_PASSED),
)
async def promote(
    request: Request[Any, Any, Any],
    body: RawBody,
    fleet: FleetName,
    version: VersionName,
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[Moved]:
    """`If-Match` is the `ETag` of the champion as it was looked at; `"0"` before the first.

    A version that is damaged, or answers otherwise than when it was trained, is refused; one that
    the release gate speaks against is, unless `despite_gate` is said. Whoever takes this request
    answers with it at once, all others within seconds; then each unit's prognosis is made anew.
    """
    said = bodies.read(request, body, Promotion)
    expected = wanted(if_match)
    await service.fleet(fleet)
    moved = await service.moves.promote(
        fleet,
        version,
        reason=said.reason,
        expected=expected,
        despite_gate=said.despite_gate,
        by=_doer(principal),
    )
    return Response(moved, headers=tag(moved.champion.generation))


@post(
    "/fleets/{fleet:str}/champion/rollback",
    operation_id="rollBack",
    operation_class=takes(Because, "It sees what is not there", examples.WORSE),
    summary="Make the version before live again",
    tags=["models"],
    status_code=HTTP_200_OK,
    opt={"roles": RELEASE},
    responses=examples.shown(examples.MOVED, "It is live again") | declared(*_MAY_GO_WRONG),
)
async def roll_back(
    request: Request[Any, Any, Any],
    body: RawBody,
    fleet: FleetName,
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
    if_match: IfMatch = None,
) -> Response[Moved]:
    """`If-Match` is the `ETag` of the champion as it was looked at.

    Twice goes two versions back; what was rolled back is not returned to.
    """
    said = bodies.read(request, body, Because)
    expected = wanted(if_match)
    await service.fleet(fleet)
    moved = await service.moves.roll_back(
        fleet, reason=said.reason, expected=expected, by=_doer(principal)
    )
    return Response(moved, headers=tag(moved.champion.generation))


def _moment(at: datetime) -> datetime:
    try:
        if at.tzinfo is not None:
            return at.astimezone(UTC)
        message = f"{at.isoformat()} has no offset from UTC; add one, such as Z"
    except OverflowError:
        message = f"{at.isoformat()} is outside the years 1 to 9999 in UTC"
    raise Refusal(Kind.INVALID_REQUEST, f"at: {message}", [Flaw(at="at", message=message)])


def _doer(principal: Principal) -> Doer:
    return Doer(principal=principal.name, trace_id=tracing.trace_id())
