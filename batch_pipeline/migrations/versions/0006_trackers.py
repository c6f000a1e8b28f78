"""Trackers. The indexes serve the look-up of records by their keys; see `records/tracker.py`."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE trackers (
        organization_id text COLLATE "C",
        id text COLLATE "C",
        external_id text COLLATE "C",
        tracking_number text,
        provider_id text,
        type text NOT NULL DEFAULT 'outbound',
        tags jsonb NOT NULL DEFAULT '[]',
        status text NOT NULL DEFAULT 'package_at_waypoint',
        estimated_delivery_at timestamptz,
        tracking_url text,
        location_id text,
        metadata jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        batch_id text COLLATE "C",
        PRIMARY KEY (organization_id, id)
    )
    """,
    "CREATE UNIQUE INDEX trackers_external_id ON trackers (organization_id, external_id) WHERE external_id IS NOT NULL",
    """
    CREATE INDEX trackers_tracking_number ON trackers
        (organization_id, coalesce(tracking_number, '') COLLATE "C", coalesce(provider_id, '') COLLATE "C")
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
