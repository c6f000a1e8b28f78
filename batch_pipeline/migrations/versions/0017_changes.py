"""The change log: what each write changed in records and links, partitioned by day.

`records/resource.py` describes the numbering of fields (`change_bits`), `loading/change_log.py` what batches write.
"""

from datetime import UTC, datetime, timedelta
from typing import cast

from alembic import op
from psycopg import sql

from batch_pipeline.database import Connection

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

DAYS_AHEAD = 7

# Resource -> its table and its fields; a field's position is its bit. A later field is appended.
FIELDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "contact": (
        "contacts",
        (
            *("id", "external_id", "metadata", "name", "email", "phone", "address", "address_line2"),
            *("alternate_names", "alternate_emails", "alternate_phones", "alternate_addresses", "id_number"),
            *("groups", "is_primary", "notes"),
        ),
    ),
    "group": (
        "groups",
        ("id", "external_id", "metadata", "name", "resource", "location_id", "children", "primary"),
    ),
    "shipment": (
        "shipments",
        (
            *("id", "external_id", "metadata", "tracking_number", "provider", "sender", "recipient", "parcels"),
            *("amount", "billed_amount", "currency", "status", "paid", "payment_reference", "rma_number"),
            *("label_url", "tracking_url", "coordinates", "estimated_delivery_at", "pickup_at"),
        ),
    ),
    "tracker": (
        "trackers",
        (
            *("id", "external_id", "metadata", "tracking_number", "provider_id", "type", "tags", "status"),
            *("estimated_delivery_at", "tracking_url", "location_id"),
        ),
    ),
    "asset": (
        "assets",
        (
            *("id", "external_id", "metadata", "item_id", "location_id", "layout_id", "serial_number", "sequence_id"),
            *("value", "initial_value", "currency", "barcode", "category", "sub_category", "manifest_id"),
            *("disposal_reason_code", "status", "attributes", "maintenance_schedule", "maintenance_status"),
            *("purchased_at", "warranty_expires_at", "next_maintenance_at", "disposed_at", "disposal_comment"),
        ),
    ),
}

# Kept in another table, so no column.
REFERENCES = {"groups", "children", "primary"}

# JSON objects that merge by key: the log has only the keys that changed.
OBJECTS = {"metadata", "alternate_emails", "alternate_phones", "alternate_addresses", "sender", "recipient"}

# The log has these columns of a records table under another name, or in another meaning.
NOT_COPIED = {"organization_id", "id", "batch_id"}

_CHANGED_KEYS = """\
CREATE FUNCTION public.changed_keys(before jsonb, after jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT jsonb_object_agg(key, b.object -> key)
    FROM (SELECT CASE jsonb_typeof(before) WHEN 'object' THEN before ELSE '{}' END) AS b (object),
         (SELECT CASE jsonb_typeof(after) WHEN 'object' THEN after ELSE '{}' END) AS a (object),
         jsonb_object_keys(b.object || a.object) AS key
    WHERE b.object -> key IS DISTINCT FROM a.object -> key
)"""

_LOG = """\
CREATE TABLE public.{log} (
    number bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT now(),
    organization_id text COLLATE "C" NOT NULL,
    record_id text COLLATE "C" NOT NULL,
    batch_id text COLLATE "C",
    row bigint,
    op "char" NOT NULL,
    changed bigint NOT NULL,
    before_batch text COLLATE "C",
    undoes bigint,
    {columns}
) PARTITION BY RANGE (at)"""

_LINK_LOG = """\
CREATE TABLE public.group_member_changes (
    number bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT now(),
    organization_id text COLLATE "C" NOT NULL,
    group_id text COLLATE "C" NOT NULL,
    member_id text COLLATE "C" NOT NULL,
    batch_id text COLLATE "C",
    row bigint,
    undoes bigint,
    before "char" NOT NULL,
    after "char" NOT NULL
) PARTITION BY RANGE (at)"""

_COLUMNS = """\
SELECT attname, format_type(atttypid, atttypmod), CASE WHEN attcollation <> 0 THEN collname END
FROM pg_attribute
LEFT JOIN pg_collation ON pg_collation.oid = attcollation
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
ORDER BY attnum"""

# PostgreSQL 18 is the first version on which batches write the log. Below it nothing can read these rows.
# The trigger fires AFTER the update: a BEFORE trigger locks each row first, which costs every batch a tenth of its
# UPDATE and as much WAL. `SECURITY DEFINER`: the other tool may have rights on the records only.
_OUTSIDE = """\
CREATE FUNCTION public.{function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed bigint := {changed};
BEGIN
    IF changed <> 0 AND current_setting('server_version_num')::integer >= 180000 THEN
        INSERT INTO public.{log} (organization_id, record_id, op, changed, before_batch, {names})
        VALUES (OLD.organization_id, OLD.id, 'u', changed, OLD.batch_id, {values});
    END IF;
    IF OLD.batch_id IS NOT NULL THEN
        UPDATE public.{records} SET batch_id = NULL WHERE organization_id = NEW.organization_id AND id = NEW.id;
    END IF;
    RETURN NULL;
END
$$"""

_TRIGGER = """\
CREATE TRIGGER outside_change AFTER UPDATE ON public.{records} FOR EACH ROW
WHEN (NEW.batch_id IS NOT DISTINCT FROM OLD.batch_id AND NEW IS DISTINCT FROM OLD)
EXECUTE FUNCTION public.{function}()"""


def upgrade() -> None:
    connection = cast(Connection, op.get_bind().connection.driver_connection)
    connection.execute(
        "ALTER TABLE batch_chunks ADD COLUMN created_rows int8multirange,"
        " ADD COLUMN is_logged boolean NOT NULL DEFAULT false"
    )
    connection.execute(_CHANGED_KEYS)
    today = datetime.now(UTC).date()
    for resource, (records, fields) in FIELDS.items():
        _create_log(connection, f"{resource}_changes", records)
        _watch(connection, f"{resource}_changes", records, fields)
    connection.execute(_LINK_LOG)
    for log, columns in {
        **{f"{resource}_changes": ("record_id",) for resource in FIELDS},
        "group_member_changes": ("group_id", "member_id"),
    }.items():
        for column in columns:
            connection.execute(_compose("CREATE INDEX ON public.{} ({})", log, column))
        connection.execute(_compose("CREATE INDEX ON public.{} USING brin (batch_id) WITH (autosummarize = on)", log))
        connection.execute(_compose("CREATE TABLE public.{} PARTITION OF public.{} DEFAULT", f"{log}_default", log))
        for day in (today + timedelta(days=number) for number in range(DAYS_AHEAD + 1)):
            connection.execute(
                sql.SQL("CREATE TABLE public.{} PARTITION OF public.{} FOR VALUES FROM ({}) TO ({})").format(
                    sql.Identifier(f"{log}_{day:%Y%m%d}"),
                    sql.Identifier(log),
                    sql.Literal(f"{day} 00:00+00"),
                    sql.Literal(f"{day + timedelta(days=1)} 00:00+00"),
                )
            )


def _create_log(connection: Connection, log: str, records: str) -> None:
    """The records table's columns again, without defaults and constraints."""
    columns = []
    for name, kind, collation in connection.execute(_COLUMNS, (records,)).fetchall():
        if name not in NOT_COPIED:
            column = sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind))
            columns.append(column + sql.SQL(" COLLATE {}").format(sql.Identifier(collation)) if collation else column)
    connection.execute(sql.SQL(_LOG).format(log=sql.Identifier(log), columns=sql.SQL(",\n    ").join(columns)))


def _watch(connection: Connection, log: str, records: str, fields: tuple[str, ...]) -> None:
    """The trigger that logs changes which no batch made."""
    stored = {name: bit for bit, name in enumerate(fields) if name not in REFERENCES}
    copied = [name for name in stored if name not in NOT_COPIED]
    function = f"log_outside_change_of_{records}"
    connection.execute(
        sql.SQL(_OUTSIDE).format(
            function=sql.Identifier(function),
            log=sql.Identifier(log),
            records=sql.Identifier(records),
            changed=sql.SQL("\n        | ").join(
                sql.SQL("CASE WHEN OLD.{n} IS DISTINCT FROM NEW.{n} THEN {bit}::bigint ELSE 0 END").format(
                    n=sql.Identifier(name), bit=sql.Literal(1 << bit)
                )
                for name, bit in stored.items()
            ),
            names=sql.SQL(", ").join(map(sql.Identifier, copied)),
            values=sql.SQL(", ").join(
                sql.SQL(
                    "CASE WHEN OLD.{n} IS DISTINCT FROM NEW.{n} THEN public.changed_keys(OLD.{n}, NEW.{n}) END"
                    if name in OBJECTS
                    else "nullif(OLD.{n}, NEW.{n})"
                ).format(n=sql.Identifier(name))
                for name in copied
            ),
        )
    )
    connection.execute(sql.SQL(_TRIGGER).format(records=sql.Identifier(records), function=sql.Identifier(function)))


def _compose(template: str, *names: str) -> sql.Composed:
    return sql.SQL(template).format(*map(sql.Identifier, names))
