"""Shipments. The indexes serve the look-up of records by their keys; see `records/shipment.py`."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE shipments (
        organization_id text COLLATE "C",
        id text COLLATE "C",
        external_id text COLLATE "C",
        tracking_number text,
        provider text,
        sender jsonb NOT NULL DEFAULT '{}',
        recipient jsonb NOT NULL DEFAULT '{}',
        parcels jsonb NOT NULL DEFAULT '[]',
        amount numeric(17, 2),
        billed_amount numeric(17, 2),
        currency text NOT NULL DEFAULT 'usd',
        status text NOT NULL DEFAULT 'created',
        paid boolean,
        payment_reference text,
        rma_number text,
        label_url text,
        tracking_url text,
        coordinates jsonb,
        estimated_delivery_at timestamptz,
        pickup_at timestamptz,
        metadata jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        batch_id text COLLATE "C",
        PRIMARY KEY (organization_id, id)
    )
    """,
    """
    CREATE UNIQUE INDEX shipments_external_id ON shipments (organization_id, external_id)
    WHERE external_id IS NOT NULL
    """,
    """
    CREATE INDEX shipments_tracking_number ON shipments
        (organization_id, coalesce(tracking_number, '') COLLATE "C", coalesce(provider, '') COLLATE "C")
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
