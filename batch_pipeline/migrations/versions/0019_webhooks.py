"""Webhooks with their secrets, events and deliveries; what people were alerted of."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE webhooks (
        id text COLLATE "C" PRIMARY KEY,
        organization_id text COLLATE "C" NOT NULL,
        url text NOT NULL,
        events text[] NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        disabled_at timestamptz
    )
    """,
    "CREATE INDEX webhooks_of_organization ON webhooks (organization_id, created_at, id)",
    # A table of its own, so that only the role of the API can be allowed to read it. The newest secret has no end.
    """
    CREATE TABLE webhook_secrets (
        webhook_id text COLLATE "C",
        created_at timestamptz DEFAULT clock_timestamp(),
        secret text NOT NULL,
        valid_until timestamptz,
        PRIMARY KEY (webhook_id, created_at)
    )
    """,
    """
    CREATE TABLE webhook_events (
        id text COLLATE "C" PRIMARY KEY,
        organization_id text COLLATE "C" NOT NULL,
        batch_id text COLLATE "C",
        type text NOT NULL,
        body text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX webhook_events_by_age ON webhook_events (created_at)",
    # `due_at` is null unless the delivery is pending. A process that claims a delivery moves it by the time of a lease.
    """
    CREATE TABLE webhook_deliveries (
        id text COLLATE "C" PRIMARY KEY,
        webhook_id text COLLATE "C" NOT NULL,
        event_id text COLLATE "C" NOT NULL,
        status text NOT NULL DEFAULT 'pending',
        attempts integer NOT NULL DEFAULT 0,
        due_at timestamptz DEFAULT now(),
        give_up_at timestamptz NOT NULL,
        answer integer,
        error text,
        attempted_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX webhook_deliveries_of_webhook ON webhook_deliveries (webhook_id, id)",
    "CREATE INDEX webhook_deliveries_of_event ON webhook_deliveries (event_id)",
    # A row for each subject of alerts. The process that holds its lock tells people.
    """
    CREATE TABLE alerts (
        subject text COLLATE "C" PRIMARY KEY,
        told_at timestamptz
    )
    """,
    "ALTER TABLE batch_transitions ADD COLUMN alerted_at timestamptz",
    """
    CREATE INDEX batch_transitions_to_alert ON batch_transitions (at)
    WHERE alerted_at IS NULL AND after IN ('failed', 'timed_out')
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
