"""The ledger's tables for SQLAlchemy Core. `migrations/` creates them; a test compares the two."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, INT8MULTIRANGE, JSONB

metadata = sa.MetaData()

_Text = sa.Text()
_Key = sa.Text(collation="C")  # ids and keys: byte order is faster, and the same on every server
_Time = sa.DateTime(timezone=True)

organizations = sa.Table(
    "organizations",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("region", _Text, nullable=False, server_default="US"),
    sa.Column("created_at", _Time, nullable=False, server_default=sa.func.now()),
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("organization_id", _Key),
    sa.Column("name", _Text, nullable=False),
    sa.Column("resource", _Text),
    sa.Column("action", _Text),
    sa.Column("mode", _Text, nullable=False),
    sa.Column("via", _Text, nullable=False),
    sa.Column("status", _Text, nullable=False),
    sa.Column("reason", JSONB(none_as_null=True)),
    sa.Column("options", JSONB, nullable=False),
    sa.Column("phases", JSONB, nullable=False),
    sa.Column("stats", JSONB, nullable=False),
    sa.Column("work", JSONB, nullable=False),
    sa.Column("checksum", _Text),
    sa.Column("source_key", _Text),
    sa.Column("source_version", _Text, unique=True),
    sa.Column("upload_key", _Text),
    sa.Column("has_upload_file", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("has_errors_file", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("has_result_file", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("run_id", _Text),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("awaits_run", _Text),
    sa.Column("retry_of", _Key),
    sa.Column("undo_of", _Key),
    sa.Column("arrival", sa.BigInteger),
    sa.Column("first_arrival", sa.BigInteger),
    sa.Column("arrived_at", _Time),
    sa.Column("plan_version", sa.BigInteger),
    sa.Column("plan", JSONB(none_as_null=True)),
    sa.Column("plan_expires_at", _Time),
    sa.Column("if_changed", _Text),
    sa.Column("upload_expires_at", _Time),
    sa.Column("launch_claimed_until", _Time),
    sa.Column("created_at", _Time, nullable=False, server_default=sa.func.now()),
    sa.Column("updated_at", _Time, nullable=False, server_default=sa.func.now()),
    sa.Column("updated_by", _Text, nullable=False, server_default="system"),
    sa.Column("error_summary", JSONB(none_as_null=True)),
    sa.Column("pruned_at", _Time),
    sa.Column("is_pruned", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("next_attempt_at", _Time),
    sa.Column("reruns", sa.Integer, nullable=False, server_default="0"),
)

arrivals = sa.Sequence("batch_arrivals", metadata=metadata, data_type=sa.BigInteger)

transitions = sa.Table(
    "batch_transitions",
    metadata,
    sa.Column("number", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("batch_id", _Key, nullable=False),
    sa.Column("before", _Text),
    sa.Column("after", _Text, nullable=False),
    sa.Column("at", _Time, nullable=False, server_default=sa.func.now()),
    sa.Column("run_id", _Text),
    sa.Column("reason", JSONB(none_as_null=True)),
    sa.Column("alerted_at", _Time),
)

attempts = sa.Table(
    "batch_attempts",
    metadata,
    sa.Column("run_id", _Text, primary_key=True),
    sa.Column("batch_id", _Key, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("started_at", _Time, nullable=False, server_default=sa.func.now()),
    sa.Column("waited_seconds", sa.Double, nullable=False, server_default="0"),
    sa.Column("lost_at", _Text),
)

chunks = sa.Table(
    "batch_chunks",
    metadata,
    sa.Column("batch_id", _Key, primary_key=True),
    sa.Column("phase", _Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("first_row", sa.BigInteger, nullable=False),
    sa.Column("last_row", sa.BigInteger, nullable=False),
    sa.Column("done_at", _Time),
    sa.Column("created", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("updated", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("unchanged", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("deleted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_rows", INT8MULTIRANGE),
    sa.Column("is_logged", sa.Boolean, nullable=False, server_default=sa.false()),
    # Items by what the plan does with them; null: see `loading.chunks.Chunk`.
    sa.Column("planned_new", sa.BigInteger),
    sa.Column("planned_existing", sa.BigInteger),
    sa.Column("planned_unchanged", sa.BigInteger),
    sa.Column("planned_rejected", sa.BigInteger),
    sa.Column("planned_duplicates", sa.BigInteger),
    sa.Column("worker", _Text),
)

turns = sa.Table(
    "turns",
    metadata,
    sa.Column("organization_id", _Key, primary_key=True),
    sa.Column("resource", _Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("holder", _Key),
)


api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("organization_id", _Key, nullable=False),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False),
    sa.Column("created_at", _Time, nullable=False, server_default=sa.func.now()),
    sa.Column("revoked_at", _Time),
)

column_mappings = sa.Table(
    "column_mappings",
    metadata,
    sa.Column("organization_id", _Key, primary_key=True),
    sa.Column("resource", _Text, primary_key=True),
    sa.Column("header_hash", sa.LargeBinary, primary_key=True),
    sa.Column("mapping", JSONB, nullable=False),
    sa.Column("batch_id", _Key, nullable=False),
    sa.Column("used_at", _Time, nullable=False, server_default=sa.func.now()),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("organization_id", _Key, primary_key=True),
    sa.Column("key", _Key, primary_key=True),
    sa.Column("body_hash", sa.LargeBinary, nullable=False),
    sa.Column("batch_id", _Key, nullable=False),
    sa.Column("created_at", _Time, nullable=False, server_default=sa.func.now()),
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("organization_id", _Key, nullable=False),
    sa.Column("url", _Text, nullable=False),
    sa.Column("events", sa.ARRAY(_Text), nullable=False),
    sa.Column("created_at", _Time, nullable=False, server_default=sa.func.now()),
    sa.Column("disabled_at", _Time),
)

webhook_secrets = sa.Table(
    "webhook_secrets",
    metadata,
    sa.Column("webhook_id", _Key, primary_key=True),
    sa.Column("created_at", _Time, primary_key=True, server_default=sa.func.clock_timestamp()),
    sa.Column("secret", _Text, nullable=False),
    sa.Column("valid_until", _Time),
)

webhook_events = sa.Table(
    "webhook_events",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("organization_id", _Key, nullable=False),
    sa.Column("batch_id", _Key),
    sa.Column("type", _Text, nullable=False),
    sa.Column("body", _Text, nullable=False),
    sa.Column("created_at", _Time, nullable=False, server_default=sa.func.now()),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("webhook_id", _Key, nullable=False),
    sa.Column("event_id", _Key, nullable=False),
    sa.Column("status", _Text, nullable=False, server_default="pending"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("due_at", _Time, server_default=sa.func.now()),
    sa.Column("give_up_at", _Time, nullable=False),
    sa.Column("answer", sa.Integer),
    sa.Column("error", _Text),
    sa.Column("attempted_at", _Time),
    sa.Column("created_at", _Time, nullable=False, server_default=sa.func.now()),
)

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("subject", _Key, primary_key=True),
    sa.Column("told_at", _Time),
)

metric_counts = sa.Table(
    "metric_counts",
    metadata,
    sa.Column("metric", _Text, nullable=False),
    sa.Column("labels", ARRAY(sa.Text), nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Numeric, nullable=False, server_default="0"),
)

inbox_state = sa.Table(
    "inbox_state",
    metadata,
    sa.Column("is_only", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("files", sa.BigInteger, nullable=False),
    sa.Column("oldest_at", _Time),
)
