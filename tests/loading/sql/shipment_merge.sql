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
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."tracking_number", r."tracking_number"),
                    coalesce(s."provider", r."provider"),
                    jsonb_strip_nulls((coalesce(r."sender", '{}'::jsonb)) || coalesce(s."sender", '{}')),
                    jsonb_strip_nulls((coalesce(r."recipient", '{}'::jsonb)) || coalesce(s."recipient", '{}')),
                    coalesce(s."parcels", r."parcels"),
                    coalesce(s."amount", r."amount"),
                    coalesce(s."billed_amount", r."billed_amount"),
                    coalesce(s."currency", r."currency"),
                    coalesce(s."status", r."status"),
                    coalesce(s."paid", r."paid"),
                    coalesce(s."payment_reference", r."payment_reference"),
                    coalesce(s."rma_number", r."rma_number"),
                    coalesce(s."label_url", r."label_url"),
                    coalesce(s."tracking_url", r."tracking_url"),
                    coalesce(s."coordinates", r."coordinates"),
                    coalesce(s."estimated_delivery_at", r."estimated_delivery_at"),
                    coalesce(s."pickup_at", r."pickup_at"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(('k0' || s."id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."shipments" r ON r.organization_id = %(organization)s
    AND r."id" = s."id"
WHERE s.kind = 0
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND NOT (
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
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."tracking_number", r."tracking_number"),
                    coalesce(s."provider", r."provider"),
                    jsonb_strip_nulls((coalesce(r."sender", '{}'::jsonb)) || coalesce(s."sender", '{}')),
                    jsonb_strip_nulls((coalesce(r."recipient", '{}'::jsonb)) || coalesce(s."recipient", '{}')),
                    coalesce(s."parcels", r."parcels"),
                    coalesce(s."amount", r."amount"),
                    coalesce(s."billed_amount", r."billed_amount"),
                    coalesce(s."currency", r."currency"),
                    coalesce(s."status", r."status"),
                    coalesce(s."paid", r."paid"),
                    coalesce(s."payment_reference", r."payment_reference"),
                    coalesce(s."rma_number", r."rma_number"),
                    coalesce(s."label_url", r."label_url"),
                    coalesce(s."tracking_url", r."tracking_url"),
                    coalesce(s."coordinates", r."coordinates"),
                    coalesce(s."estimated_delivery_at", r."estimated_delivery_at"),
                    coalesce(s."pickup_at", r."pickup_at"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(('k1' || s."external_id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."shipments" r ON r.organization_id = %(organization)s
    AND r."external_id" = s."external_id"
WHERE s.kind = 1
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND NOT (
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
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."tracking_number", r."tracking_number"),
                    coalesce(s."provider", r."provider"),
                    jsonb_strip_nulls((coalesce(r."sender", '{}'::jsonb)) || coalesce(s."sender", '{}')),
                    jsonb_strip_nulls((coalesce(r."recipient", '{}'::jsonb)) || coalesce(s."recipient", '{}')),
                    coalesce(s."parcels", r."parcels"),
                    coalesce(s."amount", r."amount"),
                    coalesce(s."billed_amount", r."billed_amount"),
                    coalesce(s."currency", r."currency"),
                    coalesce(s."status", r."status"),
                    coalesce(s."paid", r."paid"),
                    coalesce(s."payment_reference", r."payment_reference"),
                    coalesce(s."rma_number", r."rma_number"),
                    coalesce(s."label_url", r."label_url"),
                    coalesce(s."tracking_url", r."tracking_url"),
                    coalesce(s."coordinates", r."coordinates"),
                    coalesce(s."estimated_delivery_at", r."estimated_delivery_at"),
                    coalesce(s."pickup_at", r."pickup_at"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(concat_ws(E'\x1f', 'k2', (coalesce(s."tracking_number", '') COLLATE "C"), (coalesce(s."provider", '') COLLATE "C")) COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."shipments" r ON r.organization_id = %(organization)s
    AND (coalesce(r."tracking_number", '') COLLATE "C") = (coalesce(s."tracking_number", '') COLLATE "C")
    AND (coalesce(r."provider", '') COLLATE "C") = (coalesce(s."provider", '') COLLATE "C")
    AND s."tracking_number" IS NOT NULL
WHERE s.kind = 2
ORDER BY row;

-- Chunk: create records.
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
    "metadata"
)
SELECT
    %(organization)s, s.new_id, %(batch)s,
    s."external_id",
    s."tracking_number",
    s."provider",
    jsonb_strip_nulls(coalesce(s."sender", '{}'::jsonb)),
    jsonb_strip_nulls(coalesce(s."recipient", '{}'::jsonb)),
    coalesce(s."parcels", '[]'::jsonb),
    s."amount",
    s."billed_amount",
    coalesce(s."currency", 'usd'::text),
    coalesce(s."status", 'created'::text),
    s."paid",
    s."payment_reference",
    s."rma_number",
    s."label_url",
    s."tracking_url",
    s."coordinates",
    s."estimated_delivery_at",
    s."pickup_at",
    jsonb_strip_nulls(coalesce(s."metadata", '{}'::jsonb))
FROM "staging"."items_batch_1" s
JOIN "staging"."plan_batch_1" p ON p.row = s.row
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'a'
  AND p.record_id IS NULL;

-- The same if each item that the row rules accept creates a record.
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
    "metadata"
)
SELECT
    %(organization)s, s.new_id, %(batch)s,
    s."external_id",
    s."tracking_number",
    s."provider",
    jsonb_strip_nulls(coalesce(s."sender", '{}'::jsonb)),
    jsonb_strip_nulls(coalesce(s."recipient", '{}'::jsonb)),
    coalesce(s."parcels", '[]'::jsonb),
    s."amount",
    s."billed_amount",
    coalesce(s."currency", 'usd'::text),
    coalesce(s."status", 'created'::text),
    s."paid",
    s."payment_reference",
    s."rma_number",
    s."label_url",
    s."tracking_url",
    s."coordinates",
    s."estimated_delivery_at",
    s."pickup_at",
    jsonb_strip_nulls(coalesce(s."metadata", '{}'::jsonb))
FROM "staging"."items_batch_1" s
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND s.invalid = 0
  AND s.kind IS NOT NULL;

-- Chunk: update records that change.
WITH done AS (
    UPDATE "public"."shipments" r
    SET "external_id" = coalesce(s."external_id", r."external_id"),
        "tracking_number" = coalesce(s."tracking_number", r."tracking_number"),
        "provider" = coalesce(s."provider", r."provider"),
        "sender" = jsonb_strip_nulls((coalesce(r."sender", '{}'::jsonb)) || coalesce(s."sender", '{}')),
        "recipient" = jsonb_strip_nulls((coalesce(r."recipient", '{}'::jsonb)) || coalesce(s."recipient", '{}')),
        "parcels" = coalesce(s."parcels", r."parcels"),
        "amount" = coalesce(s."amount", r."amount"),
        "billed_amount" = coalesce(s."billed_amount", r."billed_amount"),
        "currency" = coalesce(s."currency", r."currency"),
        "status" = coalesce(s."status", r."status"),
        "paid" = coalesce(s."paid", r."paid"),
        "payment_reference" = coalesce(s."payment_reference", r."payment_reference"),
        "rma_number" = coalesce(s."rma_number", r."rma_number"),
        "label_url" = coalesce(s."label_url", r."label_url"),
        "tracking_url" = coalesce(s."tracking_url", r."tracking_url"),
        "coordinates" = coalesce(s."coordinates", r."coordinates"),
        "estimated_delivery_at" = coalesce(s."estimated_delivery_at", r."estimated_delivery_at"),
        "pickup_at" = coalesce(s."pickup_at", r."pickup_at"),
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
    UPDATE "public"."shipments" r
    SET "external_id" = CASE WHEN (s.cleared >> 1) & 1 = 1 THEN NULL::text ELSE coalesce(s."external_id", r."external_id") END,
        "tracking_number" = CASE WHEN (s.cleared >> 2) & 1 = 1 THEN NULL::text ELSE coalesce(s."tracking_number", r."tracking_number") END,
        "provider" = CASE WHEN (s.cleared >> 3) & 1 = 1 THEN NULL::text ELSE coalesce(s."provider", r."provider") END,
        "sender" = jsonb_strip_nulls((CASE WHEN (s.cleared >> 4) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."sender", '{}'::jsonb) END) || coalesce(s."sender", '{}')),
        "recipient" = jsonb_strip_nulls((CASE WHEN (s.cleared >> 5) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."recipient", '{}'::jsonb) END) || coalesce(s."recipient", '{}')),
        "parcels" = CASE WHEN (s.cleared >> 6) & 1 = 1 THEN '[]'::jsonb ELSE coalesce(s."parcels", r."parcels") END,
        "amount" = CASE WHEN (s.cleared >> 7) & 1 = 1 THEN NULL::numeric(17,2) ELSE coalesce(s."amount", r."amount") END,
        "billed_amount" = CASE WHEN (s.cleared >> 8) & 1 = 1 THEN NULL::numeric(17,2) ELSE coalesce(s."billed_amount", r."billed_amount") END,
        "currency" = CASE WHEN (s.cleared >> 9) & 1 = 1 THEN 'usd'::text ELSE coalesce(s."currency", r."currency") END,
        "status" = CASE WHEN (s.cleared >> 10) & 1 = 1 THEN 'created'::text ELSE coalesce(s."status", r."status") END,
        "paid" = CASE WHEN (s.cleared >> 11) & 1 = 1 THEN NULL::boolean ELSE coalesce(s."paid", r."paid") END,
        "payment_reference" = CASE WHEN (s.cleared >> 12) & 1 = 1 THEN NULL::text ELSE coalesce(s."payment_reference", r."payment_reference") END,
        "rma_number" = CASE WHEN (s.cleared >> 13) & 1 = 1 THEN NULL::text ELSE coalesce(s."rma_number", r."rma_number") END,
        "label_url" = CASE WHEN (s.cleared >> 14) & 1 = 1 THEN NULL::text ELSE coalesce(s."label_url", r."label_url") END,
        "tracking_url" = CASE WHEN (s.cleared >> 15) & 1 = 1 THEN NULL::text ELSE coalesce(s."tracking_url", r."tracking_url") END,
        "coordinates" = CASE WHEN (s.cleared >> 16) & 1 = 1 THEN NULL::jsonb ELSE coalesce(s."coordinates", r."coordinates") END,
        "estimated_delivery_at" = CASE WHEN (s.cleared >> 17) & 1 = 1 THEN NULL::timestamptz ELSE coalesce(s."estimated_delivery_at", r."estimated_delivery_at") END,
        "pickup_at" = CASE WHEN (s.cleared >> 18) & 1 = 1 THEN NULL::timestamptz ELSE coalesce(s."pickup_at", r."pickup_at") END,
        "metadata" = jsonb_strip_nulls((CASE WHEN (s.cleared >> 19) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."metadata", '{}'::jsonb) END) || coalesce(s."metadata", '{}')),
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
        organization_id, record_id, batch_id, row, op, changed, before_batch,
        "external_id", "tracking_number", "provider", "sender", "recipient", "parcels", "amount", "billed_amount", "currency", "status", "paid", "payment_reference", "rma_number", "label_url", "tracking_url", "coordinates", "estimated_delivery_at", "pickup_at", "metadata"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'u', changed, before_batch,
        "external_id", "tracking_number", "provider", "sender", "recipient", "parcels", "amount", "billed_amount", "currency", "status", "paid", "payment_reference", "rma_number", "label_url", "tracking_url", "coordinates", "estimated_delivery_at", "pickup_at", "metadata"
    FROM done
    WHERE changed <> 0
), noted AS (
    INSERT INTO "staging"."changes_batch_1" (row)
    SELECT row FROM done
)
SELECT count(*) FROM done;
