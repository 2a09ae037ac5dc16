"""Who asks, and what they may do.

What belongs here: which roles an operation is for, and the principal that a request is made for.
What does not: keys and their roles (``rul_store.keys``), finding a request's principal and refusing
it (``rul_serving.access``).
"""

from typing import Any

import msgspec
from litestar.connection import ASGIConnection

from rul_store.keys import Role

STATE = "principal"
"""Under this name a connection's state holds its principal."""


READ = frozenset(Role) - {Role.INGEST}
SEND = frozenset({Role.INGEST, Role.ENGINEER, Role.ADMIN})
ASK = frozenset({Role.INGEST, *READ})
WORK = frozenset({Role.TECHNICIAN, Role.PLANNER, Role.ENGINEER, Role.ADMIN})
PLAN = frozenset({Role.PLANNER, Role.ENGINEER, Role.ADMIN})
EXAMINE = frozenset({Role.ENGINEER, Role.ML_OWNER, Role.ADMIN})
RELEASE = frozenset({Role.ML_OWNER, Role.ADMIN})
ADMINISTER = frozenset({Role.ADMIN})


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody or something that may ask."""

    name: str
    """As it stands in the audit."""
    key_id: str | None
    """None where the service takes requests without keys."""
    roles: frozenset[Role]
    fleets: frozenset[str] | None = None
    """The fleets that it may see; None is all."""

    def sees(self, fleet: str) -> bool:
        """Whether it may see the fleet."""
        return self.fleets is None or fleet in self.fleets


ANONYMOUS = Principal(name="anonymous", key_id=None, roles=frozenset(Role))


def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """For whom a request is made; a public operation is made for nobody and must not ask."""
    return connection.scope["state"][STATE]
