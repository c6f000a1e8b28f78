"""An index of the batches that await a run: each sensor tick queries them, and the index stays small."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX batches_awaiting_run ON batches (awaits_run, arrival) WHERE awaits_run IS NOT NULL")


def downgrade() -> None:
    op.execute("DROP INDEX batches_awaiting_run")
