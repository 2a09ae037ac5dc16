"""What is said of units, on its way into the ledger: the same whoever says it.

What belongs here: prognoses as they are recorded, and recording them. What does not: when it is
done, and of which readings (``ingest``, ``refresh``).
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
import sqlalchemy as sa

from rul_core.prognosis import Prognosis, Provenance, Seen, State
from rul_core.schema import Fleet
from rul_store import advisories, ledger
from rul_store.models import LoadedModel


def failed(
    fleet: str,
    served: LoadedModel,
    life: tuple[str, int],
    seen: Seen,
    now: datetime,
    *,
    cycle: float | None = None,
) -> Prognosis:
    """What is said of a life where inference failed, at the cycle up to which it is known."""
    return Prognosis(
        fleet=fleet,
        unit=life[0],
        life=life[1],
        cycle=cycle,
        state=State.MODEL_ERROR,
        detail="inference failed; the log has the cause under the trace id",
        provenance=Provenance(model_version=served.version, seen=seen),
        computed_at=now,
    )


def traced(prognosis: Prognosis, trace_id: str) -> Prognosis:
    """As it stands in the ledger."""
    provenance = msgspec.structs.replace(prognosis.provenance, trace_id=trace_id)
    return ledger.named(msgspec.structs.replace(prognosis, provenance=provenance))


def record(connection: sa.Connection, fleet: Fleet, said: Sequence[Prognosis]) -> None:
    """Write prognoses to the ledger, and open and move advisories by them.

    The rows of the units' lives are locked before; call it last in the transaction.
    """
    ledger.append(connection, fleet.name, said)
    advisories.judge(connection, fleet, [one.unit for one in said])
