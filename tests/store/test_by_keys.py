"""What is asked and changed with each reading costs the same however many old rows lie about.

They stay while somebody holds a snapshot, as a dump does: one of every unit with each reading.
"""

import re

import polars as pl
import pytest
import sqlalchemy as sa

from rul_core.advisory_terms import rule_of
from rul_core.schema import LIVES_SCHEMA, Columns, Fleet, Maintenance
from rul_store import advisories, lives
from rul_store.database import Statement, begin, pipelined

PUMPS = Fleet(
    name="pumps",
    columns=Columns(unit="u", cycle="c", sensors=("s",)),
    maintenance=Maintenance(lead_time_cycles=30),
)
ASKED = {
    "lives are locked": (lives._LOCK, {"fleet": "pumps", "unit": ["a"]}),
    "lives are marked": (lives._MARK, {"fleet": "pumps", "token": 1, "unit": ["a"], "life": [1]}),
    "advisories are looked for": advisories._worth_a_look("pumps", rule_of(PUMPS), ["a"]),
}
SAID = """
    INSERT INTO current_prognoses (fleet, unit, state, prognosis, ledger_id, computed_at)
    SELECT fleet, unit, 'insufficient_history', '{}', gen_random_uuid(), now() FROM lives
"""


def how(connection: sa.Connection, statement: Statement) -> str:
    """How PostgreSQL means to answer."""
    text, parameters = statement
    (rows,) = pipelined(connection, (f"EXPLAIN {text}", parameters))
    return "\n".join(line for (line,) in rows)


@pytest.mark.parametrize("statement", ASKED.values(), ids=ASKED)
def test_few_units_are_found_by_their_keys_in_tables_that_are_quicker_read_whole(
    engine: sa.Engine, statement: Statement
):
    rows = [(unit, 1, "running", None) for unit in "abcdefghij"]
    few = pl.DataFrame(rows, schema=LIVES_SCHEMA, orient="row")
    lives.upsert(engine, "pumps", few, source="x.csv")
    with begin(engine) as connection:
        connection.execute(sa.text(SAID))
        connection.execute(sa.text("ANALYZE"))  # else a table is thought to have ten pages
    whole = re.compile("Seq Scan|Bitmap|Hash|hashed|Merge")
    with begin(engine) as connection:
        assert whole.search(how(connection, statement))
        lives.lock(connection, "pumps", ["a"])
        assert whole.search(found := how(connection, statement)) is None, found
    with begin(engine) as connection:  # and then it is as it was
        assert whole.search(how(connection, statement))


def test_nothing_that_a_prognosis_changes_is_in_an_index(engine: sa.Engine):
    query = """
        SELECT DISTINCT attname FROM pg_index
        JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)
        WHERE indrelid = 'current_prognoses'::regclass
    """
    with begin(engine) as connection:
        assert set(connection.execute(sa.text(query)).scalars()) == {"fleet", "unit"}
