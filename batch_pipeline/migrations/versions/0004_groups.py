"""Groups and their members. The indexes serve the look-up of records by their keys and by references."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE groups (
        organization_id text COLLATE "C",
        id text COLLATE "C",
        external_id text COLLATE "C",
        name text,
        resource text DEFAULT 'contact',
        location_id text,
        metadata jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        batch_id text COLLATE "C",
        PRIMARY KEY (organization_id, id)
    )
    """,
    "CREATE UNIQUE INDEX groups_external_id ON groups (organization_id, external_id) WHERE external_id IS NOT NULL",
    """
    CREATE INDEX groups_name_resource_location ON groups
        (organization_id, coalesce(name, '') COLLATE "C", coalesce(resource, 'contact') COLLATE "C",
         coalesce(location_id, '') COLLATE "C")
    """,
    # A member is a contact or, in a group of locations, the id of a location. There are no foreign keys, because
    # PostgreSQL checks them row by row. Deleting contacts and groups deletes memberships: `loading/memberships.py`.
    """
    CREATE TABLE group_members (
        organization_id text COLLATE "C",
        group_id text COLLATE "C",
        member_id text COLLATE "C",
        is_primary boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (organization_id, group_id, member_id)
    )
    """,
    "CREATE INDEX group_members_by_member ON group_members (organization_id, member_id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
