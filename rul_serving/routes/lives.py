"""``/v1/fleets/{fleet}/units/{unit}``: its lives, whether it is in service, what was found."""

from typing import Any
from uuid import UUID

from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, RawBody
from litestar.status_codes import HTTP_200_OK

from rul_serving import bodies, examples, tracing
from rul_serving.bodies import takes
from rul_serving.deeds import AdvisoryVerdict, LifeChange, ServiceChange, UnitVerdict
from rul_serving.principal import PLAN, READ, WORK, Principal
from rul_serving.problems import Kind, Refusal, declared
from rul_serving.routes.advisories import visible
from rul_serving.routes.fleets import FleetName, UnitName
from rul_serving.service import Service
from rul_store import deeds, unit_lives
from rul_store.advisories import UnitService
from rul_store.deeds import Doer, Start
from rul_store.unit_lives import UnitLives
from rul_store.verdicts import Verdict

_OF_A_UNIT = (
    Kind.INVALID_REQUEST,
    Kind.UNKNOWN_FLEET,
    Kind.UNKNOWN_UNIT,
    Kind.INVALID_FLEET,
    Kind.UNAVAILABLE,
)
_WITH_BODY = (Kind.TOO_LARGE, Kind.UNSUPPORTED_MEDIA_TYPE)


@get(
    "/fleets/{fleet:str}/units/{unit:str}/lives",
    operation_id="listLives",
    summary="A unit's lives",
    tags=["units"],
    opt={"roles": READ},
    responses=examples.shown(examples.LIVES, "The lives") | declared(*_OF_A_UNIT),
)
async def list_lives(
    fleet: FleetName, unit: UnitName, service: NamedDependency[Service]
) -> UnitLives:
    """Each from new to its end, the first first, and whether the unit is in service."""
    await service.descriptions.get(fleet)
    return await service.database.ask(unit_lives.read, fleet, unit)


@post(
    "/fleets/{fleet:str}/units/{unit:str}/lives",
    operation_id="changeLives",
    operation_class=takes(LifeChange, "A pump was replaced", examples.LIFE_CHANGE),
    summary="End a unit's life, start its next",
    tags=["units"],
    status_code=HTTP_200_OK,
    opt={"roles": PLAN},
    responses=examples.shown(examples.LIVES, "The lives as they are now")
    | declared(*_OF_A_UNIT, *_WITH_BODY, Kind.CONTRADICTION),
)
async def change_lives(
    request: Request[Any, Any, Any],
    body: RawBody,
    fleet: FleetName,
    unit: UnitName,
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
) -> UnitLives:
    """Failures are what models learn from, so say `failed` only of what failed.

    An end that is kept stays; the same end again changes nothing. The end of a life closes its
    advisory. A unit that nobody has heard of is taken in or refused, by the fleet's description.
    """
    said = bodies.read(request, body, LifeChange)
    described = await service.descriptions.get(fleet)
    told = await service.database.ask(
        deeds.change_lives,
        fleet,
        unit,
        end=said.end.end() if said.end else None,
        start=Start(life=said.start.life, time=said.start.time) if said.start else None,
        introduces=described.unknown_units == "create",
        by=_doer(principal),
    )
    service.live.tell(fleet)
    return told


@post(
    "/fleets/{fleet:str}/units/{unit:str}/service-state",
    operation_id="changeServiceState",
    operation_class=takes(ServiceChange, "In maintenance", examples.SERVICE_CHANGE),
    summary="Say whether a unit is in service",
    tags=["units"],
    status_code=HTTP_200_OK,
    opt={"roles": PLAN},
    responses=examples.shown(examples.SERVICE, "As it is now") | declared(*_OF_A_UNIT, *_WITH_BODY),
)
async def change_service_state(
    request: Request[Any, Any, Any],
    body: RawBody,
    fleet: FleetName,
    unit: UnitName,
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
) -> UnitService:
    """No advisory opens while it is not; one that is open steps aside until it is again."""
    said = bodies.read(request, body, ServiceChange)
    await service.descriptions.get(fleet)
    told = await service.database.ask(
        deeds.serve, fleet, unit, said.state, why=said.reason, by=_doer(principal)
    )
    service.live.tell(fleet)
    return told


@post(
    "/fleets/{fleet:str}/units/{unit:str}/verdicts",
    operation_id="judgeUnit",
    operation_class=takes(UnitVerdict, "Damage, and the unit was replaced", examples.UNIT_VERDICT),
    summary="Say what was found at a unit",
    tags=["units"],
    status_code=HTTP_200_OK,
    opt={"roles": WORK},
    responses=examples.shown(examples.VERDICT, "The verdict as it is kept")
    | declared(*_OF_A_UNIT, *_WITH_BODY, Kind.FORBIDDEN, Kind.CONTRADICTION),
)
async def judge_unit(
    request: Request[Any, Any, Any],
    body: RawBody,
    fleet: FleetName,
    unit: UnitName,
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
) -> Verdict:
    """It answers the unit's open advisory about that life, where there is one."""
    said = bodies.read(request, body, UnitVerdict)
    _refuse_ending(principal, said)
    await service.descriptions.get(fleet)
    told = await service.database.ask(
        deeds.judge,
        fleet,
        unit,
        said.said(),
        by=_doer(principal),
        life=said.life,
        end=said.end.end() if said.end else None,
    )
    service.live.tell(fleet)
    return told


@post(
    "/advisories/{advisory_id:uuid}/verdict",
    operation_id="judgeAdvisory",
    operation_class=takes(AdvisoryVerdict, "A false alarm", examples.ADVISORY_VERDICT),
    summary="Say what was found at an advisory's unit",
    tags=["advisories"],
    status_code=HTTP_200_OK,
    opt={"roles": WORK},
    responses=examples.shown(examples.VERDICT, "The verdict as it is kept")
    | declared(
        Kind.INVALID_REQUEST,
        Kind.FORBIDDEN,
        Kind.UNKNOWN_ADVISORY,
        Kind.UNKNOWN_UNIT,
        Kind.CONTRADICTION,
        *_WITH_BODY,
        Kind.UNAVAILABLE,
    ),
)
async def judge_advisory(
    request: Request[Any, Any, Any],
    body: RawBody,
    advisory_id: FromPath[UUID],
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
) -> Verdict:
    """Who looked has taken note, so this acknowledges too; the newest verdict counts.

    Nothing found and the unit goes on: a false alarm, which the fleet's record tells. Damage found
    is no failure; what becomes of the life is said by `end`, or later.
    """
    said = bodies.read(request, body, AdvisoryVerdict)
    _refuse_ending(principal, said)
    advisory = await visible(service, principal, advisory_id)
    told = await service.database.ask(
        deeds.judge,
        advisory.fleet,
        advisory.unit,
        said.said(),
        by=_doer(principal),
        advisory_id=advisory_id,
        life=advisory.life,
        end=said.end.end() if said.end else None,
    )
    service.live.tell(advisory.fleet)
    return told


def _refuse_ending(principal: Principal, said: AdvisoryVerdict) -> None:
    if said.end is not None and principal.roles.isdisjoint(PLAN):
        raise Refusal(
            Kind.FORBIDDEN,
            f"the key of {principal.name!r} may say what was found, but not end a life; leave "
            "`end` out, or let a planner say it",
        )


def _doer(principal: Principal) -> Doer:
    return Doer(principal=principal.name, trace_id=tracing.trace_id())
