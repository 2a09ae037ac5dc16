"""Drift is seen where it is, and chance is not taken for it."""

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core.drift import (
    EVERYWHERE,
    MIX,
    DriftReport,
    Reference,
    Score,
    compare,
    confirmed,
    learn_reference,
)
from rul_core.errors import NotEnoughData, ReadingsError

CHANNELS = ["hot", "cold"]


def fleet(
    seed: int,
    units: int,
    rows: int,
    *,
    likeness: float = 0.5,
    shift: float = 0.0,
    conditions: tuple[str, ...] = ("low", "high"),
) -> pl.DataFrame:
    """Machines whose readings resemble each other: ``likeness`` is the variance between them."""
    generator = np.random.default_rng(seed)
    condition = generator.choice(conditions, units * rows)
    own = {
        channel: np.repeat(generator.normal(0, likeness**0.5, units), rows)
        + generator.normal(0, (1 - likeness) ** 0.5, units * rows)
        + 50.0 * (condition == "high")
        for channel in CHANNELS
    }
    own["hot"] += shift
    unit = np.repeat([f"u{number}" for number in range(units)], rows)
    return pl.DataFrame({"unit": unit, "condition": condition, **own})


def reference_of(frame: pl.DataFrame) -> Reference:
    return learn_reference(frame, CHANNELS, condition="condition")


@pytest.mark.parametrize("likeness", [0.0, 0.5, 0.95])
def test_the_same_law_is_rarely_called_drift(likeness: float):
    flagged = 0
    for seed in range(40):
        reference = reference_of(fleet(2 * seed, 60, 100, likeness=likeness))
        report = compare(reference, fleet(2 * seed + 1, 20, 40, likeness=likeness))
        flagged += bool(report.drifted)
    assert flagged <= 2


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.sampled_from([-3.0, 3.0]))
def test_a_shifted_sensor_is_named_in_every_condition_and_no_other_is(seed: int, shift: float):
    report = compare(reference_of(fleet(seed, 60, 100)), fleet(seed + 1, 20, 60, shift=shift))
    moved = {(score.condition, score.channel) for score in report.drifted}
    assert moved == {("low", "hot"), ("high", "hot")}
    by_channel = report.by_channel()
    assert by_channel["hot"] > max(0.2, by_channel["cold"])


def test_a_change_of_spread_alone_is_drift():
    wide = fleet(1, 40, 60, likeness=0.0).with_columns(pl.col("cold") * 4)
    report = compare(
        learn_reference(fleet(0, 60, 100, likeness=0.0), CHANNELS), wide.select("unit", *CHANNELS)
    )
    assert [score.channel for score in report.drifted] == ["cold"]
    assert report.drifted[0].condition == EVERYWHERE


def test_another_mix_of_conditions_is_drift_of_the_mix_and_of_no_sensor():
    live = fleet(1, 40, 100, conditions=("low", "high", "high", "high", "high", "high"))
    report = compare(reference_of(fleet(0, 60, 100)), live)
    assert [(score.condition, score.channel) for score in report.drifted] == [(EVERYWHERE, MIX)]


def test_a_condition_that_the_reference_lacks_is_named_and_drifts_the_mix():
    live = fleet(1, 40, 100, conditions=("low", "high", "desert"))
    report = compare(reference_of(fleet(0, 60, 100)), live)
    assert report.unseen == ("desert",)
    assert (EVERYWHERE, MIX) in {(score.condition, score.channel) for score in report.drifted}


def test_values_that_stop_coming_are_drift():
    gone = fleet(1, 40, 60).with_columns(
        pl.when(pl.int_range(pl.len()) % 2 == 0).then("hot").alias("hot"),
    )
    report = compare(reference_of(fleet(0, 60, 100)), gone)
    assert {score.channel for score in report.drifted} == {"hot"}


def test_nulls_as_often_as_before_are_no_drift_and_nan_is_null():
    def holes(frame: pl.DataFrame, hole: float | None) -> pl.DataFrame:
        keep = pl.int_range(pl.len()) % 3 != 0
        return frame.with_columns(pl.when(keep).then("hot").otherwise(hole).alias("hot"))

    reference = reference_of(holes(fleet(0, 60, 100), None))
    assert reference.bins[0].counts[-1] > 0
    assert not compare(reference, holes(fleet(1, 40, 60), float("nan"))).drifted


def test_a_sensor_without_any_value_in_the_reference_drifts_when_it_speaks():
    silent = fleet(0, 60, 100).with_columns(pl.lit(None, pl.Float64).alias("hot"))
    assert not compare(reference_of(silent), silent).drifted
    assert {s.channel for s in compare(reference_of(silent), fleet(1, 40, 60)).drifted} == {"hot"}


@pytest.mark.parametrize("value", [99.0, 101.0])
def test_a_constant_sensor_drifts_when_it_becomes_another_constant(value: float):
    constant = fleet(0, 60, 100).with_columns(pl.lit(100.0).alias("hot"))
    moved = fleet(1, 40, 60).with_columns(pl.lit(value).alias("hot"))
    assert not compare(reference_of(constant), constant).drifted
    assert {s.channel for s in compare(reference_of(constant), moved).drifted} == {"hot"}


def test_a_switch_that_is_on_more_often_is_drift():
    def switch(seed: int, share: float) -> pl.DataFrame:
        frame = fleet(seed, 60, 100)
        on = np.random.default_rng(seed).random(frame.height) < share
        return frame.with_columns(pl.Series("hot", on))

    reference = reference_of(switch(0, 0.2))
    assert not compare(reference, switch(1, 0.2)).drifted
    assert {score.channel for score in compare(reference, switch(1, 0.6)).drifted} == {"hot"}


def test_one_odd_machine_among_many_is_no_drift_of_the_fleet():
    live = fleet(1, 20, 60, likeness=0.0)
    odd = live.with_columns(
        pl.when(pl.col("unit") == "u3").then(pl.col("hot") + 8).otherwise("hot").alias("hot")
    )
    assert not compare(reference_of(fleet(0, 60, 100, likeness=0.0)), odd).drifted


def test_the_order_of_rows_does_not_matter():
    live = fleet(1, 20, 60, shift=1.0)
    reference = reference_of(fleet(0, 60, 100))
    assert compare(reference, live.sample(fraction=1, shuffle=True, seed=3)) == compare(
        reference, live
    )


def test_conditions_with_too_few_rows_or_machines_are_named_not_scored():
    reference = reference_of(fleet(0, 60, 100))
    few_rows = compare(reference, fleet(1, 8, 4))
    assert set(few_rows.too_few) == {"low", "high"}
    few_units = compare(reference, fleet(1, 4, 300))
    assert set(few_units.too_few) == {"low", "high"}
    assert {score.channel for score in few_units.scores} == {MIX}


def test_a_condition_that_is_rare_in_the_reference_is_named_not_scored():
    rare = pl.concat([fleet(0, 60, 100, conditions=("low",)), fleet(2, 8, 4, conditions=("high",))])
    report = compare(reference_of(rare), fleet(1, 40, 60))
    assert report.too_few == ("high",)


def test_conditions_without_live_rows_are_passed_over():
    report = compare(reference_of(fleet(0, 60, 100)), fleet(1, 40, 60, conditions=("low",)))
    assert {score.condition for score in report.scores} == {"low", EVERYWHERE}


def test_an_empty_window_has_no_scores():
    report = compare(reference_of(fleet(0, 60, 100)), fleet(1, 1, 1).clear())
    assert (report.scores, report.drifted, report.by_channel()) == ((), (), {})


def test_a_reference_and_a_report_survive_json():
    reference = reference_of(fleet(0, 60, 100))
    again = msgspec.json.decode(msgspec.json.encode(reference), type=Reference)
    report = compare(again, fleet(1, 20, 60))
    assert report == compare(reference, fleet(1, 20, 60))
    assert msgspec.json.decode(msgspec.json.encode(report), type=DriftReport) == report


def test_a_report_of_values_that_the_reference_lacks_survives_json_too():
    # Each side fills bins that the other leaves empty: another branch of the noise, other types.
    reference = reference_of(fleet(0, 60, 100).with_columns(hot=pl.lit(1.0)))
    report = compare(reference, fleet(1, 20, 60).with_columns(hot=pl.lit(2.0)))
    assert report.drifted
    assert msgspec.json.decode(msgspec.json.encode(report), type=DriftReport) == report


def test_a_missing_column_is_named():
    with pytest.raises(ReadingsError, match=r"\['pressure'\] are missing"):
        learn_reference(fleet(0, 5, 20), ["hot", "pressure"])
    with pytest.raises(ReadingsError, match=r"\['condition', 'cold'\] are missing"):
        compare(reference_of(fleet(0, 20, 60)), fleet(1, 5, 20).drop("cold", "condition"))


def test_a_reference_of_nothing_is_an_error():
    with pytest.raises(NotEnoughData, match="no rows"):
        learn_reference(fleet(0, 5, 20).clear(), CHANNELS)


def report_of(*moved: tuple[str, str]) -> DriftReport:
    def score(condition: str, channel: str) -> Score:
        return Score(
            condition=condition,
            channel=channel,
            psi=1.0,
            excess_psi=0.9,
            p_value=0.0,
            reference_rows=100,
            live_rows=100,
            drifted=True,
        )

    scores = tuple(score(condition, channel) for condition, channel in moved)
    return DriftReport(scores=scores, too_few=(), unseen=())


def test_drift_is_confirmed_only_when_the_last_windows_agree_on_where():
    hot, cold = ("low", "hot"), ("low", "cold")
    assert confirmed([report_of(hot), report_of(hot, cold), report_of(cold, hot)]) == (hot,)
    assert confirmed([report_of(hot), report_of(hot)]) == ()
    assert confirmed([report_of(hot), report_of(), report_of(hot)]) == ()
    assert confirmed([report_of(), report_of(hot), report_of(hot)], windows=2) == (hot,)
    assert confirmed([report_of(hot)], windows=0) == ()
