"""Advisories with their events, verdicts, whether units are in service, when lives happened."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = """
ALTER TABLE units
    ADD COLUMN service_state text NOT NULL DEFAULT 'in_service',
    ADD COLUMN service_since timestamptz,
    ADD COLUMN service_by text,
    ADD COLUMN service_why text,
    ADD CONSTRAINT ck_units_service_state
        CHECK (service_state IN ('in_service', 'in_maintenance', 'out_of_service'));

ALTER TABLE lives
    ADD COLUMN start_time timestamptz,
    ADD COLUMN end_time timestamptz;

ALTER TABLE current_prognoses
    ADD COLUMN recent_safe double precision[] NOT NULL DEFAULT '{}';

CREATE TABLE advisories (
    advisory_id uuid CONSTRAINT pk_advisories PRIMARY KEY,
    fleet text NOT NULL,
    unit text NOT NULL,
    life bigint NOT NULL,
    version bigint NOT NULL,
    state text NOT NULL,
    active boolean NOT NULL,
    priority smallint NOT NULL,
    cycle double precision NOT NULL,
    safe_cycles double precision NOT NULL,
    until timestamptz,
    until_event text,
    held_end_cycle double precision,
    prognoses bigint NOT NULL,
    first_ledger_id uuid NOT NULL,
    last_ledger_id uuid NOT NULL,
    rule json NOT NULL,
    opened_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    closed_at timestamptz,
    CONSTRAINT ck_advisories_state CHECK (state IN (
        'active_unacknowledged', 'active_acknowledged', 'planned', 'returned_unacknowledged',
        'shelved', 'suppressed', 'out_of_service', 'closed'
    )),
    CONSTRAINT ck_advisories_closed CHECK ((state = 'closed') = (closed_at IS NOT NULL)),
    CONSTRAINT ck_advisories_shelved CHECK (state <> 'shelved' OR until IS NOT NULL),
    CONSTRAINT ck_advisories_priority CHECK (priority BETWEEN 1 AND 3)
);
CREATE UNIQUE INDEX uq_advisories_open ON advisories (fleet, unit) WHERE state <> 'closed';
CREATE INDEX ix_advisories_order ON advisories (fleet, priority, opened_at, advisory_id);
CREATE INDEX ix_advisories_until ON advisories (until) WHERE until IS NOT NULL;

CREATE TABLE advisory_events (
    fleet text NOT NULL,
    position bigint NOT NULL,
    advisory_id uuid NOT NULL CONSTRAINT fk_advisory_events_advisory REFERENCES advisories,
    unit text NOT NULL,
    version bigint NOT NULL,
    kind text NOT NULL,
    before text,
    after text NOT NULL,
    active boolean NOT NULL,
    priority smallint NOT NULL,
    cycle double precision NOT NULL,
    safe_cycles double precision NOT NULL,
    until timestamptz,
    until_event text,
    at timestamptz NOT NULL,
    who text NOT NULL,
    why text NOT NULL,
    CONSTRAINT pk_advisory_events PRIMARY KEY (fleet, position),
    CONSTRAINT uq_advisory_events_version UNIQUE (advisory_id, version)
);

CREATE TRIGGER advisory_events_are_insert_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON advisory_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE verdicts (
    verdict_id uuid CONSTRAINT pk_verdicts PRIMARY KEY,
    fleet text NOT NULL,
    unit text NOT NULL,
    life bigint NOT NULL,
    advisory_id uuid CONSTRAINT fk_verdicts_advisory REFERENCES advisories,
    finding text NOT NULL,
    mode text,
    mechanism text,
    cause text,
    note text,
    outcome text NOT NULL,
    given_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    given_by text NOT NULL,
    CONSTRAINT ck_verdicts_finding CHECK (finding IN ('found_damage', 'found_nothing')),
    CONSTRAINT ck_verdicts_outcome CHECK (
        outcome IN ('running', 'failed', 'replaced', 'removed')
        AND NOT (outcome = 'failed' AND finding = 'found_nothing')
    )
);
CREATE TRIGGER verdicts_are_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON verdicts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE INDEX ix_verdicts_unit ON verdicts (fleet, unit, given_at);
CREATE INDEX ix_verdicts_advisory ON verdicts (advisory_id, given_at);
"""


def upgrade() -> None:
    """Make the tables and the columns."""
    for statement in STATEMENTS.split(";"):
        if statement.strip():
            op.execute(statement)
