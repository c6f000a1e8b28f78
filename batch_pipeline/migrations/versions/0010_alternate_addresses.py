"""An index of the few contacts with alternate addresses: a changed primary address can equal one of them."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX contacts_alternate_addresses ON contacts (organization_id, id) WHERE alternate_addresses <> '{}'"
    )
