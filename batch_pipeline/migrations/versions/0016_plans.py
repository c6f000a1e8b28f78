"""Batches that stop after validation: the plan that they show, whether it is to be applied, and the undone batch."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE batches ADD COLUMN plan jsonb",
    "ALTER TABLE batches ADD COLUMN plan_expires_at timestamptz",
    # What an apply does with a plan that has changed; null until somebody decides to apply.
    "ALTER TABLE batches ADD COLUMN if_changed text",
    # The batch that an undo takes back.
    'ALTER TABLE batches ADD COLUMN undo_of text COLLATE "C"',
    "CREATE INDEX batches_undone ON batches (undo_of) WHERE undo_of IS NOT NULL",
    "CREATE INDEX batches_planned ON batches (plan_expires_at) WHERE status = 'planned'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
