"""The bodies of answers, as they go over the wire.

What belongs here: types alone. What does not: bodies of questions (``windows``), errors
(``problems``), what the platform's parts already have a type for (``rul_core``, ``rul_store``).
"""

from datetime import datetime
from enum import StrEnum

import msgspec

from rul_core.leakage_report import GateReport
from rul_core.prognosis import Prognosis, State
from rul_core.scoring import Regimes
from rul_core.shadow import Comparison
from rul_core.track_record import TrackRecord
from rul_serving.problems import Flaw
from rul_store.advisory_rows import Advisory, AdvisoryEvent
from rul_store.backup_rows import BackupStore
from rul_store.champions import Champion
from rul_store.keys import ApiKey
from rul_store.ledger import Recorded
from rul_store.models import Manifest
from rul_store.shadow import Nominee, Pair
from rul_store.verdicts import AlarmRecord, Verdict
from rul_store.versions import ModelVersion


class Prognoses(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a what-if question."""

    prognoses: list[Prognosis]
    """One a unit, in the question's order."""


class Backups(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with backups."""

    stores: list[BackupStore]
    """Places where they lie; none where nothing was ever kept."""


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """What became of readings that were sent; what it says is kept for good."""

    fleet: str
    new: int
    """Readings that are kept now and were not before."""
    repeated: int
    """Readings that were kept before, equal in every value: nothing changed."""
    conflicts: int
    """Readings that contradict a kept one; they are set aside, and named under `errors`."""
    errors: list[Flaw]
    """Each reading that was not kept, by its place in the body, with the reason."""
    warnings: list[str]
    """What the sender should look at, though the readings are kept."""
    prognoses: list[Prognosis]
    """What is said now of each unit with a new reading in its running life; it stands in the
    ledger."""


class FleetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet, and what its readings must bring."""

    name: str
    description: str
    unit_of_life: str
    """What ``cycle`` and every figure in cycles count: cycles, hours, kilometres."""
    settings: list[str]
    """The channels that say how a unit is operated."""
    sensors: list[str]
    """The channels that say how it is."""
    label_cap_cycles: float
    """The farthest that a model of this fleet looks."""
    horizon_cycles: float
    """The lead time: the ranking is by the probability to fail before it."""
    served_version: str | None
    """The model that answers; null where none was released yet."""


class BrokenFleet(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet whose description cannot be used."""

    name: str
    problem: str
    """What is wrong with the description, and what to do."""


class Fleets(msgspec.Struct, frozen=True, kw_only=True):
    """All fleets, by name."""

    fleets: list[FleetSummary]
    broken: list[BrokenFleet]


class RankedUnits(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a fleet's units in service, the likeliest to fail first."""

    fleet: str
    units: list[Prognosis]
    """What is said of each now; those without a probability to fail come last."""
    units_by_state: dict[State, int]
    """Of the whole fleet, whatever page and filter."""
    units_without_valid_prognosis: int
    """Of the whole fleet: in every state but ``estimated`` and ``beyond_horizon``."""
    next_cursor: str | None
    """For the next page; null on the last one."""


class UnitHistory(msgspec.Struct, frozen=True, kw_only=True):
    """A page of all that was ever said of a unit, the newest first."""

    fleet: str
    unit: str
    entries: list[Recorded]
    """As they stand in the ledger; empty where nothing was ever said of the unit."""
    next_cursor: str | None
    """For the next page; null on the last one."""


class FleetTrackRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the prognoses of a fleet's lives that have ended."""

    fleet: str
    as_of: datetime | None
    """When it was last made, by `realised_outcomes`, which follows `fleet_prognoses`; null before
    the first time."""
    record: TrackRecord | None
    """Null before the first time."""


class FleetModel(msgspec.Struct, frozen=True, kw_only=True):
    """What is live for a fleet, and what answers."""

    fleet: str
    live: Champion | None
    """The released model; null before the first release."""
    loaded: bool
    """Whether the live model is the one that answers."""
    served_version: str | None
    """The model that answers; the one before while the live one is refused."""
    problem: str
    """Why the live model is refused; empty where it is not."""
    manifest: Manifest | None
    """What the model that answers was made of."""
    metrics: Regimes | None
    """How the model that answers did on units it had not seen, in training's cross-validation."""


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """The models of all fleets, by fleet."""

    models: list[FleetModel]


class ModelVersions(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the versions of a fleet's model, the newest first."""

    fleet: str
    generation: int
    """How many times the champion moved; the `ETag` by which it is moved next."""
    versions: list[ModelVersion]
    next_cursor: str | None
    """For the next page; null on the last one."""


class ModelDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a fleet's model, and what is known of it."""

    fleet: str
    model: ModelVersion
    manifest: Manifest | None
    """What it was made of; null where its bundle cannot be used."""
    metrics: Regimes | None
    """How it did on units it had not seen, in training's cross-validation."""
    gate: GateReport | None
    """What the leakage gate found."""
    pictures: list[str]
    """The names of the card's pictures."""


class ChampionHistory(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the moves of a fleet's champion, the newest first."""

    fleet: str
    moves: list[Champion]
    """Who moved it to which version, when, how and why."""
    next_cursor: str | None
    """For the next page; null on the last one."""


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """The champion after it was moved; whoever gave this answer answers with it already."""

    champion: Champion
    warning: str
    """What else is to be done, such as repairing the file that follows the champion; empty where
    nothing is."""


class ShadowReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a challenger says beside the champion: a page of units, and what came of both."""

    fleet: str
    version: str
    challenger: Nominee | None
    """Null where the version is no challenger any more; what it said is kept for a while."""
    problem: str
    """Why it does not speak where this was asked; empty where it does."""
    comparison: Comparison
    """In lives that have ended since."""
    pairs: list[Pair]
    next_cursor: str | None
    """For the next page; null on the last one."""


class ApiKeys(msgspec.Struct, frozen=True, kw_only=True):
    """All keys there ever were, oldest first."""

    keys: list[ApiKey]


class NewApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was just made."""

    api_key: str | None
    """The key itself, to be sent with requests. It is told here once and kept nowhere: in the
    answer to a repeat of the request it is null."""
    key: ApiKey


class Advisories(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a fleet's advisories, the most urgent first, then the newest."""

    fleet: str
    advisories: list[Advisory]
    record: AlarmRecord
    """Of the whole fleet, whatever page and filter."""
    next_cursor: str | None
    """For the next page; null on the last one."""


class AdvisoryHistory(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to an advisory."""

    events: list[AdvisoryEvent]
    """A page of them, the first first."""
    verdicts: list[Verdict]
    """What was found, the newest first; that one counts."""
    next_cursor: str | None
    """For the next page of events; null on the last one."""


class Readiness(StrEnum):
    """How well something works."""

    READY = "ready"
    DEGRADED = "degraded"
    """Something is missing that prognoses can do without."""
    DOWN = "down"
    """It does not work at all."""


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the service leans on."""

    status: Readiness
    detail: str = ""
    """What is wrong; empty where nothing is."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the service can give prognoses."""

    status: Readiness
    """``down`` means that it cannot give any; the HTTP status is 503 then, and 200 otherwise."""
    dependencies: dict[str, Dependency]
    """``model_root``, ``postgres``, and ``redis`` where one is configured."""


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """The process answers."""

    status: str = "alive"


class ProblemKind(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind of problem means."""

    type: str
    status: int
    title: str
