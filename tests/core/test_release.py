import msgspec
import polars as pl
import pytest

from rul_core import evaluation, release
from rul_core.model import Recipe, Training, train
from rul_core.release import Contender, Ruling
from rul_core.schema import Fleet
from rul_core.simulator import Simulated, Simulation, simulate, simulated_fleet

SIMULATION = Simulation(units=20, running_units=0, sensors=4, mean_life_cycles=40)
RECIPE = Recipe(iterations=20, folds=4, threads=1)


@pytest.fixture(scope="module")
def learnt() -> tuple[Training, Simulated]:
    simulated = simulate(SIMULATION)
    fleet = simulated_fleet(SIMULATION, "pumps")
    return train(simulated.readings, simulated.lives, fleet, RECIPE), simulated


def ruling(
    learnt: tuple[Training, Simulated],
    *,
    challenger: pl.DataFrame | None = None,
    champion: pl.DataFrame | None = None,
    fleet: Fleet | None = None,
) -> Ruling:
    training, simulated = learnt
    old = training.model if fleet is None else _of(training, fleet)
    return release.rule(
        Contender(training.model, training.out_of_fold if challenger is None else challenger),
        Contender(old, training.out_of_fold if champion is None else champion),
        simulated.readings,
        simulated.lives,
    )


def test_an_honest_training_passes_every_test_of_the_gate(learnt):
    training, simulated = learnt
    report = release.run_gate(training, simulated.readings, simulated.lives, RECIPE)
    assert not report.failed
    assert not report.not_run


def test_folds_that_share_units_do_not_pass_the_gate(learnt):
    training, simulated = learnt
    by_row = training.out_of_fold.with_columns(
        fold=pl.int_range(pl.len(), dtype=pl.Int64) % RECIPE.folds
    )
    report = release.run_gate(
        Training(training.model, by_row), simulated.readings, simulated.lives, RECIPE
    )
    assert "unit_disjoint" in {finding.name for finding in report.failed}


def test_the_gate_looks_at_a_sample_of_many_lives(learnt, monkeypatch):
    training, simulated = learnt
    monkeypatch.setattr(release, "GATE_LIVES", 12)
    report = release.run_gate(training, simulated.readings, simulated.lives, RECIPE)
    said = {finding.name: finding.detail for finding in report.findings}
    assert "of 10 lives" in said["label"]


def test_the_promised_band_is_that_of_90_percent(learnt):
    training, _ = learnt
    cap = training.model.fleet.learning.label_cap_cycles
    metrics = evaluation.score(training.out_of_fold, cap, repeats=20)
    assert release.promised_band(metrics).level == 0.9


def test_the_first_model_of_a_fleet_is_released(learnt):
    training, simulated = learnt
    first = release.rule(
        Contender(training.model, training.out_of_fold), None, simulated.readings, simulated.lives
    )
    assert first == Ruling(released=True, why="the fleet had no champion")


def test_a_challenger_as_good_as_the_champion_is_released(learnt):
    found = ruling(learnt)
    assert found.released
    assert found.why.startswith("not worse than the champion: RMSE +0.00")


def test_a_challenger_worse_beyond_noise_is_refused_with_the_figures(learnt):
    found = ruling(learnt, challenger=_worse(learnt[0].out_of_fold))
    assert not found.released
    assert found.paired is not None
    assert found.paired.low_cycles > 0
    assert "against the champion's on the same 20 units" in found.why


def test_a_challenger_worse_for_half_of_the_units_and_better_for_the_rest_is_released(learnt):
    odd = pl.col("unit").str.tail(1).is_in(["1", "3", "5", "7", "9"])
    error = (pl.col("predicted") - pl.col("rul_cycles")) * pl.when(odd).then(1.1).otherwise(0.9)
    found = ruling(
        learnt,
        challenger=learnt[0].out_of_fold.with_columns(predicted=pl.col("rul_cycles") + error),
    )
    assert found.released
    assert found.paired is not None
    assert found.paired.low_cycles < 0 < found.paired.high_cycles


@pytest.mark.parametrize(("factor", "released"), [(1.01, True), (1.1, False)])
def test_a_challenger_may_be_worse_by_a_small_margin_however_sure_that_is(learnt, factor, released):
    cap = learnt[0].model.fleet.learning.label_cap_cycles
    true = pl.col("rul_cycles").clip(upper_bound=cap)
    worse = learnt[0].out_of_fold.with_columns(
        predicted=true + factor * (pl.col("predicted") - true)
    )
    found = ruling(learnt, challenger=worse)
    assert found.paired is not None
    assert found.paired.low_cycles > 0
    assert found.released is released
    assert f"up to {release.MARGIN * found.paired.rmse_b_cycles:+.2f} passes" in found.why


def test_a_better_challenger_is_released(learnt):
    found = ruling(learnt, champion=_worse(learnt[0].out_of_fold))
    assert found.released
    assert found.paired is not None
    assert found.paired.high_cycles < 0


def test_errors_under_another_label_cap_are_not_compared(learnt):
    fleet = learnt[0].model.fleet
    other = msgspec.structs.replace(
        fleet, learning=msgspec.structs.replace(fleet.learning, label_cap_cycles=60.0)
    )
    found = ruling(learnt, fleet=other)
    assert found.released
    assert found.paired is None
    assert "the label cap" in found.why


def test_a_champion_whose_sensors_are_read_no_more_is_replaced(learnt):
    fleet = learnt[0].model.fleet
    columns = msgspec.structs.replace(fleet.columns, sensors=("sensor_1", "sensor_9"))
    found = ruling(learnt, fleet=msgspec.structs.replace(fleet, columns=columns))
    assert found == Ruling(
        released=True, why="the champion needs ['sensor_9'], which are read no more"
    )


def _worse(evidence: pl.DataFrame) -> pl.DataFrame:
    return evidence.with_columns(pl.col("predicted") + 15.0)


def _of(training: Training, fleet: Fleet):
    model = training.model
    return type(model)(fleet, model.pipeline, model.booster, model.bands, model.support)
