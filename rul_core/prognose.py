"""From a unit's readings to its prognosis: the figures, and which of the eight states they are in.

What belongs here: the rules that decide whether the model may speak. What does not: the model
(``model``), where readings come from, what is kept.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
import numpy as np
import polars as pl

from rul_core import explain, projections
from rul_core.conditions import MARGIN
from rul_core.features import life_starts
from rul_core.following import Followed
from rul_core.model import RulModel
from rul_core.prognosis import VALID_STATES, Prognosis, Provenance, Seen, State
from rul_core.quality import within_limits
from rul_core.schema import LIFE, UNIT, Fleet
from rul_core.trees import ENGINE

STUCK_FACTOR = 2
"""A sensor is stuck once it repeats this many times longer than it ever did in training…"""
STUCK_LEAST = 20
"""… and for at least this many readings."""
UNKNOWN = Seen()
HAVE_FIGURES = VALID_STATES | {State.STALE_DATA}
MISSING_LEAST = 5
"""A sensor is lost once this many readings in a row lack it, and more than ever in training."""


def not_configured(fleet: Fleet, units: Sequence[str], now: datetime) -> list[Prognosis]:
    """What is said of units of a fleet that has no released model."""
    return [
        Prognosis(
            fleet=fleet.name,
            unit=unit,
            state=State.NOT_CONFIGURED,
            detail=f"fleet {fleet.name} has no released model; land run-to-failure data and "
            "materialise rul_model and released_model",
            computed_at=now,
        )
        for unit in units
    ]


def unread(
    fleet: Fleet, unit: str, life: int, *, version: str, now: datetime, seen: Seen = UNKNOWN
) -> Prognosis:
    """What is said of a life without a usable reading."""
    return Prognosis(
        fleet=fleet.name,
        unit=unit,
        life=life,
        state=State.INSUFFICIENT_HISTORY,
        detail=f"0 of {fleet.learning.minimum_readings} readings collected",
        computed_at=now,
        provenance=Provenance(model_version=version, seen=seen),
    )


def aged(said: Prognosis, limit_seconds: float | None, now: datetime) -> Prognosis:
    """The same, or ``stale_data`` with its figures once its last reading is older than the limit.

    Args:
        said: Of any state; only one with figures can grow stale.
        limit_seconds: The fleet's freshness limit, if it has one.
        now: UTC.
    """
    read_at = said.provenance.last_read_at
    if limit_seconds is None or read_at is None or said.state not in HAVE_FIGURES:
        return said
    age_seconds = (now - read_at).total_seconds()
    if age_seconds <= limit_seconds:
        return said
    return msgspec.structs.replace(
        said,
        state=State.STALE_DATA,
        detail=f"the last reading is {age_seconds:.0f} s old, the limit is {limit_seconds:.0f} s",
    )


def prognose(
    model: RulModel,
    readings: pl.DataFrame,
    *,
    version: str,
    now: datetime,
    explained: bool = False,
    trace_id: str | None = None,
    seen: Seen = UNKNOWN,
) -> list[Prognosis]:
    """The prognosis of every unit at the last reading of its last life.

    Args:
        model: Of the units' fleet.
        readings: A readings frame sorted by unit, life, cycle, each life from its first reading.
        version: The model's, for provenance.
        now: UTC, to tell stale data by.
        explained: Whether to add contributions (about a millisecond a unit).
        trace_id: For provenance.
        seen: For provenance.

    Returns:
        One a unit, in order of unit.
    """
    readings = readings.filter(pl.col(LIFE) == pl.col(LIFE).max().over(UNIT))
    lives = model.follower.follow_frame(readings)
    prognoses = judge(model, lives, version=version, now=now, trace_id=trace_id, seen=seen)
    if not explained or not lives:
        return prognoses
    smoothed = projections.smooth(
        within_limits(readings, model.fleet), model.pipeline.conditions, model.pipeline.smoothing
    )
    features = np.stack([life.features for life in lives])
    reasons = explain.contributions(
        model.booster,
        model.pipeline,
        features,
        smoothed[life_starts(readings)[1:] - 1],
        model.figures(features)["rul_cycles"],
    )
    return [
        said if said.rul_cycles is None else msgspec.structs.replace(said, contributions=reasons[i])
        for i, said in enumerate(prognoses)
    ]


def judge(
    model: RulModel,
    lives: Sequence[Followed],
    *,
    version: str,
    now: datetime,
    trace_id: str | None = None,
    seen: Seen = UNKNOWN,
) -> list[Prognosis]:
    """What is said of lives at the readings up to which they were followed.

    Args:
        model: That they were followed with.
        lives: Each with a reading at least.
        version: The model's, for provenance.
        now: UTC, to tell stale data by.
        trace_id: For provenance.
        seen: For provenance.

    Returns:
        One a life, in order.
    """
    if not lives:
        return []
    said = model.figures(np.stack([life.features for life in lives]))
    figures = [
        dict(zip(said, figure, strict=True))
        for figure in zip(*(column.tolist() for column in said.values()), strict=True)
    ]
    faults, foreign = _sensor_faults(model, lives), _foreign(model, lives)
    return [
        _one(
            model.fleet,
            life,
            figure,
            faults.get(i) or foreign.get(i, ""),
            State.SENSOR_FAULT if i in faults else State.OUT_OF_DOMAIN,
            now,
            Provenance(
                model_version=version,
                feature_spec=model.feature_spec,
                engine=ENGINE,
                first_cycle=life.first_cycle,
                last_cycle=life.cycle,
                last_read_at=life.time,
                readings=life.readings,
                trace_id=trace_id,
                seen=seen,
            ),
        )
        for i, (life, figure) in enumerate(zip(lives, figures, strict=True))
    ]


def _one(
    fleet: Fleet,
    life: Followed,
    figure: dict,
    objection: str,
    objection_state: State,
    now: datetime,
    provenance: Provenance,
) -> Prognosis:
    """The state first; figures only where the state lets them stand."""
    said = Prognosis(
        fleet=fleet.name,
        unit=life.unit,
        life=life.life,
        cycle=life.cycle,
        state=State.ESTIMATED,
        computed_at=now,
        provenance=provenance,
    )
    needed = fleet.learning.minimum_readings
    if life.readings < needed:
        return msgspec.structs.replace(
            said,
            state=State.INSUFFICIENT_HISTORY,
            detail=f"{life.readings} of {needed} readings collected",
        )
    if objection:
        return msgspec.structs.replace(said, state=objection_state, detail=objection)
    cap = fleet.learning.label_cap_cycles
    beyond = figure["upper_90"] >= cap
    said = msgspec.structs.replace(
        said,
        state=State.BEYOND_HORIZON if beyond else State.ESTIMATED,
        detail=f"at least {figure['lower_90']:.0f} {fleet.unit_of_life}" if beyond else "",
        rul_cycles=figure["rul_cycles"],
        lower_50_cycles=figure["lower_50"],
        upper_50_cycles=figure["upper_50"] if figure["upper_50"] < cap else None,
        lower_90_cycles=figure["lower_90"],
        upper_90_cycles=None if beyond else figure["upper_90"],
        safe_cycles=figure["safe"],
        failure_probability=figure["failure_probability"],
        horizon_cycles=fleet.maintenance.lead_time_cycles,
    )
    return aged(said, fleet.freshness_limit_seconds, now)


def _sensor_faults(model: RulModel, lives: Sequence[Followed]) -> dict[int, str]:
    """By place among the lives: which driving sensors are out of range, lost or stuck."""
    found, follower = model.pipeline.conditions, model.follower
    names, support = model.support.drivers, model.support
    at = [found.sensors.index(name) for name in names]
    channels = [model.fleet.channels.index(name) for name in names]
    runs, gaps = (held[:, at] for held in follower.held(lives))
    read = np.stack([life.values for life in lives])[:, channels]
    low, high = follower.lowest[channels], follower.highest[channels]
    outside = (read < low) | (read > high)
    lost = gaps >= np.maximum(MISSING_LEAST, np.asarray(support.longest_gap)[at] + 1)
    stuck = runs > np.maximum(STUCK_LEAST, STUCK_FACTOR * np.asarray(support.longest_run)[at])
    told: dict[int, list[str]] = {}
    for i, n in np.argwhere(outside | lost | stuck).tolist():
        told.setdefault(i, []).append(
            f"{names[n]} reads {read[i, n]:g}, outside {low[n]:g} to {high[n]:g}"
            if outside[i, n]
            else f"{names[n]} is missing from the last {gaps[i, n]:.0f} readings"
            if lost[i, n]
            else f"{names[n]} has not moved for {runs[i, n]:.0f} readings"
        )
    return {i: "; ".join(sentences) for i, sentences in told.items()}


def _foreign(model: RulModel, lives: Sequence[Followed]) -> dict[int, str]:
    """By place among the lives: what of the last reading lies beyond the training support."""
    found, support = model.pipeline.conditions, model.support
    settings, sensors = model.follower.split(np.stack([life.values for life in lives]))
    condition, distance = found.nearest(settings)
    values = found.z_scores(sensors, condition, distance)
    outside = (values < np.asarray(support.lowest)) | (values > np.asarray(support.highest))
    told = {}
    for i in np.flatnonzero((distance > MARGIN) | outside.any(axis=1)).tolist():
        unread = [n for n, v in zip(found.settings, settings[i], strict=True) if np.isnan(v)]
        if unread:
            told[i] = f"not read, though the operating condition needs it: {', '.join(unread)}"
        elif distance[i] > MARGIN:
            at = _listed(found.settings, settings[i])
            told[i] = f"an operating condition that training never saw: {at}"
        else:
            names = [n for n, out in zip(found.sensors, outside[i], strict=True) if out]
            told[i] = f"beyond what training saw: {_listed(names, sensors[i][outside[i]])}"
    return told


def _listed(names: Sequence[str], values: np.ndarray) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in zip(names, values, strict=True))
