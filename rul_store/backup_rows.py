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


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a run of backups."""

    number: int
    run: str
    sha256: str
    """Of its manifest."""
    finished_at: datetime


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What a drill found of a run."""

    number: int
    proven_at: datetime
    seconds: float
    differences: tuple[str, ...]
    """From what was kept; none proves the run."""


def record(engine: sa.Engine, store: str, runs: Iterable[Known]) -> None:
    """Write runs of a store down; those that are there stay as they are.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    rows = [{"store": store, **msgspec.structs.asdict(run)} for run in runs]
    if rows:
        with begin(engine) as connection:
            connection.execute(postgresql.insert(tables.backup_runs).on_conflict_do_nothing(), rows)


def known(engine: sa.Engine, store: str) -> list[Known]:
    """The runs of a store, the oldest first."""
    table = tables.backup_runs
    query = sa.select(table).where(table.c.store == store).order_by(table.c.number)
    with begin(engine) as connection:
        rows = connection.execute(query).mappings().all()
    return [Known(**{name: row[name] for name in Known.__struct_fields__}) for row in rows]


def record_proof(engine: sa.Engine, store: str, proof: Proof) -> None:
    """Write down what a drill found."""
    with begin(engine) as connection:
        connection.execute(
            sa.insert(tables.backup_proofs).values(
                store=store,
                **{**msgspec.structs.asdict(proof), "differences": list(proof.differences)},
            )
        )


def proofs(engine: sa.Engine, store: str) -> list[Proof]:
    """What drills found of a store's runs, the oldest first."""
    table = tables.backup_proofs
    query = sa.select(table).where(table.c.store == store).order_by(table.c.proven_at)
    with begin(engine) as connection:
        rows = connection.execute(query).mappings().all()
    return [
        Proof(
            number=row["number"],
            proven_at=row["proven_at"],
            seconds=row["seconds"],
            differences=tuple(row["differences"]),
        )
        for row in rows
    ]
