"""The words of advisories: states, steps, events, and the rule of a fleet.

What belongs here: types alone, and the rule's arithmetic. What does not: which step leads where
(``advisories``).
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from rul_core.schema import Fleet


class AdvisoryState(StrEnum):
    """Where an advisory stands."""

    ACTIVE_UNACKNOWLEDGED = "active_unacknowledged"
    """Nobody has taken note of it yet, or the note has run out."""
    ACTIVE_ACKNOWLEDGED = "active_acknowledged"
    """Somebody has taken note."""
    PLANNED = "planned"
    """Work is planned; it comes back when the day has passed or the end comes nearer."""
    RETURNED_UNACKNOWLEDGED = "returned_unacknowledged"
    """The condition was over before anybody took note; acknowledging closes it."""
    SHELVED = "shelved"
    """Put away for a time, for a reason."""
    SUPPRESSED = "suppressed"
    """The unit is in maintenance."""
    OUT_OF_SERVICE = "out_of_service"
    """The unit is out of service."""
    CLOSED = "closed"


class ServiceState(StrEnum):
    """Whether a unit does its work; no advisory opens while it does not."""

    IN_SERVICE = "in_service"
    IN_MAINTENANCE = "in_maintenance"
    OUT_OF_SERVICE = "out_of_service"


class Priority(StrEnum):
    """How soon to respond; it rises while an advisory is open, and never falls."""

    MEDIUM = "medium"
    """Under the horizon."""
    HIGH = "high"
    URGENT = "urgent"

    @property
    def rank(self) -> int:
        """1 is the least."""
        return list(Priority).index(self) + 1


class AdvisoryAction(StrEnum):
    """What a person may do with an advisory."""

    ACKNOWLEDGE = "acknowledge"
    PLAN = "plan"
    SHELVE = "shelve"
    UNSHELVE = "unshelve"
    CLOSE = "close"


class Until(StrEnum):
    """What ends an acknowledgement, where no date does."""

    NEXT_READING = "next_reading"
    """The unit's next valid prognosis."""
    WORSE = "worse"
    """Its priority rises, or the end comes nearer than it was by more than the margin."""


class EventKind(StrEnum):
    """What happened to an advisory."""

    OPENED = "opened"
    WORSENED = "worsened"
    """The priority rose."""
    CLEARED = "cleared"
    """The condition is over."""
    RECURRED = "recurred"
    """The condition holds again."""
    ACKNOWLEDGED = "acknowledged"
    PLANNED = "planned"
    SHELVED = "shelved"
    UNSHELVED = "unshelved"
    LAPSED = "lapsed"
    """An acknowledgement, a plan or a shelf has run out."""
    SUPPRESSED = "suppressed"
    TAKEN_OUT_OF_SERVICE = "taken_out_of_service"
    BACK_IN_SERVICE = "back_in_service"
    JUDGED = "judged"
    """Somebody looked and said what was found."""
    CLOSED = "closed"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet's rule, in the fleet's unit of life."""

    below: int
    of_last: int
    horizon_cycles: float
    """It opens when ``below`` of the ``of_last`` last prognoses are safe for less than this…"""
    clear_cycles: float
    """… and is over when all of them are safe for more than this."""
    high_cycles: float
    urgent_cycles: float
    cause: str
    consequence: str
    action: str
    time_to_respond: str

    @property
    def margin_cycles(self) -> float:
        """What does not count as a change."""
        return self.clear_cycles - self.horizon_cycles

    def under(self, recent_safe: Sequence[float], cycles: float) -> bool:
        """Whether enough of the last prognoses are safe for less than so many cycles."""
        return sum(safe < cycles for safe in recent_safe[-self.of_last :]) >= self.below

    def is_clear(self, recent_safe: Sequence[float]) -> bool:
        """Whether all of the last prognoses, which are as many as it asks for, are above."""
        last = recent_safe[-self.of_last :]
        return len(last) == self.of_last and min(last) > self.clear_cycles

    def priority(self, recent_safe: Sequence[float]) -> Priority:
        """How soon to respond, by the same prognoses."""
        if self.under(recent_safe, self.urgent_cycles):
            return Priority.URGENT
        return Priority.HIGH if self.under(recent_safe, self.high_cycles) else Priority.MEDIUM


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What decides on an advisory's next step."""

    state: AdvisoryState
    active: bool
    """Whether the rule's condition holds."""
    priority: Priority
    cycle: float
    safe_cycles: float
    """Of the newest valid prognosis; infinite where the model cannot see the end."""
    until: datetime | None = None
    """When the acknowledgement, plan or shelf runs out."""
    until_event: Until | None = None
    """What else ends the acknowledgement."""
    held_end_cycle: float | None = None
    """The cycle of the safe end, as it was foreseen when somebody acknowledged or planned."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to an advisory."""

    kind: EventKind
    before: AdvisoryState | None
    case: Case
    """As it was afterwards."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A valid prognosis of the advisory's unit and life."""

    cycle: float
    recent_safe: tuple[float, ...]
    """``safe_cycles`` of the last valid prognoses, this one last; infinite in the state
    ``beyond_horizon``, which is not below."""


class Acknowledge(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody takes note, for a time."""

    until: Until | datetime


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody plans work for a day."""

    due: datetime


class Shelve(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody puts it away for a time."""

    until: datetime


class Unshelve(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody takes it off the shelf."""


class Close(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody says that it is done."""


class Judge(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody says what was found."""


class Serve(msgspec.Struct, frozen=True, kw_only=True):
    """The unit is taken out of service, or comes back."""

    state: ServiceState


class EndLife(msgspec.Struct, frozen=True, kw_only=True):
    """The life that it is about is over."""


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing but time."""


ByPeople = Acknowledge | Plan | Shelve | Unshelve | Close
Step = ByPeople | Judge | Evidence | Serve | EndLife | Wait


def rule_of(fleet: Fleet) -> Rule:
    """The rule that the fleet's description gives."""
    said, lead_time = fleet.advisories, fleet.maintenance.lead_time_cycles
    return Rule(
        below=said.below,
        of_last=said.of_last,
        horizon_cycles=lead_time,
        clear_cycles=lead_time * (1 + said.margin_share),
        high_cycles=lead_time * said.high_share,
        urgent_cycles=lead_time * said.urgent_share,
        cause=said.cause,
        consequence=said.consequence,
        action=said.action,
        time_to_respond=said.time_to_respond,
    )
