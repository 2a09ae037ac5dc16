"""``/v1/ledger``: a prognosis as it was recorded, and computed again."""

from typing import Annotated
from uuid import UUID

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import PathParameter
from litestar.status_codes import HTTP_200_OK

from rul_serving import examples
from rul_serving.guard import require_fleet
from rul_serving.principal import EXAMINE, READ, Principal
from rul_serving.problems import Kind, Refusal, declared
from rul_serving.service import Service
from rul_store import ledger
from rul_store.ledger import Recorded
from rul_store.replay import Replayed

LedgerId = Annotated[
    str,
    PathParameter(
        pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$(?!\n)",
        description="`provenance.ledger_id` of a prognosis.",
    ),
]


@get(
    "/ledger/{ledger_id:str}",
    operation_id="ledgerEntry",
    summary="A prognosis as it was recorded",
    tags=["ledger"],
    opt={"roles": READ},
    responses=examples.shown(examples.RECORDED, "The entry")
    | declared(Kind.INVALID_REQUEST, Kind.UNKNOWN_ENTRY, Kind.UNAVAILABLE),
)
async def ledger_entry(
    ledger_id: LedgerId, service: NamedDependency[Service], principal: NamedDependency[Principal]
) -> Recorded:
    """The entry, its place in its fleet's chain, its hash and that of the entry before."""
    return await _entry(ledger_id, service, principal)


@post(
    "/ledger/{ledger_id:str}/replay",
    operation_id="replayLedgerEntry",
    summary="Compute a recorded prognosis again",
    tags=["ledger"],
    status_code=HTTP_200_OK,
    opt={"roles": EXAMINE, "naturally_idempotent": True},
    responses=examples.shown(examples.REPLAYED, "What came of it")
    | declared(Kind.INVALID_REQUEST, Kind.UNKNOWN_ENTRY, Kind.UNAVAILABLE),
)
async def replay_ledger_entry(
    ledger_id: LedgerId, service: NamedDependency[Service], principal: NamedDependency[Principal]
) -> Replayed:
    """From the model version and the readings that it says it was computed from, bit for bit.

    Readings that came late, or later, have no part in it, nor has a newer model or description of
    the fleet. Each field that differs is named. Where it is impossible, the reason says why:
    nothing had been computed, the bundle is gone or damaged, or another engine had computed it.
    Nothing is written.
    """
    return await service.past.replay(await _entry(ledger_id, service, principal))


async def _entry(ledger_id: str, service: Service, principal: Principal) -> Recorded:
    found = await service.database.ask(ledger.entry, UUID(ledger_id))
    if found is None:
        raise Refusal(
            Kind.UNKNOWN_ENTRY,
            f"the ledger has no entry {ledger_id}; take provenance.ledger_id of a prognosis",
        )
    require_fleet(principal, found.prognosis.fleet)
    return found
