"""Readings over HTTP: whose state is known of a life, what was set aside; the ledger's chain."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    "ALTER TABLE lives ADD COLUMN token bigint, ADD COLUMN heard_at timestamptz",
    """
    CREATE TABLE leases (
        name text CONSTRAINT pk_leases PRIMARY KEY,
        holder text NOT NULL,
        until timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE readings_set_aside (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_readings_set_aside PRIMARY KEY,
        fleet text NOT NULL,
        unit text NOT NULL,
        life bigint NOT NULL,
        cycle double precision NOT NULL,
        reason text NOT NULL,
        content json NOT NULL,
        trace_id text,
        set_aside_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX ix_readings_set_aside_unit ON readings_set_aside (fleet, unit, life, cycle)",
    "CREATE INDEX ix_readings_seq ON readings (fleet, unit, life, ingested_seq DESC)",
    "ALTER TABLE ledger ADD COLUMN position bigint",
    "ALTER TABLE ledger ADD COLUMN engine text",
    # What was written before there was a chain is chained in the order of writing.
    """
    DO $$
    DECLARE
        entry record; chained text; place bigint; before bytea;
    BEGIN
        FOR entry IN SELECT ledger_id, fleet, prognosis::text AS said FROM ledger ORDER BY fleet, seq
        LOOP
            IF chained IS DISTINCT FROM entry.fleet THEN
                chained := entry.fleet; place := 0; before := decode(repeat('00', 32), 'hex');
            END IF;
            place := place + 1;
            UPDATE ledger SET
                position = place,
                prev_hash = before,
                hash = sha256(before || convert_to(concat_ws(
                    E'\\n', entry.fleet, place, entry.ledger_id, entry.said), 'UTF8'))
            WHERE ledger_id = entry.ledger_id RETURNING hash INTO before;
        END LOOP;
    END $$
    """,
    """
    ALTER TABLE ledger
        ALTER COLUMN position SET NOT NULL,
        ALTER COLUMN prev_hash SET NOT NULL,
        ALTER COLUMN hash SET NOT NULL,
        ADD CONSTRAINT uq_ledger_position UNIQUE (fleet, position)
    """,
    "DROP INDEX ix_ledger_seq",
    "DROP INDEX ix_ledger_unit",
    "ALTER TABLE ledger DROP COLUMN seq",
    "CREATE INDEX ix_ledger_unit ON ledger (fleet, unit, position)",
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'what stands in % is never changed or removed', TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege';
    END $$
    """,
    """
    CREATE TRIGGER ledger_is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """,
)


def upgrade() -> None:
    """Add the columns and tables, chain what the ledger holds, and close it to changes."""
    for statement in STATEMENTS:
        op.execute(statement)
