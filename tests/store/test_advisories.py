"""One open advisory a unit, every event in the order of the commits, nothing lost."""

import threading
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ProgrammingError

from rul_core.advisory_terms import (
    Acknowledge,
    AdvisoryAction,
    AdvisoryState,
    Close,
    EventKind,
    Judge,
    Plan,
    Priority,
    ServiceState,
    Shelve,
    Step,
    Unshelve,
    Until,
    rule_of,
)
from rul_core.errors import Outdated, StepRefused, StoreError, UnknownAdvisory, UnknownUnit
from rul_core.prognosis import Prognosis, State
from rul_core.schema import RECENT_PROGNOSES, Columns, Fleet, Maintenance
from rul_store import advisories, advisory_rows, ledger, unit_lives
from rul_store.advisory_rows import Advisory, AdvisoryEvent, Filter
from rul_store.database import Statement, begin, pipelined

NOW = datetime.now(UTC)
TOMORROW = NOW + timedelta(days=1)
PUMPS = Fleet(
    name="pumps",
    columns=Columns(unit="u", cycle="c", sensors=("s",)),
    maintenance=Maintenance(lead_time_cycles=30),
)
S, K = AdvisoryState, EventKind
_moments = count()


def prognosis(
    unit: str, cycle: float, safe: float | None, *, life: int = 1, state: State = State.ESTIMATED
) -> Prognosis:
    return Prognosis(
        fleet="pumps",
        unit=unit,
        life=life,
        cycle=cycle,
        state=state,
        safe_cycles=safe,
        computed_at=NOW + timedelta(microseconds=next(_moments)),
    )


def say(engine: sa.Engine, *said: Prognosis, fleet: Fleet = PUMPS) -> list[AdvisoryEvent]:
    """Record prognoses and judge them, as one transaction."""
    with begin(engine) as connection:
        ledger.append(connection, fleet.name, said)
        return advisories.judge(connection, fleet, [one.unit for one in said])


def live(engine: sa.Engine, unit: str, *safe: float, first: int = 1) -> list[AdvisoryEvent]:
    """One prognosis after another; what the last one led to."""
    happened = []
    for cycle, one in enumerate(safe, first):
        happened = say(engine, prognosis(unit, cycle, one))
    return happened


def act(
    engine: sa.Engine,
    advisory: Advisory,
    step: Step,
    *,
    who: str = "ann",
    why: str = "because",
    expected: Collection[int] | None = None,
) -> Advisory:
    with begin(engine) as connection:
        return advisories.act(
            connection, advisory.advisory_id, step, who=who, why=why, expected=expected
        )


def the_open(engine: sa.Engine, unit: str = "u") -> Advisory:
    (found,) = listed(engine, unit=unit, is_open=True)
    return found


def listed(engine: sa.Engine, **wanted) -> tuple[Advisory, ...]:
    return advisory_rows.page(engine, "pumps", Filter(**wanted)).advisories


def told(engine: sa.Engine, advisory: Advisory) -> tuple[AdvisoryEvent, ...]:
    return advisory_rows.events(engine, advisory.advisory_id, limit=1000).events


def recent(engine: sa.Engine, unit: str = "u") -> list[float]:
    query = sa.text("SELECT recent_safe FROM current_prognoses WHERE unit = :unit")
    with begin(engine) as connection:
        return connection.execute(query, {"unit": unit}).scalar_one()


def introduce(engine: sa.Engine, *units: str) -> None:
    with begin(engine) as connection:
        for unit in units:
            unit_lives.introduce(connection, "pumps", unit)


def test_the_window_keeps_what_was_last_said_of_each_reading(engine: sa.Engine):
    say(engine, prognosis("u", 1, 50.0))
    say(engine, prognosis("u", 1, 51.0))
    assert recent(engine) == [51.0], "said anew of the same reading"
    say(engine, prognosis("u", 2, 12.0, state=State.BEYOND_HORIZON))
    say(engine, prognosis("u", 3, None, state=State.SENSOR_FAULT))
    assert recent(engine) == [51.0, float("inf")]
    say(engine, prognosis("u", 3, 49.0))
    say(engine, prognosis("u", 3, None, state=State.STALE_DATA))
    assert recent(engine) == [51.0, float("inf")], "what is no longer valid does not count"
    say(engine, prognosis("u", 2, 1.0))
    assert recent(engine) == [51.0, float("inf")], "a late one is not current"
    for cycle in range(4, 30):
        say(engine, prognosis("u", cycle, float(cycle)))
    assert recent(engine) == [float(cycle) for cycle in range(30 - RECENT_PROGNOSES, 30)]
    say(engine, prognosis("u", 1, 70.0, life=2))
    assert recent(engine) == [70.0]


def test_an_advisory_opens_once_and_new_evidence_attaches_to_it(engine: sa.Engine):
    assert say(engine, prognosis("u", 1, 25.0)) == []
    (opened,) = say(engine, prognosis("u", 2, 24.0))
    assert (opened.kind, opened.before, opened.after) == (K.OPENED, None, S.ACTIVE_UNACKNOWLEDGED)
    assert (opened.who, opened.position, opened.version) == ("system", 1, 1)
    assert opened.why == "2 of the last 3 prognoses are safe for less than 30"
    first = the_open(engine)
    newest = prognosis("u", 3, 23.0)
    assert say(engine, newest) == []
    then = the_open(engine)
    assert then.advisory_id == first.advisory_id
    assert (first.prognoses, then.prognoses, then.safe_cycles) == (1, 2, 23.0)
    assert then.last_ledger_id == ledger.ledger_id_of(newest) != first.last_ledger_id
    assert (then.version, then.changed_at) == (1, first.changed_at), "evidence is no new version"
    assert then.rule == rule_of(PUMPS)
    assert then.allowed == (
        AdvisoryAction.ACKNOWLEDGE,
        AdvisoryAction.PLAN,
        AdvisoryAction.SHELVE,
        AdvisoryAction.CLOSE,
    )


def test_judging_the_same_again_changes_nothing(engine: sa.Engine):
    live(engine, "u", 25, 24)
    before = the_open(engine)
    with begin(engine) as connection:
        assert advisories.judge(connection, PUMPS, ["u"]) == []
    assert the_open(engine) == before


@pytest.mark.parametrize("state", [s for s in State if s is not State.ESTIMATED])
def test_only_an_estimate_opens(engine: sa.Engine, state: State):
    for cycle in range(3):
        assert say(engine, prognosis("u", cycle, 1.0, state=state)) == []


def test_no_advisory_opens_of_a_life_that_has_ended(engine: sa.Engine):
    introduce(engine, "u")
    end(engine, "u", end_cycle=9.0)
    assert live(engine, "u", 5, 5, 5) == []


def end(engine: sa.Engine, unit: str, **named) -> None:
    with begin(engine) as connection:
        known = unit_lives.of(connection, "pumps", unit, hold=True)
        unit_lives.end(connection, known, unit_lives.Outcome.FAILED, who="ann", **named)


def test_a_thousand_units_are_judged_at_once(engine: sa.Engine):
    names = [f"u{number:04d}" for number in range(1000)]
    say(engine, *(prognosis(name, 1, 25.0) for name in names))
    happened = say(engine, *(prognosis(name, 2, 25.0) for name in names))
    assert [event.position for event in happened] == list(range(1, 1001))
    assert advisory_rows.count_open(engine)[Priority.MEDIUM, S.ACTIVE_UNACKNOWLEDGED] == 1000


def test_a_unit_that_is_well_costs_one_question_on_the_way_of_its_prognosis(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
):
    ways, others = [], []

    def counted(connection: sa.Connection, *statements: Statement) -> list[list[tuple]]:
        ways.append(len(statements))
        return pipelined(connection, *statements)

    monkeypatch.setattr(ledger, "pipelined", counted)
    monkeypatch.setattr(advisories, "pipelined", counted)
    event.listen(engine, "before_cursor_execute", lambda *given: others.append(given[2]))
    with begin(engine) as connection:
        advisories.say(connection, PUMPS, [prognosis("u", 1, 90.0)])
    assert ways == [2, 2]  # the lock and the head of the chain, the entry and the question
    assert others == []


def test_the_condition_is_over_and_back_again(engine: sa.Engine):
    live(engine, "u", 25, 24)
    assert [e.kind for e in live(engine, "u", 40, 40, 40, first=3)] == [K.CLEARED]
    assert the_open(engine).state is S.RETURNED_UNACKNOWLEDGED
    assert [e.kind for e in live(engine, "u", 20, 20, first=6)] == [K.RECURRED]
    act(engine, the_open(engine), Acknowledge(until=Until.WORSE))
    live(engine, "u", 40, 40, 40, first=8)
    assert listed(engine, is_open=True) == ()
    (closed,) = listed(engine)
    assert closed.closed_at is not None
    kinds = [event.kind for event in told(engine, closed)]
    assert kinds == [K.OPENED, K.CLEARED, K.RECURRED, K.ACKNOWLEDGED, K.CLEARED]


def test_each_step_of_a_person_says_who_when_and_why(engine: sa.Engine):
    live(engine, "u", 25, 24)
    advisory = act(engine, the_open(engine), Plan(due=TOMORROW), who="bob", why="on Sunday")
    assert (advisory.state, advisory.version, advisory.until) == (S.PLANNED, 2, TOMORROW)
    event = told(engine, advisory)[-1]
    assert (event.kind, event.who, event.why) == (K.PLANNED, "bob", "on Sunday")
    assert (event.before, event.after) == (S.ACTIVE_UNACKNOWLEDGED, S.PLANNED)
    assert event.at == advisory.changed_at > advisory.opened_at
    assert advisory_rows.one(engine, advisory.advisory_id) == advisory


def test_the_second_of_two_people_is_told_that_the_first_was_there(engine: sa.Engine):
    live(engine, "u", 25, 24)
    seen = the_open(engine)
    act(engine, seen, Acknowledge(until=Until.WORSE), expected={seen.version})
    with pytest.raises(Outdated, match=r"at version 2 \(active_acknowledged, since .*look at it"):
        act(engine, seen, Close(), expected={seen.version})
    assert the_open(engine).version == 2


def test_of_many_who_act_at_once_one_wins(engine: sa.Engine):
    live(engine, "u", 25, 24)
    seen = the_open(engine)
    outcomes: list[str] = []

    def shelve() -> None:
        try:
            act(engine, seen, Shelve(until=TOMORROW), expected={seen.version})
            outcomes.append("done")
        except Outdated:
            outcomes.append("outdated")

    threads = [threading.Thread(target=shelve) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["done", *["outdated"] * 5]


def test_a_step_that_is_refused_leaves_no_trace(engine: sa.Engine):
    live(engine, "u", 25, 24)
    before = the_open(engine)
    with pytest.raises(StepRefused, match="it can take acknowledge, plan, shelve, close"):
        act(engine, before, Unshelve())
    assert the_open(engine) == before
    assert len(told(engine, before)) == 1


def test_an_unknown_advisory_is_named(engine: sa.Engine):
    nobody = UUID(int=7)
    with pytest.raises(UnknownAdvisory, match=str(nobody)):
        advisory_rows.one(engine, nobody)


def test_after_a_person_closed_it_only_what_is_said_from_then_on_opens_the_next(engine: sa.Engine):
    live(engine, "u", 25, 24)
    first = act(engine, the_open(engine), Close())
    assert say(engine, prognosis("u", 3, 20.0)) == []
    (opened,) = say(engine, prognosis("u", 4, 20.0))
    assert opened.advisory_id != first.advisory_id
    assert [one.state for one in listed(engine)] == [S.ACTIVE_UNACKNOWLEDGED, S.CLOSED]


def test_a_unit_in_maintenance_opens_none_and_hides_the_one_it_has(engine: sa.Engine):
    introduce(engine, "u", "v")
    live(engine, "u", 25, 24)
    for unit in ("u", "v"):
        with begin(engine) as connection:
            service = advisories.serve(
                connection, "pumps", unit, ServiceState.IN_MAINTENANCE, who="ann", why="oil"
            )
    assert (service.state, service.by, service.why) == (ServiceState.IN_MAINTENANCE, "ann", "oil")
    assert the_open(engine).state is S.SUPPRESSED
    assert live(engine, "v", 5, 5, 5) == []
    with begin(engine) as connection:
        again = advisories.serve(
            connection, "pumps", "v", ServiceState.IN_MAINTENANCE, who="bob", why="?"
        )
        assert again == service, "the same again keeps who said it first"
        advisories.serve(connection, "pumps", "u", ServiceState.IN_SERVICE, who="ann", why="done")
    assert the_open(engine).state is S.ACTIVE_UNACKNOWLEDGED
    assert [event.kind for event in told(engine, the_open(engine))] == [
        K.OPENED, K.SUPPRESSED, K.BACK_IN_SERVICE,
    ]  # fmt: skip


def test_a_unit_that_is_not_known_cannot_be_taken_out_of_service(engine: sa.Engine):
    with begin(engine) as connection, pytest.raises(UnknownUnit, match="no unit 'x'"):
        advisories.serve(
            connection, "pumps", "x", ServiceState.OUT_OF_SERVICE, who="ann", why="lost"
        )


def test_a_later_life_closes_the_advisory_and_begins_anew(engine: sa.Engine):
    live(engine, "u", 25, 24)
    silent = prognosis("u", 1, None, life=2, state=State.INSUFFICIENT_HISTORY)
    (closed,) = say(engine, silent)
    assert (closed.kind, closed.why) == (K.CLOSED, "life 1 is over")
    say(engine, prognosis("u", 2, 20.0, life=2))
    (opened,) = say(engine, prognosis("u", 3, 20.0, life=2))
    assert opened.kind is K.OPENED
    assert the_open(engine).life == 2


def test_what_has_run_out_lapses_also_for_a_unit_that_says_nothing_more(engine: sa.Engine):
    live(engine, "u", 25, 24)
    live(engine, "v", 25, 24)
    act(engine, the_open(engine), Shelve(until=datetime.now(UTC) + timedelta(seconds=0.2)))
    act(engine, the_open(engine, "v"), Shelve(until=TOMORROW))
    assert advisories.tend(engine) == 0
    time.sleep(0.25)
    assert advisories.tend(engine) == 1
    assert advisories.tend(engine) == 0
    assert the_open(engine).state is S.ACTIVE_UNACKNOWLEDGED
    assert the_open(engine, "v").state is S.SHELVED
    lapsed = told(engine, the_open(engine))[-1]
    assert (lapsed.kind, lapsed.who) == (K.LAPSED, "system")
    assert lapsed.why.startswith("it is no more shelved")


def test_the_list_is_in_order_of_priority_then_age_and_pages_meet(engine: sa.Engine):
    for unit, safe in [("a", 25), ("b", 10), ("c", 3), ("d", 25), ("e", 10)]:
        live(engine, unit, safe, safe)
    act(engine, the_open(engine, "d"), Close())
    seen, cursor = [], None
    while True:
        page = advisory_rows.page(engine, "pumps", Filter(), limit=2, after=cursor)
        seen += [advisory.unit for advisory in page.advisories]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == ["c", "e", "b", "d", "a"]
    assert [one.unit for one in listed(engine, priority=Priority.HIGH)] == ["e", "b"]
    assert [one.unit for one in listed(engine, is_open=False)] == ["d"]
    assert [one.unit for one in listed(engine, state=S.ACTIVE_UNACKNOWLEDGED, unit="a")] == ["a"]
    assert advisory_rows.page(engine, "fans", Filter()).advisories == ()
    with pytest.raises(StoreError, match="begin again without one"):
        advisory_rows.page(engine, "pumps", Filter(), after="WzEsMl0")


def test_events_are_read_page_by_page(engine: sa.Engine):
    live(engine, "u", 25, 24)
    advisory = the_open(engine)
    for _ in range(4):
        act(engine, advisory, Judge())
    first = advisory_rows.events(engine, advisory.advisory_id, limit=3)
    rest = advisory_rows.events(engine, advisory.advisory_id, limit=3, after=first.cursor)
    assert [event.version for event in first.events + rest.events] == [1, 2, 3, 4, 5]
    assert rest.cursor is None


def test_open_advisories_are_counted_by_priority_and_state(engine: sa.Engine):
    assert set(advisory_rows.count_open(engine).values()) == {0}
    live(engine, "a", 25, 25)
    live(engine, "b", 3, 3)
    act(engine, the_open(engine, "b"), Plan(due=TOMORROW))
    live(engine, "c", 25, 25)
    act(engine, the_open(engine, "c"), Close())
    counted = advisory_rows.count_open(engine)
    assert len(counted) == 3 * 7
    assert {place: n for place, n in counted.items() if n} == {
        (Priority.MEDIUM, S.ACTIVE_UNACKNOWLEDGED): 1,
        (Priority.URGENT, S.PLANNED): 1,
    }


def test_an_end_out_of_sight_is_null(engine: sa.Engine):
    live(engine, "u", 25, 24)
    say(engine, prognosis("u", 3, 40.0, state=State.BEYOND_HORIZON))
    assert the_open(engine).safe_cycles is None
    act(engine, the_open(engine), Acknowledge(until=Until.WORSE))
    assert [e.kind for e in say(engine, prognosis("u", 4, 29.0))] == [K.LAPSED]


def test_nobody_changes_an_event(engine: sa.Engine):
    live(engine, "u", 25, 24)
    with pytest.raises(ProgrammingError, match="never changed or removed"), begin(engine) as c:
        c.execute(sa.text("UPDATE advisory_events SET who = 'me'"))
