"""The tables, as the newest migration leaves them; a test compares the two.

What belongs here: columns, keys, indexes and what they mean. What does not: how tables come to be
(``migrations/versions``), queries (each concern's module).

All times are ``timestamptz``, all figures ``double precision``. The platform removes nothing but
idempotency records, and what challengers said that are none any more.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSON, UUID

metadata = sa.MetaData()

_text, _int, _float = sa.Text, sa.BigInteger, sa.Double
_time = sa.DateTime(timezone=True)
_now = sa.func.clock_timestamp()

units = sa.Table(
    "units",
    metadata,
    sa.Column("fleet", _text, primary_key=True),
    sa.Column("unit", _text, primary_key=True),
    sa.Column("first_seen", _time, nullable=False, server_default=_now),
    sa.Column("service_state", _text, nullable=False, server_default="in_service"),
    sa.Column("service_since", _time),
    sa.Column("service_by", _text),
    sa.Column("service_why", _text),
)

# ``started_at`` and ``ended_at`` say when the platform learnt of it, ``start_time`` and
# ``end_time`` when it happened, where somebody said so.
# ``token`` names the transaction that last added a reading to the life: a state that is kept of the
# life elsewhere is good while it bears the same.
lives = sa.Table(
    "lives",
    metadata,
    sa.Column("fleet", _text, primary_key=True),
    sa.Column("unit", _text, primary_key=True),
    sa.Column("life", _int, primary_key=True, autoincrement=False),
    sa.Column("outcome", _text, nullable=False),
    sa.Column("end_cycle", _float),
    sa.Column("started_at", _time, nullable=False, server_default=_now),
    sa.Column("ended_at", _time),
    sa.Column("source", _text, nullable=False),
    sa.Column("updated_at", _time, nullable=False, server_default=_now),
    sa.Column("token", _int),
    sa.Column("heard_at", _time),
    sa.Column("start_time", _time),
    sa.Column("end_time", _time),
    sa.Index("ix_lives_ended_at", "fleet", "ended_at"),
)

# Which channel each element of ``readings.measured`` is: a fleet's channels may change in time.
layouts = sa.Table(
    "layouts",
    metadata,
    sa.Column("layout", _int, sa.Identity(always=True), primary_key=True),
    sa.Column("fleet", _text, nullable=False),
    sa.Column("channels", ARRAY(_text), nullable=False),
    sa.UniqueConstraint("fleet", "channels", name="uq_layouts_fleet"),
)

# ``measured`` is an array, not JSON: a quarter of the bytes, and names are in ``layouts`` once.
# ``ingested_xid`` is the writing transaction's number (see ``readings`` for the watermark).
readings = sa.Table(
    "readings",
    metadata,
    sa.Column("fleet", _text, primary_key=True),
    sa.Column("unit", _text, primary_key=True),
    sa.Column("life", _int, primary_key=True, autoincrement=False),
    sa.Column("cycle", _float, primary_key=True),
    sa.Column("time", _time),
    sa.Column("layout", _int, nullable=False),  # of ``layouts``; found or made in the transaction
    sa.Column("measured", ARRAY(_float), nullable=False),
    sa.Column("ingested_seq", _int, sa.Identity(always=True), nullable=False),
    sa.Column("ingested_at", _time, nullable=False, server_default=_now),
    sa.Column(
        "ingested_xid",
        _int,
        nullable=False,
        server_default=sa.text("pg_current_xact_id()::text::bigint"),
    ),
    sa.Index("ix_readings_ingested_xid", "fleet", "ingested_xid"),
    sa.Index("ix_readings_seq", "fleet", "unit", "life", sa.text("ingested_seq DESC")),
)

# Readings that were sent and contradict one that is kept; ``sha256`` is that of ``content``.
readings_set_aside = sa.Table(
    "readings_set_aside",
    metadata,
    sa.Column("id", _int, sa.Identity(always=True), primary_key=True),
    sa.Column("fleet", _text, nullable=False),
    sa.Column("unit", _text, nullable=False),
    sa.Column("life", _int, nullable=False),
    sa.Column("cycle", _float, nullable=False),
    sa.Column("reason", _text, nullable=False),
    sa.Column("content", JSON, nullable=False),
    sa.Column("trace_id", _text),
    sa.Column("set_aside_at", _time, nullable=False, server_default=_now),
    sa.Column("sha256", BYTEA, nullable=False),
    sa.UniqueConstraint("fleet", "unit", "life", "cycle", "sha256", name="uq_readings_set_aside"),
    sa.Index("ix_readings_set_aside_fleet", "fleet", "id"),
)

# Insert only, which a trigger sees to. ``ledger_id`` is made from the content; ``position`` counts
# from 1 in each fleet, and each entry's hash takes in that of the entry before (see ``chain``).
# ``json`` keeps the text as it was written; ``jsonb`` would not (it turns -0.0 into 0.0).
ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("ledger_id", UUID(as_uuid=True), primary_key=True),
    sa.Column("fleet", _text, nullable=False),
    sa.Column("unit", _text, nullable=False),
    sa.Column("life", _int),
    sa.Column("cycle", _float),
    sa.Column("state", _text, nullable=False),
    sa.Column("prognosis", JSON, nullable=False),
    sa.Column("model_version", _text),
    sa.Column("feature_spec", _text),
    sa.Column("readings_seen", _int, nullable=False),
    sa.Column("computed_at", _time, nullable=False),
    sa.Column("recorded_at", _time, nullable=False, server_default=_now),
    sa.Column("prev_hash", BYTEA, nullable=False),
    sa.Column("hash", BYTEA, nullable=False),
    sa.Column("position", _int, nullable=False),
    sa.Column("engine", _text),
    sa.UniqueConstraint("fleet", "position", name="uq_ledger_position"),
    sa.Index("ix_ledger_unit", "fleet", "unit", "position"),
)

# Each reading changes a row; no column that it changes is in an index, so it stays on its page.
# ``recent_safe``: of the unit's last valid prognoses that were current in this life, one a reading,
# the newest last; infinite where the model saw no end.
current_prognoses = sa.Table(
    "current_prognoses",
    metadata,
    sa.Column("fleet", _text, primary_key=True),
    sa.Column("unit", _text, primary_key=True),
    sa.Column("life", _int),
    sa.Column("cycle", _float),
    sa.Column("state", _text, nullable=False),
    sa.Column("failure_probability", _float),
    sa.Column("rul_cycles", _float),
    sa.Column("safe_cycles", _float),
    sa.Column("prognosis", JSON, nullable=False),
    sa.Column("ledger_id", UUID(as_uuid=True), nullable=False),
    sa.Column("computed_at", _time, nullable=False),
    sa.Column("last_read_at", _time),
    sa.Column("recent_safe", ARRAY(_float), nullable=False, server_default="{}"),
    sa.Column("model_version", _text),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", _text, primary_key=True),
    sa.Column("holder", _text, nullable=False),
    sa.Column("until", _time, nullable=False),
)

champions = sa.Table(
    "champions",
    metadata,
    sa.Column("fleet", _text, primary_key=True),
    sa.Column("version", _text, nullable=False),
    sa.Column("generation", _int, nullable=False),
    sa.Column("promoted_at", _time, nullable=False),
    sa.Column("promoted_by", _text, nullable=False),
    sa.Column("reason", _text, nullable=False),
)

champion_history = sa.Table(
    "champion_history",
    metadata,
    sa.Column("fleet", _text, primary_key=True),
    sa.Column("generation", _int, primary_key=True, autoincrement=False),
    sa.Column("version", _text, nullable=False),
    sa.Column("from_at", _time, nullable=False),
    sa.Column("promoted_by", _text, nullable=False),
    sa.Column("reason", _text, nullable=False),
    sa.Column("action", _text, nullable=False),
    sa.Index("ix_champion_history_from_at", "fleet", "from_at"),
)

# The newest ruling on each candidate: whether it may take the champion's place.
rulings = sa.Table(
    "rulings",
    metadata,
    sa.Column("fleet", _text, primary_key=True),
    sa.Column("version", _text, primary_key=True),
    sa.Column("ruled_at", _time, nullable=False, server_default=_now),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("why", _text, nullable=False),
)

# The one version of a fleet that speaks beside the champion; who nominated which is in the audit.
challengers = sa.Table(
    "challengers",
    metadata,
    sa.Column("fleet", _text, primary_key=True),
    sa.Column("version", _text, nullable=False),
    sa.Column("since", _time, nullable=False, server_default=_now),
    sa.Column("nominated_by", _text, nullable=False),
    sa.Column("reason", _text, nullable=False),
)

# What a challenger says, which nobody was told. ``step`` counts stretches of a life, of which the
# last prognosis is kept, so a life has few; ``ledger_id`` is what the champion said at that cycle.
shadow_prognoses = sa.Table(
    "shadow_prognoses",
    metadata,
    sa.Column("fleet", _text, primary_key=True),
    sa.Column("version", _text, primary_key=True),
    sa.Column("unit", _text, primary_key=True),
    sa.Column("life", _int, primary_key=True, autoincrement=False),
    sa.Column("step", _int, primary_key=True, autoincrement=False),
    sa.Column("cycle", _float, nullable=False),
    sa.Column("ledger_id", UUID(as_uuid=True), nullable=False),
    sa.Column("prognosis", JSON, nullable=False),
    sa.Column("computed_at", _time, nullable=False),
)

# The same content may lie under several paths; it is taken once.
landed_files = sa.Table(
    "landed_files",
    metadata,
    sa.Column("fleet", _text, primary_key=True),
    sa.Column("sha256", _text, primary_key=True),
    sa.Column("path", _text, primary_key=True),
    sa.Column("size", _int, nullable=False),
    sa.Column("modified_ns", _int, nullable=False),
    sa.Column("status", _text, nullable=False),
    sa.Column("error", _text),
    sa.Column("rows", _int),
    sa.Column("decided_at", _time, nullable=False, server_default=_now),
)

# ``digest`` is SHA-256 of the secret. ``change`` grows with every change but that of
# ``last_used_at``, in the order of the commits.
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", _text, primary_key=True),
    sa.Column("digest", BYTEA, nullable=False),
    sa.Column("name", _text, nullable=False),
    sa.Column("roles", ARRAY(_text), nullable=False),
    sa.Column("fleets", ARRAY(_text)),
    sa.Column("created_at", _time, nullable=False),
    sa.Column("created_by", _text, nullable=False),
    sa.Column("expires_at", _time),
    sa.Column("revoked_at", _time),
    sa.Column("last_used_at", _time),
    sa.Column("replaces", _text),
    sa.Column("change", _int, nullable=False),
    sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    sa.UniqueConstraint("change", name="uq_api_keys_change"),
)

# Insert only, by a trigger. ``detail`` is JSON as text, since the hash is of the text.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("position", _int, primary_key=True, autoincrement=False),
    sa.Column("at", _time, nullable=False),
    sa.Column("principal", _text, nullable=False),
    sa.Column("action", _text, nullable=False),
    sa.Column("target", _text, nullable=False),
    sa.Column("fleet", _text),
    sa.Column("detail", _text, nullable=False),
    sa.Column("trace_id", _text, nullable=False),
    sa.Column("prev_hash", BYTEA, nullable=False),
    sa.Column("hash", BYTEA, nullable=False),
)

# Removed after a day. ``reservation`` is the one attempt that may make the change.
idempotency_records = sa.Table(
    "idempotency_records",
    metadata,
    sa.Column("principal", _text, primary_key=True),
    sa.Column("key", _text, primary_key=True),
    sa.Column("fingerprint", BYTEA, nullable=False),
    sa.Column("reservation", UUID(as_uuid=True), nullable=False),
    sa.Column("trace_id", _text, nullable=False),
    sa.Column("reserved_at", _time, nullable=False),
    sa.Column("effected_at", _time),
    sa.Column("status", _int),
    sa.Column("headers", _text),
    sa.Column("body", BYTEA),
    sa.Index("ix_idempotency_records_reserved_at", "reserved_at"),
)

# ``version`` counts the advisory's events; newer evidence alone does not change it. ``priority``:
# 3 is the most urgent.
advisories = sa.Table(
    "advisories",
    metadata,
    sa.Column("advisory_id", UUID(as_uuid=True), primary_key=True),
    sa.Column("fleet", _text, nullable=False),
    sa.Column("unit", _text, nullable=False),
    sa.Column("life", _int, nullable=False),
    sa.Column("version", _int, nullable=False),
    sa.Column("state", _text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("cycle", _float, nullable=False),
    sa.Column("safe_cycles", _float, nullable=False),
    sa.Column("until", _time),
    sa.Column("until_event", _text),
    sa.Column("held_end_cycle", _float),
    sa.Column("prognoses", _int, nullable=False),
    sa.Column("first_ledger_id", UUID(as_uuid=True), nullable=False),
    sa.Column("last_ledger_id", UUID(as_uuid=True), nullable=False),
    sa.Column("rule", JSON, nullable=False),
    sa.Column("opened_at", _time, nullable=False),
    sa.Column("changed_at", _time, nullable=False),
    sa.Column("closed_at", _time),
    sa.Index(
        "uq_advisories_open",
        "fleet",
        "unit",
        unique=True,
        postgresql_where=sa.text("state <> 'closed'"),
    ),
    sa.Index("ix_advisories_order", "fleet", "priority", "opened_at", "advisory_id"),
    sa.Index("ix_advisories_until", "until", postgresql_where=sa.text("until IS NOT NULL")),
)

# Insert only. Positions of a fleet are in the order of the commits (``database.lock_fleet``).
advisory_events = sa.Table(
    "advisory_events",
    metadata,
    sa.Column("fleet", _text, primary_key=True),
    sa.Column("position", _int, primary_key=True, autoincrement=False),
    sa.Column(
        "advisory_id", UUID(as_uuid=True), sa.ForeignKey("advisories.advisory_id"), nullable=False
    ),
    sa.Column("unit", _text, nullable=False),
    sa.Column("version", _int, nullable=False),
    sa.Column("kind", _text, nullable=False),
    sa.Column("before", _text),
    sa.Column("after", _text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("cycle", _float, nullable=False),
    sa.Column("safe_cycles", _float, nullable=False),
    sa.Column("until", _time),
    sa.Column("until_event", _text),
    sa.Column("at", _time, nullable=False),
    sa.Column("who", _text, nullable=False),
    sa.Column("why", _text, nullable=False),
    sa.UniqueConstraint("advisory_id", "version", name="uq_advisory_events_version"),
)

# Insert only; the newest of an advisory counts. ``outcome`` is that of the life as it was said
# with the verdict: running where the unit went on.
verdicts = sa.Table(
    "verdicts",
    metadata,
    sa.Column("verdict_id", UUID(as_uuid=True), primary_key=True),
    sa.Column("fleet", _text, nullable=False),
    sa.Column("unit", _text, nullable=False),
    sa.Column("life", _int, nullable=False),
    sa.Column("advisory_id", UUID(as_uuid=True), sa.ForeignKey("advisories.advisory_id")),
    sa.Column("finding", _text, nullable=False),
    sa.Column("mode", _text),
    sa.Column("mechanism", _text),
    sa.Column("cause", _text),
    sa.Column("note", _text),
    sa.Column("outcome", _text, nullable=False),
    sa.Column("given_at", _time, nullable=False, server_default=_now),
    sa.Column("given_by", _text, nullable=False),
    sa.Index("ix_verdicts_unit", "fleet", "unit", "given_at"),
    sa.Index("ix_verdicts_advisory", "advisory_id", "given_at"),
)

# What is known of backups beside the stores that have them. Insert only.
backup_runs = sa.Table(
    "backup_runs",
    metadata,
    sa.Column("store", _text, primary_key=True),
    sa.Column("number", _int, primary_key=True),
    sa.Column("run", _text, nullable=False),
    sa.Column("sha256", _text, nullable=False),
    sa.Column("finished_at", _time, nullable=False),
    sa.Column("started_at", _time),
    sa.Column("stored_bytes", _int),
)

# Somebody looked at the clock when that run was the newest, and says that it is right.
backup_confirmations = sa.Table(
    "backup_confirmations",
    metadata,
    sa.Column("number", _int, primary_key=True),
    sa.Column("confirmed_at", _time, nullable=False),
)

# A drill restored a run and compared it with what was kept. Insert only.
backup_proofs = sa.Table(
    "backup_proofs",
    metadata,
    sa.Column("store", _text, primary_key=True),
    sa.Column("number", _int, primary_key=True),
    sa.Column("proven_at", _time, primary_key=True),
    sa.Column("seconds", _float, nullable=False),
    sa.Column("differences", ARRAY(_text), nullable=False),
    sa.Column("log_reaches_at", _time),
)
