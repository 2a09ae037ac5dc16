from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rul_assets.retraining import (
    DAY,
    History,
    Learnt,
    Policy,
    Reason,
    Request,
    Situation,
    Wait,
    decide,
)
from rul_core.metrics import Coverage

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = Policy(cool_down=timedelta(hours=1))
LEARNT = Learnt(version="v1", at=NOW - timedelta(days=2), lives=40)
CALM = Situation(failed_lives=40, failed_units=40, learnt=LEARNT)
NEVER = History()


def with_new_lives(count: int) -> Situation:
    return msgspec.structs.replace(CALM, failed_lives=40 + count)


def with_coverage(share: float, high: float) -> Situation:
    kept = Coverage(share=share, low=share - 0.1, high=high, n=30)
    return msgspec.structs.replace(CALM, coverage={0.9: kept})


DRIFTED = msgspec.structs.replace(CALM, drifted=("sensor_3",))


def reason_of(decision: Request | Wait) -> Reason | None:
    return decision.reason if isinstance(decision, Request) else None


def test_nothing_new_gives_no_training():
    decision = decide(CALM, NEVER, POLICY, now=NOW)
    assert decision == Wait("nothing new to learn: 0 of 4 newly failed lives")


def test_a_fleet_without_a_model_waits_for_enough_failed_units():
    few = Situation(failed_lives=12, failed_units=12)
    enough = Situation(failed_lives=13, failed_units=13)
    assert decide(few, NEVER, POLICY, now=NOW) == Wait(
        "12 of 13 units with a failed life, which a first model needs"
    )
    assert reason_of(decide(enough, NEVER, POLICY, now=NOW)) is Reason.FIRST_MODEL


def test_lives_of_few_units_do_not_make_a_first_model():
    assert (
        reason_of(decide(Situation(failed_lives=50, failed_units=12), NEVER, POLICY, now=NOW))
        is None
    )


@pytest.mark.parametrize(("learnt", "needed"), [(10, 3), (30, 3), (31, 4), (260, 26)])
def test_a_tenth_of_the_lives_learnt_from_is_enough_to_learn_anew_but_at_least_three(
    learnt, needed
):
    assert Policy().lives_needed(learnt) == needed


def test_enough_newly_failed_lives_are_a_reason():
    assert reason_of(decide(with_new_lives(3), NEVER, POLICY, now=NOW)) is None
    decision = decide(with_new_lives(4), NEVER, POLICY, now=NOW)
    assert isinstance(decision, Request)
    assert decision.reason is Reason.ENDED_LIVES
    assert decision.detail == "4 lives have failed since v1, which learnt from 40"


def test_a_set_number_of_lives_replaces_the_tenth():
    assert reason_of(decide(with_new_lives(1), NEVER, Policy(new_lives=1), now=NOW))


def test_coverage_below_what_was_promised_is_a_reason_once_chance_is_ruled_out():
    assert reason_of(decide(with_coverage(0.8, 0.91), NEVER, POLICY, now=NOW)) is None
    decision = decide(with_coverage(0.7, 0.85), NEVER, POLICY, now=NOW)
    assert isinstance(decision, Request)
    assert decision.reason is Reason.COVERAGE
    assert "90% band held the truth of 70% of 30 units" in decision.detail


def test_a_confirmed_drift_is_a_reason():
    decision = decide(DRIFTED, NEVER, POLICY, now=NOW)
    assert isinstance(decision, Request)
    assert decision.reason is Reason.DRIFT
    assert decision.detail == "a drift of sensor_3 is confirmed"


def test_an_old_model_is_a_reason():
    old = msgspec.structs.replace(LEARNT, at=NOW - timedelta(days=31))
    situation = msgspec.structs.replace(CALM, learnt=old)
    assert reason_of(decide(situation, NEVER, POLICY, now=NOW)) is Reason.SCHEDULE


def test_two_reasons_seen_in_the_same_lives_make_one_training():
    both = msgspec.structs.replace(DRIFTED, failed_lives=44)
    request = decide(both, NEVER, POLICY, now=NOW)
    assert reason_of(request) is Reason.DRIFT
    assert isinstance(request, Request)
    answered = NEVER.after(request, NOW)
    assert reason_of(decide(both, answered, POLICY, now=NOW + timedelta(hours=2))) is None


def test_the_gravest_reason_is_given():
    everything = msgspec.structs.replace(
        with_coverage(0.7, 0.85),
        drifted=("sensor_3",),
        failed_lives=90,
        learnt=msgspec.structs.replace(LEARNT, at=NOW - timedelta(days=90)),
    )
    assert reason_of(decide(everything, NEVER, POLICY, now=NOW)) is Reason.COVERAGE


def test_no_training_before_the_readings_of_the_new_lives_have_become_features():
    behind = msgspec.structs.replace(
        with_new_lives(20), under_way="features has not caught up with core_readings"
    )
    assert decide(behind, NEVER, POLICY, now=NOW) == Wait(behind.under_way)
    assert reason_of(decide(with_new_lives(20), NEVER, POLICY, now=NOW)) is Reason.ENDED_LIVES


def test_no_training_while_one_is_under_way():
    decision = decide(DRIFTED, NEVER, POLICY, now=NOW, active=True)
    assert decision == Wait("a training of this fleet is under way")


def test_a_drift_that_stays_asks_again_only_when_another_life_has_failed():
    first = decide(DRIFTED, NEVER, POLICY, now=NOW)
    assert isinstance(first, Request)
    answered = NEVER.after(first, NOW)
    later = NOW + timedelta(days=3)
    assert reason_of(decide(DRIFTED, answered, POLICY, now=later)) is None
    one_more = msgspec.structs.replace(DRIFTED, failed_lives=41)
    assert reason_of(decide(one_more, answered, POLICY, now=later)) is Reason.DRIFT


def test_a_failed_training_is_tried_again_but_not_for_ever():
    request = decide(DRIFTED, NEVER, POLICY, now=NOW)
    assert isinstance(request, Request)
    answered = NEVER.after(request, NOW)
    later = NOW + timedelta(hours=2)
    once, twice = [request.evidence], [request.evidence] * 2
    assert reason_of(decide(DRIFTED, answered, POLICY, now=later, failed=once)) is Reason.DRIFT
    assert reason_of(decide(DRIFTED, answered, POLICY, now=later, failed=twice)) is None


def test_a_schedule_that_failed_comes_round_again():
    old = msgspec.structs.replace(LEARNT, at=NOW - timedelta(days=31))
    situation = msgspec.structs.replace(CALM, learnt=old)
    request = decide(situation, NEVER, POLICY, now=NOW)
    assert isinstance(request, Request)
    answered = NEVER.after(request, NOW)
    next_period = NOW + timedelta(days=30)
    assert reason_of(decide(situation, answered, POLICY, now=next_period)) is Reason.SCHEDULE


def test_a_fleet_cools_down_after_a_request_and_after_a_training():
    asked = History(requested=(NOW - timedelta(minutes=50),))
    decision = decide(DRIFTED, asked, POLICY, now=NOW)
    assert isinstance(decision, Wait)
    assert decision.why.endswith("waits 600 s to cool down")
    fresh = msgspec.structs.replace(LEARNT, at=NOW - timedelta(minutes=1))
    situation = msgspec.structs.replace(DRIFTED, learnt=fresh)
    assert reason_of(decide(situation, NEVER, POLICY, now=NOW)) is None


def test_trainings_a_day_have_a_cap():
    asked = History(requested=tuple(NOW - timedelta(hours=h) for h in (20, 15, 10, 5)))
    decision = decide(DRIFTED, asked, POLICY, now=NOW)
    assert isinstance(decision, Wait)
    assert "4 trainings a day are the cap" in decision.why
    assert reason_of(decide(DRIFTED, asked, POLICY, now=NOW + timedelta(hours=5))) is Reason.DRIFT


@given(st.lists(st.integers(0, 3), min_size=5, max_size=200))
def test_however_lives_fail_trainings_stay_apart_and_under_the_cap(failures):
    """A fleet whose every training is refused, looked at every ten minutes."""
    history, ended, asked = NEVER, 40, []
    for look, failed in enumerate(failures):
        now, ended = NOW + timedelta(minutes=10 * look), ended + failed
        situation = msgspec.structs.replace(DRIFTED, failed_lives=ended)
        decision = decide(situation, history, POLICY, now=now)
        if isinstance(decision, Request):
            history = history.after(decision, now)
            asked.append(now)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert all(gap >= POLICY.cool_down for gap in gaps)
    assert len(asked) <= 1 + sum(f > 0 for f in failures)
    assert all(sum(timedelta() <= a - b < DAY for b in asked) <= 4 for a in asked)
