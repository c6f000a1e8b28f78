"""Tables in `staging` that small batches share, each with a view of the rows of the session's batch.

A session's batch is its setting `batch_pipeline.batch`. `loading/shared_staging.py` uses the tables.
"""

from alembic import op
from psycopg import sql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

ID = 'text COLLATE "C"'

# The fields of each resource with their types as staged. A later field is added to its table and view by a migration.
FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "contact": {
        "text": (*("id", "external_id", "name", "email", "phone", "address", "address_line2", "id_number", "notes"),),
        "jsonb": (
            *("alternate_names", "alternate_emails", "alternate_phones", "alternate_addresses", "groups", "metadata"),
        ),
        "boolean": ("is_primary",),
    },
    "group": {
        "text": ("id", "external_id", "name", "resource", "location_id"),
        "jsonb": ("children", "primary", "metadata"),
    },
    "shipment": {
        "text": (
            *("id", "external_id", "tracking_number", "provider", "currency", "status", "payment_reference"),
            *("rma_number", "label_url", "tracking_url"),
        ),
        "jsonb": ("sender", "recipient", "parcels", "coordinates", "metadata"),
        "numeric(17,2)": ("amount", "billed_amount"),
        "boolean": ("paid",),
        "timestamptz": ("estimated_delivery_at", "pickup_at"),
    },
    "tracker": {
        "text": (
            *("id", "external_id", "tracking_number", "provider_id", "type", "status", "tracking_url", "location_id"),
        ),
        "jsonb": ("tags", "metadata"),
        "timestamptz": ("estimated_delivery_at",),
    },
    "asset": {
        "text": (
            *("id", "external_id", "item_id", "location_id", "layout_id", "serial_number", "sequence_id", "currency"),
            *("barcode", "category", "sub_category", "manifest_id", "disposal_reason_code", "status"),
            *("maintenance_schedule", "maintenance_status", "disposal_comment"),
        ),
        "jsonb": ("attributes", "metadata"),
        "numeric(17,2)": ("value", "initial_value"),
        "timestamptz": ("purchased_at", "warranty_expires_at", "next_maintenance_at", "disposed_at"),
    },
}

# What all items have, then what the undone changes of an undo have.
ITEMS = {
    **{"row": "bigint", "kind": "smallint", "cleared": "bigint", "invalid": "bigint", "new_id": "text"},
    **{"identified": "boolean", "number": "bigint", "at": "timestamptz", "changed": "bigint"},
    **{"created_at": "timestamptz", "updated_at": "timestamptz"},
}

# Table -> its columns after `batch_id`. Most queries are by the first one.
TABLES: dict[str, dict[str, str]] = {
    "plan": {
        **{"row": "bigint", "verdict": '"char"', "record_id": ID},
        **{"kind": "smallint", "matches": "smallint", "target": "bigint"},  # of a merge or overwrite
        **{"op": '"char"', "number": "bigint", "seen": "xid", "by_batch": ID, "by_record": ID},  # of an undo
    },
    "errors": {
        **{"row": "bigint NOT NULL", "number": "bigint GENERATED ALWAYS AS IDENTITY", "step": "smallint NOT NULL"},
        **{"code": "text NOT NULL", "field": "text", "message": "text NOT NULL", "value": "text"},
    },
    "changes": {"row": "bigint NOT NULL", "external_id": ID},
    "members": {"row": "bigint", "role": '"char"', "target": ID, "is_elsewhere": "boolean"},
    "to_delete": {"number": "bigint", "id": ID, "external_id": ID},
    "preview": {"row": "bigint", "outcome": "text", "id": ID, "external_id": ID, "changes": "jsonb"},
    "shown": {"row": "bigint", "outcome": "text", "id": ID, "external_id": ID, "changes": "jsonb"},
    "kept": {
        **{"row": "bigint NOT NULL", "bit": "smallint", "key": "text", "number": "bigint"},
        **{"by_batch": ID, "by_record": ID},
    },
    "links": {
        **{"row": "bigint", "other": ID, "number": "bigint", "before": '"char"', "after": '"char"'},
        **{"verdict": '"char"', "by_batch": ID},
    },
    **{
        f"items_{resource}": ITEMS | {name: kind for kind, names in fields.items() for name in names}
        for resource, fields in FIELDS.items()
    },
}


# With room on its page, an update of a verdict touches no index.
TABLE = """
CREATE TABLE {table} (
    batch_id staging.batch_id NOT NULL DEFAULT current_setting('batch_pipeline.batch'),
    {defined}
) WITH (fillfactor = 80)
"""

INDEX = "CREATE INDEX ON {table} (batch_id, {first})"

# Rows of a plan can have equal values; `ctid` distinguishes them.
VIEW = """
CREATE VIEW {view} AS
SELECT {columns}, ctid AS ctid
FROM {table}
WHERE batch_id = current_setting('batch_pipeline.batch')::staging.batch_id
"""


def upgrade() -> None:
    # A session without batch has an empty setting or none. Both are errors: it must not find empty tables.
    op.execute("CREATE DOMAIN staging.batch_id AS text COLLATE \"C\" CHECK (VALUE <> '')")
    for name, kinds in TABLES.items():
        columns = [sql.Identifier(column) for column in kinds]
        for statement in (TABLE, INDEX, VIEW):
            composed = sql.SQL(statement).format(
                table=sql.Identifier("staging", f"shared_{name}"),
                view=sql.Identifier("staging", name),
                defined=sql.SQL(", ").join(
                    sql.SQL("{} {}").format(column, sql.SQL(kind))
                    for column, kind in zip(columns, kinds.values(), strict=True)
                ),
                columns=sql.SQL(", ").join(columns),
                first=columns[0],
            )
            op.execute(composed.as_string(None))
