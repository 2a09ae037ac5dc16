"""Units, lives, readings, the ledger with current prognoses, champions, landed files."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = """
CREATE TABLE units (
    fleet text NOT NULL,
    unit text NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_units PRIMARY KEY (fleet, unit)
);

CREATE TABLE lives (
    fleet text NOT NULL,
    unit text NOT NULL,
    life bigint NOT NULL,
    outcome text NOT NULL,
    end_cycle double precision,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    source text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_lives PRIMARY KEY (fleet, unit, life),
    CONSTRAINT ck_lives_outcome
        CHECK (outcome IN ('running', 'failed', 'replaced', 'removed')),
    CONSTRAINT ck_lives_ended CHECK (
        (outcome = 'running') = (end_cycle IS NULL) AND (outcome = 'running') = (ended_at IS NULL)
    )
);
CREATE INDEX ix_lives_ended_at ON lives (fleet, ended_at);

CREATE TABLE layouts (
    layout bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_layouts PRIMARY KEY,
    fleet text NOT NULL,
    channels text[] NOT NULL,
    CONSTRAINT uq_layouts_fleet UNIQUE (fleet, channels)
);

CREATE TABLE readings (
    fleet text NOT NULL,
    unit text NOT NULL,
    life bigint NOT NULL,
    cycle double precision NOT NULL,
    time timestamptz,
    layout bigint NOT NULL CONSTRAINT fk_readings_layout REFERENCES layouts,
    measured double precision[] NOT NULL,
    ingested_seq bigint GENERATED ALWAYS AS IDENTITY,
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ingested_xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    CONSTRAINT pk_readings PRIMARY KEY (fleet, unit, life, cycle)
);
CREATE INDEX ix_readings_ingested_xid ON readings (fleet, ingested_xid);

CREATE TABLE ledger (
    ledger_id uuid CONSTRAINT pk_ledger PRIMARY KEY,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    fleet text NOT NULL,
    unit text NOT NULL,
    life bigint,
    cycle double precision,
    state text NOT NULL,
    prognosis json NOT NULL,
    model_version text,
    feature_spec text,
    readings_seen bigint NOT NULL,
    computed_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    prev_hash bytea,
    hash bytea
);
CREATE INDEX ix_ledger_seq ON ledger (fleet, seq);
CREATE INDEX ix_ledger_unit ON ledger (fleet, unit, seq);

CREATE TABLE current_prognoses (
    fleet text NOT NULL,
    unit text NOT NULL,
    life bigint,
    cycle double precision,
    state text NOT NULL,
    failure_probability double precision,
    rul_cycles double precision,
    safe_cycles double precision,
    prognosis json NOT NULL,
    ledger_id uuid NOT NULL,
    computed_at timestamptz NOT NULL,
    CONSTRAINT pk_current_prognoses PRIMARY KEY (fleet, unit)
);
CREATE INDEX ix_current_prognoses_risk
    ON current_prognoses (fleet, failure_probability DESC NULLS LAST, unit);

CREATE TABLE champions (
    fleet text CONSTRAINT pk_champions PRIMARY KEY,
    version text NOT NULL,
    generation bigint NOT NULL,
    promoted_at timestamptz NOT NULL,
    promoted_by text NOT NULL,
    reason text NOT NULL
);

CREATE TABLE champion_history (
    fleet text NOT NULL,
    generation bigint NOT NULL,
    version text NOT NULL,
    from_at timestamptz NOT NULL,
    promoted_by text NOT NULL,
    reason text NOT NULL,
    action text NOT NULL,
    CONSTRAINT pk_champion_history PRIMARY KEY (fleet, generation),
    CONSTRAINT ck_champion_history_action CHECK (action IN ('release', 'promote', 'rollback'))
);
CREATE INDEX ix_champion_history_from_at ON champion_history (fleet, from_at);

CREATE TABLE landed_files (
    fleet text NOT NULL,
    sha256 text NOT NULL,
    path text NOT NULL,
    size bigint NOT NULL,
    modified_ns bigint NOT NULL,
    status text NOT NULL,
    error text,
    rows bigint,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_landed_files PRIMARY KEY (fleet, sha256, path),
    CONSTRAINT ck_landed_files_status CHECK (status IN ('taken', 'broken'))
);
"""


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS.split(";"):
        if statement.strip():
            op.execute(statement)
