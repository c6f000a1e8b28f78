"""Contacts. The indexes serve the look-up of records by their keys; see `records/contact.py`."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE contacts (
        organization_id text COLLATE "C",
        id text COLLATE "C",
        external_id text COLLATE "C",
        name text,
        email text,
        phone text,
        address text,
        address_line2 text,
        id_number text,
        is_primary boolean,
        notes text,
        metadata jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        batch_id text COLLATE "C",
        PRIMARY KEY (organization_id, id)
    )
    """,
    "CREATE UNIQUE INDEX contacts_external_id ON contacts (organization_id, external_id) WHERE external_id IS NOT NULL",
    # pg_c_utf8 lower-cases all scripts identically on every server, and compares bytes.
    """
    CREATE INDEX contacts_email ON contacts (organization_id, lower(email COLLATE "pg_c_utf8"))
    WHERE email IS NOT NULL
    """,
    """
    CREATE INDEX contacts_name_phone ON contacts
        (organization_id, coalesce(name, '') COLLATE "C", coalesce(phone, '') COLLATE "C")
    WHERE email IS NULL
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
