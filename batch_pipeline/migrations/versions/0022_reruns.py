"""Automatic re-runs: when a failed batch runs again by itself, how often it did, and where attempts lost workers."""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Null: the batch does not run again by itself.
    "ALTER TABLE batches ADD COLUMN next_attempt_at timestamptz",
    "ALTER TABLE batches ADD COLUMN reruns integer NOT NULL DEFAULT 0",
    "CREATE INDEX batches_next_attempt ON batches (next_attempt_at) WHERE next_attempt_at IS NOT NULL",
    # The phase and, if it has chunks, the first chunk that was not done: "processing/6".
    "ALTER TABLE batch_attempts ADD COLUMN lost_at text",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
