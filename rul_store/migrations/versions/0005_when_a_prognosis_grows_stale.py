"""When each current prognosis had its last reading, so that it can grow stale by itself."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column; what was given before has no such time, and the next prognosis brings it."""
    op.execute("ALTER TABLE current_prognoses ADD COLUMN last_read_at timestamptz")
