-- Made by `python tests/loading/rendered_sql.py`: change batch_pipeline/loading, not this file.

-- Plan: the record of each item, by the item's deciding key, and whether the item changes it.
SELECT s.row, 'r'::"char" AS verdict, NULL::text COLLATE "C" AS record_id, s.kind, 0::smallint AS matches,
       NULL::bigint AS target
FROM "staging"."items_batch_1" s
WHERE s.kind IS NULL
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND NOT (
                    r."external_id",
                    r."item_id",
                    r."location_id",
                    r."layout_id",
                    r."serial_number",
                    r."sequence_id",
                    r."value",
                    r."initial_value",
                    r."currency",
                    r."barcode",
                    r."category",
                    r."sub_category",
                    r."manifest_id",
                    r."disposal_reason_code",
                    r."status",
                    r."attributes",
                    r."maintenance_schedule",
                    r."maintenance_status",
                    r."purchased_at",
                    r."warranty_expires_at",
                    r."next_maintenance_at",
                    r."disposed_at",
                    r."disposal_comment",
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."item_id", r."item_id"),
                    coalesce(s."location_id", r."location_id"),
                    coalesce(s."layout_id", r."layout_id"),
                    coalesce(s."serial_number", r."serial_number"),
                    coalesce(s."sequence_id", r."sequence_id"),
                    coalesce(s."value", r."value"),
                    coalesce(s."initial_value", r."initial_value"),
                    coalesce(s."currency", r."currency"),
                    coalesce(s."barcode", r."barcode"),
                    coalesce(s."category", r."category"),
                    coalesce(s."sub_category", r."sub_category"),
                    coalesce(s."manifest_id", r."manifest_id"),
                    coalesce(s."disposal_reason_code", r."disposal_reason_code"),
                    coalesce(s."status", r."status"),
                    coalesce(s."attributes", r."attributes"),
                    coalesce(s."maintenance_schedule", r."maintenance_schedule"),
                    coalesce(s."maintenance_status", r."maintenance_status"),
                    coalesce(s."purchased_at", r."purchased_at"),
                    coalesce(s."warranty_expires_at", r."warranty_expires_at"),
                    coalesce(s."next_maintenance_at", r."next_maintenance_at"),
                    coalesce(s."disposed_at", r."disposed_at"),
                    coalesce(s."disposal_comment", r."disposal_comment"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(('k0' || s."id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."assets" r ON r.organization_id = %(organization)s
    AND r."id" = s."id"
WHERE s.kind = 0
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND NOT (
                    r."external_id",
                    r."item_id",
                    r."location_id",
                    r."layout_id",
                    r."serial_number",
                    r."sequence_id",
                    r."value",
                    r."initial_value",
                    r."currency",
                    r."barcode",
                    r."category",
                    r."sub_category",
                    r."manifest_id",
                    r."disposal_reason_code",
                    r."status",
                    r."attributes",
                    r."maintenance_schedule",
                    r."maintenance_status",
                    r."purchased_at",
                    r."warranty_expires_at",
                    r."next_maintenance_at",
                    r."disposed_at",
                    r."disposal_comment",
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."item_id", r."item_id"),
                    coalesce(s."location_id", r."location_id"),
                    coalesce(s."layout_id", r."layout_id"),
                    coalesce(s."serial_number", r."serial_number"),
                    coalesce(s."sequence_id", r."sequence_id"),
                    coalesce(s."value", r."value"),
                    coalesce(s."initial_value", r."initial_value"),
                    coalesce(s."currency", r."currency"),
                    coalesce(s."barcode", r."barcode"),
                    coalesce(s."category", r."category"),
                    coalesce(s."sub_category", r."sub_category"),
                    coalesce(s."manifest_id", r."manifest_id"),
                    coalesce(s."disposal_reason_code", r."disposal_reason_code"),
                    coalesce(s."status", r."status"),
                    coalesce(s."attributes", r."attributes"),
                    coalesce(s."maintenance_schedule", r."maintenance_schedule"),
                    coalesce(s."maintenance_status", r."maintenance_status"),
                    coalesce(s."purchased_at", r."purchased_at"),
                    coalesce(s."warranty_expires_at", r."warranty_expires_at"),
                    coalesce(s."next_maintenance_at", r."next_maintenance_at"),
                    coalesce(s."disposed_at", r."disposed_at"),
                    coalesce(s."disposal_comment", r."disposal_comment"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(('k1' || s."external_id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."assets" r ON r.organization_id = %(organization)s
    AND r."external_id" = s."external_id"
WHERE s.kind = 1
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND NOT (
                    r."external_id",
                    r."item_id",
                    r."location_id",
                    r."layout_id",
                    r."serial_number",
                    r."sequence_id",
                    r."value",
                    r."initial_value",
                    r."currency",
                    r."barcode",
                    r."category",
                    r."sub_category",
                    r."manifest_id",
                    r."disposal_reason_code",
                    r."status",
                    r."attributes",
                    r."maintenance_schedule",
                    r."maintenance_status",
                    r."purchased_at",
                    r."warranty_expires_at",
                    r."next_maintenance_at",
                    r."disposed_at",
                    r."disposal_comment",
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."item_id", r."item_id"),
                    coalesce(s."location_id", r."location_id"),
                    coalesce(s."layout_id", r."layout_id"),
                    coalesce(s."serial_number", r."serial_number"),
                    coalesce(s."sequence_id", r."sequence_id"),
                    coalesce(s."value", r."value"),
                    coalesce(s."initial_value", r."initial_value"),
                    coalesce(s."currency", r."currency"),
                    coalesce(s."barcode", r."barcode"),
                    coalesce(s."category", r."category"),
                    coalesce(s."sub_category", r."sub_category"),
                    coalesce(s."manifest_id", r."manifest_id"),
                    coalesce(s."disposal_reason_code", r."disposal_reason_code"),
                    coalesce(s."status", r."status"),
                    coalesce(s."attributes", r."attributes"),
                    coalesce(s."maintenance_schedule", r."maintenance_schedule"),
                    coalesce(s."maintenance_status", r."maintenance_status"),
                    coalesce(s."purchased_at", r."purchased_at"),
                    coalesce(s."warranty_expires_at", r."warranty_expires_at"),
                    coalesce(s."next_maintenance_at", r."next_maintenance_at"),
                    coalesce(s."disposed_at", r."disposed_at"),
                    coalesce(s."disposal_comment", r."disposal_comment"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(concat_ws(E'\x1f', 'k2', (coalesce(s."item_id", '') COLLATE "C"), (coalesce(s."serial_number", '') COLLATE "C")) COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."assets" r ON r.organization_id = %(organization)s
    AND (coalesce(r."item_id", '') COLLATE "C") = (coalesce(s."item_id", '') COLLATE "C")
    AND (coalesce(r."serial_number", '') COLLATE "C") = (coalesce(s."serial_number", '') COLLATE "C")
    AND s."item_id" IS NOT NULL
WHERE s.kind = 2
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND NOT (
                    r."external_id",
                    r."item_id",
                    r."location_id",
                    r."layout_id",
                    r."serial_number",
                    r."sequence_id",
                    r."value",
                    r."initial_value",
                    r."currency",
                    r."barcode",
                    r."category",
                    r."sub_category",
                    r."manifest_id",
                    r."disposal_reason_code",
                    r."status",
                    r."attributes",
                    r."maintenance_schedule",
                    r."maintenance_status",
                    r."purchased_at",
                    r."warranty_expires_at",
                    r."next_maintenance_at",
                    r."disposed_at",
                    r."disposal_comment",
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."item_id", r."item_id"),
                    coalesce(s."location_id", r."location_id"),
                    coalesce(s."layout_id", r."layout_id"),
                    coalesce(s."serial_number", r."serial_number"),
                    coalesce(s."sequence_id", r."sequence_id"),
                    coalesce(s."value", r."value"),
                    coalesce(s."initial_value", r."initial_value"),
                    coalesce(s."currency", r."currency"),
                    coalesce(s."barcode", r."barcode"),
                    coalesce(s."category", r."category"),
                    coalesce(s."sub_category", r."sub_category"),
                    coalesce(s."manifest_id", r."manifest_id"),
                    coalesce(s."disposal_reason_code", r."disposal_reason_code"),
                    coalesce(s."status", r."status"),
                    coalesce(s."attributes", r."attributes"),
                    coalesce(s."maintenance_schedule", r."maintenance_schedule"),
                    coalesce(s."maintenance_status", r."maintenance_status"),
                    coalesce(s."purchased_at", r."purchased_at"),
                    coalesce(s."warranty_expires_at", r."warranty_expires_at"),
                    coalesce(s."next_maintenance_at", r."next_maintenance_at"),
                    coalesce(s."disposed_at", r."disposed_at"),
                    coalesce(s."disposal_comment", r."disposal_comment"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(concat_ws(E'\x1f', 'k3', (coalesce(s."item_id", '') COLLATE "C"), (coalesce(s."location_id", '') COLLATE "C"), (coalesce(s."sequence_id", '') COLLATE "C")) COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."assets" r ON r.organization_id = %(organization)s
    AND (coalesce(r."item_id", '') COLLATE "C") = (coalesce(s."item_id", '') COLLATE "C")
    AND (coalesce(r."location_id", '') COLLATE "C") = (coalesce(s."location_id", '') COLLATE "C")
    AND (coalesce(r."sequence_id", '') COLLATE "C") = (coalesce(s."sequence_id", '') COLLATE "C")
    AND r."serial_number" IS NULL
    AND s."item_id" IS NOT NULL
WHERE s.kind = 3
ORDER BY row;

-- Chunk: create records.
INSERT INTO "public"."assets" (
    organization_id, id, batch_id,
    "external_id",
    "item_id",
    "location_id",
    "layout_id",
    "serial_number",
    "sequence_id",
    "value",
    "initial_value",
    "currency",
    "barcode",
    "category",
    "sub_category",
    "manifest_id",
    "disposal_reason_code",
    "status",
    "attributes",
    "maintenance_schedule",
    "maintenance_status",
    "purchased_at",
    "warranty_expires_at",
    "next_maintenance_at",
    "disposed_at",
    "disposal_comment",
    "metadata"
)
SELECT
    %(organization)s, s.new_id, %(batch)s,
    s."external_id",
    s."item_id",
    s."location_id",
    s."layout_id",
    s."serial_number",
    s."sequence_id",
    s."value",
    s."initial_value",
    coalesce(s."currency", 'usd'::text),
    s."barcode",
    s."category",
    s."sub_category",
    s."manifest_id",
    s."disposal_reason_code",
    coalesce(s."status", 'in_storage'::text),
    coalesce(s."attributes", '[]'::jsonb),
    s."maintenance_schedule",
    s."maintenance_status",
    s."purchased_at",
    s."warranty_expires_at",
    s."next_maintenance_at",
    s."disposed_at",
    s."disposal_comment",
    jsonb_strip_nulls(coalesce(s."metadata", '{}'::jsonb))
FROM "staging"."items_batch_1" s
JOIN "staging"."plan_batch_1" p ON p.row = s.row
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'a'
  AND p.record_id IS NULL;

-- The same if each item that the row rules accept creates a record.
INSERT INTO "public"."assets" (
    organization_id, id, batch_id,
    "external_id",
    "item_id",
    "location_id",
    "layout_id",
    "serial_number",
    "sequence_id",
    "value",
    "initial_value",
    "currency",
    "barcode",
    "category",
    "sub_category",
    "manifest_id",
    "disposal_reason_code",
    "status",
    "attributes",
    "maintenance_schedule",
    "maintenance_status",
    "purchased_at",
    "warranty_expires_at",
    "next_maintenance_at",
    "disposed_at",
    "disposal_comment",
    "metadata"
)
SELECT
    %(organization)s, s.new_id, %(batch)s,
    s."external_id",
    s."item_id",
    s."location_id",
    s."layout_id",
    s."serial_number",
    s."sequence_id",
    s."value",
    s."initial_value",
    coalesce(s."currency", 'usd'::text),
    s."barcode",
    s."category",
    s."sub_category",
    s."manifest_id",
    s."disposal_reason_code",
    coalesce(s."status", 'in_storage'::text),
    coalesce(s."attributes", '[]'::jsonb),
    s."maintenance_schedule",
    s."maintenance_status",
    s."purchased_at",
    s."warranty_expires_at",
    s."next_maintenance_at",
    s."disposed_at",
    s."disposal_comment",
    jsonb_strip_nulls(coalesce(s."metadata", '{}'::jsonb))
FROM "staging"."items_batch_1" s
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND s.invalid = 0
  AND s.kind IS NOT NULL;

-- Chunk: update records that change.
WITH done AS (
    UPDATE "public"."assets" r
    SET "external_id" = coalesce(s."external_id", r."external_id"),
        "item_id" = coalesce(s."item_id", r."item_id"),
        "location_id" = coalesce(s."location_id", r."location_id"),
        "layout_id" = coalesce(s."layout_id", r."layout_id"),
        "serial_number" = coalesce(s."serial_number", r."serial_number"),
        "sequence_id" = coalesce(s."sequence_id", r."sequence_id"),
        "value" = coalesce(s."value", r."value"),
        "initial_value" = coalesce(s."initial_value", r."initial_value"),
        "currency" = coalesce(s."currency", r."currency"),
        "barcode" = coalesce(s."barcode", r."barcode"),
        "category" = coalesce(s."category", r."category"),
        "sub_category" = coalesce(s."sub_category", r."sub_category"),
        "manifest_id" = coalesce(s."manifest_id", r."manifest_id"),
        "disposal_reason_code" = coalesce(s."disposal_reason_code", r."disposal_reason_code"),
        "status" = coalesce(s."status", r."status"),
        "attributes" = coalesce(s."attributes", r."attributes"),
        "maintenance_schedule" = coalesce(s."maintenance_schedule", r."maintenance_schedule"),
        "maintenance_status" = coalesce(s."maintenance_status", r."maintenance_status"),
        "purchased_at" = coalesce(s."purchased_at", r."purchased_at"),
        "warranty_expires_at" = coalesce(s."warranty_expires_at", r."warranty_expires_at"),
        "next_maintenance_at" = coalesce(s."next_maintenance_at", r."next_maintenance_at"),
        "disposed_at" = coalesce(s."disposed_at", r."disposed_at"),
        "disposal_comment" = coalesce(s."disposal_comment", r."disposal_comment"),
        "metadata" = jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}')),
        updated_at = now(),
        batch_id = %(batch)s
    FROM "staging"."items_batch_1" s
    JOIN "staging"."plan_batch_1" p ON p.row = s.row
    WHERE s.row BETWEEN %(first)s AND %(last)s
      AND p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'a'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
    RETURNING s.row
)
SELECT count(*) FROM done;

-- The same with the change log, if some item clears a field and the batch has a result file.
WITH done AS (
    UPDATE "public"."assets" r
    SET "external_id" = CASE WHEN (s.cleared >> 1) & 1 = 1 THEN NULL::text ELSE coalesce(s."external_id", r."external_id") END,
        "item_id" = CASE WHEN (s.cleared >> 2) & 1 = 1 THEN NULL::text ELSE coalesce(s."item_id", r."item_id") END,
        "location_id" = CASE WHEN (s.cleared >> 3) & 1 = 1 THEN NULL::text ELSE coalesce(s."location_id", r."location_id") END,
        "layout_id" = CASE WHEN (s.cleared >> 4) & 1 = 1 THEN NULL::text ELSE coalesce(s."layout_id", r."layout_id") END,
        "serial_number" = CASE WHEN (s.cleared >> 5) & 1 = 1 THEN NULL::text ELSE coalesce(s."serial_number", r."serial_number") END,
        "sequence_id" = CASE WHEN (s.cleared >> 6) & 1 = 1 THEN NULL::text ELSE coalesce(s."sequence_id", r."sequence_id") END,
        "value" = CASE WHEN (s.cleared >> 7) & 1 = 1 THEN NULL::numeric(17,2) ELSE coalesce(s."value", r."value") END,
        "initial_value" = CASE WHEN (s.cleared >> 8) & 1 = 1 THEN NULL::numeric(17,2) ELSE coalesce(s."initial_value", r."initial_value") END,
        "currency" = CASE WHEN (s.cleared >> 9) & 1 = 1 THEN 'usd'::text ELSE coalesce(s."currency", r."currency") END,
        "barcode" = CASE WHEN (s.cleared >> 10) & 1 = 1 THEN NULL::text ELSE coalesce(s."barcode", r."barcode") END,
        "category" = CASE WHEN (s.cleared >> 11) & 1 = 1 THEN NULL::text ELSE coalesce(s."category", r."category") END,
        "sub_category" = CASE WHEN (s.cleared >> 12) & 1 = 1 THEN NULL::text ELSE coalesce(s."sub_category", r."sub_category") END,
        "manifest_id" = CASE WHEN (s.cleared >> 13) & 1 = 1 THEN NULL::text ELSE coalesce(s."manifest_id", r."manifest_id") END,
        "disposal_reason_code" = CASE WHEN (s.cleared >> 14) & 1 = 1 THEN NULL::text ELSE coalesce(s."disposal_reason_code", r."disposal_reason_code") END,
        "status" = CASE WHEN (s.cleared >> 15) & 1 = 1 THEN 'in_storage'::text ELSE coalesce(s."status", r."status") END,
        "attributes" = CASE WHEN (s.cleared >> 16) & 1 = 1 THEN '[]'::jsonb ELSE coalesce(s."attributes", r."attributes") END,
        "maintenance_schedule" = CASE WHEN (s.cleared >> 17) & 1 = 1 THEN NULL::text ELSE coalesce(s."maintenance_schedule", r."maintenance_schedule") END,
        "maintenance_status" = CASE WHEN (s.cleared >> 18) & 1 = 1 THEN NULL::text ELSE coalesce(s."maintenance_status", r."maintenance_status") END,
        "purchased_at" = CASE WHEN (s.cleared >> 19) & 1 = 1 THEN NULL::timestamptz ELSE coalesce(s."purchased_at", r."purchased_at") END,
        "warranty_expires_at" = CASE WHEN (s.cleared >> 20) & 1 = 1 THEN NULL::timestamptz ELSE coalesce(s."warranty_expires_at", r."warranty_expires_at") END,
        "next_maintenance_at" = CASE WHEN (s.cleared >> 21) & 1 = 1 THEN NULL::timestamptz ELSE coalesce(s."next_maintenance_at", r."next_maintenance_at") END,
        "disposed_at" = CASE WHEN (s.cleared >> 22) & 1 = 1 THEN NULL::timestamptz ELSE coalesce(s."disposed_at", r."disposed_at") END,
        "disposal_comment" = CASE WHEN (s.cleared >> 23) & 1 = 1 THEN NULL::text ELSE coalesce(s."disposal_comment", r."disposal_comment") END,
        "metadata" = jsonb_strip_nulls((CASE WHEN (s.cleared >> 24) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."metadata", '{}'::jsonb) END) || coalesce(s."metadata", '{}')),
        updated_at = now(),
        batch_id = %(batch)s
    FROM "staging"."items_batch_1" s
    JOIN "staging"."plan_batch_1" p ON p.row = s.row
    WHERE s.row BETWEEN %(first)s AND %(last)s
      AND p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'a'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
    RETURNING s.row, old.id, old.batch_id AS before_batch,
        CASE WHEN old."external_id" IS DISTINCT FROM new."external_id" THEN 2 ELSE 0 END
            | CASE WHEN old."item_id" IS DISTINCT FROM new."item_id" THEN 8 ELSE 0 END
            | CASE WHEN old."location_id" IS DISTINCT FROM new."location_id" THEN 16 ELSE 0 END
            | CASE WHEN old."layout_id" IS DISTINCT FROM new."layout_id" THEN 32 ELSE 0 END
            | CASE WHEN old."serial_number" IS DISTINCT FROM new."serial_number" THEN 64 ELSE 0 END
            | CASE WHEN old."sequence_id" IS DISTINCT FROM new."sequence_id" THEN 128 ELSE 0 END
            | CASE WHEN old."value" IS DISTINCT FROM new."value" THEN 256 ELSE 0 END
            | CASE WHEN old."initial_value" IS DISTINCT FROM new."initial_value" THEN 512 ELSE 0 END
            | CASE WHEN old."currency" IS DISTINCT FROM new."currency" THEN 1024 ELSE 0 END
            | CASE WHEN old."barcode" IS DISTINCT FROM new."barcode" THEN 2048 ELSE 0 END
            | CASE WHEN old."category" IS DISTINCT FROM new."category" THEN 4096 ELSE 0 END
            | CASE WHEN old."sub_category" IS DISTINCT FROM new."sub_category" THEN 8192 ELSE 0 END
            | CASE WHEN old."manifest_id" IS DISTINCT FROM new."manifest_id" THEN 16384 ELSE 0 END
            | CASE WHEN old."disposal_reason_code" IS DISTINCT FROM new."disposal_reason_code" THEN 32768 ELSE 0 END
            | CASE WHEN old."status" IS DISTINCT FROM new."status" THEN 65536 ELSE 0 END
            | CASE WHEN old."attributes" IS DISTINCT FROM new."attributes" THEN 131072 ELSE 0 END
            | CASE WHEN old."maintenance_schedule" IS DISTINCT FROM new."maintenance_schedule" THEN 262144 ELSE 0 END
            | CASE WHEN old."maintenance_status" IS DISTINCT FROM new."maintenance_status" THEN 524288 ELSE 0 END
            | CASE WHEN old."purchased_at" IS DISTINCT FROM new."purchased_at" THEN 1048576 ELSE 0 END
            | CASE WHEN old."warranty_expires_at" IS DISTINCT FROM new."warranty_expires_at" THEN 2097152 ELSE 0 END
            | CASE WHEN old."next_maintenance_at" IS DISTINCT FROM new."next_maintenance_at" THEN 4194304 ELSE 0 END
            | CASE WHEN old."disposed_at" IS DISTINCT FROM new."disposed_at" THEN 8388608 ELSE 0 END
            | CASE WHEN old."disposal_comment" IS DISTINCT FROM new."disposal_comment" THEN 16777216 ELSE 0 END
            | CASE WHEN old."metadata" IS DISTINCT FROM new."metadata" THEN 4 ELSE 0 END AS changed,
        nullif(old."external_id", new."external_id") AS "external_id",
        nullif(old."item_id", new."item_id") AS "item_id",
        nullif(old."location_id", new."location_id") AS "location_id",
        nullif(old."layout_id", new."layout_id") AS "layout_id",
        nullif(old."serial_number", new."serial_number") AS "serial_number",
        nullif(old."sequence_id", new."sequence_id") AS "sequence_id",
        nullif(old."value", new."value") AS "value",
        nullif(old."initial_value", new."initial_value") AS "initial_value",
        nullif(old."currency", new."currency") AS "currency",
        nullif(old."barcode", new."barcode") AS "barcode",
        nullif(old."category", new."category") AS "category",
        nullif(old."sub_category", new."sub_category") AS "sub_category",
        nullif(old."manifest_id", new."manifest_id") AS "manifest_id",
        nullif(old."disposal_reason_code", new."disposal_reason_code") AS "disposal_reason_code",
        nullif(old."status", new."status") AS "status",
        nullif(old."attributes", new."attributes") AS "attributes",
        nullif(old."maintenance_schedule", new."maintenance_schedule") AS "maintenance_schedule",
        nullif(old."maintenance_status", new."maintenance_status") AS "maintenance_status",
        nullif(old."purchased_at", new."purchased_at") AS "purchased_at",
        nullif(old."warranty_expires_at", new."warranty_expires_at") AS "warranty_expires_at",
        nullif(old."next_maintenance_at", new."next_maintenance_at") AS "next_maintenance_at",
        nullif(old."disposed_at", new."disposed_at") AS "disposed_at",
        nullif(old."disposal_comment", new."disposal_comment") AS "disposal_comment",
        CASE WHEN old."metadata" IS DISTINCT FROM new."metadata"
            THEN public.changed_keys(old."metadata", new."metadata") END AS "metadata"
), logged AS (
    INSERT INTO "public"."asset_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch,
        "external_id", "item_id", "location_id", "layout_id", "serial_number", "sequence_id", "value", "initial_value", "currency", "barcode", "category", "sub_category", "manifest_id", "disposal_reason_code", "status", "attributes", "maintenance_schedule", "maintenance_status", "purchased_at", "warranty_expires_at", "next_maintenance_at", "disposed_at", "disposal_comment", "metadata"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'u', changed, before_batch,
        "external_id", "item_id", "location_id", "layout_id", "serial_number", "sequence_id", "value", "initial_value", "currency", "barcode", "category", "sub_category", "manifest_id", "disposal_reason_code", "status", "attributes", "maintenance_schedule", "maintenance_status", "purchased_at", "warranty_expires_at", "next_maintenance_at", "disposed_at", "disposal_comment", "metadata"
    FROM done
    WHERE changed <> 0
), noted AS (
    INSERT INTO "staging"."changes_batch_1" (row)
    SELECT row FROM done
)
SELECT count(*) FROM done;
