"""The bodies by which people act on advisories, units and models.

What belongs here: their types, and what contradicts itself in them (in ``__post_init__``, and for
the OpenAPI document in ``also``). What does not: what contradicts what is kept
(``rul_store.deeds``).
"""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from rul_core.advisory_terms import ServiceState, Until
from rul_core.schema import Outcome
from rul_serving import bodies
from rul_serving.bodies import Words
from rul_serving.windows import UtcTime
from rul_store.deeds import End
from rul_store.registry import VERSION_PATTERN
from rul_store.verdicts import Finding, Said

LifeNumber = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Term = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")]
"""A word of ISO 14224, or of the plant's own list."""


def _all_given(**types: str) -> dict[str, Any]:
    """The JSON schema of an object that has all of these, and not as null."""
    properties = {name: {"type": type_} for name, type_ in types.items()}
    return {"properties": properties, "required": list(types)}


class Acknowledgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Taking note of an advisory, for a time."""

    reason: Words
    until: Until | None = None
    """What ends it; `worse` unless something is given."""
    until_time: UtcTime | None = None
    """A time that ends it, instead of ``until``."""
    also: ClassVar[dict[str, Any]] = {"not": _all_given(until="string", until_time="string")}

    def __post_init__(self) -> None:
        if self.until is not None and self.until_time is not None:
            raise ValueError("until and until_time are both given; keep one")
        bodies.refuse_far_times(self.until_time)


class Shelving(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Putting an advisory away for a time."""

    reason: Words
    until_time: UtcTime
    """When it comes back."""

    def __post_init__(self) -> None:
        bodies.refuse_far_times(self.until_time)


class Planning(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Work that is planned for a unit."""

    reason: Words
    due_time: UtcTime
    """By when it will be done; after that the advisory comes back."""

    def __post_init__(self) -> None:
        bodies.refuse_far_times(self.due_time)


class Because(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Why something is done."""

    reason: Words


class Promotion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Why a version shall be live."""

    reason: Words
    despite_gate: bool = False
    """Also where the release gate speaks against it; the audit says what it said."""


class Nomination(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which version shall speak beside the champion."""

    version: Annotated[str, Meta(pattern=f"^{VERSION_PATTERN}$(?!\n)")]
    reason: Words


class Ending(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a life ended."""

    outcome: Literal["failed", "replaced", "removed"]
    """Only ``failed`` is a failure. A unit that was taken out before it failed, on purpose or for
    another reason, lived *at least* so long, however worn it was."""
    life: LifeNumber | None = None
    """Which life; the one that runs, or the one before that which ``start`` names, unless given."""
    end_cycle: float | None = None
    """Its last cycle; that of its newest reading, unless given."""
    time: UtcTime | None = None
    """When it ended."""

    def __post_init__(self) -> None:
        bodies.refuse_far_times(self.time)

    def end(self) -> End:
        """For the store."""
        return End(
            outcome=Outcome(self.outcome), life=self.life, end_cycle=self.end_cycle, time=self.time
        )


class Beginning(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the next life began."""

    life: LifeNumber | None = None
    """Its number; one more than the last, unless given. With it, the same again changes nothing."""
    time: UtcTime | None = None
    """When it began."""

    def __post_init__(self) -> None:
        bodies.refuse_far_times(self.time)


class LifeChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A life ends, the next begins, or both."""

    end: Ending | None = None
    start: Beginning | None = None
    also: ClassVar[dict[str, Any]] = {
        "anyOf": [_all_given(end="object"), _all_given(start="object")]
    }

    def __post_init__(self) -> None:
        if self.end is None and self.start is None:
            raise ValueError("neither end nor start is given; give one, or both")


class ServiceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether a unit does its work."""

    state: ServiceState
    reason: Words


class AdvisoryVerdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was found when somebody looked."""

    finding: Finding
    mode: Term | None = None
    """How it fails, by ISO 14224: such as *vibration*."""
    mechanism: Term | None = None
    """What made it so, by ISO 14224: such as *wear*."""
    cause: Term | None = None
    """The root cause, by ISO 14224: such as *fabrication error*."""
    note: Words | None = None
    end: Ending | None = None
    """How the life ended with it; without it the unit goes on. It takes a role that ends lives."""
    also: ClassVar[dict[str, Any]] = {
        "not": {
            "properties": {
                "finding": {"const": "found_nothing"},
                "end": {
                    "type": "object",
                    "properties": {"outcome": {"const": "failed"}},
                    "required": ["outcome"],
                },
            },
            "required": ["finding", "end"],
        }
    }

    def __post_init__(self) -> None:
        if (
            self.finding is Finding.FOUND_NOTHING
            and self.end is not None
            and self.end.outcome == "failed"
        ):
            raise ValueError("a unit that failed is not one where nothing was found; correct one")

    def said(self) -> Said:
        """For the store."""
        return Said(
            finding=self.finding,
            mode=self.mode,
            mechanism=self.mechanism,
            cause=self.cause,
            note=self.note,
        )


class UnitVerdict(AdvisoryVerdict, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was found when somebody looked at a unit, warned or not."""

    life: LifeNumber | None = None
    """Which life; the one that runs, or else the last, unless given."""
