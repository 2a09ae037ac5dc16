"""A reading that contradicts a kept one is set aside once, however often it is sent."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Tell equal ones by their content, and remove all but the first of each."""
    op.execute("ALTER TABLE readings_set_aside ADD COLUMN sha256 bytea")
    op.execute("UPDATE readings_set_aside SET sha256 = sha256(convert_to(content::text, 'UTF8'))")
    op.execute(
        """
        DELETE FROM readings_set_aside AS later USING readings_set_aside AS first
        WHERE (first.fleet, first.unit, first.life, first.cycle, first.sha256)
                = (later.fleet, later.unit, later.life, later.cycle, later.sha256)
            AND first.id < later.id
        """
    )
    op.execute(
        """
        ALTER TABLE readings_set_aside ALTER COLUMN sha256 SET NOT NULL,
            ADD CONSTRAINT uq_readings_set_aside UNIQUE (fleet, unit, life, cycle, sha256)
        """
    )
    op.execute("DROP INDEX ix_readings_set_aside_unit")
    op.execute("CREATE INDEX ix_readings_set_aside_fleet ON readings_set_aside (fleet, id)")
