"""What came of prognoses: every figure counts a life once."""

import json
from datetime import UTC, datetime

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rul_core import track_record, watch
from rul_core.track_record import TrackRecord

CAP = 100.0
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def said(
    unit: str,
    left: float,
    rul: float,
    *,
    version: str = "v1",
    life: int = 1,
    width: float = 10.0,
    outcome: str = "failed",
    state: str = "estimated",
) -> dict:
    """A prognosis so many cycles before the life's end at cycle 200."""
    return {
        "unit": unit, "life": life, "cycle": 200.0 - left, "model_version": version, "state": state,
        "computed_at": NOON, "rul_cycles": rul,
        "lower_50_cycles": rul - width / 2, "upper_50_cycles": rul + width / 2,
        "lower_90_cycles": rul - width, "upper_90_cycles": rul + width,
        "failure_probability": 0.0, "outcome": outcome, "end_cycle": 200.0,
    }  # fmt: skip


def record(*rows: dict) -> TrackRecord:
    schema = {"computed_at": pl.Datetime("us", "UTC")}
    ended = pl.DataFrame(list(rows or [said("x", 1, 1)]), schema_overrides=schema)
    ended = ended if rows else ended.clear()
    return track_record.of(watch.match(ended, cap_cycles=CAP), ended, cap_cycles=CAP)


def test_a_life_counts_once_however_much_was_said_of_it():
    found = record(
        said("a", 40, 40), said("a", 30, 30), said("a", 20, 20), said("b", 40, 70)
    ).overall
    assert (found.lives, found.prognoses, found.censored_lives) == (2, 4, 0)
    assert found.mean_abs_error_cycles == pytest.approx(15.0)
    assert found.late_share == found.alpha_lambda_share == pytest.approx(0.5)
    assert found.early_share == 0.0
    coverage = {held.level: held.coverage for held in found.coverage}
    assert set(coverage) == {0.5, 0.9}
    assert coverage[0.9].share == pytest.approx(0.5)
    assert (coverage[0.9].n, coverage[0.9].low) == (2, pytest.approx(0.0126, abs=1e-3))


def test_errors_are_told_by_how_long_before_the_failure_they_were_made():
    rows = [said("a", 5, 7), said("a", 9, 13), said("b", 5, 5), said("a", 60, 70)]
    found = record(*rows, said("a", 150, 90)).overall.by_lead
    told = [(one.lead, one.lives, one.prognoses, one.mean_abs_error_cycles) for one in found]
    assert told == [
        ("0-10", 2, 3, pytest.approx((3.0 + 0.0) / 2)),
        ("50-100", 1, 1, pytest.approx(10.0)),
        ("100-", 1, 1, pytest.approx(10.0)),
    ]


def test_versions_are_told_apart_and_together():
    found = record(
        said("a", 40, 45), said("a", 30, 50, version="v2"), said("b", 30, 33, version="v2")
    )
    assert [one.model_version for one in found.versions] == ["v1", "v2"]
    assert found.overall.model_version is None
    assert (found.overall.lives, found.overall.prognoses) == (2, 3)
    first, second = found.of_version("v1"), found.of_version("v2")
    assert first is not None
    assert second is not None
    assert (first.lives, first.mean_abs_error_cycles) == (1, 5.0)
    assert (second.lives, second.mean_abs_error_cycles) == (2, pytest.approx(11.5))
    assert found.of_version("v3") is None


def test_lives_that_did_not_fail_are_counted_as_censored_and_in_no_figure():
    found = record(
        said("a", 40, 45),
        said("b", 40, 90, outcome="replaced"),
        said("b", 30, 90, outcome="replaced"),
        said("c", 30, 90, outcome="removed", version="v2"),
        said("d", 30, 90, outcome="removed", state="sensor_fault"),
    )
    assert (found.overall.lives, found.overall.censored_lives) == (1, 2)
    assert found.overall.mean_abs_error_cycles == 5.0
    only_censored = found.of_version("v2")
    assert only_censored is not None
    assert (only_censored.lives, only_censored.censored_lives) == (0, 1)
    assert (only_censored.coverage, only_censored.mean_abs_error_cycles) == ((), None)


def test_beyond_the_horizon_there_is_a_band_and_no_point():
    row = {**said("a", 150, 90), "state": "beyond_horizon", "upper_90_cycles": None}
    near = {**said("a", 110, 90), "state": "beyond_horizon", "upper_90_cycles": None}
    found = record(row, near).overall
    assert (found.prognoses, found.mean_abs_error_cycles, found.by_lead) == (2, None, ())
    coverage = {held.level: held.coverage.share for held in found.coverage}
    assert coverage == {0.5: 0.0, 0.9: 1.0}


def test_before_anything_has_ended_there_are_no_figures():
    found = record()
    assert (found.overall.lives, found.overall.prognoses, found.versions) == (0, 0, ())
    assert found.overall.coverage == found.overall.by_lead == ()
    assert found.overall.late_share is None


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.floats(0, 180),
            st.floats(0, 100),
            st.sampled_from(["v1", "v2"]),
        ),
        max_size=12,
    )
)
def test_shares_are_shares_and_a_record_is_json_and_back(rows):
    found = record(*(said(unit, left, rul, version=version) for unit, left, rul, version in rows))
    for one in (found.overall, *found.versions):
        for share in (one.alpha_lambda_share, one.early_share, one.late_share):
            assert share is None or -1e-9 <= share <= 1 + 1e-9
        assert sum(lead.prognoses for lead in one.by_lead) == one.prognoses
    assert sum(one.prognoses for one in found.versions) == found.overall.prognoses
    text = msgspec.json.encode(found)
    assert msgspec.json.decode(text, type=TrackRecord) == found
    json.loads(text)
