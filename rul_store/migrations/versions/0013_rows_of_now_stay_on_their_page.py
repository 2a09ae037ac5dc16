"""What each reading changes again, a row of every unit, is changed on the page where it lies.

No question used the index of how near to failure units are, and for its sake each prognosis wrote
a new entry into every index of the table. While a dump holds its snapshot these entries stay, so
each reading looked through all of the unit's since the dump began. Pages are filled in part, so
that a row's next versions find room beside it.
"""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Rows that are there move as they are changed."""
    op.execute("DROP INDEX ix_current_prognoses_risk")
    for table, filled in (("current_prognoses", 20), ("lives", 50), ("advisories", 50)):
        op.execute(f"ALTER TABLE {table} SET (fillfactor = {filled})")
