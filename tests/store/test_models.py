from datetime import UTC, datetime

import msgspec
import numpy as np
import polars as pl
import pytest

from rul_core import evaluation, watch
from rul_core.errors import BundleError
from rul_core.model import Recipe, Training, train
from rul_core.schema import UNIT
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_core.trees import Trees
from rul_store import files
from rul_store.models import Origin, load_model, save_model
from rul_store.registry import BundleStore

SIMULATION = Simulation(units=15, running_units=2, sensors=4, conditions=2, mean_life_cycles=40)
RECIPE = Recipe(iterations=20, folds=3, threads=1)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORIGIN = Origin(
    recipe=RECIPE,
    seed=3,
    readings=480,
    failed_lives=12,
    data={"core_readings": "7"},
    champion_generation=0,
    code_version="0.1.0",
    run_id="a-run",
    reason="first_model",
)


TRAJECTORIES = pl.DataFrame(
    {"unit": ["u"], "rul_cycles": [3.0], "position": [[0.5, -1.0]]},
    schema_overrides={"position": pl.Array(pl.Float32, 2)},
)


class Gate(msgspec.Struct):
    passed: bool


@pytest.fixture(scope="module")
def learnt() -> tuple[Training, pl.DataFrame]:
    simulated = simulate(SIMULATION)
    fleet = simulated_fleet(SIMULATION, "pumps")
    return train(simulated.readings, simulated.lives, fleet, RECIPE), simulated.readings


@pytest.fixture
def store(tmp_path) -> BundleStore:
    return BundleStore(tmp_path)


def saved(store: BundleStore, learnt: tuple[Training, pl.DataFrame]) -> str:
    training, readings = learnt
    model = training.model
    return save_model(
        store,
        training,
        origin=ORIGIN,
        examples=readings,
        reference=watch.learn_reference(readings, model.pipeline.conditions),
        metrics=evaluation.score(
            training.out_of_fold, model.fleet.learning.label_cap_cycles, repeats=20
        ),
        trajectories=TRAJECTORIES,
        gate=Gate(passed=True),
        card="# Pumps",
        pictures={"fan.png": b"png"},
        now=NOW,
    )


def test_a_loaded_model_predicts_as_the_trained_one_did_to_the_last_bit(store, learnt):
    training, readings = learnt
    loaded = load_model(store, "pumps", saved(store, learnt))
    assert loaded.model.predict(readings).equals(training.model.predict(readings))
    assert loaded.model.fleet == training.model.fleet
    assert loaded.model.pipeline.hash == training.model.pipeline.hash
    assert loaded.model.support == training.model.support


def test_a_bundle_says_what_it_was_made_of(store, learnt):
    manifest = load_model(store, "pumps", saved(store, learnt)).manifest
    assert manifest.origin == ORIGIN
    assert manifest.created_at == NOW
    assert manifest.feature_spec == learnt[0].model.pipeline.hash


def test_evidence_metrics_and_reference_travel_with_the_model(store, learnt):
    training, readings = learnt
    loaded = load_model(store, "pumps", saved(store, learnt))
    assert loaded.evidence().equals(training.out_of_fold)
    assert loaded.metrics().clipped.units == 15
    conditions = training.model.pipeline.conditions
    assert loaded.trajectories.equals(TRAJECTORIES)
    assert loaded.reference() == watch.learn_reference(readings, conditions)


def test_card_and_pictures_are_kept_for_people(store, learnt):
    bundle = load_model(store, "pumps", saved(store, learnt)).bundle
    assert bundle.read("card.md") == b"# Pumps"
    assert bundle.read("fan.png") == b"png"
    assert msgspec.json.decode(bundle.read("gate.json")) == {"passed": True}


def test_a_flipped_byte_in_a_model_is_named(store, learnt):
    version = saved(store, learnt)
    path = store.open("pumps", version).path("model.cbm")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.cbm differs"):
        load_model(store, "pumps", version)


def test_a_model_that_answers_otherwise_is_refused_though_its_checksums_are_right(store, learnt):
    """As a library of another version, or another kind of processor, might make it."""
    version = saved(store, learnt)
    path = store.open("pumps", version).path("golden.json")
    golden = msgspec.json.decode(path.read_bytes())
    said = golden["predictions"]["rul_cycles"]
    said[4] = float(np.nextafter(said[4], np.inf))
    path.write_bytes(msgspec.json.encode(golden))
    files.write_checksums(path.parent)
    with pytest.raises(BundleError, match=r"golden window .* use the platform's version 0\.1\.0"):
        load_model(store, "pumps", version)


def test_golden_windows_reach_the_end_of_lives(store, learnt):
    bundle = load_model(store, "pumps", saved(store, learnt)).bundle
    golden = msgspec.json.decode(bundle.read("golden.json"))
    assert sorted(set(golden["readings"][UNIT]))[:2] == [
        "unit-000001 begins",
        "unit-000001 ends",
    ]
    last = learnt[1].filter(pl.col(UNIT) == "unit-000001")["cycle"].max()
    ends = zip(golden["readings"][UNIT], golden["readings"]["cycle"], strict=True)
    assert max(cycle for unit, cycle in ends if unit == "unit-000001 ends") == last


def test_a_bundle_of_a_later_format_is_refused(store, learnt):
    version = saved(store, learnt)
    folder = store.open("pumps", version).folder
    manifest = msgspec.json.decode((folder / "bundle.json").read_bytes())
    (folder / "bundle.json").write_bytes(msgspec.json.encode(manifest | {"format": 3}))
    files.write_checksums(folder)
    with pytest.raises(BundleError, match="has format 3, this version of the platform reads 2"):
        load_model(store, "pumps", version)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.json", b"{}", "model.json cannot be read"),
        ("model.cbm", b"no model", "model.cbm cannot be read"),
        ("bundle.json", b'{"format": 2}', "the manifest is wrong"),
    ],
)
def test_a_file_that_is_no_part_of_a_model_is_named(store, learnt, name, content, message):
    version = saved(store, learnt)
    folder = store.open("pumps", version).folder
    (folder / name).write_bytes(content)
    files.write_checksums(folder)
    with pytest.raises(BundleError, match=message):
        load_model(store, "pumps", version)


def test_a_version_that_is_not_there_is_named_with_those_that_are(store, learnt):
    version = saved(store, learnt)
    with pytest.raises(BundleError, match=f"newest versions of fleet 'pumps': {version}"):
        load_model(store, "pumps", "20200101T000000Z-000000")


def test_a_model_that_our_evaluation_answers_otherwise_than_catboost_is_refused(
    store, learnt, monkeypatch
):
    version = saved(store, learnt)
    right = Trees.predict
    # A fault that no model is known to have is put into the evaluation itself.
    monkeypatch.setattr(Trees, "predict", lambda trees, rows: right(trees, rows) + 0.01)
    with pytest.raises(BundleError, match=r"0\.01 apart, more than 0\.0001"):
        load_model(store, "pumps", version)
