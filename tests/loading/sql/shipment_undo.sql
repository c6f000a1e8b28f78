-- Made by `python tests/loading/rendered_sql.py`: change batch_pipeline/loading, not this file.

-- Chunk: delete records that the undone batch created and log it.
WITH done AS (
    DELETE FROM "public"."shipments" r USING "staging"."plan_batch_1" p
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
        r."tracking_number",
        r."provider",
        r."sender",
        r."recipient",
        r."parcels",
        r."amount",
        r."billed_amount",
        r."currency",
        r."status",
        r."paid",
        r."payment_reference",
        r."rma_number",
        r."label_url",
        r."tracking_url",
        r."coordinates",
        r."estimated_delivery_at",
        r."pickup_at",
        r."metadata",
        r."created_at",
        r."updated_at"
), logged AS (
    INSERT INTO "public"."shipment_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch, undoes,
        "external_id", "tracking_number", "provider", "sender", "recipient", "parcels", "amount", "billed_amount", "currency", "status", "paid", "payment_reference", "rma_number", "label_url", "tracking_url", "coordinates", "estimated_delivery_at", "pickup_at", "metadata", "created_at", "updated_at"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'd', 0, before_batch, undoes,
        "external_id", "tracking_number", "provider", "sender", "recipient", "parcels", "amount", "billed_amount", "currency", "status", "paid", "payment_reference", "rma_number", "label_url", "tracking_url", "coordinates", "estimated_delivery_at", "pickup_at", "metadata", "created_at", "updated_at"
    FROM done
)
UPDATE "staging"."plan_batch_1" p SET verdict = '?'
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'd'
  AND NOT EXISTS (SELECT FROM done WHERE done.row = p.row);

-- Chunk: restore records that it deleted and log it.
WITH done AS (
    INSERT INTO "public"."shipments" (
    organization_id, id, batch_id,
    "external_id",
    "tracking_number",
    "provider",
    "sender",
    "recipient",
    "parcels",
    "amount",
    "billed_amount",
    "currency",
    "status",
    "paid",
    "payment_reference",
    "rma_number",
    "label_url",
    "tracking_url",
    "coordinates",
    "estimated_delivery_at",
    "pickup_at",
    "metadata",
    "created_at"
)
    SELECT %(organization)s, p.record_id, %(batch)s,
    "s"."external_id",
    "s"."tracking_number",
    "s"."provider",
    "s"."sender",
    "s"."recipient",
    "s"."parcels",
    "s"."amount",
    "s"."billed_amount",
    "s"."currency",
    "s"."status",
    "s"."paid",
    "s"."payment_reference",
    "s"."rma_number",
    "s"."label_url",
    "s"."tracking_url",
    "s"."coordinates",
    "s"."estimated_delivery_at",
    "s"."pickup_at",
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
    INSERT INTO "public"."shipment_changes" (organization_id, record_id, batch_id, row, op, changed, undoes)
    SELECT %(organization)s, p.record_id, %(batch)s, p.row, 'i', 0, p.number
    FROM done
    JOIN "staging"."plan_batch_1" p ON p.record_id = done.id AND p.row BETWEEN %(first)s AND %(last)s
)
UPDATE "staging"."plan_batch_1" p SET verdict = 'c', by_record = (
    SELECT min(r.id) FROM "public"."shipments" r
    WHERE r.organization_id = %(organization)s AND (r.id = p.record_id OR r.external_id = s.external_id)
)
FROM "staging"."items_batch_1" s
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND s.row = p.row
  AND p.verdict = 'i'
  AND NOT EXISTS (SELECT FROM done WHERE done.id = p.record_id);

-- Chunk: change fields back and log it.
WITH done AS (
    UPDATE "public"."shipments" r
    SET "external_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 1) & 1 = 1 THEN s."external_id" ELSE r."external_id" END,
    "tracking_number" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 3) & 1 = 1 THEN s."tracking_number" ELSE r."tracking_number" END,
    "provider" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 4) & 1 = 1 THEN s."provider" ELSE r."provider" END,
    "sender" = CASE WHEN s."sender" IS NULL OR jsonb_typeof(r."sender") <> 'object' THEN r."sender"
        ELSE coalesce(r."sender", '{}'::jsonb) - ARRAY(SELECT jsonb_object_keys(s."sender" - coalesce(k."sender", '{}'))) || (
            SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE value <> 'null'), '{}')
            FROM jsonb_each(s."sender" - coalesce(k."sender", '{}'))
        ) END,
    "recipient" = CASE WHEN s."recipient" IS NULL OR jsonb_typeof(r."recipient") <> 'object' THEN r."recipient"
        ELSE coalesce(r."recipient", '{}'::jsonb) - ARRAY(SELECT jsonb_object_keys(s."recipient" - coalesce(k."recipient", '{}'))) || (
            SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE value <> 'null'), '{}')
            FROM jsonb_each(s."recipient" - coalesce(k."recipient", '{}'))
        ) END,
    "parcels" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 7) & 1 = 1 THEN s."parcels" ELSE r."parcels" END,
    "amount" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 8) & 1 = 1 THEN s."amount" ELSE r."amount" END,
    "billed_amount" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 9) & 1 = 1 THEN s."billed_amount" ELSE r."billed_amount" END,
    "currency" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 10) & 1 = 1 THEN s."currency" ELSE r."currency" END,
    "status" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 11) & 1 = 1 THEN s."status" ELSE r."status" END,
    "paid" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 12) & 1 = 1 THEN s."paid" ELSE r."paid" END,
    "payment_reference" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 13) & 1 = 1 THEN s."payment_reference" ELSE r."payment_reference" END,
    "rma_number" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 14) & 1 = 1 THEN s."rma_number" ELSE r."rma_number" END,
    "label_url" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 15) & 1 = 1 THEN s."label_url" ELSE r."label_url" END,
    "tracking_url" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 16) & 1 = 1 THEN s."tracking_url" ELSE r."tracking_url" END,
    "coordinates" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 17) & 1 = 1 THEN s."coordinates" ELSE r."coordinates" END,
    "estimated_delivery_at" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 18) & 1 = 1 THEN s."estimated_delivery_at" ELSE r."estimated_delivery_at" END,
    "pickup_at" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 19) & 1 = 1 THEN s."pickup_at" ELSE r."pickup_at" END,
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
        SELECT row, bit_or(1::bigint << bit) FILTER (WHERE key = '') AS fields, array_agg(key) FILTER (WHERE bit = 5) AS "sender", array_agg(key) FILTER (WHERE bit = 6) AS "recipient", array_agg(key) FILTER (WHERE bit = 2) AS "metadata"
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
            | CASE WHEN old."tracking_number" IS DISTINCT FROM new."tracking_number" THEN 8 ELSE 0 END
            | CASE WHEN old."provider" IS DISTINCT FROM new."provider" THEN 16 ELSE 0 END
            | CASE WHEN old."sender" IS DISTINCT FROM new."sender" THEN 32 ELSE 0 END
            | CASE WHEN old."recipient" IS DISTINCT FROM new."recipient" THEN 64 ELSE 0 END
            | CASE WHEN old."parcels" IS DISTINCT FROM new."parcels" THEN 128 ELSE 0 END
            | CASE WHEN old."amount" IS DISTINCT FROM new."amount" THEN 256 ELSE 0 END
            | CASE WHEN old."billed_amount" IS DISTINCT FROM new."billed_amount" THEN 512 ELSE 0 END
            | CASE WHEN old."currency" IS DISTINCT FROM new."currency" THEN 1024 ELSE 0 END
            | CASE WHEN old."status" IS DISTINCT FROM new."status" THEN 2048 ELSE 0 END
            | CASE WHEN old."paid" IS DISTINCT FROM new."paid" THEN 4096 ELSE 0 END
            | CASE WHEN old."payment_reference" IS DISTINCT FROM new."payment_reference" THEN 8192 ELSE 0 END
            | CASE WHEN old."rma_number" IS DISTINCT FROM new."rma_number" THEN 16384 ELSE 0 END
            | CASE WHEN old."label_url" IS DISTINCT FROM new."label_url" THEN 32768 ELSE 0 END
            | CASE WHEN old."tracking_url" IS DISTINCT FROM new."tracking_url" THEN 65536 ELSE 0 END
            | CASE WHEN old."coordinates" IS DISTINCT FROM new."coordinates" THEN 131072 ELSE 0 END
            | CASE WHEN old."estimated_delivery_at" IS DISTINCT FROM new."estimated_delivery_at" THEN 262144 ELSE 0 END
            | CASE WHEN old."pickup_at" IS DISTINCT FROM new."pickup_at" THEN 524288 ELSE 0 END
            | CASE WHEN old."metadata" IS DISTINCT FROM new."metadata" THEN 4 ELSE 0 END AS changed,
        nullif(old."external_id", new."external_id") AS "external_id",
        nullif(old."tracking_number", new."tracking_number") AS "tracking_number",
        nullif(old."provider", new."provider") AS "provider",
        CASE WHEN old."sender" IS DISTINCT FROM new."sender"
            THEN public.changed_keys(old."sender", new."sender") END AS "sender",
        CASE WHEN old."recipient" IS DISTINCT FROM new."recipient"
            THEN public.changed_keys(old."recipient", new."recipient") END AS "recipient",
        nullif(old."parcels", new."parcels") AS "parcels",
        nullif(old."amount", new."amount") AS "amount",
        nullif(old."billed_amount", new."billed_amount") AS "billed_amount",
        nullif(old."currency", new."currency") AS "currency",
        nullif(old."status", new."status") AS "status",
        nullif(old."paid", new."paid") AS "paid",
        nullif(old."payment_reference", new."payment_reference") AS "payment_reference",
        nullif(old."rma_number", new."rma_number") AS "rma_number",
        nullif(old."label_url", new."label_url") AS "label_url",
        nullif(old."tracking_url", new."tracking_url") AS "tracking_url",
        nullif(old."coordinates", new."coordinates") AS "coordinates",
        nullif(old."estimated_delivery_at", new."estimated_delivery_at") AS "estimated_delivery_at",
        nullif(old."pickup_at", new."pickup_at") AS "pickup_at",
        CASE WHEN old."metadata" IS DISTINCT FROM new."metadata"
            THEN public.changed_keys(old."metadata", new."metadata") END AS "metadata"
), logged AS (
    INSERT INTO "public"."shipment_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch, undoes,
        "external_id", "tracking_number", "provider", "sender", "recipient", "parcels", "amount", "billed_amount", "currency", "status", "paid", "payment_reference", "rma_number", "label_url", "tracking_url", "coordinates", "estimated_delivery_at", "pickup_at", "metadata"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'u', changed, before_batch, undoes,
        "external_id", "tracking_number", "provider", "sender", "recipient", "parcels", "amount", "billed_amount", "currency", "status", "paid", "payment_reference", "rma_number", "label_url", "tracking_url", "coordinates", "estimated_delivery_at", "pickup_at", "metadata"
    FROM done
    WHERE changed <> 0
)
UPDATE "staging"."plan_batch_1" p SET verdict = '?'
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'r'
  AND NOT EXISTS (SELECT FROM done WHERE done.line = p.row);
