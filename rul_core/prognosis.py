"""What is said of a unit at a cycle: a state, a point, bands, reasons, provenance.

What belongs here: the prognosis itself and the rule that gives it one of its eight states.
What does not: how the point and bands are computed (``model``), where prognoses are kept.
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec


class State(StrEnum):
    """What kind of answer a prognosis is. Only the first two may raise advisories."""

    ESTIMATED = "estimated"
    """Point, 50 % and 90 % band."""
    BEYOND_HORIZON = "beyond_horizon"
    """The 90 % upper bound reaches the label cap: only lower bounds mean anything."""
    INSUFFICIENT_HISTORY = "insufficient_history"
    STALE_DATA = "stale_data"
    """The newest reading is older than the fleet allows."""
    SENSOR_FAULT = "sensor_fault"
    """A sensor that drives the model is stuck, missing or out of range."""
    OUT_OF_DOMAIN = "out_of_domain"
    """An operating condition or values beyond what the model was trained on."""
    NOT_CONFIGURED = "not_configured"
    """The fleet has no released model."""
    MODEL_ERROR = "model_error"
    """Inference failed; the trace id finds the log."""


VALID_STATES = frozenset({State.ESTIMATED, State.BEYOND_HORIZON})


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """How many cycles one group of features moved the point.

    The contributions of a prognosis, with the one named ``typical`` (what the model says of the
    average training reading), add up to the point.
    """

    group: str
    """A sensor's name, ``age``, ``all_sensors``, ``typical``, or ``limits`` (kept within 0, the cap
    and the 50 % band)."""
    cycles: float


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """How far the readings had come when a prognosis was computed.

    Together they name its readings for good: those of its life that were there by then. What came
    late, or later, is beyond these numbers.
    """

    landed_rows: int | None = None
    """Of files: the first so many rows of the fleet's raw readings that came in files."""
    sent_seq: int | None = None
    """Of what was sent over HTTP: the rows up to this ingestion number."""
    raw_rows: int | None = None
    """Where both kinds were read from the fleet's raw readings: the first so many rows."""


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """What a prognosis was computed from, so that it can be computed again."""

    model_version: str | None = None
    feature_spec: str | None = None
    """Hash of the feature declarations and what was fitted for them."""
    engine: str | None = None
    """What evaluated the model."""
    first_cycle: float | None = None
    last_cycle: float | None = None
    last_read_at: datetime | None = None
    """The last reading's time (UTC), where it has one: the figures grow stale from then on."""
    readings: int = 0
    """How many readings the window from first to last cycle held."""
    seen: Seen = Seen()
    trace_id: str | None = None
    ledger_id: UUID | None = None
    """Of its entry in the ledger; null where it was not recorded, as in a what-if answer."""


class Lookalike(msgspec.Struct, frozen=True, kw_only=True):
    """A life of the training that once stood near where the unit stands now."""

    unit: str
    life: int
    cycle: float
    """Where in its life it stood so."""
    end_cycle: float
    """Where it failed."""
    rul_cycles: float
    """What it had left then, as it turned out."""
    distance: float
    """From the unit, over the smoothed channels; 1 is as far as readings of training usually lie
    apart in each."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """How far the contributions of a prognosis can be trusted, and whom the unit resembles."""

    stability: float | None
    """0 to 1: the share of the contributions that the readings just before give too; null where
    the model spoke at no reading before."""
    readings: int
    """How many readings before it were compared for that."""
    lookalikes: tuple[Lookalike, ...]
    """The nearest first, each of another life."""


class Prognosis(msgspec.Struct, frozen=True, kw_only=True):
    """One answer about one unit; figures are in the fleet's unit of life, null where none is meant.

    In ``beyond_horizon`` an upper bound that reaches the label cap is null: it is no bound.
    In ``stale_data`` the figures are the last valid ones. In every other state but ``estimated``
    they are null, and ``detail`` says why.
    """

    fleet: str
    unit: str
    life: int | None = None
    cycle: float | None = None
    state: State
    detail: str = ""
    """For a person: which sensor, how many readings of how many, how old."""
    rul_cycles: float | None = None
    lower_50_cycles: float | None = None
    upper_50_cycles: float | None = None
    lower_90_cycles: float | None = None
    upper_90_cycles: float | None = None
    safe_cycles: float | None = None
    """The calibrated 5 % bound: 19 of 20 machines live longer; rules use it."""
    failure_probability: float | None = None
    """P(failure within the fleet's lead time)."""
    horizon_cycles: float | None = None
    """The lead time that ``failure_probability`` speaks of."""
    failure_mode: str = "unspecified"
    assumed_operation: str = "as in the unit's recent readings"
    contributions: tuple[Contribution, ...] = ()
    explanation: Explanation | None = None
    """Only where it was asked for."""
    provenance: Provenance = Provenance()
    computed_at: datetime | None = None
    """UTC."""
