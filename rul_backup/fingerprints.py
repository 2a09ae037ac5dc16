"""What is in a database, in figures that a restored one must have too.

What belongs here: counting and summing tables. What does not: dumping them (``snapshots``).

Each table's rows are counted and their texts hashed; the sum of the hashes is the same in whatever
order the rows lie. Taken in the snapshot that is dumped, the figures are exactly the dump's, also
while others write. Sequences are of no snapshot: what others draw from them counts at once, and a
dump that is made after the figures may have them further on.
"""

import operator
from typing import Any

import sqlalchemy as sa

from rul_store.database import begin, connect

_TABLES = """
    SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables
    WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""
_SEQUENCES = """
    SELECT quote_ident(schemaname) || '.' || quote_ident(sequencename) AS name, last_value
    FROM pg_sequences ORDER BY 1
"""
# hashtextextended is stable over platforms of one endianness, and part of PostgreSQL since 11.
_SUM = (
    "SELECT count(*), coalesce(sum(hashtextextended(row_::text, 0)::numeric), 0)::text "
    "FROM {table} AS row_"
)


def tables_of(connection: sa.Connection) -> list[str]:
    """The names of all tables but PostgreSQL's own."""
    return list(connection.execute(sa.text(_TABLES)).scalars())


def of_database(connection: sa.Connection) -> dict[str, Any]:
    """Rows and sum of every table, and where sequences stand.

    Args:
        connection: In a transaction that sees one moment, where others write meanwhile.

    Texts of times and floats follow the session's settings, so these are set here.
    """
    connection.execute(sa.text("SET LOCAL timezone = 'UTC'"))
    connection.execute(sa.text("SET LOCAL datestyle = 'ISO, YMD'"))
    connection.execute(sa.text("SET LOCAL intervalstyle = 'iso_8601'"))
    connection.execute(sa.text("SET LOCAL extra_float_digits = 1"))
    connection.execute(sa.text("SET LOCAL bytea_output = 'hex'"))
    # Who else uses the server shares its processors with one process, and not with three.
    connection.execute(sa.text("SET LOCAL max_parallel_workers_per_gather = 0"))
    tables = {}
    for table in tables_of(connection):
        rows, total = connection.execute(sa.text(_SUM.format(table=table))).one()
        tables[table] = {"rows": rows, "sum": total}
    sequences = connection.execute(sa.text(_SEQUENCES)).all()
    return {"tables": tables, "sequences": {row.name: row.last_value for row in sequences}}


def of_address(url: str) -> dict[str, Any]:
    """The same of a database by its address.

    Raises:
        Unavailable: It does not answer.
    """
    engine = connect(url)
    try:
        with begin(engine) as connection:
            return of_database(connection)
    finally:
        engine.dispose()


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What a restored database has otherwise, each by its name.

    A sequence that is further on than it was is none; behind, it would give numbers twice.
    """
    told = []
    is_as_kept = {"tables": operator.eq, "sequences": _is_no_less}
    for what, holds in is_as_kept.items():
        before, after = expected[what], found[what]
        for name in sorted(before.keys() | after.keys()):
            if name not in after:
                told.append(f"{what[:-1]} {name} is missing")
            elif name not in before:
                told.append(f"{what[:-1]} {name} was not in the backup")
            elif not holds(before[name], after[name]):
                told.append(f"{what[:-1]} {name} has {after[name]} where {before[name]} was kept")
    return told


def _is_no_less(before: int | None, after: int | None) -> bool:
    """Whether a sequence, none where nothing was drawn, is not behind what it was."""
    return before is None or (after is not None and before <= after)
