"""What is known of backups beside the stores that have them, and which were restored by a drill."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "backup_runs",
        sa.Column("store", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "backup_proofs",
        sa.Column("store", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("proven_at", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("differences", ARRAY(sa.Text), nullable=False),
    )
