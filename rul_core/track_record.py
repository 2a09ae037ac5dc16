"""How good the prognoses of a fleet turned out to be, once its machines had failed.

What belongs here: the figures that are printed beside the next prognosis. What does not: matching
prognoses with ended lives (``watch.match``), models that are not released (``evaluation``).

Prognoses of one life resemble each other, so in every figure a life counts once, with the mean over
its prognoses.
"""

from collections.abc import Callable
from itertools import pairwise

import msgspec
import numpy as np
import polars as pl

from rul_core import metrics, watch
from rul_core.metrics import Coverage
from rul_core.prognosis import VALID_STATES
from rul_core.schema import LIFE, UNIT, Outcome

LEADS = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Lead times that are told apart, as shares of the label cap, and what is beyond the last."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """How often a band held the truth."""

    level: float
    """How often it was promised to."""
    coverage: Coverage


class LeadError(msgspec.Struct, frozen=True, kw_only=True):
    """How far points were off, so long before the failure."""

    from_cycles: float
    to_cycles: float | None
    """Null for all that is farther away; there the truth counts as the label cap."""
    lives: int
    prognoses: int
    mean_abs_error_cycles: float

    @property
    def lead(self) -> str:
        """The span as a label."""
        return f"{self.from_cycles:g}-{'' if self.to_cycles is None else f'{self.to_cycles:g}'}"


class VersionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the prognoses of one model version, or of all."""

    model_version: str | None = None
    """Null for all versions together."""
    lives: int
    """Failed lives of which it had given a valid prognosis."""
    censored_lives: int
    """Lives that were replaced or removed before failure: how long they would have lived nobody
    knows, so they count in no figure."""
    prognoses: int
    """Valid ones of the failed lives."""
    coverage: tuple[Held, ...]
    """Of the 50 % and the 90 % band, with the exact binomial interval over units; empty without
    lives."""
    mean_abs_error_cycles: float | None
    """Of points; null where none was given, as beyond the horizon."""
    alpha_lambda_share: float | None
    """Share of points within 20 % of the truth (Saxena 2010)."""
    early_share: float | None
    """Share of points more than 13 cycles before the truth."""
    late_share: float | None
    """Share of points more than 10 cycles after the truth, the dangerous side."""
    by_lead: tuple[LeadError, ...]
    """The nearest to the failure first; spans without a point are left out."""


class TrackRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a fleet's prognoses."""

    overall: VersionRecord
    versions: tuple[VersionRecord, ...]
    """Each that gave a valid prognosis of a life that has ended, by name, which is by time."""

    def of_version(self, version: str) -> VersionRecord | None:
        """What came of one version's; none while no life has ended of which it spoke."""
        return next((one for one in self.versions if one.model_version == version), None)


def of(outcomes: pl.DataFrame, ended: pl.DataFrame, *, cap_cycles: float) -> TrackRecord:
    """The record.

    Args:
        outcomes: ``watch.OUTCOMES_SCHEMA``.
        ended: unit, life, state, model_version and outcome of prognoses of ended lives.
        cap_cycles: The label cap.
    """
    censored = ended.filter(
        pl.col("state").is_in([state.value for state in VALID_STATES]),
        pl.col("outcome") != Outcome.FAILED.value,
    )
    versions = [
        _record(
            version,
            outcomes.filter(pl.col("model_version") == version),
            censored.filter(pl.col("model_version") == version),
            cap_cycles,
        )
        for version in sorted({*outcomes["model_version"], *censored["model_version"]})
    ]
    return TrackRecord(
        overall=_record(None, outcomes, censored, cap_cycles), versions=tuple(versions)
    )


def _record(
    version: str | None, outcomes: pl.DataFrame, censored: pl.DataFrame, cap: float
) -> VersionRecord:
    points = outcomes.drop_nulls("error_cycles")
    true = points["true_rul_cycles"].clip(upper_bound=cap).to_numpy()
    said, weights = points["rul_cycles"].to_numpy(), _weights(points)
    held = watch.live_coverage(outcomes, cap_cycles=cap)

    def figure(judge: Callable[..., float]) -> float | None:
        return judge(true, said, weights=weights) if len(true) else None

    return VersionRecord(
        model_version=version,
        lives=_lives(outcomes),
        censored_lives=_lives(censored),
        prognoses=outcomes.height,
        coverage=tuple(Held(level=level, coverage=found) for level, found in held.items()),
        mean_abs_error_cycles=figure(metrics.mae),
        alpha_lambda_share=figure(metrics.alpha_lambda),
        early_share=figure(metrics.early_share),
        late_share=figure(metrics.late_share),
        by_lead=tuple(_by_lead(points, cap)),
    )


def _by_lead(points: pl.DataFrame, cap: float) -> list[LeadError]:
    found = []
    for low, high in pairwise((*(share * cap for share in LEADS), np.inf)):
        lead = pl.col("true_rul_cycles")
        some = points.filter(lead >= low, lead < high)
        if some.is_empty():
            continue
        error = np.abs(some["error_cycles"].to_numpy())
        found.append(
            LeadError(
                from_cycles=low,
                to_cycles=high if np.isfinite(high) else None,
                lives=_lives(some),
                prognoses=some.height,
                mean_abs_error_cycles=float(np.average(error, weights=_weights(some))),
            )
        )
    return found


def _weights(rows: pl.DataFrame) -> np.ndarray:
    """(n,) so that each life weighs 1."""
    return 1.0 / rows.select(pl.len().over(UNIT, LIFE)).to_series().to_numpy()


def _lives(rows: pl.DataFrame) -> int:
    return rows.select(pl.struct(UNIT, LIFE).n_unique()).item()
