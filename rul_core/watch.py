"""What life tells of a released model: conditions it never saw, drift, prognoses that came true.

What belongs here: judging live readings and ended lives against one model. What does not: the
score of a drift (``drift``), readings that are wrong in themselves (``quality``), figures of a
model that is not released yet (``evaluation``).
"""

import msgspec
import numpy as np
import polars as pl

from rul_core import drift, metrics
from rul_core.conditions import MARGIN, Conditions
from rul_core.drift import DriftReport, Reference
from rul_core.intervals import HORIZON
from rul_core.issues import ISSUES_SCHEMA, ROW, SOURCE, IssueKind, as_issues, sentence
from rul_core.metrics import Coverage
from rul_core.prognosis import State
from rul_core.schema import CYCLE, KEY, LIFE, UNIT, Outcome

STAGES = 4
"""Stages of life that are compared apart: a young fleet is no drift."""
WARNED_FROM = 0.5
"""The chance of failure within the lead time from which a prognosis counts as a warning."""
REFERENCE_READINGS = 500_000
"""Readings that a reference is taken from at most."""
OUTCOMES_SCHEMA = pl.Schema(
    {
        UNIT: pl.String,
        LIFE: pl.Int64,
        CYCLE: pl.Float64,
        "model_version": pl.String,
        "state": pl.String,
        "computed_at": pl.Datetime("us", "UTC"),
        "rul_cycles": pl.Float64,
        "lower_50_cycles": pl.Float64,
        "upper_50_cycles": pl.Float64,
        "lower_90_cycles": pl.Float64,
        "upper_90_cycles": pl.Float64,
        "true_rul_cycles": pl.Float64,
        "error_cycles": pl.Float64,
        "covered_50": pl.Boolean,
        "covered_90": pl.Boolean,
        "warned": pl.Boolean,
        "lead_cycles": pl.Float64,
    }
)
"""One row a valid prognosis of a life that has failed since.

``error_cycles`` is said less true (clipped at the cap), null beyond the horizon, where the point is
no figure; ``warned``: the chance of failure within the lead time was put at ``WARNED_FROM`` or
more; ``lead_cycles``: how long before its failure the life's first warning came, null if none did.
"""


def unseen_conditions(readings: pl.DataFrame, conditions: Conditions) -> pl.DataFrame:
    """Readings in operating conditions that a model never saw, one issue a life.

    Args:
        readings: Sorted by unit, life, cycle. Without ``source`` and ``row`` these are null.
        conditions: Of the model's pipeline.

    Returns:
        ``ISSUES_SCHEMA``; ``value`` is the distance to the nearest condition in training radii.
    """
    _, distance = conditions.assign(readings)
    far = np.isfinite(distance) & (distance > MARGIN)
    if not far.any():
        return pl.DataFrame(schema=ISSUES_SCHEMA)
    where = pl.concat_str(
        [sentence(f"{name} {{}}", name) for name in conditions.settings], separator=", "
    )
    detail = sentence(
        "{}: an operating condition that training never saw; {} such readings of this life, to "
        "cycle {}",
        "where",
        "readings",
        "last_cycle",
    )
    first = (
        readings.with_columns(
            value=pl.Series(distance),
            where=where,
            **{
                name: pl.lit(None, dtype)
                for name, dtype in ((SOURCE, pl.String), (ROW, pl.Int64))
                if name not in readings.columns
            },
        )
        .filter(pl.Series(far))
        .group_by(UNIT, LIFE, maintain_order=True)
        .agg(
            pl.first(CYCLE, SOURCE, ROW, "value", "where"),
            readings=pl.len(),
            last_cycle=pl.last(CYCLE),
        )
        .with_columns(detail=detail)
    )
    return as_issues(first, IssueKind.UNSEEN_CONDITION, conditions.settings[0])


class LiveReference(msgspec.Struct, frozen=True, kw_only=True):
    """What live readings are compared with; travels in the bundle as JSON."""

    reference: Reference
    stage_edges: tuple[float, ...]
    """Cycles between the stages of life."""


def learn_reference(readings: pl.DataFrame, conditions: Conditions) -> LiveReference:
    """What the readings of training lives looked like, per operating condition and stage of life.

    Args:
        readings: Sorted; of lives that the model learnt from.
        conditions: Of the model's pipeline.

    Raises:
        NotEnoughData: There are no readings.
    """
    thinned = readings.gather_every(max(1, -(-readings.height // REFERENCE_READINGS)))
    shares = np.arange(1, STAGES) / STAGES
    edges = np.unique(np.quantile(thinned[CYCLE].to_numpy(), shares)) if thinned.height else ()
    stage_edges = tuple(float(edge) for edge in edges)
    staged = _staged(thinned, conditions, stage_edges)
    reference = drift.learn_reference(staged, conditions.sensors, condition="stage")
    return LiveReference(reference=reference, stage_edges=stage_edges)


def compare(
    readings: pl.DataFrame, reference: LiveReference, conditions: Conditions
) -> DriftReport:
    """Readings that came in against those that the model learnt from.

    Args:
        readings: In any order.
        reference: From ``learn_reference``.
        conditions: Those that the reference was learnt with.
    """
    return drift.compare(reference.reference, _staged(readings, conditions, reference.stage_edges))


def match(prognoses: pl.DataFrame, *, cap_cycles: float) -> pl.DataFrame:
    """Prognoses beside what happened.

    Args:
        prognoses: unit, life, cycle, model_version, state, computed_at, rul_cycles, the bounds
            ``lower_50_cycles`` to ``upper_90_cycles``, failure_probability; and ``outcome`` and
            ``end_cycle`` of the life. Only failed lives have happened: a replaced one would have
            lived longer, and nobody knows how long.
        cap_cycles: The label cap.

    Returns:
        ``OUTCOMES_SCHEMA``, sorted by unit, life, cycle; prognoses without figures are left out.
    """
    true = pl.col("end_cycle") - pl.col(CYCLE)
    beyond = pl.col("state") == State.BEYOND_HORIZON.value
    valid = beyond | (pl.col("state") == State.ESTIMATED.value)

    def covered(level: int) -> pl.Expr:
        # A bound at or beyond the cap is null: it says "at least the lower".
        low, high = pl.col(f"lower_{level}_cycles"), pl.col(f"upper_{level}_cycles")
        return (low <= true) & (true <= high.fill_null(float("inf")))

    error = pl.col("rul_cycles") - true.clip(upper_bound=cap_cycles)
    matched = (
        prognoses.filter(valid & (pl.col("outcome") == Outcome.FAILED.value) & (true >= 0))
        .sort(*KEY, "computed_at")
        .with_columns(
            true_rul_cycles=true,
            error_cycles=pl.when(~beyond).then(error),
            covered_50=covered(50),
            covered_90=covered(90),
            warned=pl.col("failure_probability") >= WARNED_FROM,
        )
    )
    lead = pl.col("true_rul_cycles").filter(pl.col("warned")).first().over(UNIT, LIFE)
    return matched.with_columns(lead_cycles=lead).select(
        pl.col(name).cast(dtype) for name, dtype in OUTCOMES_SCHEMA.items()
    )


def live_coverage(outcomes: pl.DataFrame, *, cap_cycles: float) -> dict[float, Coverage]:
    """How often the bands of 50 % and 90 % held the truth, by level; empty without outcomes.

    Prognoses of one unit resemble each other, so every unit counts once, with the mean over its
    prognoses, and the interval counts units. Those far beyond the cap, where any lower bound
    holds, are left out, as they were when the bands were calibrated.

    Args:
        outcomes: ``OUTCOMES_SCHEMA``, of one model.
        cap_cycles: The label cap.
    """
    outcomes = outcomes.filter(pl.col("true_rul_cycles") <= HORIZON * cap_cycles)
    if outcomes.is_empty():
        return {}
    true = outcomes["true_rul_cycles"].to_numpy()
    weights = 1.0 / outcomes.select(pl.len().over(UNIT)).to_series().to_numpy()
    return {
        level / 100: metrics.coverage(
            true,
            outcomes[f"lower_{level}_cycles"].to_numpy(),
            outcomes[f"upper_{level}_cycles"].fill_null(float("inf")).to_numpy(),
            weights=weights,
            units=outcomes[UNIT].to_numpy(),
        )
        for level in (50, 90)
    }


def _staged(
    readings: pl.DataFrame, conditions: Conditions, stage_edges: tuple[float, ...]
) -> pl.DataFrame:
    """unit, stage (operating condition and stage of life) and the sensors."""
    condition, distance = conditions.assign(readings)
    stage = np.searchsorted(stage_edges, readings[CYCLE].to_numpy(), side="left")
    return (
        readings.select(UNIT, *conditions.sensors)
        .with_columns(
            condition=pl.Series(condition),
            stage=pl.Series(stage),
            known=pl.Series(np.isfinite(distance)),
        )
        .with_columns(
            stage=pl.when("known").then(sentence("condition {}, stage {}", "condition", "stage"))
        )
        .drop("condition", "known")
    )
