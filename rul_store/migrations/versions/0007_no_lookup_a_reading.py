"""A reading's layout is not looked up again as it is written, which took a quarter of the time.

Whoever writes readings has found or made the layout in the same transaction, and nobody but the
owner of the tables may remove one.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Drop the foreign key."""
    op.execute("ALTER TABLE readings DROP CONSTRAINT fk_readings_layout")
