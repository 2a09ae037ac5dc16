"""What is let go, and that no run of events lets go of what is needed."""

import io
import itertools
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_backup import mending, retention, runs, wal
from rul_backup.manifest import Kind
from rul_backup.retention import SILENCE, Confirmed, Line, Plan, Policy, There
from rul_backup.runs import Run, Sealed
from rul_backup.stores import FolderStore
from rul_backup.verification import Level, verify
from rul_core.errors import StoreError

from .conftest import Keys

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
POLICY = Policy()


def every(gap: timedelta, count: int, *, proven: frozenset[int] = frozenset()) -> list[There]:
    """Runs up to now; the newest has the highest number."""
    return [
        There(count - back, NOW - back * gap, (count - back) in proven) for back in range(count)
    ]


def plan(
    runs: list[There], policy: Policy, now: datetime, confirmed: Confirmed | None = None
) -> Plan:
    """Of a store that has every run that ever was."""
    ended = [(run.number, run.finished_at) for run in runs]
    return retention.plan(runs, policy, now, Line(ended, confirmed))


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
    [(-HOUR, "the clock was set back"), (25 * HOUR, "backups had stopped, or the clock")],
)
def test_nothing_goes_by_a_clock_that_jumped(moved: timedelta, said: str):
    with pytest.raises(StoreError, match=said):
        plan(every(HOUR, 100), POLICY, NOW + moved)


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        (60 * DAY, "at 2026-11-30 12:00 the run 1920 ended, and next at 2027-01-29 12:30 the run "
         "1921 ended: backups had stopped, or the clock was set forward; nothing is let go"),
        (-60 * DAY, "the run 1921 ended: the clock was set back; nothing is let go"),
    ],
)  # fmt: skip
def test_nothing_goes_by_a_clock_that_jumped_before_the_newest_run(moved: timedelta, said: str):
    runs = every(HOUR / 2, 48 * 40)
    now = NOW + moved + HOUR / 2
    runs.append(There(len(runs) + 1, now, proven=False))
    with pytest.raises(StoreError, match=said) as error:
        plan(runs, POLICY, now)
    assert "`rul backup prune --clock-is-right`" in str(error.value)


def test_a_clock_that_was_set_back_and_right_again_lets_nothing_go():
    runs = every(HOUR, 100)
    runs += [There(101, NOW - 50 * DAY, proven=False), There(102, NOW + HOUR, proven=False)]
    with pytest.raises(StoreError, match="the run 101 ended: the clock was set back"):
        plan(runs, POLICY, NOW + HOUR)


def test_after_three_weeks_off_somebody_confirms_the_clock_once_and_pruning_goes_on():
    runs, now = every(HOUR, 100), NOW + 21 * DAY
    with pytest.raises(StoreError, match="and next at 2026-12-21 12:00 it is now"):
        plan(runs, POLICY, now)
    confirmed = Confirmed(100, now)
    assert len(plan(runs, POLICY, now, confirmed).drop) == 95  # one of each of five days stays
    for number in range(101, 200):
        now += HOUR
        runs.append(There(number, now, proven=False))
    assert len(plan(runs, POLICY, now, confirmed).drop) > 95
    runs.append(There(200, now + 2 * DAY, proven=False))
    with pytest.raises(StoreError, match="the run 200 ended"):
        plan(runs, POLICY, now + 2 * DAY, confirmed)


def test_a_clock_that_is_set_back_after_somebody_confirmed_it_is_noticed():
    runs, wrong = every(HOUR, 100), NOW + 60 * DAY
    with pytest.raises(
        StoreError, match=r"somebody confirmed the clock, .* the clock was set back"
    ):
        plan(runs, POLICY, NOW + HOUR, Confirmed(100, wrong))


def test_that_runs_went_between_others_is_no_gap():
    runs = every(HOUR, 24 * 10)
    ended = [(run.number, run.finished_at) for run in runs]
    few = [run for run in runs if run.number in {1, 100, 240}]
    assert retention.plan(few, POLICY, NOW, Line(ended)).drop == ()
    with pytest.raises(StoreError, match="backups had stopped"):
        plan(few, POLICY, NOW)


def test_of_no_runs_none_goes():
    assert plan([], POLICY, NOW) == Plan({}, ())


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 30)),
        st.tuples(st.just("run"), st.booleans()),
        st.tuples(st.just("half-hourly runs"), st.integers(1, 100)),
        st.tuples(st.just("clock"), st.integers(-24 * 50, 24 * 50)),
        st.tuples(st.just("prune"), st.none()),
        st.tuples(st.just("confirm"), st.none()),
    ),
    max_size=30,
)


class Plant:
    """A platform whose clock is not to be trusted, and what is true of its runs."""

    def __init__(self) -> None:
        self.clock, self.true = NOW, NOW
        self.there: dict[int, There] = {}
        self.ever: list[There] = []
        self.made: dict[int, datetime] = {}
        """When each run was made in truth, or by the word of whoever confirmed the clock."""
        self.confirmed: Confirmed | None = None
        self.seen: list[timedelta] = []
        """By how much the clock was wrong when each run told it."""

    @property
    def wrong(self) -> timedelta:
        return self.clock - self.true

    def run(self, *, proven: bool) -> None:
        run = There(len(self.ever) + 1, self.clock, proven)
        self.ever.append(run)
        self.there[run.number], self.made[run.number] = run, self.true
        self.seen.append(self.wrong)

    def confirm(self) -> None:
        if self.ever:
            self.confirmed = Confirmed(self.ever[-1].number, self.clock)
            self.seen = [self.wrong] * len(self.ever)
            for run in self.ever:
                self.made[run.number] = self.true - (self.clock - run.finished_at)

    def age(self, run: There) -> timedelta:
        """How old it is in truth, and by jumps that are too short to be seen."""
        wrong = [*self.seen[run.number - 1 :], self.wrong]
        steps = [after - before for before, after in itertools.pairwise(wrong)]
        unseen = sum((min(step, SILENCE) for step in steps), timedelta(0))
        return self.true - self.made[run.number] + unseen

    def prune(self) -> None:
        before = dict(self.there)
        ended = [(run.number, run.finished_at) for run in self.ever]
        try:
            decided = retention.plan(
                list(before.values()), POLICY, self.clock, Line(ended, self.confirmed)
            )
        except StoreError:
            return  # nothing was let go
        assert decided.keep.keys() | {*decided.drop} == before.keys()
        assert not decided.keep.keys() & {*decided.drop}
        for number in decided.drop:
            del self.there[number]
        for run in before.values():
            day = run.finished_at.date()
            if self.clock - run.finished_at <= POLICY.all_for:
                assert run.number in self.there
            if self.clock - run.finished_at <= POLICY.daily_for:
                assert any(other.finished_at.date() == day for other in self.there.values())
        days = {run.finished_at.date() for run in self.there.values()}
        for number in decided.drop:
            run = before[number]
            alone = run.finished_at.date() not in days
            assert self.age(run) > (POLICY.daily_for if alone else POLICY.all_for)


@given(EVENTS)
def test_no_sequence_of_runs_failures_and_clock_jumps_loses_what_must_stay(events):
    plant = Plant()
    for event, value in events:
        if event in {"wait", "clock"}:
            plant.clock += value * HOUR
        if event == "wait":
            plant.true += value * HOUR
        elif event == "run":
            plant.run(proven=value)
        elif event == "half-hourly runs":
            for _ in range(value):
                plant.clock += HOUR / 2
                plant.true += HOUR / 2
                plant.run(proven=False)
        elif event == "confirm":
            plant.confirm()
        elif event == "prune":
            plant.prune()
        proven = [run.number for run in plant.ever if run.proven]
        assert {*proven[-2:]} <= plant.there.keys()
        if plant.ever:
            assert plant.ever[-1].number in plant.there


SEGMENT_BYTES = 4096
STORE_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 40)),
        st.tuples(st.just("clock"), st.integers(-24 * 50, 24 * 50)),
        st.tuples(st.just("run"), st.booleans()),
        st.tuples(st.just("killed run"), st.none()),
        st.tuples(st.just("drill"), st.booleans()),
        st.tuples(st.just("prune"), st.none()),
        st.tuples(st.just("killed prune"), st.integers(0, 3)),
        st.tuples(st.just("confirm"), st.none()),
        st.tuples(st.just("lose a manifest"), st.integers(0, 5)),
        st.tuples(st.just("mend"), st.none()),
    ),
    min_size=5,
    max_size=40,
)
SHORT = Policy(all_for=6 * HOUR, daily_for=3 * DAY)


class KeptStore:
    """A real store of runs that take over what others kept, each with a base, and their log."""

    def __init__(self, root: Path, plant: Keys) -> None:
        self.store, self.plant, self.clock = FolderStore(root / "backups"), plant, NOW
        self.spool, self.segment = root / "spool", wal.Segment(1, 1, SEGMENT_BYTES)
        self.spool.mkdir()
        self.ever: list[Sealed] = []
        self.drilled: dict[int, bool] = {}
        self.confirmed: Confirmed | None = None

    @property
    def there(self) -> list[Sealed]:
        return runs.there(self.store, self.plant.verify)

    @property
    def lost(self) -> set[int]:
        """Runs whose manifests are not there, given up or not."""
        there = {*runs.names(self.store)}
        return {one.manifest.number for one in self.ever if one.object not in there}

    def archive(self) -> None:
        log = wal.ClusterLog(self.store, self.plant.maker, self.plant.verify, "7", SEGMENT_BYTES)
        path = self.spool / str(self.segment)
        path.write_bytes(bytes(SEGMENT_BYTES))
        log.take(path, now=self.clock)
        self.segment = self.segment.next

    def run(self, *, takes_over: bool, killed: bool = False) -> None:
        self.clock += HOUR / 60  # two runs of one second would have one another's names
        run = Run(self.store, self.plant.maker, self.clock)
        run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"%d" % len(self.ever)), {})
        if killed:
            return
        facts = {
            "cluster": "7", "segment_bytes": SEGMENT_BYTES, "ended_at": self.clock.isoformat(),
            "start_segment": str(self.segment), "end_segment": str(self.segment),
        }  # fmt: skip
        before = self.there[-1] if self.there else None
        old = [] if before is None else [*before.of_kind(Kind.BASE).values()]
        if before and old and takes_over and run.may_take_over(old[0], before):
            run.take_over(old[0], before)
        else:
            run.keep("base.tar", Kind.BASE, io.BytesIO(b"base"), facts)
        known = [one.known for one in self.ever]
        self.ever.append(run.seal({}, self.plant.verify, self.clock, (), known))
        self.archive()

    def prune(self, killed_after: int | None = None) -> None:
        keys, known = self.plant.verify, [one.known for one in self.ever]
        ended = [(one.manifest.number, one.manifest.finished_at) for one in self.ever]
        there = [
            There(told.number, told.finished_at, proven=self.drilled.get(told.number, False))
            for told in (one.manifest for one in self.there)
        ]
        line, drop = Line(ended, self.confirmed), ()
        try:
            runs.left_behind(self.store, keys, self.clock, known)
            drop = retention.plan(there, SHORT, self.clock, line).drop
        except StoreError as error:
            if "manifests/" in str(error) or "not its manifest" in str(error):
                assert self.lost
                return
        going = [one for one in self.there if one.manifest.number in drop]
        for one in going[:killed_after]:
            runs.let_go(self.store, one, self.plant.maker.signing_key)
        if killed_after is None:
            runs.sweep(self.store, keys, self.clock, known)
            wal.sweep(self.store, keys)

    def mend(self) -> None:
        keys, known = self.plant.verify, [one.known for one in self.ever]
        found = mending.plan(self.store, keys, known)
        mending.mend(self.store, keys, found, self.plant.maker.signing_key)
        runs.whole_line(self.store, keys)

    def look(self) -> None:
        """Nothing that is promised has gone, nor any of the log that a base needs."""
        known = [one.known for one in self.ever]
        found = verify(
            self.store, self.plant.verify, Level.STORED, now=self.clock, known=known
        ).findings
        missing = {f"manifests/{number:08d}" for number in self.lost}
        for name, problem in found:
            begun = name.startswith("runs/") and name.split("/")[1] not in {
                one.manifest.run for one in self.there
            }
            assert begun or name in missing or problem.startswith("does not follow"), (
                name,
                problem,
            )
            assert "missing" not in problem or name in missing, (name, problem)
        proven = [one for one in self.ever if self.drilled.get(one.manifest.number)]
        stay = [one for one in proven if one.manifest.number not in self.lost][-2:]
        names = runs.names_there(self.store)
        assert {one.object for one in stay} <= {*names}
        if self.ever and self.ever[-1].manifest.number not in self.lost:
            assert names[-1] == self.ever[-1].object


@settings(max_examples=60)
@given(STORE_EVENTS)
def test_whatever_befalls_a_store_what_its_runs_promise_is_there(plant: Keys, events):
    with tempfile.TemporaryDirectory() as name:
        kept = KeptStore(Path(name), plant)
        for event, value in events:
            match event:
                case "wait":
                    kept.clock += value * HOUR
                case "clock":
                    kept.clock += value * HOUR
                case "run":
                    kept.run(takes_over=value)
                case "killed run":
                    kept.run(takes_over=False, killed=True)
                case "drill" if kept.there:
                    kept.drilled[kept.there[-1].manifest.number] = value
                case "prune":
                    kept.prune()
                case "killed prune":
                    kept.prune(value)
                case "confirm" if kept.ever:
                    kept.confirmed = Confirmed(kept.ever[-1].manifest.number, kept.clock)
                case "lose a manifest" if names := runs.names(kept.store):
                    kept.store.remove(names[value % len(names)])
                case "mend":
                    kept.mend()
            kept.look()
