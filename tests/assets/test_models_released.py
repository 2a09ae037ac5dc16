"""From features to a champion: candidates, the gate between, and who may move the champion."""

import base64
import io
import re

import dagster as dg
import msgspec
import polars as pl
from PIL import Image

from rul_core import release
from rul_core.leakage import GateOutcome, GateReport, GateTest
from rul_core.simulator import Simulation, simulate
from rul_store import champions, files, versions
from rul_store.champions import Action, Champion
from rul_store.models import load_model

MORE = Simulation(
    units=6, running_units=0, sensors=4, settings=1, mean_life_cycles=40, seed=5, first_unit=41
)


def champion_of(house) -> Champion:
    found = champions.current(house.engine, "pumps")
    assert found is not None
    return found


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict:
    events = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in events[-1].metadata.items()}


def failure_of(result: dg.ExecuteInProcessResult, step: str) -> str:
    (event,) = (e for e in result.all_events if e.is_step_failure and e.step_key == step)
    return str(event.step_failure_data.error)


def test_the_first_candidate_becomes_the_champion(lived_in):
    champion = champion_of(lived_in)
    assert lived_in.bundles.list("pumps") == (champion.version,)
    assert champion.generation == 1
    assert champion.action is Action.RELEASE
    assert champion.reason == "asked for by a person; the fleet had no champion"
    assert champions.read_live(lived_in.root, "pumps") == champion


def test_a_bundle_tells_where_it_comes_from(lived_in):
    run = lived_in.make("rul_model", tags={"rul/reason": "drift"})
    version = lived_in.bundles.list("pumps")[-1]
    manifest = load_model(lived_in.bundles, "pumps", version).manifest
    assert manifest.origin.run_id == run.run_id
    assert manifest.origin.reason == "drift"
    assert manifest.origin.champion_generation == 1
    assert manifest.origin.failed_lives == 16
    assert manifest.origin.recipe.iterations == 20
    raw = lived_in.lake.current("raw_readings", "pumps")
    assert manifest.origin.data["raw_rows"] == str(raw.rows)
    assert manifest.origin.data["features"].startswith("generation 1, ")


def test_a_candidate_is_shown_with_its_card_gate_and_small_pictures(lived_in):
    shown = metadata_of(lived_in.make("rul_model"), "rul_model")
    assert shown["card"].startswith("# Remaining useful life of pumps")
    assert "| label permutation | passed |" in shown["leakage_gate"]
    for name in ("predicted_against_true", "fan_of_one_life", "importance", "coverage"):
        (content,) = re.findall(r"base64,([^)]+)\)", shown[name])
        assert len(content) < 40_000
        assert Image.open(io.BytesIO(base64.b64decode(content))).width > 300


def test_a_challenger_that_is_worse_stays_unreleased_and_the_run_is_no_failure(
    lived_in, monkeypatch
):
    before = champion_of(lived_in)
    monkeypatch.setenv("RUL_LEARNING_ITERATIONS", "1")
    result = lived_in.run("retrain")
    assert champion_of(lived_in) == before
    assert len(lived_in.bundles.list("pumps")) == 2
    told = metadata_of(result, "released_model")
    assert told["released"] is False
    rulings = versions.known(lived_in.engine, "pumps").rulings
    assert [ruled.why for ruled in rulings.values() if not ruled.passed] == [told["why"]]
    assert told["why"].startswith("worse than the champion: RMSE +")
    assert told["champion"] == before.version
    assert told["low_cycles"] > 0
    checks = {found.check_name: found for found in result.get_asset_check_evaluations()}
    assert not checks["challenger_is_not_worse"].passed
    assert checks["challenger_is_not_worse"].severity is dg.AssetCheckSeverity.WARN


def test_a_challenger_that_is_as_good_is_released(lived_in):
    lived_in.drop(simulate(MORE).table, "more.parquet")
    lived_in.make("raw_readings", "core_readings", "features")
    told = metadata_of(lived_in.run("retrain"), "released_model")
    assert told["released"] is True
    assert champion_of(lived_in).generation == 2
    assert champion_of(lived_in).version == lived_in.bundles.list("pumps")[-1]


def test_training_again_is_the_remedy_for_a_damaged_champion(lived_in):
    old = champion_of(lived_in).version
    (lived_in.bundles.open("pumps", old).folder / "model.cbm").write_bytes(b"damaged")
    told = metadata_of(lived_in.run("retrain"), "released_model")
    assert told["released"] is True
    assert told["why"].startswith("the champion cannot speak: ")
    assert "model.cbm differs" in told["why"]
    assert champion_of(lived_in).generation == 2
    assert champion_of(lived_in).version != old


def test_a_release_that_was_made_is_not_made_again(lived_in):
    before = champion_of(lived_in)
    told = metadata_of(lived_in.make("released_model"), "released_model")
    assert told["why"] == "it was the champion already"
    assert champion_of(lived_in) == before


def test_a_candidate_that_fails_the_leakage_gate_is_not_released(lived_in, monkeypatch):
    leak = GateTest(name="label", outcome=GateOutcome.FAILED, detail="unit-1: two ends")
    monkeypatch.setattr(release, "run_gate", lambda *_, **__: GateReport(findings=(leak,)))
    before = champion_of(lived_in)
    result = lived_in.run("retrain", fails=True)
    assert champion_of(lived_in) == before
    assert "leakage_label" in failure_of(result, "candidate_is_sound")
    assert not result.asset_materializations_for_node("released_model")
    assert len(lived_in.bundles.list("pumps")) == 2


def test_a_test_of_the_gate_that_could_not_run_is_told_and_holds_nothing_back(
    lived_in, monkeypatch
):
    missing = GateTest(name="label", outcome=GateOutcome.NOT_RUN, detail="too few lives")
    monkeypatch.setattr(release, "run_gate", lambda *_, **__: GateReport(findings=(missing,)))
    result = lived_in.run("retrain")
    checks = {found.check_name: found for found in result.get_asset_check_evaluations()}
    assert not checks["leakage_label"].passed
    assert checks["leakage_label"].severity is dg.AssetCheckSeverity.WARN
    assert champion_of(lived_in).generation == 2


def test_every_check_of_a_sound_candidate_passes_and_tells_its_figures(lived_in):
    checks = lived_in.check("rul_model")
    assert {name for name, found in checks.items() if not found.passed} == set()
    figures = checks["coverage_is_kept"].metadata
    assert figures["overall_low"].value <= figures["overall_share"].value
    assert figures["overall_n"].value == 16
    assert checks["leakage_label_permutation"].metadata["permuted_ratio"].value > 0.9


def test_a_band_that_breaks_its_promise_is_not_released(lived_in):
    folder = lived_in.bundles.open("pumps", champion_of(lived_in).version).folder
    metrics = msgspec.json.decode((folder / "metrics.json").read_bytes())
    (band,) = (band for band in metrics["clipped"]["bands"] if band["level"] == 0.9)
    band["overall"] |= {"share": 0.5, "high": 0.7}
    (folder / "metrics.json").write_bytes(msgspec.json.encode(metrics))
    files.write_checksums(folder)
    checks = lived_in.check("rul_model", fails=True)
    assert {name for name, found in checks.items() if not found.passed} == {"coverage_is_kept"}


def test_a_damaged_candidate_fails_every_check_by_name(lived_in):
    folder = lived_in.bundles.open("pumps", champion_of(lived_in).version).folder
    (folder / "model.cbm").write_bytes(b"damaged")
    checks = lived_in.check("rul_model", fails=True)
    assert {found.passed for found in checks.values()} == {False}
    assert "model.cbm differs" in str(checks["bundle_verifies"].description)


def test_a_run_given_up_for_dead_that_wakes_up_does_not_overwrite_its_successors_release(
    lived_in, monkeypatch
):
    """It sleeps where it hurts most: after it has decided to release, before it has."""
    rule, sleeping = release.rule, []

    def sleep_once(*contest):
        if not sleeping:
            sleeping.append(True)
            lived_in.run("retrain")
        return rule(*contest)

    monkeypatch.setattr(release, "rule", sleep_once)
    woken = lived_in.run("retrain", fails=True)
    _, of_the_sleeper, of_the_successor = lived_in.bundles.list("pumps")
    assert champion_of(lived_in).version == of_the_successor
    assert champion_of(lived_in).generation == 2
    assert f"was not moved to {of_the_sleeper}" in failure_of(woken, "released_model")


def test_one_that_slept_while_it_trained_does_not_either(lived_in, monkeypatch):
    """It is no worse than its successor; but the champion that it set out to replace is gone."""
    examined, sleeping = release.run_gate, []

    def sleep_once(*given, **named):
        if not sleeping:
            sleeping.append(True)
            lived_in.run("retrain")
        return examined(*given, **named)

    monkeypatch.setattr(release, "run_gate", sleep_once)
    woken = lived_in.run("retrain", fails=True)
    assert "generation 1 was expected" in failure_of(woken, "released_model")
    assert champion_of(lived_in).generation == 2


def test_a_rollback_while_a_challenger_is_trained_stands(lived_in, monkeypatch):
    lived_in.run("retrain")
    first = lived_in.bundles.list("pumps")[0]
    rule = release.rule

    def roll_back_first(*contest):
        champions.rollback(lived_in.engine, lived_in.root, "pumps", by="Ann", reason="noise")
        return rule(*contest)

    monkeypatch.setattr(release, "rule", roll_back_first)
    lived_in.run("retrain", fails=True)
    assert champion_of(lived_in).version == first
    assert champion_of(lived_in).action is Action.ROLLBACK


def test_training_is_refused_while_features_lag_behind_the_core_readings(lived_in):
    lived_in.make("core_readings")
    result = lived_in.run("retrain", fails=True)
    assert "materialise features, train again" in failure_of(result, "rul_model")


def test_too_few_failed_units_are_told_with_what_is_needed(house):
    few = Simulation(units=12, running_units=0, sensors=4, settings=1, mean_life_cycles=40, seed=5)
    house.drop(simulate(few).table, "few.parquet")
    result = house.run("everything", fails=True)
    assert "12 units have a failed life, at least 13 are needed" in failure_of(result, "rul_model")


def test_a_step_that_was_killed_after_its_bundle_is_simply_run_again(lived_in, monkeypatch):
    """The orphan never changes and never serves; the next candidate is the one that counts."""
    with monkeypatch.context() as killed:
        killed.setattr("rul_store.lake.Lake.append", _killed)
        lived_in.run("retrain", fails=True)
    champion, orphan = lived_in.bundles.list("pumps")
    assert champion_of(lived_in).version == champion
    lived_in.run("retrain")
    assert champion_of(lived_in).version not in {champion, orphan}
    known = lived_in.lake.scan("rul_model", "pumps").select(pl.col("version")).collect()
    assert known["version"].to_list() == [champion, champion_of(lived_in).version]


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
