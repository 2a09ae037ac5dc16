"""What is let go, and that no run of events lets go of what is needed."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rul_backup.retention import Plan, Policy, There, plan
from rul_core.errors import StoreError

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
POLICY = Policy()


def every(gap: timedelta, count: int, *, proven: frozenset[int] = frozenset()) -> list[There]:
    """Runs up to now; the newest has the highest number."""
    return [
        There(count - back, NOW - back * gap, (count - back) in proven) for back in range(count)
    ]


def test_all_of_two_days_stay_then_one_a_day_for_thirty():
    runs = every(HOUR, 24 * 40)
    kept = plan(runs, POLICY, NOW).keep
    at = {run.number: run.finished_at for run in runs}
    assert sum(NOW - at[number] <= 48 * HOUR for number in kept) == 49
    older = [at[number] for number in kept if NOW - at[number] > 48 * HOUR]
    assert len(older) == 28
    assert {moment.hour for moment in older} == {23}
    assert min(older) >= NOW - 30 * DAY


def test_weeks_and_months_stay_where_they_are_asked_for():
    runs = every(DAY, 400)
    policy = POLICY._replace(weekly_for=70 * DAY, monthly_for=365 * DAY)
    reasons = list(plan(runs, policy, NOW).keep.values())
    assert reasons.count("the newest of its week") == 5  # Sundays from 27 September on
    assert reasons.count("the newest of its month") == 11  # to 30 November of the year before


def test_the_newest_that_were_proven_stay_whatever_their_age():
    runs = every(HOUR, 24 * 90, proven=frozenset({3, 5, 8}))
    kept = plan(runs, POLICY, NOW).keep
    assert {number for number in kept if number < 100} == {5, 8}


@pytest.mark.parametrize(
    ("moved", "said"),
    [(-HOUR, "the clock was set back"), (25 * HOUR, "backups have stopped, or the clock")],
)
def test_nothing_goes_by_a_clock_that_jumped(moved: timedelta, said: str):
    with pytest.raises(StoreError, match=said):
        plan(every(HOUR, 100), POLICY, NOW + moved)


def test_of_no_runs_none_goes():
    assert plan([], POLICY, NOW) == Plan({}, ())


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 30)),
        st.tuples(st.just("run"), st.booleans()),
        st.tuples(st.just("failed run"), st.none()),
        st.tuples(st.just("clock"), st.integers(-24 * 50, 24 * 50)),
        st.tuples(st.just("prune"), st.none()),
    ),
    max_size=60,
)


@given(EVENTS)
def test_no_sequence_of_runs_failures_and_clock_jumps_loses_what_must_stay(events):
    clock, there, ever = NOW, {}, []
    for event, value in events:
        if event in {"wait", "clock"}:
            clock += value * HOUR
        elif event == "run":
            ever.append(There(len(ever) + 1, clock, value))
            there[ever[-1].number] = ever[-1]
        elif event == "prune":
            before = dict(there)
            try:
                decided = plan(list(there.values()), POLICY, clock)
            except StoreError:
                continue  # nothing was let go
            assert decided.keep.keys() | {*decided.drop} == before.keys()
            assert not decided.keep.keys() & {*decided.drop}
            for number in decided.drop:
                del there[number]
            for run in before.values():
                if clock - run.finished_at <= POLICY.all_for:
                    assert run.number in there
                if clock - run.finished_at <= POLICY.daily_for:
                    day = run.finished_at.date()
                    assert any(other.finished_at.date() == day for other in there.values())
        proven = [run.number for run in ever if run.proven]
        assert {*proven[-2:]} <= there.keys()
        if ever:
            assert ever[-1].number in there
