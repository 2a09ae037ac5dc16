"""PostgreSQL's log brought beyond the machine as it is sealed, so that a loss costs minutes.

What belongs here: that loop, and what it tells Prometheus. What does not: sealing (``archiving``),
runs, and in which order a segment and its note are brought (``offsite``).

It reads what is sealed and talks to the store beyond the machine, and to nobody else: whoever holds
its place can open nothing, and reaches no server of the platform.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from prometheus_client import CollectorRegistry, Counter, Gauge

from rul_backup import offsite, wal
from rul_backup.offsite import Line, Spoilt
from rul_backup.remote import RemoteStore
from rul_backup.stores import FolderStore
from rul_core.errors import RulError

LOOK_SECONDS = 10.0
REGISTRY = CollectorRegistry()
REACHES_AT = Gauge(
    "rul_wal_beyond_reaches_timestamp_seconds",
    "Until when all that was committed is beyond the machine.",
    registry=REGISTRY,
)
LAG_SECONDS = Gauge(
    "rul_wal_beyond_lag_seconds",
    "For how long a sealed segment has waited to be brought; 0 when none does.",
    registry=REGISTRY,
)
FAILURES = Counter(
    "rul_wal_beyond_failures", "Times that bringing failed and was tried again.", registry=REGISTRY
)


class LogBringer:
    """Brings the log of one store into another.

    Args:
        local: Has it.
        remote: Where it is brought.
        keys: Of our signatures.
        tell: Told what was brought, and what went wrong.
    """

    def __init__(
        self,
        local: FolderStore,
        remote: RemoteStore,
        keys: tuple[Ed25519PublicKey, ...],
        *,
        tell: Callable[..., None] = lambda **_: None,
    ) -> None:
        self._line, self._tell = Line(local, remote, keys), tell
        self._there: set[str] | None = None
        """The notes that the other store has; asked once of a line, for it may have many."""
        self._waits_since: datetime | None = None
        LAG_SECONDS.set_function(self._lag_seconds)  # also while something is being brought

    def run(self, stop: threading.Event, *, look_seconds: float = LOOK_SECONDS) -> None:
        """Look again and again until told to stop; what fails is told and tried again.

        Args:
            stop: Set by whoever wants it to end.
            look_seconds: Between two looks.
        """
        while not stop.is_set():
            self.look()
            stop.wait(look_seconds)

    def look(self) -> None:
        """Bring what has been sealed since."""
        try:
            if not self._line.compare():
                self._there = None
            if self._there is None:
                self._there = set(wal.names(self._line.remote))
            there, waited, spoilt = self._there, self._waits_since, None
            for name in wal.names(self._line.local):
                if name in there:
                    continue
                try:
                    self._bring(name)
                except Spoilt as error:  # the others are worth no less
                    spoilt = spoilt or error
                else:
                    there.add(name)
            self._waits_since = waited if spoilt else None
            if spoilt:
                raise spoilt
        except (RulError, OSError) as error:
            self._waits_since = self._waits_since or datetime.now(UTC)  # something may, from now on
            FAILURES.inc()
            self._tell(step="bring", error=str(error))

    def _lag_seconds(self) -> float:
        waits = self._waits_since
        return (datetime.now(UTC) - waits).total_seconds() if waits else 0.0

    def _bring(self, name: str) -> None:
        noted = offsite.read_here(self._line.local, name, self._line.keys)
        self._waits_since = noted.note.sealed_at
        sent = offsite.bring_noted(self._line, noted)
        if noted.note.reaches_at:
            REACHES_AT.set(noted.note.reaches_at.timestamp())
        self._tell(brought=noted.note.segment, number=noted.note.number, bytes=sent)
