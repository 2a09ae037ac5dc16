"""What was found: kept as it was said, answered by the advisory, learnt from with honest ends."""

import polars as pl
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, ProgrammingError

from rul_core.advisory_terms import AdvisoryState, Close, EventKind
from rul_core.labels import label
from rul_core.schema import Outcome
from rul_store import lives, unit_lives, verdicts
from rul_store.database import begin
from rul_store.verdicts import AlarmRecord, Finding, Said, Verdict
from tests.store.test_advisories import act, introduce, listed, live, the_open, told

DAMAGE, NOTHING = Finding.FOUND_DAMAGE, Finding.FOUND_NOTHING


def give(
    engine: sa.Engine,
    finding: Finding,
    unit: str = "u",
    *,
    outcome: Outcome = Outcome.RUNNING,
    **more: str,
) -> Verdict:
    """A verdict on a unit's first life, which ends with it where an outcome is given."""
    said = Said(finding=finding, **more)
    with begin(engine) as connection:
        verdict = verdicts.give(connection, "pumps", unit, 1, said, who="ann", outcome=outcome)
        if verdict.outcome is not Outcome.RUNNING:
            known = unit_lives.of(connection, "pumps", unit, hold=True)
            unit_lives.end(connection, known, verdict.outcome, who="ann")
    return verdict


def warned(engine: sa.Engine, *units: str) -> sa.Engine:
    introduce(engine, *units)
    for unit in units:
        live(engine, unit, 25, 24, 20)
    return engine


def test_a_verdict_is_kept_and_takes_note_of_the_open_advisory(engine: sa.Engine):
    warned(engine, "u")
    verdict = give(engine, DAMAGE, mode="VIB", mechanism="wear", cause="age", note="bearing hot")
    advisory = the_open(engine)
    assert verdict.advisory_id == advisory.advisory_id
    assert advisory.state is AdvisoryState.ACTIVE_ACKNOWLEDGED
    judged = told(engine, advisory)[-1]
    assert (judged.kind, judged.who, judged.why) == (EventKind.JUDGED, "ann", "bearing hot")
    assert verdicts.of_advisory(engine, advisory.advisory_id) == (verdict,)
    assert (verdict.mode, verdict.mechanism, verdict.cause) == ("VIB", "wear", "age")
    assert verdict.outcome is Outcome.RUNNING


def test_a_verdict_on_a_unit_without_an_advisory_is_kept_too(engine: sa.Engine):
    introduce(engine, "u")
    assert give(engine, DAMAGE).advisory_id is None


def test_the_newest_verdict_on_an_advisory_comes_first(engine: sa.Engine):
    warned(engine, "u")
    first = give(engine, NOTHING)
    second = give(engine, DAMAGE)
    assert verdicts.of_advisory(engine, the_open(engine).advisory_id) == (second, first)
    assert verdicts.record(engine, "pumps") == AlarmRecord(confirmed=1, false_alarms=0, not_said=0)


@pytest.mark.parametrize(
    ("finding", "outcome", "labels"),
    [
        (DAMAGE, Outcome.FAILED, [2.0, 1.0, 0.0]),
        (DAMAGE, Outcome.REPLACED, []),
        (NOTHING, Outcome.REPLACED, []),
        (NOTHING, Outcome.REMOVED, []),
        (DAMAGE, Outcome.RUNNING, []),
        (NOTHING, Outcome.RUNNING, []),
    ],
)
def test_training_sees_a_failure_only_where_there_was_one(engine, finding, outcome, labels):
    """A machine that was replaced, with damage or without, lived *at least* so long."""
    warned(engine, "u")
    give(engine, finding, outcome=outcome)
    known = lives.read(engine, "pumps")
    readings = pl.DataFrame(
        {"unit": "u", "life": 1, "cycle": [1.0, 2.0, 3.0]}, schema_overrides={"life": pl.Int64}
    )
    assert label(readings, known)["rul_cycles"].to_list() == labels
    assert lives.count_ended(engine, "pumps", outcome=Outcome.FAILED) == bool(labels)
    runs = outcome is Outcome.RUNNING
    assert bool(listed(engine, is_open=True)) is runs
    assert known["outcome"].to_list() == ([] if runs else [outcome])


def test_the_record_tells_false_alarms_from_what_nobody_knows(engine: sa.Engine):
    units = ("damage", "false", "replaced", "silent", "failed", "late")
    warned(engine, *units)
    give(engine, DAMAGE, "damage")
    give(engine, NOTHING, "false")
    give(engine, NOTHING, "replaced", outcome=Outcome.REPLACED)
    give(engine, NOTHING, "failed")
    give(engine, NOTHING, "late")
    act(engine, the_open(engine, "late"), Close())
    for unit in ("failed", "late"):
        with begin(engine) as connection:
            known = unit_lives.of(connection, "pumps", unit, hold=True)
            unit_lives.end(connection, known, Outcome.FAILED, who="ann")
    assert verdicts.record(engine, "pumps") == AlarmRecord(confirmed=2, false_alarms=2, not_said=2)
    assert verdicts.record(engine, "fans") == AlarmRecord(confirmed=0, false_alarms=0, not_said=0)


def test_the_database_refuses_a_failure_without_damage(engine: sa.Engine):
    introduce(engine, "u")
    with pytest.raises(IntegrityError, match="ck_verdicts_outcome"):
        give(engine, NOTHING, outcome=Outcome.FAILED)


def test_nobody_changes_a_verdict(engine: sa.Engine):
    introduce(engine, "u")
    give(engine, DAMAGE)
    with pytest.raises(ProgrammingError, match="never changed or removed"), begin(engine) as c:
        c.execute(sa.text("DELETE FROM verdicts"))
