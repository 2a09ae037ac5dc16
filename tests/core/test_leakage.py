"""The leakage gate finds each kind of leak, and leaves honest work alone."""

import msgspec
import numpy as np
import polars as pl
import pytest
from catboost import CatBoostRegressor

from rul_core import leakage_table
from rul_core.errors import ModelError, ReadingsError
from rul_core.features import Pipeline
from rul_core.leakage import (
    CATCHES,
    GateOutcome,
    GateReport,
    GateTest,
    check_features,
    check_table,
    combine,
)
from rul_core.model import Recipe, fit_pipeline
from rul_core.schema import KEY
from rul_core.simulator import Simulation, simulate, simulated_fleet

FLEET = Simulation(units=30, running_units=0, sensors=5, mean_life_cycles=90, noise=0.1, seed=4)
PASSED, FAILED, NOT_RUN = GateOutcome.PASSED, GateOutcome.FAILED, GateOutcome.NOT_RUN
CAP = 60.0
ROWS = 2766

END = pl.col("cycle").max().over("unit")
REMAINING = END - pl.col("cycle")


def noise(rows: int, scale: float) -> pl.Series:
    return pl.Series(np.random.default_rng(9).normal(0, scale, rows))


def honest_table(simulation: Simulation = FLEET) -> pl.DataFrame:
    """Readings with trailing means, exponential means, running extremes and cycles since new."""
    readings = simulate(simulation).readings.drop("time", "life")
    sensors = [name for name in readings.columns if name.startswith("sensor")]
    return readings.with_columns(
        *(
            expression.over("unit").alias(f"{sensor}_{name}")
            for sensor in sensors
            for name, expression in {
                "mean": pl.col(sensor).rolling_mean(10, min_samples=1),
                "std": pl.col(sensor).rolling_std(10, min_samples=2),
                "ewm": pl.col(sensor).ewm_mean(span=10),
                "most": pl.col(sensor).cum_max(),
                "since": pl.col(sensor).ewm_mean(span=10) - pl.col(sensor).first(),
            }.items()
        ),
        pl.col("cycle").alias("cycles_since_new"),
        REMAINING.clip(0, CAP).alias("rul"),
    )


def check(table: pl.DataFrame, **options) -> GateReport:
    return check_table(table, label="rul", **options)


def outcome(report: GateReport, name: str) -> GateTest:
    (finding,) = (found for found in report.findings if found.name == name)
    return finding


# --- a table of features --------------------------------------------------------------------------


def test_an_honest_table_passes_and_what_was_not_run_is_named():
    assert honest_table().height == ROWS
    report = check(honest_table())
    assert report.passed
    assert [finding.name for finding in report.findings] == list(CATCHES)
    assert {finding.name for finding in report.not_run} == {
        "prefix_invariance",
        "shuffled_time",
        "renamed_units",
        "unit_disjoint",
        "label_permutation",
        "model_dominance",
    }


@pytest.mark.parametrize(
    "simulation",
    [
        Simulation(units=30, running_units=0, sensors=5, conditions=4, fault_modes=2, noise=0.1),
        Simulation(units=12, running_units=0, sensors=5, noise=0.02, mean_life_cycles=60),
        Simulation(units=15, running_units=0, sensors=3, noise=0.2, mean_life_cycles=500),
        Simulation(units=60, running_units=0, sensors=5, mean_life_cycles=20),
        Simulation(units=20, running_units=0, sensors=5, missing_share=0.3, mean_life_cycles=80),
    ],
)
def test_honest_features_of_other_fleets_pass(simulation: Simulation):
    report = check(honest_table(simulation))
    assert report.failed == ()
    assert len(report.not_run) == 6


def test_lives_that_are_all_about_as_long_do_not_make_age_or_sensors_a_leak():
    """Where age predicts the end to a hair, so does every honest feature that follows it."""
    generator = np.random.default_rng(1)
    lives = []
    for unit in range(40):
        length = round(float(generator.normal(200, 4)))
        cycle = np.arange(1.0, length + 1)
        wear = (cycle / length * generator.normal(1, 0.05)) ** 2 + generator.normal(0, 0.02, length)
        lives.append(
            pl.DataFrame(
                {"unit": f"u{unit}", "cycle": cycle, "age": cycle, "wear": wear}
            ).with_columns((length - pl.col("cycle")).alias("rul"))
        )
    table = pl.concat(lives)
    assert check(table).failed == ()
    leak = check(table.with_columns((pl.col("rul") + noise(table.height, 5)).alias("copy")))
    assert set(outcome(leak, "single_feature_canary").figures) == {"copy"}


LEAKS = {
    "share_of_life": pl.col("cycle") / END,
    "noisy_share_of_life": pl.col("cycle") / END + noise(ROWS, 0.05),
    "remaining": REMAINING,
    "capped_remaining": REMAINING.clip(0, CAP),
    "remaining_in_other_units": 7 - 0.01 * REMAINING.clip(0, CAP),
    "noisy_remaining": REMAINING + noise(ROWS, 15),
    "noisy_capped_remaining": REMAINING.clip(0, CAP) + noise(ROWS, 8),
    "nearly_over": REMAINING <= 20,
    "is_the_last_reading": REMAINING == 0,
    "known_until_shortly_before_the_end": pl.when(REMAINING > 15).then(1.0),
    "inverse_of_remaining": 1 / (1 + REMAINING),
    "noisy_last_cycle": END + noise(ROWS, 10),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_feature_that_knows_the_end_is_named(name: str):
    table = honest_table()
    report = check(table.with_columns(LEAKS[name].alias("leak")))
    finding = outcome(report, "single_feature_canary")
    assert finding.outcome is FAILED
    named = {feature for failure in report.failed for feature in failure.figures}
    assert {feature.removesuffix(" (is missing)") for feature in named} == {"leak"}
    assert "leak" in finding.detail


@pytest.mark.parametrize(
    "leak", [END, -END, REMAINING.mean().over("unit"), END + pl.col("unit").hash() % 7]
)
def test_one_figure_a_life_that_ranks_the_lives_is_named(leak: pl.Expr):
    report = check(honest_table().with_columns(leak.alias("total")))
    assert [finding.name for finding in report.failed] == ["constant_per_life"]
    assert set(report.failed[0].figures) == {"total"}


def test_a_nameplate_figure_is_no_leak():
    """Constant in a life, and even related to its length; but it does not rank the lives."""
    plant = (END.median() < END).cast(pl.Int64) + pl.col("unit").hash() % 5
    assert check(honest_table().with_columns(plant.alias("plant"))).passed


X = pl.col("sensor_1_ewm")


@pytest.mark.parametrize(
    "scaled",
    [
        (X - X.min().over("unit")) / (X.max().over("unit") - X.min().over("unit")),
        2 * (X - X.min().over("unit")) / (X.max().over("unit") - X.min().over("unit")) - 1,
        (X - X.mean().over("unit")) / X.std().over("unit"),
        (X - X.mean().over("unit")) / X.std(ddof=0).over("unit"),
    ],
)
def test_scaling_with_the_whole_life_is_named(scaled: pl.Expr):
    report = check(honest_table().with_columns(scaled.cast(pl.Float32).alias("scaled")))
    assert "scaled" in outcome(report, "whole_life_scaling").figures
    assert "every life" in outcome(report, "whole_life_scaling").detail


def test_a_valve_that_opens_and_closes_fully_in_every_life_was_not_scaled():
    valve = (pl.col("sensor_1").hash() % 100).cast(pl.Float64).clip(20, 80)
    assert check(honest_table().with_columns(valve.alias("valve"))).passed


def test_a_feature_without_values_or_variation_says_nothing():
    table = honest_table().with_columns(
        pl.lit(None, pl.Float64).alias("empty"),
        pl.lit(float("nan")).alias("nan"),
        pl.lit(5).alias("five"),
    )
    assert check(table).passed


def test_a_feature_that_is_missing_at_random_or_while_young_is_no_leak():
    table = honest_table().with_columns(
        pl.when(pl.col("sensor_1").hash() % 3 != 0).then("sensor_1").alias("gappy"),
        pl.when(pl.col("cycle") > 15).then("sensor_1").alias("warms_up"),
    )
    assert check(table).passed


def test_text_features_are_named_as_not_examined():
    report = check(honest_table().with_columns(pl.lit("x").alias("maker")))
    assert "maker" in outcome(report, "single_feature_canary").detail
    assert report.passed


def test_three_of_many_suspects_are_told_and_all_are_counted():
    table = honest_table().with_columns((REMAINING * k).alias(f"leak_{k}") for k in range(1, 6))
    finding = outcome(check(table), "single_feature_canary")
    assert len(finding.figures) == 5
    assert "(and 2 more)" in finding.detail


def test_few_lives_are_not_judged():
    few = honest_table().filter(pl.col("unit").rank("dense") <= 9)
    report = check(few.with_columns(REMAINING.alias("leak")))
    assert outcome(report, "single_feature_canary").outcome is NOT_RUN
    assert "9 lives" in outcome(report, "single_feature_canary").detail


def test_windows_from_the_end_of_lives_do_not_make_age_a_leak():
    """The last 40 rows of each life begin at other ages, so age ranks them; that is honest."""
    late = honest_table().filter(REMAINING < 40)
    report = check(late)
    assert report.passed
    assert "do not begin together" in outcome(report, "single_feature_canary").detail


def test_lives_of_one_machine_are_told_apart_by_their_column():
    simulation = msgspec.structs.replace(FLEET, units=10, lives_per_unit=2)
    readings = simulate(simulation).readings.drop("time")
    rul = pl.col("cycle").max().over("unit", "life") - pl.col("cycle")
    table = readings.with_columns(rul.alias("rul"))
    report = check(table)
    assert report.passed
    assert outcome(report, "label").figures["lives"] == 20
    assert check(table.rename({"life": "run"}), life="run").findings == report.findings
    with pytest.raises(ReadingsError, match="name the column that tells them apart"):
        check(table.rename({"life": "run"}))


def test_a_huge_table_is_sampled_by_whole_lives():
    table = leakage_table.prepare(
        pl.DataFrame({"unit": np.repeat(np.arange(400), 1000)}).with_columns(
            pl.int_range(pl.len()).over("unit").alias("cycle"),
            (999 - pl.int_range(pl.len()).over("unit")).alias("rul"),
        ),
        "unit",
        "cycle",
        "rul",
        None,
    )
    part = leakage_table.sampled(table, seed=1)
    assert part.frame.height == len(part.label) == leakage_table.MOST_ROWS
    assert part.lives.number == part.frame["unit"].n_unique() == 300


def test_a_pandas_frame_is_judged_like_a_polars_one():
    table = honest_table()
    assert check_table(table.to_pandas(), label="rul") == check(table)


def test_the_order_of_rows_does_not_matter():
    table = honest_table()
    assert check(table.sample(fraction=1, shuffle=True, seed=2)) == check(table)


def test_only_the_named_features_are_examined():
    table = honest_table().with_columns(REMAINING.alias("leak"))
    assert check(table, features=["sensor_1", "sensor_2"]).passed
    with pytest.raises(ReadingsError, match=r"\['sensor_99'\] are missing"):
        check(table, features=["sensor_99"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.col("cycle").cast(pl.String), "cycle.*give numbers"),
        (pl.col("rul").cast(pl.String), "rul.*give numbers"),
        (pl.when(pl.col("cycle") > 1).then("cycle").alias("cycle"), "cycle.*empty in 30 of 2766"),
        (pl.when(pl.col("cycle") > 1).then("unit").alias("unit"), "unit.*empty in 30 of 2766"),
    ],
)
def test_a_table_that_means_nothing_is_refused(change: pl.Expr, message: str):
    with pytest.raises(ReadingsError, match=message):
        check(honest_table().with_columns(change))


def test_a_missing_column_is_named():
    with pytest.raises(ReadingsError, match=r"\['rul', 'part'\] are missing"):
        check(honest_table().drop("rul"), split="part")


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label",
    [
        REMAINING,
        REMAINING + 1,
        REMAINING.cast(pl.Float32),
        pl.when(REMAINING >= 10).then(REMAINING),
    ],
    ids=["uncapped", "one at the last reading", "float32", "cut before the end"],
)
def test_honest_labels_pass(label: pl.Expr):
    finding = outcome(check(honest_table().with_columns(label.alias("rul"))), "label")
    assert finding.outcome is PASSED
    assert finding.figures == {"lives": 30, "ends_known": 30}


def test_a_life_of_which_only_capped_labels_are_there_has_no_known_end():
    young = honest_table().filter((pl.col("unit").rank("dense") > 5) | (REMAINING > CAP))
    finding = outcome(check(young), "label")
    assert finding.outcome is PASSED
    assert finding.figures["ends_known"] == 25


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (REMAINING.clip(0, CAP) - 5, "is below 0"),
        (REMAINING.clip(0, CAP) / CAP, "not one end"),
        (REMAINING.clip(0, CAP).shift(1).fill_null(0), "not one end"),
        (REMAINING.clip(0, CAP) + noise(ROWS, 1).abs(), "not one end"),
        (
            pl.when(pl.col("cycle") < 30).then(CAP).otherwise(REMAINING.clip(0, CAP)),
            "is capped at 60 with less than that left",
        ),
    ],
    ids=["negative", "scaled", "shifted", "noisy", "capped by age"],
)
def test_a_wrong_label_is_named_with_its_life(label: pl.Expr, said: str):
    short = msgspec.structs.replace(FLEET, mean_life_cycles=90)
    finding = outcome(check(honest_table(short).with_columns(label.alias("rul"))), "label")
    assert finding.outcome is FAILED
    assert said in finding.detail
    assert "the first is" in finding.detail


def test_a_table_without_labels_is_not_judged():
    report = check(honest_table().with_columns(pl.lit(None, pl.Float64).alias("rul")))
    assert report.passed
    assert len(report.not_run) == len(CATCHES)


# --- splits ---------------------------------------------------------------------------------------

PART = pl.when(pl.col("unit").rank("dense") <= 20).then(pl.lit("train")).otherwise(pl.lit("test"))


def test_machines_in_one_split_each_pass():
    finding = outcome(
        check(honest_table().with_columns(PART.alias("part")), split="part"), "unit_disjoint"
    )
    assert finding.outcome is PASSED
    assert "test 10, train 20" in finding.detail


def test_a_split_by_rows_is_named():
    by_row = (
        pl.when(pl.col("sensor_1").hash() % 5 > 0)
        .then(pl.lit("train"))
        .otherwise(pl.lit("calibration"))
    )
    report = check(honest_table().with_columns(by_row.alias("part")), split="part")
    finding = outcome(report, "unit_disjoint")
    assert finding.outcome is FAILED
    assert finding.figures == {"shared_units": 30}
    assert "calibration and train" in finding.detail


def test_sets_of_machines_that_overlap_are_named_also_when_they_are_numbers():
    table = honest_table().with_columns(pl.col("unit").rank("dense").alias("unit"))
    apart = check(table, splits={"train": range(1, 20), "calibration": range(20, 31)})
    assert outcome(apart, "unit_disjoint").outcome is PASSED
    shared = check(table, splits={"train": [1, 2, 3], "calibration": ["3", "4"]})
    assert "'3' in calibration and train" in outcome(shared, "unit_disjoint").detail


def test_one_split_alone_is_not_judged():
    report = check(honest_table().with_columns(pl.lit("train").alias("part")), split="part")
    assert outcome(report, "unit_disjoint").outcome is NOT_RUN


# --- models and refits ----------------------------------------------------------------------------

FEATURES = ["cycles_since_new", "sensor_1_ewm", "sensor_2_ewm", "sensor_3_ewm"]


def fitted(table: pl.DataFrame, features: list[str], **options) -> CatBoostRegressor:
    model = CatBoostRegressor(
        iterations=60,
        depth=5,
        learning_rate=0.2,
        verbose=False,
        thread_count=1,
        allow_writing_files=False,
        **options,
    )
    return model.fit(table.select(features).to_pandas(), table["rul"].to_numpy())


def refit(*, by_unit: bool):
    """A whole protocol: hold a third out, by machine or by row."""

    def run(table: pl.DataFrame):
        rows = pl.int_range(pl.len()) if not by_unit else pl.col("unit").rank("dense")
        held = table.select(rows % 3 == 0).to_series()
        model = fitted(table.filter(~held), [*FEATURES, "setting_1"], min_data_in_leaf=5)
        out = table.filter(held)
        return out["rul"], model.predict(out.select([*FEATURES, "setting_1"]).to_pandas())

    return run


def test_a_refit_that_holds_out_machines_finds_nothing_in_labels_of_other_lives():
    finding = outcome(check(honest_table(), fit_and_score=refit(by_unit=True)), "label_permutation")
    assert finding.outcome is PASSED
    assert finding.figures["permuted_ratio"] > 0.95
    assert finding.figures["honest_ratio"] < 0.6


def test_a_refit_that_holds_out_rows_finds_what_is_not_there():
    finding = outcome(
        check(honest_table(), fit_and_score=refit(by_unit=False)), "label_permutation"
    )
    assert finding.outcome is FAILED
    assert finding.figures["permuted_ratio"] < 0.9
    assert "better than by their mean" in finding.detail


def test_a_score_on_the_training_rows_is_found_out():
    def run(table: pl.DataFrame):
        return table["rul"], fitted(table, FEATURES).predict(table.select(FEATURES).to_pandas())

    finding = outcome(check(honest_table(), fit_and_score=run), "label_permutation")
    assert finding.outcome is FAILED


def test_too_few_lives_are_not_refitted():
    few = honest_table().filter(pl.col("unit").rank("dense") <= 9)
    report = check(few, fit_and_score=refit(by_unit=True))
    assert outcome(report, "label_permutation").outcome is NOT_RUN


@pytest.mark.parametrize(
    ("scored", "message"),
    [
        (([1.0, 2.0], [1.0]), r"truth \(2,\) and predictions \(1,\)"),
        (([1.0, 1.0], [1.0, 2.0]), "one label only"),
    ],
)
def test_a_refit_that_scores_nothing_is_an_error(scored, message: str):
    with pytest.raises(ModelError, match=message):
        check(honest_table(), fit_and_score=lambda _: scored)


def test_an_honest_model_passes_and_its_figures_are_given():
    table = honest_table()
    finding = outcome(check(table, model=fitted(table, FEATURES)), "model_dominance")
    assert finding.outcome is PASSED
    assert finding.figures["r2"] < 0.98


def test_a_model_that_leans_on_a_leak_is_named_and_judged_on_test_rows():
    table = honest_table().with_columns(
        (REMAINING.clip(0, CAP) + noise(ROWS, 0.5)).alias("leak"), PART.alias("part")
    )
    model = fitted(table, ["leak", *FEATURES])
    finding = outcome(check(table, model=model, split="part"), "model_dominance")
    assert finding.outcome is FAILED
    assert finding.detail.startswith("leak has ")
    assert "test rows" in finding.detail


def test_only_what_the_model_uses_is_examined():
    table = honest_table().with_columns(REMAINING.alias("leak"))
    assert check(table, model=fitted(table, FEATURES)).passed


def test_a_model_of_quantiles_is_judged_by_its_median():
    table = honest_table()
    model = fitted(table, FEATURES, loss_function="MultiQuantile:alpha=0.05,0.5,0.95")
    finding = outcome(check(table, model=model), "model_dominance")
    middle = model.predict(table.select(FEATURES).to_pandas())[:, 1]
    true = table["rul"].to_numpy()
    assert finding.figures["r2"] == pytest.approx(1 - ((middle - true) ** 2).mean() / true.var())


def test_a_model_with_an_uncertainty_is_judged_by_its_mean():
    table = honest_table()
    model = fitted(table, FEATURES, loss_function="RMSEWithUncertainty")
    finding = outcome(check(table, model=model), "model_dominance")
    assert 0.5 < finding.figures["r2"] < 1


def test_a_model_fitted_on_a_bare_matrix_takes_the_columns_in_order():
    table = honest_table().select("unit", "cycle", "rul", *FEATURES)
    model = CatBoostRegressor(
        iterations=20, verbose=False, thread_count=1, allow_writing_files=False
    )
    model.fit(table.select(FEATURES).to_numpy(), table["rul"].to_numpy())
    assert outcome(check(table, model=model), "model_dominance").outcome is PASSED


def test_a_model_whose_features_are_missing_is_refused():
    table = honest_table()
    with pytest.raises(ModelError, match=r"needs features \['sensor_3_ewm'\]"):
        check(table.drop("sensor_3_ewm"), model=fitted(table, FEATURES))


def test_a_model_that_cannot_be_applied_is_refused():
    table = honest_table().with_columns(pl.lit("a").alias("maker"))
    model = fitted(table, [*FEATURES, "maker"], cat_features=["maker"])
    with pytest.raises(ModelError, match="cannot be applied"):
        check(table.with_columns(pl.lit(0.5).alias("maker")), model=model)


def test_a_model_of_equal_labels_is_not_judged():
    table = honest_table()
    young = table.filter(REMAINING >= CAP)
    report = check(young, model=fitted(table, FEATURES))
    assert outcome(report, "model_dominance").outcome is NOT_RUN


# --- the code that makes features -----------------------------------------------------------------

READINGS = simulate(msgspec.structs.replace(FLEET, units=8)).readings


def features_of(expression: pl.Expr):
    """A feature function of one expression over a life's sorted rows."""

    def run(readings: pl.DataFrame) -> pl.DataFrame:
        return readings.sort(KEY).select(*KEY, expression.over("unit", "life").alias("feature"))

    return run


def test_our_own_pipeline_passes():
    labelled = READINGS.with_columns(REMAINING.alias("rul_cycles"))
    pipeline: Pipeline = fit_pipeline(labelled, simulated_fleet(FLEET, "made-up"), Recipe())
    compiled = pipeline.compiled()
    report = check_features(lambda readings: compiled.frame(readings.sort(KEY)), READINGS)
    assert [finding.outcome for finding in report.findings] == [PASSED] * 3


@pytest.mark.parametrize(
    "honest",
    [
        pl.col("sensor_1").rolling_mean(5, min_samples=1),
        pl.col("sensor_1").rolling_mean(5),
        pl.col("sensor_1").ewm_mean(span=5),
        pl.col("sensor_1") - pl.col("sensor_1").first(),
    ],
    ids=["mean", "warms up", "ewm", "since new"],
)
def test_causal_features_pass(honest: pl.Expr):
    assert check_features(features_of(honest), READINGS).passed


def test_rows_that_are_always_left_out_are_no_leak():
    function = features_of(pl.col("sensor_1").cum_max())
    report = check_features(lambda r: function(r).filter(pl.col("cycle") > 5), READINGS)
    assert report.passed


@pytest.mark.parametrize(
    "leak",
    [
        pl.col("cycle") / pl.col("cycle").max(),
        pl.col("sensor_1").rolling_mean(5, min_samples=1, center=True),
        pl.col("sensor_1").fill_null(strategy="backward").shift(-1),
        (pl.col("sensor_1") - pl.col("sensor_1").min()) / pl.col("sensor_1").max(),
        pl.len(),
        pl.col("sensor_1") - pl.col("sensor_1").head(10).mean(),
    ],
    ids=["share of life", "centred", "next value", "scaled", "length", "early baseline"],
)
def test_features_that_look_ahead_fail_on_prefixes(leak: pl.Expr):
    finding = outcome(check_features(features_of(leak), READINGS), "prefix_invariance")
    assert finding.outcome is FAILED
    assert "feature of the prefix at unit" in finding.detail


def test_features_that_look_at_the_other_machines_fail_on_prefixes():
    def run(readings: pl.DataFrame) -> pl.DataFrame:
        mean = pl.col("sensor_1").mean()
        return readings.select(*KEY, (pl.col("sensor_1") - mean).alias("feature"))

    finding = outcome(check_features(run, READINGS), "prefix_invariance")
    assert finding.outcome is FAILED


def test_features_that_depend_on_the_order_of_rows_fail_when_shuffled():
    def run(readings: pl.DataFrame) -> pl.DataFrame:
        mean = pl.col("sensor_1").rolling_mean(5, min_samples=1).over("unit")
        return readings.select(*KEY, mean.alias("feature"))

    report = check_features(run, READINGS)
    assert outcome(report, "prefix_invariance").outcome is PASSED
    assert "order in which rows arrive" in outcome(report, "shuffled_time").detail


def test_features_that_follow_later_values_fail_when_those_are_scrambled():
    """Blind to the length of the life, so that only what later readings say can change them."""
    last = pl.col("sensor_1").last()
    report = check_features(features_of(last), READINGS)
    assert "later readings say something else" in outcome(report, "shuffled_time").detail


def test_features_looked_up_by_name_fail_when_machines_are_renamed():
    ends = READINGS.group_by("unit").agg(pl.col("cycle").max().alias("end"))

    def run(readings: pl.DataFrame) -> pl.DataFrame:
        return readings.join(ends, on="unit", how="left").select(
            *KEY, (pl.col("cycle") / pl.col("end")).alias("feature")
        )

    report = check_features(run, READINGS)
    assert [finding.name for finding in report.failed] == ["renamed_units"]


def test_columns_or_rows_that_come_and_go_are_a_difference():
    def sideways(readings: pl.DataFrame) -> pl.DataFrame:
        return readings.select(*KEY, pl.lit(1.0).alias(f"of_{readings['unit'].n_unique()}"))

    finding = outcome(check_features(sideways, READINGS, lives=4), "prefix_invariance")
    assert "are not in both" in finding.detail

    def without_last(readings: pl.DataFrame) -> pl.DataFrame:
        return readings.filter(pl.col("cycle") < END).select(*KEY, pl.lit(1.0).alias("one"))

    finding = outcome(check_features(without_last, READINGS), "prefix_invariance")
    assert "rows where" in finding.detail


def test_a_feature_function_without_keys_or_with_rows_twice_is_refused():
    with pytest.raises(ModelError, match=r"lacks \['life'\]"):
        check_features(lambda readings: readings.drop("life"), READINGS)
    with pytest.raises(ModelError, match="more than once"):
        check_features(lambda readings: pl.concat([readings, readings]), READINGS)


def test_lives_too_short_to_cut_are_not_judged():
    report = check_features(features_of(pl.col("sensor_1")), READINGS.filter(pl.col("cycle") <= 3))
    assert [finding.outcome for finding in report.findings] == [NOT_RUN] * 3


# --- the report -----------------------------------------------------------------------------------


def finding_of(name: str, outcome: GateOutcome) -> GateTest:
    return GateTest(name=name, outcome=outcome, detail="because a | b")


def test_a_report_counts_a_failure_before_a_pass_before_not_run_and_keeps_the_order():
    one = GateReport(findings=(finding_of("label", NOT_RUN), finding_of("unit_disjoint", PASSED)))
    two = GateReport(findings=(finding_of("label", PASSED), finding_of("unit_disjoint", FAILED)))
    three = GateReport(findings=(finding_of("prefix_invariance", PASSED),))
    both = combine(one, two, three)
    assert [(finding.name, finding.outcome) for finding in both.findings] == [
        ("prefix_invariance", PASSED),
        ("label", PASSED),
        ("unit_disjoint", FAILED),
    ]
    assert combine(three, two, one) == both
    assert not both.passed
    assert [finding.name for finding in both.failed] == ["unit_disjoint"]


def test_a_report_prints_as_a_table_and_survives_json():
    report = GateReport(findings=(finding_of("unit_disjoint", FAILED),))
    assert report.to_markdown().splitlines()[-1] == (
        "| unit disjoint | **failed** | because a / b |"
    )
    assert msgspec.json.decode(msgspec.json.encode(report), type=GateReport) == report
    assert "more than one of training" in report.findings[0].catches
