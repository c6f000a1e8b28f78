"""Assets. The indexes serve the look-up of records by their keys; see `records/asset.py`."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE assets (
        organization_id text COLLATE "C",
        id text COLLATE "C",
        external_id text COLLATE "C",
        item_id text,
        location_id text,
        layout_id text,
        serial_number text,
        sequence_id text,
        value numeric(17, 2),
        initial_value numeric(17, 2),
        currency text NOT NULL DEFAULT 'usd',
        barcode text,
        category text,
        sub_category text,
        manifest_id text,
        disposal_reason_code text,
        status text NOT NULL DEFAULT 'in_storage',
        attributes jsonb NOT NULL DEFAULT '[]',
        maintenance_schedule text,
        maintenance_status text,
        purchased_at timestamptz,
        warranty_expires_at timestamptz,
        next_maintenance_at timestamptz,
        disposed_at timestamptz,
        disposal_comment text,
        metadata jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        batch_id text COLLATE "C",
        PRIMARY KEY (organization_id, id)
    )
    """,
    "CREATE UNIQUE INDEX assets_external_id ON assets (organization_id, external_id) WHERE external_id IS NOT NULL",
    """
    CREATE INDEX assets_serial_number ON assets
        (organization_id, coalesce(item_id, '') COLLATE "C", coalesce(serial_number, '') COLLATE "C")
    """,
    """
    CREATE INDEX assets_sequence_id ON assets
        (organization_id, coalesce(item_id, '') COLLATE "C", coalesce(location_id, '') COLLATE "C",
         coalesce(sequence_id, '') COLLATE "C")
    WHERE serial_number IS NULL
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
