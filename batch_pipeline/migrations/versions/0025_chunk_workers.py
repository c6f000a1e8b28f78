"""Which process wrote each chunk: several workers may write the chunks of one batch."""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Host and process id; null until the chunk is done, and for chunks of earlier releases.
    op.execute("ALTER TABLE batch_chunks ADD COLUMN worker text")
