"""An advisory's life: when it opens, who moves it where, and what cannot happen to it."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core.advisories import advance, allowed, opened
from rul_core.advisory_terms import (
    Acknowledge,
    AdvisoryAction,
    AdvisoryState,
    Case,
    Change,
    Close,
    EndLife,
    EventKind,
    Evidence,
    Judge,
    Plan,
    Priority,
    Serve,
    ServiceState,
    Shelve,
    Step,
    Unshelve,
    Until,
    Wait,
    rule_of,
)
from rul_core.errors import StepRefused
from rul_core.schema import Advisories, Columns, Fleet, Maintenance

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TOMORROW = NOON + timedelta(days=1)
PUMPS = Fleet(
    name="pumps",
    columns=Columns(unit="u", cycle="c", sensors=("s",)),
    maintenance=Maintenance(lead_time_cycles=30),
    advisories=Advisories(below=2, of_last=3, margin_share=0.2, high_share=0.5, urgent_share=0.2),
)
RULE = rule_of(PUMPS)
S, K = AdvisoryState, EventKind
PEOPLE: dict[AdvisoryAction, Step] = {
    AdvisoryAction.ACKNOWLEDGE: Acknowledge(until=Until.WORSE),
    AdvisoryAction.PLAN: Plan(due=TOMORROW),
    AdvisoryAction.SHELVE: Shelve(until=TOMORROW),
    AdvisoryAction.UNSHELVE: Unshelve(),
    AdvisoryAction.CLOSE: Close(),
}
MAINTENANCE = Serve(state=ServiceState.IN_MAINTENANCE)
BACK = Serve(state=ServiceState.IN_SERVICE)


def seen(*recent_safe: float, cycle: float = 100.0) -> Evidence:
    return Evidence(cycle=cycle, recent_safe=recent_safe)


def begun(safe: float = 25.0) -> Case:
    change = opened(seen(safe, safe), RULE)
    assert change is not None
    return change.case


def after(*steps: Step, case: Case | None = None, now: datetime = NOON) -> Case:
    case = case or begun()
    for step in steps:
        case, _ = advance(case, step, RULE, now)
    return case


def kinds(case: Case, step: Step, now: datetime = NOON) -> list[EventKind]:
    return [change.kind for change in advance(case, step, RULE, now)[1]]


@pytest.mark.parametrize(
    ("recent_safe", "opens"),
    [
        ((29.9,), False),
        ((29.9, 29.9), True),
        ((29.9, 50.0, 29.9), True),
        ((29.9, 50.0, 50.0, 29.9), False),
        ((30.0, 30.0, 30.0), False),
        ((29.9, math.inf, math.inf), False),
    ],
)
def test_it_opens_when_enough_of_the_last_prognoses_are_under_the_horizon(recent_safe, opens):
    assert (opened(seen(*recent_safe), RULE) is not None) is opens


@pytest.mark.parametrize(
    ("recent_safe", "priority"),
    [
        ((20.0, 20.0), Priority.MEDIUM),
        ((20.0, 3.0), Priority.MEDIUM),
        ((14.0, 3.0), Priority.HIGH),
        ((5.9, 5.9), Priority.URGENT),
    ],
)
def test_the_priority_is_told_by_as_many_prognoses_as_the_opening(recent_safe, priority):
    change = opened(seen(*recent_safe), RULE)
    assert change is not None
    assert change.case.priority is priority
    assert change.before is None


def test_the_rule_is_in_the_fleets_unit_of_life():
    assert (RULE.horizon_cycles, RULE.clear_cycles) == (30.0, 36.0)
    assert (RULE.high_cycles, RULE.urgent_cycles) == (15.0, 6.0)
    assert [priority.rank for priority in Priority] == [1, 2, 3]


@pytest.mark.parametrize(
    ("recent_safe", "is_over"),
    [
        ((36.1, 36.1, 36.1), True),
        ((math.inf, math.inf, 40.0), True),
        ((36.0, 36.1, 36.1), False),
        ((36.1, 36.1), False),
        ((31.0, 32.0, 33.0), False),
    ],
)
def test_it_is_over_only_when_all_of_the_last_are_above_the_horizon_and_a_margin(
    recent_safe, is_over
):
    case, changes = advance(begun(), seen(*recent_safe), RULE, NOON)
    assert (case.state is S.RETURNED_UNACKNOWLEDGED) is is_over
    assert [change.kind for change in changes] == ([K.CLEARED] if is_over else [])


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ((), S.ACTIVE_UNACKNOWLEDGED),
        ((PEOPLE[AdvisoryAction.ACKNOWLEDGE],), S.ACTIVE_ACKNOWLEDGED),
        ((PEOPLE[AdvisoryAction.ACKNOWLEDGE], PEOPLE[AdvisoryAction.PLAN]), S.PLANNED),
        ((PEOPLE[AdvisoryAction.PLAN], Close()), S.CLOSED),
        ((seen(40, 40, 40),), S.RETURNED_UNACKNOWLEDGED),
        ((seen(40, 40, 40), PEOPLE[AdvisoryAction.ACKNOWLEDGE]), S.CLOSED),
        ((seen(40, 40, 40), seen(40, 20, 20)), S.ACTIVE_UNACKNOWLEDGED),
        ((PEOPLE[AdvisoryAction.ACKNOWLEDGE], seen(40, 40, 40)), S.CLOSED),
        ((PEOPLE[AdvisoryAction.PLAN], seen(40, 40, 40)), S.PLANNED),
        ((PEOPLE[AdvisoryAction.SHELVE],), S.SHELVED),
        ((PEOPLE[AdvisoryAction.SHELVE], Unshelve()), S.ACTIVE_UNACKNOWLEDGED),
        ((PEOPLE[AdvisoryAction.SHELVE], seen(40, 40, 40)), S.SHELVED),
        ((PEOPLE[AdvisoryAction.SHELVE], seen(40, 40, 40), Unshelve()), S.CLOSED),
        ((PEOPLE[AdvisoryAction.SHELVE], seen(40, 40, 40), seen(20, 20), Unshelve()), S.ACTIVE_UNACKNOWLEDGED),  # noqa: E501
        ((MAINTENANCE,), S.SUPPRESSED),
        ((MAINTENANCE, BACK), S.ACTIVE_UNACKNOWLEDGED),
        ((MAINTENANCE, seen(40, 40, 40), BACK), S.CLOSED),
        ((MAINTENANCE, Serve(state=ServiceState.OUT_OF_SERVICE)), S.OUT_OF_SERVICE),
        ((PEOPLE[AdvisoryAction.PLAN], MAINTENANCE, BACK), S.ACTIVE_UNACKNOWLEDGED),
        ((BACK,), S.ACTIVE_UNACKNOWLEDGED),
        ((EndLife(),), S.CLOSED),
        ((PEOPLE[AdvisoryAction.SHELVE], EndLife()), S.CLOSED),
        ((Judge(),), S.ACTIVE_ACKNOWLEDGED),
        ((seen(40, 40, 40), Judge()), S.CLOSED),
        ((PEOPLE[AdvisoryAction.PLAN], Judge()), S.PLANNED),
        ((Close(), Judge()), S.CLOSED),
    ],
)  # fmt: skip
def test_each_step_leads_where_the_life_cycle_says(steps, state):
    assert after(*steps).state is state


@pytest.mark.parametrize(
    ("steps", "may"),
    [
        ((), "acknowledge, plan, shelve, close"),
        ((PEOPLE[AdvisoryAction.PLAN],), "plan, shelve, close"),
        ((seen(40, 40, 40),), "acknowledge, close"),
        ((PEOPLE[AdvisoryAction.SHELVE],), "shelve, unshelve, close"),
        ((MAINTENANCE,), "close"),
        ((Close(),), "none any more"),
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(steps, may):
    case = after(*steps)
    for action, step in PEOPLE.items():
        if action in allowed(case.state):
            assert advance(case, step, RULE, NOON)[1]
        else:
            with pytest.raises(StepRefused, match=f"{case.state} cannot .* {action}; .* {may}$"):
                advance(case, step, RULE, NOON)


@pytest.mark.parametrize(
    "step", [Acknowledge(until=NOON), Plan(due=NOON), Shelve(until=NOON - timedelta(days=1))]
)
def test_a_time_that_has_passed_is_refused(step):
    with pytest.raises(StepRefused, match=r"has passed .* give a later time"):
        advance(begun(), step, RULE, NOON)


@pytest.mark.parametrize("step", [Acknowledge(until=TOMORROW), PEOPLE[AdvisoryAction.SHELVE], Plan(due=TOMORROW)])  # fmt: skip # noqa: E501
def test_what_has_a_day_runs_out_on_it(step):
    case = after(step)
    assert kinds(case, Wait(), TOMORROW - timedelta(seconds=1)) == []
    assert kinds(case, Wait(), TOMORROW) == [K.LAPSED]
    assert after(Wait(), case=case, now=TOMORROW).state is S.ACTIVE_UNACKNOWLEDGED


def test_what_runs_out_after_the_condition_was_over_closes():
    case = after(PEOPLE[AdvisoryAction.PLAN], seen(40, 40, 40))
    assert after(Wait(), case=case, now=TOMORROW).state is S.CLOSED


def test_what_has_run_out_lapses_before_anything_else_happens():
    case = after(PEOPLE[AdvisoryAction.SHELVE])
    assert kinds(case, PEOPLE[AdvisoryAction.ACKNOWLEDGE], TOMORROW) == [K.LAPSED, K.ACKNOWLEDGED]
    with pytest.raises(StepRefused, match="active_unacknowledged cannot take the step unshelve"):
        advance(case, Unshelve(), RULE, TOMORROW)


def test_an_acknowledgement_until_the_next_reading_ends_with_it_not_with_the_same_again():
    case = after(Acknowledge(until=Until.NEXT_READING))
    assert kinds(case, seen(25, 25, 24, cycle=100)) == []
    assert kinds(case, seen(25, 25, 24, cycle=101)) == [K.LAPSED]


@pytest.mark.parametrize(
    ("evidence", "ends"),
    [
        (seen(25, 24, 23, cycle=102), False),
        (seen(25, 24, 18, cycle=102), False),
        (seen(25, 24, 16, cycle=102), True),
    ],
)
@pytest.mark.parametrize("step", [Acknowledge(until=Until.WORSE), Plan(due=TOMORROW)])
def test_until_it_gets_worse_is_until_the_end_comes_nearer_than_was_foreseen(step, evidence, ends):
    """At cycle 100 it was safe to 125; the margin is 6."""
    assert kinds(after(step), evidence) == ([K.LAPSED] if ends else [])


def test_a_higher_priority_ends_an_acknowledgement_but_not_a_plan_that_foresaw_it():
    evidence = seen(14, 13, 12, cycle=113)
    assert kinds(after(Acknowledge(until=Until.WORSE)), evidence) == [K.WORSENED, K.LAPSED]
    assert kinds(after(Plan(due=TOMORROW)), evidence) == [K.WORSENED]
    assert after(evidence, seen(25, 25, 25)).priority is Priority.HIGH, "it never falls"


def test_an_end_that_was_not_in_sight_when_work_was_planned_comes_nearer_once_it_is():
    case = after(seen(25, 25, math.inf), Plan(due=TOMORROW))
    assert kinds(case, seen(25, math.inf, 25, cycle=101)) == [K.LAPSED]


evidence = st.builds(
    Evidence,
    cycle=st.integers(0, 50).map(float),
    recent_safe=st.lists(
        st.sampled_from([3.0, 10.0, 25.0, 33.0, 40.0, math.inf]), min_size=1, max_size=4
    ).map(tuple),
)
hours = st.integers(-2, 48).map(lambda hour: NOON + timedelta(hours=hour))
steps = st.one_of(
    evidence,
    evidence,
    st.builds(Acknowledge, until=st.one_of(st.sampled_from(Until), hours)),
    st.builds(Plan, due=hours),
    st.builds(Shelve, until=hours),
    st.sampled_from([Unshelve(), Close(), Judge(), Wait(), EndLife()]),
    st.builds(Serve, state=st.sampled_from(ServiceState)),
)


def lived(happening: list[tuple[Step, int]]) -> tuple[list[Change], Case | None, datetime]:
    """A unit's advisory through steps, each some hours after the one before."""
    now, case, told = NOON, None, []
    for step, hours_later in happening:
        now += timedelta(hours=hours_later)
        if case is None:
            change = opened(step, RULE) if isinstance(step, Evidence) else None
            if change:
                case, told = change.case, [change]
            continue
        try:
            case, changes = advance(case, step, RULE, now)
        except StepRefused:
            continue
        told += changes
    return told, case, now


@settings(max_examples=300)
@given(st.lists(st.tuples(steps, st.integers(0, 6)), max_size=25))
def test_whatever_happens_every_change_is_told_and_there_is_a_way_out(happening):
    told, case, now = lived(happening)
    if case is None:
        return
    assert told[-1].case.state is case.state, "a state that nothing led to"
    assert [change.before for change in told] == [None, *(c.case.state for c in told[:-1])]
    if case.state is S.CLOSED:
        assert (case.until, case.until_event) == (None, None)
        assert all(change.before is not S.CLOSED or change.kind is K.JUDGED for change in told)
        return
    assert after(Close(), case=case, now=now).state is S.CLOSED
    assert after(EndLife(), case=case, now=now).state is S.CLOSED
    if case.state is S.SHELVED:
        assert case.until is not None, "put away for ever"
    if case.state in {S.ACTIVE_UNACKNOWLEDGED, S.ACTIVE_ACKNOWLEDGED}:
        assert case.active


@settings(max_examples=300)
@given(st.lists(st.tuples(steps, st.integers(0, 6)), max_size=25), evidence)
def test_the_same_evidence_twice_is_the_same_as_once(happening, newest):
    _, case, now = lived(happening)
    if case is not None:
        once, _ = advance(case, newest, RULE, now)
        assert advance(once, newest, RULE, now) == (once, [])
