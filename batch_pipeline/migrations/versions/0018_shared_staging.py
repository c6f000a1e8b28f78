"""Tables in `staging` that small batches share. `loading/shared_staging.py` uses them."""

from batch_pipeline.migrations.staging_tables import make_batch_id, make_items_table, make_shared_table

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

ID = 'text COLLATE "C"'

# The fields of each resource with their types as staged. Later fields are in later migrations.
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

# Part -> its columns.
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
}


def upgrade() -> None:
    make_batch_id()
    for name, columns in TABLES.items():
        make_shared_table(name, columns)
    for resource, fields in FIELDS.items():
        make_items_table(resource, {name: kind for kind, names in fields.items() for name in names})
