-- Made by `python tests/loading/rendered_sql.py`: change batch_pipeline/loading, not this file.

-- Chunk: delete records that the undone batch created and log it.
WITH done AS (
    DELETE FROM "public"."assets" r USING "staging"."plan_batch_1" p
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'd'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
      AND r.xmin = p.seen
    RETURNING
        p.row,
        p.number AS undoes,
        r.id, r.batch_id AS before_batch,
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
        r."metadata",
        r."created_at",
        r."updated_at"
), logged AS (
    INSERT INTO "public"."asset_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch, undoes,
        "external_id", "item_id", "location_id", "layout_id", "serial_number", "sequence_id", "value", "initial_value", "currency", "barcode", "category", "sub_category", "manifest_id", "disposal_reason_code", "status", "attributes", "maintenance_schedule", "maintenance_status", "purchased_at", "warranty_expires_at", "next_maintenance_at", "disposed_at", "disposal_comment", "metadata", "created_at", "updated_at"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'd', 0, before_batch, undoes,
        "external_id", "item_id", "location_id", "layout_id", "serial_number", "sequence_id", "value", "initial_value", "currency", "barcode", "category", "sub_category", "manifest_id", "disposal_reason_code", "status", "attributes", "maintenance_schedule", "maintenance_status", "purchased_at", "warranty_expires_at", "next_maintenance_at", "disposed_at", "disposal_comment", "metadata", "created_at", "updated_at"
    FROM done
)
UPDATE "staging"."plan_batch_1" p SET verdict = '?'
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'd'
  AND NOT EXISTS (SELECT FROM done WHERE done.row = p.row);

-- Chunk: restore records that it deleted and log it.
WITH done AS (
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
    "metadata",
    "created_at"
)
    SELECT %(organization)s, p.record_id, %(batch)s,
    "s"."external_id",
    "s"."item_id",
    "s"."location_id",
    "s"."layout_id",
    "s"."serial_number",
    "s"."sequence_id",
    "s"."value",
    "s"."initial_value",
    "s"."currency",
    "s"."barcode",
    "s"."category",
    "s"."sub_category",
    "s"."manifest_id",
    "s"."disposal_reason_code",
    "s"."status",
    "s"."attributes",
    "s"."maintenance_schedule",
    "s"."maintenance_status",
    "s"."purchased_at",
    "s"."warranty_expires_at",
    "s"."next_maintenance_at",
    "s"."disposed_at",
    "s"."disposal_comment",
    "s"."metadata",
    "s"."created_at"
    FROM "staging"."plan_batch_1" p
    JOIN "staging"."items_batch_1" s ON s.row = p.row
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND s.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'i'
    ON CONFLICT DO NOTHING
    RETURNING id
), logged AS (
    INSERT INTO "public"."asset_changes" (organization_id, record_id, batch_id, row, op, changed, undoes)
    SELECT %(organization)s, p.record_id, %(batch)s, p.row, 'i', 0, p.number
    FROM done
    JOIN "staging"."plan_batch_1" p ON p.record_id = done.id AND p.row BETWEEN %(first)s AND %(last)s
)
UPDATE "staging"."plan_batch_1" p SET verdict = 'c', by_record = (
    SELECT min(r.id) FROM "public"."assets" r
    WHERE r.organization_id = %(organization)s AND (r.id = p.record_id OR r.external_id = s.external_id)
)
FROM "staging"."items_batch_1" s
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND s.row = p.row
  AND p.verdict = 'i'
  AND NOT EXISTS (SELECT FROM done WHERE done.id = p.record_id);

-- Chunk: change fields back and log it.
WITH done AS (
    UPDATE "public"."assets" r
    SET "external_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 1) & 1 = 1 THEN s."external_id" ELSE r."external_id" END,
    "item_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 3) & 1 = 1 THEN s."item_id" ELSE r."item_id" END,
    "location_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 4) & 1 = 1 THEN s."location_id" ELSE r."location_id" END,
    "layout_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 5) & 1 = 1 THEN s."layout_id" ELSE r."layout_id" END,
    "serial_number" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 6) & 1 = 1 THEN s."serial_number" ELSE r."serial_number" END,
    "sequence_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 7) & 1 = 1 THEN s."sequence_id" ELSE r."sequence_id" END,
    "value" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 8) & 1 = 1 THEN s."value" ELSE r."value" END,
    "initial_value" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 9) & 1 = 1 THEN s."initial_value" ELSE r."initial_value" END,
    "currency" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 10) & 1 = 1 THEN s."currency" ELSE r."currency" END,
    "barcode" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 11) & 1 = 1 THEN s."barcode" ELSE r."barcode" END,
    "category" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 12) & 1 = 1 THEN s."category" ELSE r."category" END,
    "sub_category" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 13) & 1 = 1 THEN s."sub_category" ELSE r."sub_category" END,
    "manifest_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 14) & 1 = 1 THEN s."manifest_id" ELSE r."manifest_id" END,
    "disposal_reason_code" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 15) & 1 = 1 THEN s."disposal_reason_code" ELSE r."disposal_reason_code" END,
    "status" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 16) & 1 = 1 THEN s."status" ELSE r."status" END,
    "attributes" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 17) & 1 = 1 THEN s."attributes" ELSE r."attributes" END,
    "maintenance_schedule" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 18) & 1 = 1 THEN s."maintenance_schedule" ELSE r."maintenance_schedule" END,
    "maintenance_status" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 19) & 1 = 1 THEN s."maintenance_status" ELSE r."maintenance_status" END,
    "purchased_at" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 20) & 1 = 1 THEN s."purchased_at" ELSE r."purchased_at" END,
    "warranty_expires_at" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 21) & 1 = 1 THEN s."warranty_expires_at" ELSE r."warranty_expires_at" END,
    "next_maintenance_at" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 22) & 1 = 1 THEN s."next_maintenance_at" ELSE r."next_maintenance_at" END,
    "disposed_at" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 23) & 1 = 1 THEN s."disposed_at" ELSE r."disposed_at" END,
    "disposal_comment" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 24) & 1 = 1 THEN s."disposal_comment" ELSE r."disposal_comment" END,
    "metadata" = CASE WHEN s."metadata" IS NULL OR jsonb_typeof(r."metadata") <> 'object' THEN r."metadata"
        ELSE coalesce(r."metadata", '{}'::jsonb) - ARRAY(SELECT jsonb_object_keys(s."metadata" - coalesce(k."metadata", '{}'))) || (
            SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE value <> 'null'), '{}')
            FROM jsonb_each(s."metadata" - coalesce(k."metadata", '{}'))
        ) END,
    updated_at = now(),
    batch_id = %(batch)s
    FROM "staging"."plan_batch_1" p
    LEFT JOIN "staging"."items_batch_1" s ON s.row = p.row AND s.row BETWEEN %(first)s AND %(last)s
    LEFT JOIN (
        SELECT row, bit_or(1::bigint << bit) FILTER (WHERE key = '') AS fields, array_agg(key) FILTER (WHERE bit = 2) AS "metadata"
        FROM "staging"."kept_batch_1"
        WHERE row BETWEEN %(first)s AND %(last)s
        GROUP BY row
    ) AS k ON k.row = p.row
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'r'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
      AND r.xmin = p.seen
    RETURNING
        p.row AS line,
        s.number AS undoes,
        s.row, old.id, old.batch_id AS before_batch,
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
        organization_id, record_id, batch_id, row, op, changed, before_batch, undoes,
        "external_id", "item_id", "location_id", "layout_id", "serial_number", "sequence_id", "value", "initial_value", "currency", "barcode", "category", "sub_category", "manifest_id", "disposal_reason_code", "status", "attributes", "maintenance_schedule", "maintenance_status", "purchased_at", "warranty_expires_at", "next_maintenance_at", "disposed_at", "disposal_comment", "metadata"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'u', changed, before_batch, undoes,
        "external_id", "item_id", "location_id", "layout_id", "serial_number", "sequence_id", "value", "initial_value", "currency", "barcode", "category", "sub_category", "manifest_id", "disposal_reason_code", "status", "attributes", "maintenance_schedule", "maintenance_status", "purchased_at", "warranty_expires_at", "next_maintenance_at", "disposed_at", "disposal_comment", "metadata"
    FROM done
    WHERE changed <> 0
)
UPDATE "staging"."plan_batch_1" p SET verdict = '?'
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'r'
  AND NOT EXISTS (SELECT FROM done WHERE done.line = p.row);
