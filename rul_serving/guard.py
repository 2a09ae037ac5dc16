"""What stands before every operation: who asks, how fast, and whether they may.

What belongs here: the one guard of the application, the rules that every handler keeps, and what
they mean in the OpenAPI document. What does not: finding the principal (``access``), counting
(``limits``), the roles themselves (``principal``).

A handler says in its ``opt``:

- ``roles``: who may call it, a set of ``principal``; or ``public``: True, for everybody, uncounted.
- ``limit``: a ``Limit``, where it is not counted among requests.
- ``naturally_idempotent``: True, where calling an unsafe operation twice is calling it once; other
  unsafe operations take an idempotency key.
- ``shown_once``: a field of the answer that is not kept for repeats.
- ``events``: what the data of each event of a stream is, by its name.
"""

from collections.abc import Iterator
from typing import Any

from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.exceptions import ImproperlyConfiguredException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.routes import HTTPRoute

from rul_serving.limits import Limit
from rul_serving.principal import STATE, Principal
from rul_serving.problems import Kind, Refusal, also
from rul_serving.tracing import ANSWER_HEADERS
from rul_store.keys import Role

UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
TAKES_KEY = "takes_idempotency_key"
"""In a handler's ``opt``, where ``check`` found that repeats of it must be told apart."""
SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, as `Authorization: Bearer rul_…`.",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same key, for clients that cannot send the other header.",
    },
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Chosen by the caller: a repeat with the same key changes nothing, and gets the "
    "answer of the first request.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let the request pass, with its principal in the connection's state.

    Raises:
        Refusal: There is no good key, too many requests, or the key's roles or fleets do not reach.
        Unavailable: The key cannot be known while PostgreSQL is away.
    """
    opt = handler.opt
    if opt.get("public"):
        return
    scope, service = connection.scope, connection.app.state["service"]
    headers, state = scope["headers"], scope["state"]
    principal = service.access.known(headers) or await service.access.find(headers)
    state[STATE] = principal
    lease = service.limits.lease(opt.get("limit", Limit.REQUESTS), principal.name)
    try:
        if not lease.take():
            await service.limits.take(lease)
    finally:
        state[ANSWER_HEADERS] = lease.headers()
    if principal.roles.isdisjoint(opt["roles"]):
        raise _lacks_role(principal, opt["roles"])
    if principal.fleets is not None and "fleet" in scope["path_params"]:
        require_fleet(principal, scope["path_params"]["fleet"])


def require_fleet(principal: Principal, fleet: str) -> None:
    """Refuse a fleet that the principal may not see; the guard does it for the path's ``fleet``.

    Raises:
        Refusal: It may not.
    """
    if not principal.sees(fleet):
        raise Refusal(
            Kind.FORBIDDEN,
            f"the key of {principal.name!r} is for {', '.join(sorted(principal.fleets or ()))}, "
            f"not for fleet {fleet!r}; ask an administrator for a key that is",
        )


def check(app: Litestar) -> None:
    """See that every handler says who may call it, and declare what the guard answers.

    Raises:
        ImproperlyConfiguredException: One does not, or names no role.
    """
    for path, handler in _handlers(app):
        opt = handler.opt
        methods = handler.http_methods if isinstance(handler, HTTPRouteHandler) else set()
        if methods == {"OPTIONS"}:  # Litestar's own: which methods there are
            opt["public"] = True
        if bool(opt.get("public")) == bool(opt.get("roles")):
            raise ImproperlyConfiguredException(
                f"{handler.handler_name} at {path} must say who may call it: give it "
                'opt={"roles": …} with a set of rul_serving.principal, or opt={"public": True}'
            )
        if opt.get("public") or not isinstance(handler, HTTPRouteHandler):
            continue
        kinds = [Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.RATE_LIMITED, Kind.UNAVAILABLE]
        if methods & UNSAFE and not opt.get("naturally_idempotent"):
            opt[TAKES_KEY] = True
            kinds += [
                Kind.INVALID_REQUEST,
                Kind.IN_PROGRESS,
                Kind.ANSWER_LOST,
                Kind.IDEMPOTENCY_KEY_REUSED,
            ]
        handler.responses = also(handler.responses or {}, *kinds)


def described(app: Litestar, document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the roles, keys and idempotency keys of each operation."""
    handlers = {
        handler.operation_id: handler
        for _, handler in _handlers(app)
        if isinstance(handler, HTTPRouteHandler)
    }
    paths = {
        path: {
            method: {**operation, **_more(handlers[operation["operationId"]].opt, operation)}
            for method, operation in operations.items()
        }
        for path, operations in document["paths"].items()
    }
    components = {**document["components"], "securitySchemes": SECURITY_SCHEMES}
    return {**document, "paths": paths, "components": components}


def _more(opt: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    if opt.get("public"):
        return {"security": []}
    parameters = list(operation.get("parameters", []))
    if opt.get(TAKES_KEY):
        parameters.append(IDEMPOTENCY_KEY)
    parameters = [_as_asked(parameter) for parameter in parameters]
    told = {
        name: {"$ref": f"#/components/schemas/{type_.__name__}"}
        for name, type_ in opt.get("events", {}).items()
    }
    return {
        **({"x-events": told} if told else {}),
        "security": [{name: []} for name in SECURITY_SCHEMES],
        "x-roles": [role.value for role in Role if role in opt["roles"]],
        **({"parameters": parameters} if parameters else {}),
    }


def _as_asked(parameter: dict[str, Any]) -> dict[str, Any]:
    """``If-Match`` is needed; the handler takes None so as to answer 428, and not 400."""
    if parameter["name"] != "If-Match":
        return parameter
    schema = {name: told for name, told in parameter["schema"].items() if name != "oneOf"}
    return {**parameter, "required": True, "schema": {**schema, "type": "string"}}


def _handlers(app: Litestar) -> Iterator[tuple[str, BaseRouteHandler]]:
    for route in app.routes:
        own = route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler]
        for handler in own:
            yield route.path, handler


def _lacks_role(principal: Principal, roles: frozenset[Role]) -> Refusal:
    has, needs = (
        ", ".join(role.value for role in Role if role in those)
        for those in (principal.roles, roles)
    )
    return Refusal(
        Kind.FORBIDDEN,
        f"the key of {principal.name!r} has the roles {has or 'none'}; this needs one of: {needs}",
    )
