"""What people found when they looked at a machine.

What belongs here: keeping verdicts, and counting how often advisories were right. What does not:
labels, which come of lives alone (``rul_core.labels``): a verdict becomes one by how the life ended
that it speaks of. Damage that was found is no failure; only a failure is one.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import msgspec
import sqlalchemy as sa

from rul_core.advisory_terms import Judge
from rul_core.schema import Outcome
from rul_store import advisories, advisory_rows
from rul_store.database import begin
from rul_store.tables import verdicts


class Finding(StrEnum):
    """What somebody found."""

    FOUND_DAMAGE = "found_damage"
    FOUND_NOTHING = "found_nothing"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody found, as it is kept."""

    verdict_id: UUID
    fleet: str
    unit: str
    life: int
    advisory_id: UUID | None = None
    """What it answers; null where there was no advisory."""
    finding: Finding
    mode: str | None = None
    """How it fails, by ISO 14224: such as *vibration*."""
    mechanism: str | None = None
    """What made it so, by ISO 14224: such as *wear*."""
    cause: str | None = None
    """The root cause, by ISO 14224: such as *fabrication error*."""
    note: str | None = None
    outcome: Outcome
    """What became of the life by this verdict: `running` where the unit goes on."""
    given_at: datetime
    given_by: str


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody found, as it is said; see ``Verdict``."""

    finding: Finding
    mode: str | None = None
    mechanism: str | None = None
    cause: str | None = None
    note: str | None = None


class AlarmRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How often a fleet's advisories were right, by the newest verdict on each."""

    confirmed: int
    """Damage was found, or the unit failed while the advisory was open."""
    false_alarms: int
    """Nothing was found and the unit went on."""
    not_said: int
    """Nobody said, or a sound unit was replaced or removed: nobody knows."""


def give(
    connection: sa.Connection,
    fleet: str,
    unit: str,
    life: int,
    said: Said,
    *,
    who: str,
    advisory_id: UUID | None = None,
    outcome: Outcome = Outcome.RUNNING,
) -> Verdict:
    """Keep a verdict; its advisory is taken note of. Ending the life is another step.

    Args:
        connection: An open transaction.
        fleet: The fleet's name.
        unit: Which machine.
        life: Which of its lives.
        said: What was found.
        who: Says so.
        advisory_id: What it answers; the unit's open advisory about this life unless given.
        outcome: How the life has ended, or ends by it.
    """
    if advisory_id is None:
        standing = advisory_rows.open_of(connection, fleet, [unit])
        advisory_id = next((one.advisory_id for one in standing if one.life == life), None)
    if advisory_id is not None:
        why = said.note or said.finding.replace("_", " ")
        advisories.act(connection, advisory_id, Judge(), who=who, why=why)
    row = connection.execute(
        sa.insert(verdicts)
        .values(
            verdict_id=uuid4(),
            fleet=fleet,
            unit=unit,
            life=life,
            advisory_id=advisory_id,
            **msgspec.to_builtins(said),
            outcome=outcome.value,
            given_by=who,
        )
        .returning(verdicts)
    ).one()
    return _verdict(row)


def of_advisory(engine: sa.Engine, advisory_id: UUID) -> tuple[Verdict, ...]:
    """What was said of an advisory, the newest first."""
    table = verdicts.c
    query = sa.select(verdicts).where(table.advisory_id == advisory_id)
    with begin(engine) as connection:
        rows = connection.execute(query.order_by(table.given_at.desc(), table.verdict_id)).all()
    return tuple(map(_verdict, rows))


def record(engine: sa.Engine, fleet: str) -> AlarmRecord:
    """How often the fleet's advisories were right."""
    with begin(engine) as connection:
        row = connection.execute(sa.text(_RECORD), {"fleet": fleet}).one()
    return msgspec.convert(row._asdict(), AlarmRecord)


def _verdict(row: sa.Row[Any]) -> Verdict:
    return msgspec.convert({str(name): value for name, value in row._mapping.items()}, Verdict)


# A failure while the advisory was open proves it right, whatever somebody said before.
_RECORD = """
    WITH newest AS (
        SELECT DISTINCT ON (advisory_id) advisory_id, finding, outcome FROM verdicts
        WHERE fleet = :fleet AND advisory_id IS NOT NULL
        ORDER BY advisory_id, given_at DESC, verdict_id
    ), judged AS (
        SELECT
            coalesce(
                finding = 'found_damage'
                    OR lives.outcome = 'failed' AND advisories.closed_at >= lives.ended_at,
                FALSE
            ) AS is_right,
            coalesce(finding = 'found_nothing' AND newest.outcome = 'running', FALSE) AS is_wrong
        FROM advisories
        LEFT JOIN newest USING (advisory_id)
        LEFT JOIN lives USING (fleet, unit, life)
        WHERE fleet = :fleet
    )
    SELECT
        count(*) FILTER (WHERE is_right) AS confirmed,
        count(*) FILTER (WHERE is_wrong AND NOT is_right) AS false_alarms,
        count(*) FILTER (WHERE NOT is_wrong AND NOT is_right) AS not_said
    FROM judged
"""
