"""API keys, the audit with its chain, answers kept for requests that are repeated."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    """
    CREATE TABLE api_keys (
        key_id text CONSTRAINT pk_api_keys PRIMARY KEY,
        digest bytea NOT NULL CONSTRAINT uq_api_keys_digest UNIQUE,
        name text NOT NULL,
        roles text[] NOT NULL,
        fleets text[],
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        expires_at timestamptz,
        revoked_at timestamptz,
        last_used_at timestamptz,
        replaces text,
        change bigint NOT NULL CONSTRAINT uq_api_keys_change UNIQUE
    )
    """,
    """
    CREATE TABLE audit (
        position bigint CONSTRAINT pk_audit PRIMARY KEY,
        at timestamptz NOT NULL,
        principal text NOT NULL,
        action text NOT NULL,
        target text NOT NULL,
        fleet text,
        detail text NOT NULL,
        trace_id text NOT NULL,
        prev_hash bytea NOT NULL,
        hash bytea NOT NULL
    )
    """,
    """
    CREATE TRIGGER audit_is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TABLE idempotency_records (
        principal text NOT NULL,
        key text NOT NULL,
        fingerprint bytea NOT NULL,
        reservation uuid NOT NULL,
        trace_id text NOT NULL,
        reserved_at timestamptz NOT NULL,
        effected_at timestamptz,
        status bigint,
        headers text,
        body bytea,
        CONSTRAINT pk_idempotency_records PRIMARY KEY (principal, key)
    )
    """,
    "CREATE INDEX ix_idempotency_records_reserved_at ON idempotency_records (reserved_at)",
)


def upgrade() -> None:
    """Make the tables, and close the audit to changes."""
    for statement in STATEMENTS:
        op.execute(statement)
