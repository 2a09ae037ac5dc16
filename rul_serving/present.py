"""What is said of units now: what was recorded, grown stale if it did, and nothing left out.

What belongs here: the prognosis to show for how it stands with a unit. What does not: finding that
(``rul_store.current``), making and recording prognoses (``ingest``). No figure is given here that
the ledger does not hold.
"""

from datetime import UTC, datetime, timedelta
from typing import Self, TypedDict

import msgspec

from rul_core.prognose import aged, not_configured
from rul_core.prognosis import Prognosis, Provenance, State
from rul_core.schema import Fleet
from rul_serving.served import Served
from rul_store.current import Present


class Conditions(TypedDict):
    """What the functions of ``rul_store.current`` want to know of the present."""

    unheard: State
    stale_before: datetime | None


NO_MODEL = Conditions(unheard=State.NOT_CONFIGURED, stale_before=None)
"""Of a fleet for which no model answers."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet at one moment."""

    fleet: Fleet
    version: str | None
    """Of the model that answers."""
    now: datetime

    @classmethod
    def of(cls, fleet: Fleet, served: Served | None) -> Self:
        """The fleet as it is now."""
        version = served.loaded.version if served else None
        return cls(fleet=fleet, version=version, now=datetime.now(UTC))

    def conditions(self) -> Conditions:
        """For questions to ``rul_store.current``."""
        limit = self.fleet.freshness_limit_seconds
        return Conditions(
            unheard=State.INSUFFICIENT_HISTORY if self.version else State.NOT_CONFIGURED,
            stale_before=None if limit is None else self.now - timedelta(seconds=limit),
        )

    def told(self, unit: Present) -> Prognosis:
        """What is said of a unit."""
        if unit.prognosis is not None:
            return aged(unit.prognosis, self.fleet.freshness_limit_seconds, self.now)
        if self.version is None:
            (said,) = not_configured(self.fleet, [unit.unit], self.now)
            return msgspec.structs.replace(said, life=unit.life)
        needed = self.fleet.learning.minimum_readings
        return Prognosis(
            fleet=self.fleet.name,
            unit=unit.unit,
            life=unit.life,
            state=State.INSUFFICIENT_HISTORY,
            detail=f"no reading of this life was prognosed yet: the next one that is sent, or the "
            f"next run of fleet_prognoses, does it; {needed} readings are needed"
            if unit.in_service
            else "its last life ended before a prognosis was made of it",
            provenance=Provenance(model_version=self.version),
            computed_at=self.now,
        )
