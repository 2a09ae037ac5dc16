"""What serving and the assets may do in PostgreSQL, table by table; the owner alone alters.

What belongs here: the declaration. What does not: giving the rights (``roles``), the tables
(``tables``), what people and machines may do over HTTP (roles of API keys).
"""

from enum import StrEnum
from typing import NamedTuple


class Group(StrEnum):
    """A group of PostgreSQL users, which itself may not log in."""

    SERVING = "rul_serving"
    ASSETS = "rul_assets"
    BACKUP = "rul_backup"
    """Besides, its users in the stack read everything, to keep it."""
    DRILL = "rul_drill"


class Rights(NamedTuple):
    """What each group may do with a table."""

    serving: tuple[str, ...]
    assets: tuple[str, ...]
    backup: tuple[str, ...] = ()
    drill: tuple[str, ...] = ()

    def of(self, group: Group) -> tuple[str, ...]:
        """Those of one group."""
        return {
            Group.SERVING: self.serving,
            Group.ASSETS: self.assets,
            Group.BACKUP: self.backup,
            Group.DRILL: self.drill,
        }[group]


NOTHING: tuple[str, ...] = ()
READ = ("SELECT",)
APPEND = ("SELECT", "INSERT")
KEEP = ("SELECT", "INSERT", "UPDATE")
REMOVE = ("SELECT", "INSERT", "UPDATE", "DELETE")

RIGHTS = {
    "units": Rights(KEEP, KEEP),
    "lives": Rights(KEEP, KEEP),
    "layouts": Rights(APPEND, READ),
    # Only the number of the transaction is ever changed: who takes readings adopts restored ones.
    "readings": Rights(APPEND, (*READ, "UPDATE (ingested_xid)")),
    "readings_set_aside": Rights(APPEND, NOTHING),
    "ledger": Rights(APPEND, APPEND),
    "current_prognoses": Rights(KEEP, KEEP),
    "leases": Rights(REMOVE, NOTHING),
    "champions": Rights(KEEP, KEEP),
    "champion_history": Rights(APPEND, APPEND),
    "rulings": Rights(READ, KEEP),
    "challengers": Rights(REMOVE, REMOVE),
    "shadow_prognoses": Rights(REMOVE, REMOVE),
    "landed_files": Rights(READ, KEEP),
    "api_keys": Rights(KEEP, NOTHING),
    "audit": Rights(APPEND, APPEND),
    "idempotency_records": Rights(REMOVE, NOTHING),
    "advisories": Rights(KEEP, KEEP),
    "advisory_events": Rights(APPEND, APPEND),
    "verdicts": Rights(APPEND, READ),
    "backup_runs": Rights(READ, READ, backup=APPEND, drill=READ),
    "backup_proofs": Rights(READ, READ, backup=APPEND, drill=APPEND),
    "backup_confirmations": Rights(READ, READ, backup=KEEP, drill=READ),
    "rul_version": Rights(READ, READ, backup=READ, drill=READ),
}
"""Every table; a test holds it against the catalogue. Nobody but the owner truncates or alters."""
SEQUENCES = {"readings_ingested_seq_seq": Rights(READ, NOTHING)}
"""Those that are asked by name: which place in the order of ingestion was given last."""
