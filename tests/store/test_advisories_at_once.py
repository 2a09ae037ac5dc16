"""Whatever happens, whoever writes at once: no event is lost, no unit has two open advisories."""

import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rul_core.advisories import allowed
from rul_core.advisory_terms import (
    Acknowledge,
    AdvisoryAction,
    Close,
    Judge,
    Plan,
    ServiceState,
    Shelve,
    Unshelve,
)
from rul_core.errors import StepRefused
from rul_store import advisories, advisory_rows
from rul_store.advisory_rows import Advisory
from rul_store.database import begin
from tests.store.test_advisories import (
    S,
    act,
    end,
    introduce,
    listed,
    live,
    prognosis,
    say,
    told,
)

safes = st.sampled_from([3.0, 10.0, 25.0, 40.0, 90.0])
soon = st.sampled_from([timedelta(milliseconds=1), timedelta(days=1)])
happenings = st.one_of(
    st.tuples(st.just("say"), safes),
    st.tuples(st.just("say"), safes),
    st.tuples(st.just("act"), st.sampled_from(AdvisoryAction), soon),
    st.tuples(st.just("serve"), st.sampled_from(ServiceState)),
    st.tuples(st.sampled_from(["tend", "judge", "end", "next"])),
)
fixture_is_shared = [HealthCheck.function_scoped_fixture]


@settings(max_examples=25, suppress_health_check=fixture_is_shared)
@given(st.lists(happenings, max_size=20))
def test_no_sequence_loses_an_event_or_gives_a_unit_two_open_advisories(
    engine: sa.Engine, sequence: list[tuple]
):
    unit, life = f"unit {uuid4()}", 1
    introduce(engine, unit)
    before = len(all_events(engine))
    returned = 0
    for cycle, (what, *how) in enumerate(sequence, 1):
        standing = listed(engine, unit=unit, is_open=True)
        match what:
            case "say":
                returned += len(say(engine, prognosis(unit, cycle, how[0], life=life)))
            case "act" if standing:
                try_to(engine, standing[0], *how)
            case "serve":
                with begin(engine) as connection:
                    advisories.serve(connection, "pumps", unit, how[0], who="ann", why="so")
            case "judge" if standing:
                act(engine, standing[0], Judge())
            case "tend":
                advisories.tend(engine)
            case "end":
                end(engine, unit, life=None, end_cycle=None) if standing else None
            case "next" if not listed(engine, unit=unit, is_open=True):
                life += 1
        assert len(listed(engine, unit=unit, is_open=True)) <= 1
    for advisory in listed(engine, unit=unit):
        events = told(engine, advisory)
        assert [event.version for event in events] == list(range(1, advisory.version + 1))
        assert all(first.after is then.before for first, then in pairwise(events))
        assert events[-1].after is advisory.state
        assert advisory.state is S.CLOSED or AdvisoryAction.CLOSE in allowed(advisory.state)
    events = all_events(engine)
    assert [position for position, _ in events] == list(range(1, len(events) + 1))
    assert all(at <= later for (_, at), (_, later) in pairwise(events))
    assert len(events) - before >= returned


def try_to(engine: sa.Engine, advisory: Advisory, action: AdvisoryAction, soon: timedelta) -> None:
    until = datetime.now(UTC) + soon
    step = {
        AdvisoryAction.ACKNOWLEDGE: Acknowledge(until=until),
        AdvisoryAction.PLAN: Plan(due=until),
        AdvisoryAction.SHELVE: Shelve(until=until),
        AdvisoryAction.UNSHELVE: Unshelve(),
        AdvisoryAction.CLOSE: Close(),
    }[action]
    try:
        act(engine, advisory, step)
    except StepRefused:
        assert (
            len(told(engine, advisory)) == advisory_rows.one(engine, advisory.advisory_id).version
        )


def all_events(engine: sa.Engine) -> list[tuple[int, datetime]]:
    with begin(engine) as connection:
        query = sa.text("SELECT position, at FROM advisory_events ORDER BY position")
        return [(row.position, row.at) for row in connection.execute(query)]


def test_writers_of_one_fleet_number_their_events_in_the_order_of_their_commits(engine: sa.Engine):
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(len(all_events(engine)) - (all_events(engine) or [(0,)])[-1][0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    writers = [
        threading.Thread(target=live, args=(engine, f"w{number}", 25, 25, 10, 10, 3, 3))
        for number in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    watcher.join()
    positions = [position for position, _ in all_events(engine)]
    assert positions == list(range(1, 4 * 3 + 1))
    assert max(seen, default=0) <= 0, "a gap was seen"
