"""``/v1/keys``: API keys are made, listed, replaced and revoked."""

from datetime import timedelta
from typing import Annotated, Any, ClassVar

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import PathParameter, RawBody
from litestar.status_codes import HTTP_200_OK
from msgspec import Meta

from rul_core.errors import Conflict, StoreError, Unavailable
from rul_core.schema import NAME_PATTERN
from rul_serving import examples, tracing
from rul_serving.answers import ApiKeys, NewApiKey
from rul_serving.bodies import decode, refuse_other_types, takes
from rul_serving.principal import ADMINISTER, Principal
from rul_serving.problems import Kind, Refusal, declared
from rul_serving.service import Service
from rul_store import keys
from rul_store.keys import ApiKey, Author, Role

KeyId = Annotated[
    str, PathParameter(pattern=f"^{keys.ID_PATTERN}$(?!\n)", description="The key's id.")
]
FleetName = Annotated[str, Meta(pattern=NAME_PATTERN)]
ONCE = {"Cache-Control": "no-store"}


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key that shall be made."""

    name: Annotated[str, Meta(pattern=keys.NAME)]
    """Who will ask with it; no other key in use may have it."""
    roles: Annotated[list[Role], Meta(min_length=1)]
    fleets: Annotated[list[FleetName], Meta(min_length=1)] | None = None
    """The fleets that it may see; null is all. ``admin`` is for all."""
    expires_in_days: Annotated[float, Meta(gt=0, le=keys.LONGEST_DAYS)] | None = None
    """Never, unless given."""
    also: ClassVar[dict[str, Any]] = {
        "not": {
            "properties": {
                "roles": {"contains": {"const": keys.EVERYWHERE}},
                "fleets": {"type": "array"},
            },
            "required": ["roles", "fleets"],
        }
    }


class RotationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a key shall be replaced."""

    overlap_hours: Annotated[float, Meta(ge=0, le=24 * keys.LONGEST_DAYS)] = 24.0
    """How long the old key stays good, unless it expires sooner."""


@get(
    "/keys",
    operation_id="listKeys",
    summary="All API keys",
    tags=["administration"],
    opt={"roles": ADMINISTER},
    responses=declared(),
)
async def list_keys(service: NamedDependency[Service]) -> ApiKeys:
    """What is known of every key there ever was; the keys themselves are kept nowhere."""
    return ApiKeys(keys=await service.database.ask(keys.every))


@post(
    "/keys",
    operation_id="createKey",
    operation_class=takes(KeyRequest, "A key of a planner for one fleet", examples.KEY_REQUEST),
    summary="Make an API key",
    tags=["administration"],
    opt={"roles": ADMINISTER, "shown_once": "api_key"},
    responses=examples.shown(examples.NEW_KEY, "The key, shown this once", 201)
    | declared(
        Kind.INVALID_REQUEST, Kind.KEY_CONFLICT, Kind.TOO_LARGE, Kind.UNSUPPORTED_MEDIA_TYPE
    ),
)
async def create_key(
    request: Request[Any, Any, Any],
    body: RawBody,
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
) -> Response[NewApiKey]:
    """The key is in the answer and kept nowhere; the platform keeps what it takes to know it."""
    refuse_other_types(request)
    wanted = decode(body, KeyRequest)
    try:
        made = await service.database.ask(
            keys.create,
            name=wanted.name,
            roles=[role.value for role in wanted.roles],
            fleets=wanted.fleets,
            expires_in=_days(wanted.expires_in_days),
            by=_author(principal),
        )
    except Conflict as error:
        raise Refusal(Kind.KEY_CONFLICT, str(error)) from error
    except Unavailable:
        raise
    except StoreError as error:
        raise Refusal(Kind.INVALID_REQUEST, str(error)) from error
    await service.access.refresh()
    return Response(NewApiKey(api_key=made.secret, key=made.key), headers=ONCE)


@post(
    "/keys/{key_id:str}/rotate",
    operation_id="rotateKey",
    operation_class=takes(RotationRequest, "A day for the change", {"overlap_hours": 24}),
    summary="Replace an API key",
    tags=["administration"],
    opt={"roles": ADMINISTER, "shown_once": "api_key"},
    responses=examples.shown(examples.NEW_KEY, "The new key, shown this once", 201)
    | declared(
        Kind.INVALID_REQUEST,
        Kind.UNKNOWN_KEY,
        Kind.KEY_CONFLICT,
        Kind.TOO_LARGE,
        Kind.UNSUPPORTED_MEDIA_TYPE,
    ),
)
async def rotate_key(
    request: Request[Any, Any, Any],
    body: RawBody,
    key_id: KeyId,
    service: NamedDependency[Service],
    principal: NamedDependency[Principal],
) -> Response[NewApiKey]:
    """The new key has the name, roles, fleets and lifetime of the old one, which ends soon."""
    refuse_other_types(request)
    wanted = decode(body, RotationRequest)
    overlap = timedelta(hours=wanted.overlap_hours)
    try:
        made = await service.database.ask(
            keys.rotate, key_id, overlap=overlap, by=_author(principal)
        )
    except Conflict as error:
        raise Refusal(Kind.KEY_CONFLICT, str(error)) from error
    if made is None:
        raise _unknown(key_id)
    await service.access.refresh()
    return Response(NewApiKey(api_key=made.secret, key=made.key), headers=ONCE)


@delete(
    "/keys/{key_id:str}",
    operation_id="revokeKey",
    summary="Revoke an API key",
    tags=["administration"],
    status_code=HTTP_200_OK,
    opt={"roles": ADMINISTER, "naturally_idempotent": True},
    responses=examples.shown(examples.REVOKED_KEY, "The key as it is now")
    | declared(Kind.INVALID_REQUEST, Kind.UNKNOWN_KEY),
)
async def revoke_key(
    key_id: KeyId, service: NamedDependency[Service], principal: NamedDependency[Principal]
) -> ApiKey:
    """It is refused at once here, and within seconds by every other server of the platform."""
    key = await service.database.ask(keys.revoke, key_id, by=_author(principal))
    if key is None:
        raise _unknown(key_id)
    await service.access.refresh()
    return key


def _author(principal: Principal) -> Author:
    return Author(principal=principal.name, trace_id=tracing.trace_id())


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def _unknown(key_id: str) -> Refusal:
    return Refusal(Kind.UNKNOWN_KEY, f"there is no key {key_id!r}; GET /v1/keys lists all")
