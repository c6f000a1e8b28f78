"""An index of upload URLs by expiry. If no URL is valid or recently expired, the sensor does not list storage."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX batches_by_upload_expiry ON batches (upload_expires_at) WHERE upload_expires_at IS NOT NULL"
    )
