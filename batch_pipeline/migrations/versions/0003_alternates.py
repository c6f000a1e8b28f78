"""A contact's alternate names, emails, phones and addresses."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE contacts
        ADD COLUMN alternate_names jsonb NOT NULL DEFAULT '[]',
        ADD COLUMN alternate_emails jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN alternate_phones jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN alternate_addresses jsonb NOT NULL DEFAULT '{}'
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
