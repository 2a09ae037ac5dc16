"""Until when PostgreSQL's log led in a drill, from which its recovery point follows."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Unknown of drills that were written down before."""
    op.execute("ALTER TABLE backup_proofs ADD COLUMN log_reaches_at timestamptz")
