"""What is known of backups beside the stores that have them.

What belongs here: the rows. What does not: making backups (``rul_backup``).

A store that was put back to an earlier state is whole in itself; only somebody else can tell that
it had more. So every run that is sealed is written down here too, and every drill.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rul_store import tables
from rul_store.database import begin


class BackupRun(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a run of backups."""

    number: int
    run: str
    sha256: str
    """Of its manifest."""
    finished_at: datetime
    started_at: datetime | None = None
    """What was written later may not be in it; unknown of the first releases' runs."""
    stored_bytes: int | None = None
    """Of all that it promises, also what earlier runs kept."""


class RestoreProof(msgspec.Struct, frozen=True, kw_only=True):
    """What a drill found of a run."""

    number: int
    proven_at: datetime
    seconds: float
    differences: tuple[str, ...]
    """From what was kept; none proves the run."""
    log_reaches_at: datetime | None = None
    """Until when all that was committed was recovered by PostgreSQL's log; none where there was no
    log to try."""
    recovery_point_seconds: float | None = None
    """How long before the drill what it restored ends: what a loss at that moment would have cost.
    By the log where that leads on, else by when the run began. Unknown of the first releases'
    runs."""


class ClockConfirmed(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody says that the clock is right."""

    number: int
    """Of the newest run at that moment."""
    confirmed_at: datetime


class BackupStore(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with the backups of a place."""

    store: str
    newest: BackupRun
    last_drill: RestoreProof | None
    last_proven: RestoreProof | None
    """The last drill that found no difference."""


def standings(engine: sa.Engine) -> list[BackupStore]:
    """Of every place that ever had a run, by name.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    runs, proofs = tables.backup_runs.c, tables.backup_proofs.c
    newest = (
        sa.select(tables.backup_runs)
        .ext(postgresql.distinct_on(runs.store))
        .order_by(runs.store, runs.number.desc())
    )
    drills = (
        _proofs()
        .ext(postgresql.distinct_on(proofs.store))
        .order_by(proofs.store, proofs.proven_at.desc())
    )
    proven = drills.where(sa.func.cardinality(proofs.differences) == 0)
    with begin(engine) as connection:
        last, good = (
            {row["store"]: _proof(row) for row in connection.execute(query).mappings()}
            for query in (drills, proven)
        )
        return [
            BackupStore(
                store=row["store"],
                newest=_known(row),
                last_drill=last.get(row["store"]),
                last_proven=good.get(row["store"]),
            )
            for row in connection.execute(newest).mappings()
        ]


def record(engine: sa.Engine, store: str, runs: Iterable[BackupRun]) -> None:
    """Write runs of a store down; those that are there stay as they are.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    rows = [{"store": store, **msgspec.structs.asdict(run)} for run in runs]
    if rows:
        with begin(engine) as connection:
            connection.execute(postgresql.insert(tables.backup_runs).on_conflict_do_nothing(), rows)


def known(engine: sa.Engine, store: str) -> list[BackupRun]:
    """The runs of a store, the oldest first."""
    table = tables.backup_runs
    query = sa.select(table).where(table.c.store == store).order_by(table.c.number)
    with begin(engine) as connection:
        rows = connection.execute(query).mappings().all()
    return [_known(row) for row in rows]


def confirm_clock(engine: sa.Engine, confirmed: ClockConfirmed) -> None:
    """Write down that the clock is right; of the same run the last word counts."""
    insert = postgresql.insert(tables.backup_confirmations).values(
        number=confirmed.number, confirmed_at=confirmed.confirmed_at
    )
    with begin(engine) as connection:
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["number"], set_={"confirmed_at": confirmed.confirmed_at}
            )
        )


def clock_confirmed(engine: sa.Engine) -> ClockConfirmed | None:
    """The last time that somebody said so, where anybody did."""
    table = tables.backup_confirmations
    query = sa.select(table).order_by(table.c.number.desc()).limit(1)
    with begin(engine) as connection:
        row = connection.execute(query).mappings().first()
    return None if row is None else ClockConfirmed(**row)


def record_proof(engine: sa.Engine, store: str, proof: RestoreProof) -> None:
    """Write down what a drill found."""
    with begin(engine) as connection:
        connection.execute(
            sa.insert(tables.backup_proofs).values(
                store=store,
                number=proof.number,
                proven_at=proof.proven_at,
                seconds=proof.seconds,
                differences=list(proof.differences),
                log_reaches_at=proof.log_reaches_at,
            )
        )


def proofs(engine: sa.Engine, store: str) -> list[RestoreProof]:
    """What drills found of a store's runs, the oldest first."""
    columns = tables.backup_proofs.c
    query = _proofs().where(columns.store == store).order_by(columns.proven_at)
    with begin(engine) as connection:
        rows = connection.execute(query).mappings().all()
    return [_proof(row) for row in rows]


def _proofs() -> sa.Select:
    """What drills found, beside when the run began that each restored."""
    runs, proofs = tables.backup_runs, tables.backup_proofs
    is_its_run = sa.and_(runs.c.store == proofs.c.store, runs.c.number == proofs.c.number)
    return sa.select(proofs, runs.c.started_at).select_from(
        proofs.join(runs, is_its_run, isouter=True)
    )


def _known(row: sa.RowMapping) -> BackupRun:
    return BackupRun(**{name: row[name] for name in BackupRun.__struct_fields__})


def _proof(row: sa.RowMapping) -> RestoreProof:
    return RestoreProof(
        number=row["number"],
        proven_at=row["proven_at"],
        seconds=row["seconds"],
        differences=tuple(row["differences"]),
        log_reaches_at=row["log_reaches_at"],
        recovery_point_seconds=recovery_point_seconds(
            row["proven_at"], row["started_at"], row["log_reaches_at"]
        ),
    )


def recovery_point_seconds(
    proven_at: datetime, started_at: datetime | None, log_reaches_at: datetime | None
) -> float | None:
    """How long before a drill what it restored ends.

    Args:
        proven_at: When the drill was.
        started_at: When the run began; what it kept may reach farther than a log that is old.
        log_reaches_at: Until when the log led; a drill may find what was sealed since it began.

    Returns:
        None where neither is known.
    """
    ends = [at for at in (started_at, log_reaches_at) if at]
    return max(0.0, (proven_at - max(ends)).total_seconds()) if ends else None
