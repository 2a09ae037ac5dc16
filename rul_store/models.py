"""A model as a bundle, and a bundle as a model.

What belongs here: which files a model's bundle has, and the proof that a loaded model answers as
the trained one did. What does not: writing and checking files (``registry``), which version is
live (``champions``).

    model.cbm         the point model, as CatBoost writes it
    model.json        fleet, pipeline, bands, support
    golden.json       a few windows of readings, and what the model says of every one of them
    evidence.parquet  out-of-fold predictions, which a challenger is compared by
    reference.json    what the training readings looked like, which drift is measured from
    lookalikes.parquet  where failed lives of the training stood on their way, thinned
    metrics.json      every figure of the evidence, in both regimes
    gate.json         the leakage gate's report
    card.md, *.png    for people
    bundle.json       the manifest: what the model was made of
"""

import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import polars as pl
from catboost import CatBoostError, CatBoostRegressor

from rul_core.errors import BundleError
from rul_core.features import Pipeline
from rul_core.intervals import Bands
from rul_core.issues import sentence
from rul_core.leakage_report import GateOutcome, GateReport
from rul_core.model import Recipe, RulModel, Support, Training
from rul_core.prognose import prognose
from rul_core.release import promised_band
from rul_core.schema import CYCLE, KEY, LIFE, TIME, UNIT, Fleet
from rul_core.scoring import Regimes
from rul_core.trees import ENGINE
from rul_core.watch import LiveReference
from rul_store.registry import REMEDY, Bundle, BundleStore

Part = TypeVar("Part")
FORMAT = 2
GOLDEN_LIVES, GOLDEN_READINGS = 3, 30
ENGINE_TOLERANCE = 1e-4
"""In cycles, between our evaluation of a model and CatBoost's."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a model was made of."""

    recipe: Recipe
    seed: int
    readings: int
    """Of the lives that it learnt from."""
    failed_lives: int
    """Lives known to have failed when it was made."""
    data: dict[str, str]
    """By asset: the state of its table, as the lake names it."""
    champion_generation: int
    """How often the fleet's champion had moved when training began; a release must find it so."""
    code_version: str
    run_id: str = ""
    reason: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says of itself."""

    format: int
    fleet: str
    created_at: datetime
    feature_spec: str
    """The pipeline's hash."""
    origin: Origin


@dataclass(frozen=True)
class LoadedModel:
    """A model that answered as it did when it was trained."""

    model: RulModel
    version: str
    manifest: Manifest
    bundle: Bundle

    def evidence(self) -> pl.DataFrame:
        """``Training.out_of_fold``."""
        return pl.read_parquet(io.BytesIO(self.bundle.read("evidence.parquet")))

    def metrics(self) -> Regimes:
        """Every figure of the evidence."""
        return metrics_of(self.bundle)

    def reference(self) -> LiveReference:
        """What drift is measured from."""
        return _decoded(self.bundle, "reference.json", LiveReference)

    @cached_property
    def trajectories(self) -> pl.DataFrame:
        """``lookalikes.learn`` of the lives that it learnt from."""
        return pl.read_parquet(io.BytesIO(self.bundle.read("lookalikes.parquet")))


class _Parts(msgspec.Struct, frozen=True, kw_only=True):
    """All of a model but the booster."""

    fleet: Fleet
    pipeline: Pipeline
    bands: Bands
    support: Support


class _Golden(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of readings, and of what is said of them."""

    readings: dict[str, list[Any]]
    predictions: dict[str, list[float]]


def save_model(
    store: BundleStore,
    training: Training,
    *,
    origin: Origin,
    examples: pl.DataFrame,
    reference: LiveReference,
    trajectories: pl.DataFrame,
    metrics: Regimes,
    gate: msgspec.Struct,
    card: str,
    pictures: Mapping[str, bytes] | None = None,
    now: datetime | None = None,
) -> str:
    """Write a trained model as a bundle that never changes; give its version.

    Args:
        store: Where bundles are.
        training: The model and its evidence.
        origin: What it was made of.
        examples: Readings of a few lives at least, sorted; golden windows are taken from them.
        reference: What drift is measured from.
        trajectories: ``lookalikes.learn`` of the lives that it learnt from.
        metrics: Of the evidence.
        gate: The leakage gate's report.
        card: Markdown.
        pictures: PNG by file name, as the card names them.
        now: The present by default.
    """
    now = now or datetime.now(UTC)
    model = training.model
    parts = _Parts(
        fleet=model.fleet, pipeline=model.pipeline, bands=model.bands, support=model.support
    )
    contents = {
        "model.cbm": _booster_bytes(model.booster),
        "model.json": _json(parts),
        "golden.json": _json(_golden(model, examples)),
        "evidence.parquet": _parquet(training.out_of_fold),
        "reference.json": _json(reference),
        "lookalikes.parquet": _parquet(trajectories),
        "metrics.json": _json(metrics),
        "gate.json": _json(gate),
        "card.md": card.encode(),
        **(pictures or {}),
    }
    manifest = Manifest(
        format=FORMAT,
        fleet=model.fleet.name,
        created_at=now,
        feature_spec=model.pipeline.hash,
        origin=origin,
    )
    return store.write(model.fleet.name, contents, msgspec.to_builtins(manifest), now=now)


def load_model(store: BundleStore, fleet: str, version: str) -> LoadedModel:
    """A model from its bundle, once every checksum is right and every golden answer the same.

    Raises:
        BundleError: There is no such version, a file differs, the format is of another version of
            the platform, or the model answers otherwise than it did when it was trained.
    """
    bundle = store.open(fleet, version)
    manifest = manifest_of(bundle)
    parts = _decoded(bundle, "model.json", _Parts)
    try:
        booster = CatBoostRegressor().load_model(blob=bundle.read("model.cbm"))
    except CatBoostError as error:
        raise BundleError(f"{bundle.folder / 'model.cbm'} cannot be read: {error}") from error
    model = RulModel(
        fleet=parts.fleet,
        pipeline=parts.pipeline,
        booster=booster,
        bands=parts.bands,
        support=parts.support,
    )
    _refuse_other_answers(model, bundle, manifest)
    return LoadedModel(model=model, version=version, manifest=manifest, bundle=bundle)


def hindrances(bundle: Bundle) -> tuple[str, ...]:
    """What the release gate finds against a candidate by itself, whatever the champion is.

    Raises:
        BundleError: What the bundle says of it cannot be read.
    """
    if not {"gate.json", "metrics.json"} <= bundle.checksums.keys():
        return ("leakage gate: the bundle has no report of it",)
    found = gate_of(bundle).findings
    failed = [
        f"leakage gate, {test.name.replace('_', ' ')}: {test.detail}"
        for test in found
        if test.outcome is GateOutcome.FAILED
    ]
    if not any(test.outcome is GateOutcome.PASSED for test in found):
        failed.append("leakage gate: no test of it was passed")
    band = promised_band(metrics_of(bundle))
    if not band.promise_kept:
        failed.append(
            f"coverage: the {band.level:.0%} band held {band.overall.share:.1%} of the truth"
        )
    return tuple(failed)


def gate_of(bundle: Bundle) -> GateReport:
    """What the leakage gate found.

    Raises:
        BundleError: It cannot be read.
    """
    return _decoded(bundle, "gate.json", GateReport)


def metrics_of(bundle: Bundle) -> Regimes:
    """Every figure of the evidence.

    Raises:
        BundleError: They cannot be read.
    """
    return _decoded(bundle, "metrics.json", Regimes)


def manifest_of(bundle: Bundle) -> Manifest:
    """What an opened bundle says of itself.

    Raises:
        BundleError: It is of another version of the platform, or wrong.
    """
    found = bundle.manifest.get("format")
    if found != FORMAT:
        raise BundleError(
            f"bundle {bundle.version} of fleet {bundle.fleet!r} has format {found}, this version "
            f"of the platform reads {FORMAT}; use the version that made it, or train again"
        )
    try:
        return msgspec.convert(bundle.manifest, Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"{bundle.folder}: the manifest is wrong: {error}; {REMEDY}") from error


def _golden(model: RulModel, examples: pl.DataFrame) -> _Golden:
    """The first and the last readings of some lives, each as if it were a life of its own."""
    lives = examples.select(UNIT, LIFE).unique(maintain_order=True)
    some = lives.gather_every(max(1, -(-lives.height // GOLDEN_LIVES)))
    chosen = examples.select(*KEY, *model.fleet.channels).join(
        some, on=[UNIT, LIFE], how="semi", maintain_order="left"
    )
    windows = chosen.group_by(UNIT, LIFE, maintain_order=True)
    readings = pl.concat(
        [
            windows.head(GOLDEN_READINGS).with_columns(sentence("{} begins", UNIT).alias(UNIT)),
            windows.tail(GOLDEN_READINGS).with_columns(sentence("{} ends", UNIT).alias(UNIT)),
        ]
    ).sort(KEY)
    predictions = model.predict(readings).drop(KEY)
    return _Golden(
        readings=readings.to_dict(as_series=False), predictions=predictions.to_dict(as_series=False)
    )


def _refuse_other_answers(model: RulModel, bundle: Bundle, manifest: Manifest) -> None:
    golden = _decoded(bundle, "golden.json", _Golden)
    schema = model.fleet.readings_schema
    readings = pl.DataFrame(
        golden.readings, schema={name: schema[name] for name in (*KEY, *model.fleet.channels)}
    )
    expected = pl.DataFrame(golden.predictions)
    found = model.predict(readings)
    features = model.compiled.matrix(readings)
    apart = float(np.abs(model.trees.predict(features) - model.booster.predict(features)).max())
    if not apart <= ENGINE_TOLERANCE:
        raise BundleError(
            f"bundle {bundle.version} of fleet {bundle.fleet!r}: on its golden windows {ENGINE} "
            f"and CatBoost are {apart:g} apart, more than {ENGINE_TOLERANCE:g}; this version of "
            "the platform does not evaluate such a model, train again"
        )
    if found.drop(KEY).equals(expected):
        # Whatever is compiled or made at first use is made now: no request shall wait for it.
        timeless = readings.with_columns(pl.lit(None, schema[TIME]).alias(TIME))
        prognose(model, timeless, version=bundle.version, now=manifest.created_at)
        return
    differs = pl.any_horizontal(found[name] != expected[name] for name in expected.columns)
    first = found.filter(pl.select(differs).to_series()).row(0, named=True)
    raise BundleError(
        f"bundle {bundle.version} of fleet {bundle.fleet!r} does not answer as it did when it was "
        f"trained: at cycle {first[CYCLE]:g} of golden window {first[UNIT]!r} it says "
        f"{first['rul_cycles']!r}; use the platform's version {manifest.origin.code_version} on "
        "the kind of processor it was trained on, or train again"
    )


def _decoded(bundle: Bundle, name: str, kind: type[Part]) -> Part:
    try:
        return msgspec.json.decode(bundle.read(name), type=kind)
    except msgspec.DecodeError as error:
        raise BundleError(f"{bundle.folder / name} cannot be read: {error}; {REMEDY}") from error


def _json(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1)


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _booster_bytes(booster: CatBoostRegressor) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.cbm")
        booster.save_model(str(path))
        return path.read_bytes()
