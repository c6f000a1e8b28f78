"""Chunks have the number of their items by what the plan does with them. Null: the plan of an earlier release."""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

STATEMENT = """
    ALTER TABLE batch_chunks
        ADD COLUMN planned_new bigint,
        ADD COLUMN planned_existing bigint,
        ADD COLUMN planned_unchanged bigint,
        ADD COLUMN planned_rejected bigint,
        ADD COLUMN planned_duplicates bigint
    """


def upgrade() -> None:
    op.execute(STATEMENT)
