"""When a run of backups began, from which its recovery point follows, and how much it keeps."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Unknown of runs that were written down before."""
    op.execute(
        """
        ALTER TABLE backup_runs
            ADD COLUMN started_at timestamptz,
            ADD COLUMN stored_bytes bigint
        """
    )
