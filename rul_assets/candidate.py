"""A model with all that people and gates want to know of it, before it is a bundle.

What belongs here: gathering what the core says of a training. What does not: saying it
(``rul_core``), keeping it (``rul_store.models``).
"""

from dataclasses import dataclass
from datetime import datetime

import polars as pl
from numpy import minimum

from rul_assets.settings import Learning
from rul_core import card, evaluation, lookalikes, pictures, release, watch
from rul_core.card import Card, Picture
from rul_core.leakage import GateReport
from rul_core.model import Training, sensor_shares
from rul_core.schema import CYCLE, LIFE, UNIT
from rul_core.scoring import Regimes
from rul_core.watch import LiveReference
from rul_store.models import Origin

PICTURES = {
    "predicted_against_true.png": "Out of fold: predicted against true remaining life",
    "fan_of_one_life.png": "Out of fold: what would have been said along one life",
    "importance.png": "What moves the prediction",
    "coverage.png": "How often the bands held the truth",
}
PROTOCOL = (
    "Folds are made of units, never of rows; every figure is of units that the model which spoke "
    "had not seen, with the bands calibrated without them.",
    "A unit is judged at one random moment of its life, in expectation over all moments.",
    "The released model learnt from all units; no figure was chosen on data that it is told on.",
)


@dataclass(frozen=True)
class Findings:
    """What is known of a training."""

    metrics: Regimes
    gate: GateReport
    reference: LiveReference
    trajectories: pl.DataFrame
    """``lookalikes.learn``."""
    pictures: dict[str, bytes]
    """PNG by file name."""
    card: str
    """Markdown."""


def examine(
    training: Training,
    readings: pl.DataFrame,
    lives: pl.DataFrame,
    learning: Learning,
    origin: Origin,
    *,
    now: datetime,
) -> Findings:
    """Judge a training: figures, gate, what drift is measured from, card and pictures.

    Args:
        training: The model and its evidence.
        readings: That it learnt from, sorted.
        lives: That it learnt from.
        learning: How it was made.
        origin: What it was made of.
        now: For the card.
    """
    model, evidence = training.model, training.out_of_fold
    cap = model.fleet.learning.label_cap_cycles
    metrics = evaluation.score(evidence, cap)
    gate = release.run_gate(training, readings, lives, learning.recipe, seed=learning.seed)
    drawn = dict(zip(PICTURES, _draw(training, metrics), strict=True))
    said = Card(
        fleet=model.fleet,
        made_at=now,
        data={
            "units": str(readings[UNIT].n_unique()),
            "failed lives": str(origin.failed_lives),
            "readings": str(origin.readings),
        },
        protocol=PROTOCOL,
        metrics=metrics,
        gate=gate,
        importance=sensor_shares(model.booster, model.pipeline),
        provenance={
            "code": origin.code_version,
            "seed": str(origin.seed),
            "trees": str(origin.recipe.iterations),
            "feature declarations": model.pipeline.hash,
            "run": origin.run_id,
            "reason": origin.reason,
            **{f"data: {asset}": state for asset, state in origin.data.items()},
        },
        pictures=tuple(
            Picture(file_name=name, caption=caption) for name, caption in PICTURES.items()
        ),
    )
    return Findings(
        metrics=metrics,
        gate=gate,
        reference=watch.learn_reference(readings, model.pipeline.conditions),
        trajectories=lookalikes.learn(readings, lives, model.fleet, model.pipeline),
        pictures=drawn,
        card=card.to_markdown(said),
    )


def _draw(training: Training, metrics: Regimes) -> list[bytes]:
    """In the order of ``PICTURES``."""
    model, evidence = training.model, training.out_of_fold
    fleet = model.fleet
    cap, unit_of_life = fleet.learning.label_cap_cycles, fleet.unit_of_life
    judged = evaluation.judged(evidence, cap)
    true = minimum(judged.frame["rul_cycles"].to_numpy(), cap)
    level = model.bands.column
    along = judged.frame.select(UNIT, LIFE, CYCLE, rul_cycles="predicted").with_columns(
        pl.Series(name, judged.quantiles[:, level(share)])
        for name, share in (
            ("lower_50", 0.25),
            ("upper_50", 0.75),
            ("lower_90", 0.05),
            ("upper_90", 0.95),
        )
    )
    lengths = along.group_by(UNIT, LIFE).agg(end=pl.max(CYCLE)).sort("end", UNIT, LIFE)
    typical = lengths.row(lengths.height // 2, named=True)
    one = along.filter((pl.col(UNIT) == typical[UNIT]) & (pl.col(LIFE) == typical[LIFE]))
    return [
        pictures.predicted_against_true(
            true,
            judged.frame["predicted"].to_numpy(),
            cap_cycles=cap,
            unit_of_life=unit_of_life,
        ),
        pictures.fan_of_one_life(
            one,
            end_cycle=typical["end"],
            cap_cycles=cap,
            unit=typical[UNIT],
            unit_of_life=unit_of_life,
        ),
        pictures.importance(sensor_shares(model.booster, model.pipeline)),
        pictures.coverage(metrics.clipped.bands, unit_of_life=unit_of_life),
    ]
