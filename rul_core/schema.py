"""What a fleet is and which columns its readings have.

What belongs here: the typed description of a fleet (read from TOML text), and the names and dtypes
of the frames that pass between packages. What does not: parsing files of readings (``readers``),
guessing a description (``discovery``), judging values (``quality``).

Frames
------
*readings*: one row a reading, sorted by unit, life, cycle once they are core readings::

    unit   String    the machine's name
    life   Int64     which life of the unit, counted from 1
    cycle  Float64   the count of use within the life, in the fleet's unit of life
    time   Datetime  when it was read (UTC), null where the source has no clock
    <setting>, <sensor>  Float64, null where nothing was read

*lives*: one row a life::

    unit, life       as above
    outcome          one of OUTCOMES
    end_cycle        Float64, the last cycle of an ended life; null while it runs
"""

import fnmatch
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
import polars as pl

from rul_core.errors import FleetError

UNIT, LIFE, CYCLE, TIME = "unit", "life", "cycle", "time"
KEY = (UNIT, LIFE, CYCLE)
"""What identifies a reading within a fleet."""
RESERVED = frozenset(
    {*KEY, TIME, "outcome", "end_cycle", "source", "row", "rul_cycles"}
    | {"age", "typical", "limits", "all_sensors"}
)
"""Column names with a fixed meaning, which no setting or sensor may take."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$(?!\n)"
"""What a fleet may be called: it becomes a folder, a partition key and a part of an address.

In Python ``$`` alone would let a line break through.
"""

PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]


class Outcome(StrEnum):
    """How a life ended, as far as is known."""

    RUNNING = "running"
    """The unit is in service: a censored life."""
    FAILED = "failed"
    """The last cycle is the failure: the only outcome that gives labels."""
    REPLACED = "replaced"
    """Taken out before failure, on purpose: a censored life."""
    REMOVED = "removed"
    """Left the fleet for another reason: a censored life."""


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which column of the source holds what."""

    unit: str
    cycle: str
    life: str | None = None
    """Without it every unit has one life, number 1."""
    time: str | None = None
    outcome: str | None = None
    """Per life, the last row's value counts: one of ``Outcome``; empty means running."""
    settings: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()


class FileRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the name of a file says about the lives in it; the first rule that matches counts."""

    glob: str
    outcome: Outcome = Outcome.RUNNING
    """The outcome of every life in the file, unless the outcome column says otherwise."""
    unit_prefix: str = ""
    """Put before every unit's name, where several files count their units from 1."""


class Learning(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far a model of this fleet looks, in the fleet's unit of life."""

    label_cap_cycles: PositiveFloat = 125.0
    """RUL above this is not told apart: a healthy machine shows no sign of its end."""
    cycles_per_reading: PositiveFloat = 1.0
    """The usual step from one reading to the next; it scales the feature windows."""
    minimum_readings: Annotated[int, msgspec.Meta(ge=1)] = 5
    """A life with fewer readings gets no estimate."""
    uses_age: bool = True
    """Whether cycles since new is a feature; switch off where ``cycle`` is not counted from new."""


class Maintenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What decides when to act."""

    lead_time_cycles: PositiveFloat = 30.0
    """From the decision to the replacement; the horizon of P(failure before the horizon)."""
    cost_planned: PositiveFloat = 1.0
    cost_failure: PositiveFloat = 10.0


RECENT_PROGNOSES = 20
"""So many of a unit's last valid prognoses are kept at hand; a rule looks no further back."""
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Advisories(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When people are told that a unit nears its end, and what they are told.

    The rule looks at the ``safe_cycles`` of a unit's last valid prognoses; its horizon is the lead
    time. Shares are of the lead time.
    """

    below: Annotated[int, msgspec.Meta(ge=1)] = 2
    """An advisory opens when so many of the last prognoses are under the horizon…"""
    of_last: Annotated[int, msgspec.Meta(ge=1, le=RECENT_PROGNOSES)] = 3
    """… of so many."""
    margin_share: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.2
    """It is over when all of them are above the horizon by so much: the rule does not flutter."""
    high_share: Share = 0.5
    """Under this share of the lead time the priority is high."""
    urgent_share: Share = 0.2
    """Under this share of the lead time the priority is urgent."""
    cause: Text = "The model expects the unit's end within the lead time."
    consequence: Text = "The unit may fail in service before it can be replaced."
    action: Text = "Inspect the unit and plan its replacement; say what was found."
    time_to_respond: Text = "Before the safe cycles that are left have passed."


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Units of one class that share sensors and a model.

    Its form is ``fleets/<name>.toml``; ``read_fleet`` gives errors that say what to change.
    """

    name: Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
    columns: Columns
    description: str = ""
    unit_of_life: str = "cycles"
    """What ``cycle`` counts, for people: cycles, hours, seconds, kilometres."""
    files: tuple[FileRule, ...] = ()
    learning: Learning = Learning()
    maintenance: Maintenance = Maintenance()
    advisories: Advisories = Advisories()
    freshness_limit_seconds: PositiveFloat | None = None
    """A newest reading older than this makes a prognosis stale; without it none is."""
    unknown_units: Literal["create", "refuse"] = "create"
    """What becomes of readings that are sent of a unit nobody has heard of."""
    ranges: dict[str, tuple[float, float]] = {}
    """Physical limits (lowest, highest) of a sensor or setting; values outside are not used."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Settings, then sensors: the value columns of a readings frame, in order."""
        return self.columns.settings + self.columns.sensors

    @property
    def readings_schema(self) -> pl.Schema:
        """The columns and dtypes of this fleet's readings frame."""
        return pl.Schema(
            {
                UNIT: pl.String,
                LIFE: pl.Int64,
                CYCLE: pl.Float64,
                TIME: pl.Datetime("us", "UTC"),
                **dict.fromkeys(self.channels, pl.Float64),
            }
        )

    def rule_for(self, file_name: str) -> FileRule:
        """What a file's name says of the lives in it: the first matching rule, or running."""
        for rule in self.files:
            if fnmatch.fnmatchcase(file_name, rule.glob):
                return rule
        return FileRule(glob="*")


LIVES_SCHEMA = pl.Schema(
    {UNIT: pl.String, LIFE: pl.Int64, "outcome": pl.String, "end_cycle": pl.Float64}
)


def read_fleet(text: str, source: str = "fleet description") -> Fleet:
    """The fleet that a TOML text describes.

    Args:
        text: TOML.
        source: Its file, for messages.

    Raises:
        FleetError: The text is no TOML, has an unknown or missing key, or contradicts itself;
            the message names the key, the value and the remedy.
    """
    try:
        fleet = msgspec.toml.decode(text, type=Fleet)
    except msgspec.ValidationError as error:
        raise FleetError(f"{source}: {error}; correct that key") from error
    except msgspec.DecodeError as error:
        raise FleetError(f"{source} is not valid TOML: {error}") from error
    _refuse_contradictions(fleet, source)
    return fleet


def write_fleet(fleet: Fleet) -> str:
    """The TOML text that ``read_fleet`` turns back into an equal fleet."""
    return msgspec.toml.encode(_without_none(msgspec.to_builtins(fleet))).decode()


def _refuse_contradictions(fleet: Fleet, source: str) -> None:
    if not fleet.columns.sensors:
        raise FleetError(f"{source}: columns.sensors is empty; name at least one sensor column")
    columns, names = fleet.columns, fleet.channels
    roles = [columns.unit, columns.cycle, columns.life, columns.time, columns.outcome]
    shared = sorted({name for name in roles if name is not None and roles.count(name) > 1})
    shared += sorted(set(names).intersection(roles))
    if shared:
        raise FleetError(f"{source}: {shared} named for more than one purpose; keep one of them")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FleetError(f"{source}: {twice} named more than once in settings and sensors")
    taken = sorted(RESERVED.intersection(names))
    if taken:
        raise FleetError(
            f"{source}: {taken} cannot be a setting or sensor, the name is reserved; "
            "rename the column in the source"
        )
    for name, (low, high) in fleet.ranges.items():
        if name not in names:
            raise FleetError(f"{source}: ranges names {name!r}, which is no setting or sensor")
        if not low < high:
            raise FleetError(f"{source}: ranges.{name} is [{low}, {high}]; the lowest comes first")
    rule = fleet.advisories
    if rule.below > rule.of_last:
        raise FleetError(
            f"{source}: advisories.below is {rule.below} of the last {rule.of_last}; "
            "it cannot be more than advisories.of_last"
        )
    if rule.urgent_share > rule.high_share:
        raise FleetError(
            f"{source}: advisories.urgent_share is {rule.urgent_share:g}, more than high_share "
            f"{rule.high_share:g}; the urgent ones are among the high"
        )


def _without_none(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value
