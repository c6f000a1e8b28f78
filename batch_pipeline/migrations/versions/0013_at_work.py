"""An index of running batches: reconciling queries them, and the index stays small."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE INDEX batches_at_work ON batches (arrival)
        WHERE status IN ('requested', 'queued', 'processing') AND run_id IS NOT NULL AND awaits_run IS NULL
        """
    )
