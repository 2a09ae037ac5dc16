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
from rul_core.issues import sentence
from rul_core.model import RulModel
from rul_core.prognosis import Prognosis, Provenance, State
from rul_core.schema import CYCLE, KEY, LIFE, TIME, UNIT, Fleet

STUCK_FACTOR = 2
"""A sensor is stuck once it repeats this many times longer than it ever did in training…"""
STUCK_LEAST = 20
"""… and for at least this many readings."""
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


def prognose(
    model: RulModel,
    readings: pl.DataFrame,
    *,
    version: str,
    now: datetime,
    explained: bool = False,
    trace_id: str | None = None,
) -> list[Prognosis]:
    """The prognosis of every unit at the last reading of its last life.

    Args:
        model: Of the units' fleet.
        readings: A readings frame sorted by unit, life, cycle, each life from its first reading.
        version: The model's, for provenance.
        now: UTC, to tell stale data by.
        explained: Whether to add contributions (about a millisecond a unit).
        trace_id: For provenance.

    Returns:
        One a unit, in order of unit.
    """
    readings = _last_lives(readings)
    if readings.is_empty():
        return []
    faults = _sensor_faults(model, readings)
    readings = _within_ranges(readings, model.fleet)
    features = model.compiled.matrix(readings)
    ends = (
        readings.select(*KEY, TIME)
        .with_row_index("row")
        .group_by(UNIT, maintain_order=True)
        .agg(
            pl.col("row").last(),
            pl.len().alias("readings"),
            pl.col(CYCLE).first().alias("first_cycle"),
            pl.col(LIFE, CYCLE, TIME).last(),
        )
    )
    rows = ends["row"].to_numpy()
    last = readings[rows]
    figures = model.predict_rows(features[rows])
    foreign = _foreign(model, last)
    reasons = (
        explain.contributions(
            model.booster,
            model.pipeline,
            features[rows],
            projections.smooth(readings, model.pipeline.conditions, model.pipeline.smoothing)[rows],
            figures["rul_cycles"].to_numpy(),
        )
        if explained
        else [()] * len(rows)
    )
    spec = model.pipeline.hash
    fleet = model.fleet
    return [
        _one(
            fleet,
            end,
            figure,
            fault or foreign[i],
            State.SENSOR_FAULT if fault else State.OUT_OF_DOMAIN,
            now,
            reasons[i],
            Provenance(
                model_version=version,
                feature_spec=spec,
                first_cycle=end["first_cycle"],
                last_cycle=end[CYCLE],
                readings=end["readings"],
                trace_id=trace_id,
            ),
        )
        for i, (end, figure, fault) in enumerate(
            zip(ends.iter_rows(named=True), figures.iter_rows(named=True), faults, strict=True)
        )
    ]


def _one(
    fleet: Fleet,
    end: dict,
    figure: dict,
    objection: str,
    objection_state: State,
    now: datetime,
    reasons: tuple,
    provenance: Provenance,
) -> Prognosis:
    """The state first; figures only where the state lets them stand."""
    said = Prognosis(
        fleet=fleet.name,
        unit=end[UNIT],
        life=end[LIFE],
        cycle=end[CYCLE],
        state=State.ESTIMATED,
        computed_at=now,
        provenance=provenance,
    )
    needed = fleet.learning.minimum_readings
    if end["readings"] < needed:
        return msgspec.structs.replace(
            said,
            state=State.INSUFFICIENT_HISTORY,
            detail=f"{end['readings']} of {needed} readings collected",
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
        contributions=reasons,
    )
    limit = fleet.freshness_limit_seconds
    age_seconds = (now - end[TIME]).total_seconds() if end[TIME] is not None else 0.0
    if limit is not None and age_seconds > limit:
        return msgspec.structs.replace(
            said,
            state=State.STALE_DATA,
            detail=f"the last reading is {age_seconds:.0f} s old, the limit is {limit:.0f} s",
        )
    return said


def _last_lives(readings: pl.DataFrame) -> pl.DataFrame:
    return readings.filter(pl.col(LIFE) == pl.col(LIFE).max().over(UNIT))


def _within_ranges(readings: pl.DataFrame, fleet: Fleet) -> pl.DataFrame:
    """Values that cannot be are as good as not read, here as in ``quality``."""
    return readings.with_columns(
        pl.when(pl.col(name).is_between(low, high)).then(pl.col(name)).alias(name)
        for name, (low, high) in fleet.ranges.items()
    )


def _sensor_faults(model: RulModel, readings: pl.DataFrame) -> list[str]:
    """Per unit, in order: which driving sensor is lost, stuck or out of range; empty if none."""
    found = model.pipeline.conditions
    runs = dict(zip(found.sensors, model.support.longest_run, strict=True))
    gaps = dict(zip(found.sensors, model.support.longest_gap, strict=True))
    columns = []
    for name in model.support.drivers:
        column, called = pl.col(name), pl.lit(name)
        read = column.drop_nulls()
        gap, run = _at_the_end(column.is_null()), _at_the_end(read == read.last())
        message = (
            pl.when(gap >= max(MISSING_LEAST, gaps[name] + 1))
            .then(sentence("{} is missing from the last {} readings", called, gap))
            .when(run > max(STUCK_LEAST, STUCK_FACTOR * runs[name]))
            .then(sentence("{} has not moved for {} readings", called, run))
        )
        if name in model.fleet.ranges:
            low, high = model.fleet.ranges[name]
            message = message.when(~column.last().is_between(low, high)).then(
                sentence(f"{{}} reads {{}}, outside {low:g} to {high:g}", called, column.last())
            )
        columns.append(message.otherwise(None).alias(name))
    if not columns:
        return [""] * readings[UNIT].n_unique()
    told = readings.group_by(UNIT, maintain_order=True).agg(columns)
    return (
        told.select(pl.concat_str(list(model.support.drivers), separator="; ", ignore_nulls=True))
        .to_series()
        .to_list()
    )


def _at_the_end(holds: pl.Expr) -> pl.Expr:
    """For how many readings up to the last something has held."""
    return holds.reverse().cast(pl.Int64).cum_min().sum()


def _foreign(model: RulModel, last: pl.DataFrame) -> list[str]:
    """Per last reading: what lies beyond the training support; empty if nothing does."""
    found, support = model.pipeline.conditions, model.support
    _, distance = found.assign(last)
    values = found.normalise(last)
    outside = (values < np.asarray(support.lowest)) | (values > np.asarray(support.highest))
    told = []
    for i in range(last.height):
        unread = [name for name in found.settings if last[name][i] is None]
        if unread:
            told.append(f"not read, though the operating condition needs it: {', '.join(unread)}")
        elif distance[i] > MARGIN:
            at = ", ".join(f"{name} {last[name][i]:g}" for name in found.settings)
            told.append(f"an operating condition that training never saw: {at}")
        elif outside[i].any():
            names = [n for n, out in zip(found.sensors, outside[i], strict=True) if out]
            told.append(
                "beyond what training saw: "
                + ", ".join(f"{name} {last[name][i]:g}" for name in names)
            )
        else:
            told.append("")
    return told
