"""What the gate ruled, nominated challengers and what they say beside the champion."""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = """
CREATE TABLE rulings (
    fleet text,
    version text,
    ruled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    passed boolean NOT NULL,
    why text NOT NULL,
    CONSTRAINT pk_rulings PRIMARY KEY (fleet, version)
);

CREATE TABLE challengers (
    fleet text CONSTRAINT pk_challengers PRIMARY KEY,
    version text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    nominated_by text NOT NULL,
    reason text NOT NULL
);

CREATE TABLE shadow_prognoses (
    fleet text,
    version text,
    unit text,
    life bigint,
    step bigint,
    cycle double precision NOT NULL,
    ledger_id uuid NOT NULL,
    prognosis json NOT NULL,
    computed_at timestamptz NOT NULL,
    CONSTRAINT pk_shadow_prognoses PRIMARY KEY (fleet, version, unit, life, step)
);

ALTER TABLE current_prognoses ADD COLUMN model_version text;
UPDATE current_prognoses SET model_version = prognosis->'provenance'->>'model_version';
"""


def upgrade() -> None:
    """Make the tables; what was said last is of the model that it names."""
    op.execute(STATEMENTS)
