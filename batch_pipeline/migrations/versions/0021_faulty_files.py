"""Help with faulty files: the summary of a batch's errors, and remembered column mappings."""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE batches ADD COLUMN error_summary jsonb",
    # The header is the SHA-256 of its sorted names.
    """
    CREATE TABLE column_mappings (
        organization_id text COLLATE "C",
        resource text,
        header_hash bytea,
        mapping jsonb NOT NULL,
        batch_id text COLLATE "C" NOT NULL,
        used_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (organization_id, resource, header_hash)
    )
    """,
    "CREATE INDEX column_mappings_by_age ON column_mappings (used_at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
