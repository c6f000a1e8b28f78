"""Retention: columns for the state of a batch's pruning, and an index of the batches that are not pruned."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    # When the deletion of the batch's files began, and whether it is complete. After a crash only the first is set.
    "ALTER TABLE batches ADD COLUMN pruned_at timestamptz, ADD COLUMN is_pruned boolean NOT NULL DEFAULT false",
    "CREATE INDEX batches_to_prune ON batches (id) WHERE NOT is_pruned",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
