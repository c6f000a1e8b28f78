"""What retention has done to each batch, and the batches that it still has to look at."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Since when the batch's files are being removed, and whether they are all gone: in between a crash may lie.
    "ALTER TABLE batches ADD COLUMN pruned_at timestamptz, ADD COLUMN is_pruned boolean NOT NULL DEFAULT false",
    "CREATE INDEX batches_to_prune ON batches (id) WHERE NOT is_pruned",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
