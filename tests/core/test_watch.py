from datetime import UTC, datetime

import polars as pl
import pytest

from rul_core import conditions, watch
from rul_core.issues import ISSUES_SCHEMA, IssueKind
from rul_core.simulator import Simulation, simulate, simulated_fleet

SIMULATION = Simulation(
    units=30, running_units=0, sensors=4, settings=2, conditions=3, mean_life_cycles=60
)
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def fleet() -> tuple[pl.DataFrame, conditions.Conditions]:
    readings = simulate(SIMULATION).readings
    return readings, conditions.fit(readings, simulated_fleet(SIMULATION, "pumps"))


def test_conditions_that_training_saw_are_no_issue(fleet):
    readings, found = fleet
    issues = watch.unseen_conditions(readings, found)
    assert issues.schema == ISSUES_SCHEMA
    assert issues.is_empty()


def test_an_unseen_condition_is_one_issue_a_life_that_says_where_and_how_long(fleet):
    readings, found = fleet
    two = readings.filter(pl.col("unit").is_in(["unit-000001", "unit-000002"]))
    moved = (pl.col("unit") == "unit-000002") & pl.col("cycle").is_between(5, 8)
    issues = watch.unseen_conditions(
        two.with_columns(pl.when(moved).then(99.0).otherwise("setting_1").alias("setting_1")), found
    )
    assert issues.height == 1
    issue = issues.row(0, named=True)
    assert issue["kind"] == IssueKind.UNSEEN_CONDITION
    assert (issue["unit"], issue["cycle"], issue["column"]) == ("unit-000002", 5.0, "setting_1")
    assert issue["value"] > conditions.MARGIN
    assert issue["detail"].startswith("setting_1 99.0, setting_2 ")
    assert issue["detail"].endswith("4 such readings of this life, to cycle 8.0")


def test_an_issue_names_source_and_row_where_the_readings_have_them(fleet):
    readings, found = fleet
    one = readings.head(3).with_columns(
        setting_1=pl.lit(99.0), source=pl.lit("a.csv"), row=pl.int_range(7, 10)
    )
    assert watch.unseen_conditions(one, found).select("source", "row").row(0) == ("a.csv", 7)


def test_a_setting_that_was_not_read_is_no_unseen_condition(fleet):
    readings, found = fleet
    unread = readings.head(3).with_columns(setting_1=pl.lit(None, pl.Float64))
    assert watch.unseen_conditions(unread, found).is_empty()


def test_more_of_the_same_fleet_is_no_drift(fleet):
    readings, found = fleet
    more = simulate(Simulation(**{**_fields(), "first_unit": 31})).readings
    report = watch.compare(more, watch.learn_reference(readings, found), found)
    assert report.scores
    assert not report.drifted


def test_a_young_fleet_is_no_drift_though_its_readings_differ_from_whole_lives(fleet):
    readings, found = fleet
    young = readings.filter(pl.col("cycle") <= 20)
    report = watch.compare(young, watch.learn_reference(readings, found), found)
    moved = {score.channel for score in report.drifted}
    assert not moved.intersection(found.sensors)


def test_a_sensor_that_moved_is_a_drift_of_that_sensor_alone(fleet):
    readings, found = fleet
    spread = readings["sensor_1"].std()
    moved = readings.with_columns(pl.col("sensor_1") + 3 * spread)
    report = watch.compare(moved, watch.learn_reference(readings, found), found)
    assert {score.channel for score in report.drifted} == {"sensor_1"}


def test_a_reference_thins_a_long_history_and_keeps_its_law(fleet, monkeypatch):
    readings, found = fleet
    monkeypatch.setattr(watch, "REFERENCE_READINGS", 900)
    learnt = watch.learn_reference(readings, found)
    assert learnt.reference.mix is not None
    assert sum(learnt.reference.mix.counts) <= 900
    assert not watch.compare(readings, learnt, found).drifted


PROGNOSIS = {
    "unit": "a",
    "life": 1,
    "cycle": 60.0,
    "model_version": "v1",
    "state": "estimated",
    "computed_at": NOW,
    "rul_cycles": 45.0,
    "lower_50_cycles": 38.0,
    "upper_50_cycles": 48.0,
    "lower_90_cycles": 30.0,
    "upper_90_cycles": 60.0,
    "failure_probability": 0.1,
    "outcome": "failed",
    "end_cycle": 100.0,
}


def prognoses(*changes: dict) -> pl.DataFrame:
    return pl.DataFrame([PROGNOSIS | change for change in changes], infer_schema_length=None)


def match(*changes: dict) -> pl.DataFrame:
    return watch.match(prognoses(*changes), cap_cycles=80.0)


def test_a_prognosis_is_matched_with_what_happened():
    outcome = match({}).row(0, named=True)
    assert outcome["true_rul_cycles"] == 40.0
    assert outcome["error_cycles"] == 5.0
    assert outcome["covered_50"]
    assert outcome["covered_90"]
    assert not outcome["warned"]
    assert outcome["lead_cycles"] is None


def test_a_truth_outside_its_band_is_not_covered():
    outcome = match({"cycle": 75.0}).row(0, named=True)
    assert (outcome["covered_50"], outcome["covered_90"]) == (False, False)


def test_beyond_the_horizon_only_the_lower_bound_counts_and_there_is_no_error():
    beyond = {"state": "beyond_horizon", "cycle": 5.0, "upper_90_cycles": None}
    outcome = match(beyond | {"upper_50_cycles": None}, {}).row(0, named=True)
    assert outcome["covered_90"]
    assert outcome["error_cycles"] is None


def test_the_first_warning_of_a_life_gives_its_lead_time():
    risks = ((60.0, 0.1), (70.0, 0.6), (80.0, 0.3), (90.0, 0.9))
    outcomes = match(*({"cycle": cycle, "failure_probability": risk} for cycle, risk in risks))
    assert outcomes["lead_cycles"].to_list() == [30.0] * 4


@pytest.mark.parametrize("outcome", ["running", "replaced", "removed"])
def test_a_life_that_did_not_fail_says_nothing_of_its_prognoses(outcome):
    found = match({"outcome": outcome})
    assert found.schema == watch.OUTCOMES_SCHEMA
    assert found.is_empty()


def test_an_answer_without_figures_is_no_prognosis():
    assert match({"state": "stale_data"}, {"state": "sensor_fault"}).is_empty()


def test_live_coverage_counts_units_and_not_prognoses():
    held = [{"cycle": 60.0 + step / 100} for step in range(50)]
    outcomes = match(*held, {"unit": "b", "cycle": 90.0})
    kept = watch.live_coverage(outcomes, cap_cycles=80.0)
    assert kept[0.9].share == pytest.approx(0.5)
    assert kept[0.9].n == 2
    assert kept[0.9].reaches(0.9)


def test_live_coverage_that_is_too_low_cannot_reach_its_level():
    late = [{"unit": f"u{number}", "cycle": 90.0 if number < 15 else 60.0} for number in range(30)]
    kept = watch.live_coverage(match(*late), cap_cycles=80.0)
    assert not kept[0.9].reaches(0.9)


def test_prognoses_far_beyond_the_cap_do_not_flatter_coverage():
    far = {"cycle": 1.0, "state": "beyond_horizon", "upper_90_cycles": None}
    outcomes = match(far | {"upper_50_cycles": None}, {"cycle": 90.0})
    assert watch.live_coverage(outcomes, cap_cycles=80.0)[0.9].share == 0.0


def test_no_outcomes_give_no_coverage():
    assert watch.live_coverage(pl.DataFrame(schema=watch.OUTCOMES_SCHEMA), cap_cycles=80.0) == {}


def _fields() -> dict:
    return {name: getattr(SIMULATION, name) for name in SIMULATION.__struct_fields__}
