-- Made by `python tests/loading/rendered_sql.py`: change batch_pipeline/loading, not this file.

-- Plan: the record of each item, by the item's deciding key, and whether the item changes it.
SELECT s.row, 'r'::"char" AS verdict, NULL::text COLLATE "C" AS record_id, s.kind, 0::smallint AS matches,
       NULL::bigint AS target
FROM "staging"."items_batch_1" s
WHERE s.kind IS NULL AND NOT s.row <@ %(done)s::int8multirange
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND NOT (
                    r."external_id",
                    r."tracking_number",
                    r."provider_id",
                    r."type",
                    r."tags",
                    r."status",
                    r."estimated_delivery_at",
                    r."tracking_url",
                    r."location_id",
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."tracking_number", r."tracking_number"),
                    coalesce(s."provider_id", r."provider_id"),
                    coalesce(s."type", r."type"),
                    coalesce(s."tags", r."tags"),
                    coalesce(s."status", r."status"),
                    coalesce(s."estimated_delivery_at", r."estimated_delivery_at"),
                    coalesce(s."tracking_url", r."tracking_url"),
                    coalesce(s."location_id", r."location_id"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       hashtextextended(coalesce('r' || r.id, ('k0' || s."id") COLLATE "C"), 0) AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."trackers" r ON r.organization_id = %(organization)s
    AND r."id" = s."id"
WHERE s.kind = 0 AND NOT s.row <@ %(done)s::int8multirange
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND NOT (
                    r."external_id",
                    r."tracking_number",
                    r."provider_id",
                    r."type",
                    r."tags",
                    r."status",
                    r."estimated_delivery_at",
                    r."tracking_url",
                    r."location_id",
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."tracking_number", r."tracking_number"),
                    coalesce(s."provider_id", r."provider_id"),
                    coalesce(s."type", r."type"),
                    coalesce(s."tags", r."tags"),
                    coalesce(s."status", r."status"),
                    coalesce(s."estimated_delivery_at", r."estimated_delivery_at"),
                    coalesce(s."tracking_url", r."tracking_url"),
                    coalesce(s."location_id", r."location_id"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       hashtextextended(coalesce('r' || r.id, ('k1' || s."external_id") COLLATE "C"), 0) AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."trackers" r ON r.organization_id = %(organization)s
    AND r."external_id" = s."external_id"
WHERE s.kind = 1 AND NOT s.row <@ %(done)s::int8multirange
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND NOT (
                    r."external_id",
                    r."tracking_number",
                    r."provider_id",
                    r."type",
                    r."tags",
                    r."status",
                    r."estimated_delivery_at",
                    r."tracking_url",
                    r."location_id",
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."tracking_number", r."tracking_number"),
                    coalesce(s."provider_id", r."provider_id"),
                    coalesce(s."type", r."type"),
                    coalesce(s."tags", r."tags"),
                    coalesce(s."status", r."status"),
                    coalesce(s."estimated_delivery_at", r."estimated_delivery_at"),
                    coalesce(s."tracking_url", r."tracking_url"),
                    coalesce(s."location_id", r."location_id"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       hashtextextended(coalesce('r' || r.id, concat_ws(E'\x1f', 'k2', (coalesce(s."tracking_number", '') COLLATE "C"), (coalesce(s."provider_id", '') COLLATE "C")) COLLATE "C"), 0) AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."trackers" r ON r.organization_id = %(organization)s
    AND (coalesce(r."tracking_number", '') COLLATE "C") = (coalesce(s."tracking_number", '') COLLATE "C")
    AND (coalesce(r."provider_id", '') COLLATE "C") = (coalesce(s."provider_id", '') COLLATE "C")
    AND s."tracking_number" IS NOT NULL
WHERE s.kind = 2 AND NOT s.row <@ %(done)s::int8multirange
UNION ALL
SELECT p.row, p.verdict, p.record_id, NULL, 1,
       CASE WHEN p.verdict IN ('a', 'u') THEN hashtextextended('r' || coalesce(p.record_id, s.new_id), 0) END
FROM "staging"."plan_batch_1" p
JOIN "staging"."items_batch_1" s ON s.row = p.row
WHERE p.row <@ %(done)s::int8multirange
ORDER BY row;

-- Chunk: create records.
INSERT INTO "public"."trackers" (
    organization_id, id, batch_id,
    "external_id",
    "tracking_number",
    "provider_id",
    "type",
    "tags",
    "status",
    "estimated_delivery_at",
    "tracking_url",
    "location_id",
    "metadata"
)
SELECT
    %(organization)s, s.new_id, %(batch)s,
    s."external_id",
    s."tracking_number",
    s."provider_id",
    coalesce(s."type", 'outbound'::text),
    coalesce(s."tags", '[]'::jsonb),
    coalesce(s."status", 'package_at_waypoint'::text),
    s."estimated_delivery_at",
    s."tracking_url",
    s."location_id",
    jsonb_strip_nulls(coalesce(s."metadata", '{}'::jsonb))
FROM "staging"."items_batch_1" s
JOIN "staging"."plan_batch_1" p ON p.row = s.row
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'a'
  AND p.record_id IS NULL;

-- Chunk: update records that change.
UPDATE "public"."trackers" r
SET "external_id" = coalesce(s."external_id", r."external_id"),
    "tracking_number" = coalesce(s."tracking_number", r."tracking_number"),
    "provider_id" = coalesce(s."provider_id", r."provider_id"),
    "type" = coalesce(s."type", r."type"),
    "tags" = coalesce(s."tags", r."tags"),
    "status" = coalesce(s."status", r."status"),
    "estimated_delivery_at" = coalesce(s."estimated_delivery_at", r."estimated_delivery_at"),
    "tracking_url" = coalesce(s."tracking_url", r."tracking_url"),
    "location_id" = coalesce(s."location_id", r."location_id"),
    "metadata" = jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}')),
    updated_at = now(),
    batch_id = %(batch)s
FROM "staging"."items_batch_1" s
JOIN "staging"."plan_batch_1" p ON p.row = s.row
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'a'
  AND r.organization_id = %(organization)s
  AND r.id = p.record_id;

-- The same if some item clears a field and the batch has a result file.
WITH done AS (
    UPDATE "public"."trackers" r
    SET "external_id" = CASE WHEN (s.cleared >> 1) & 1 = 1 THEN NULL::text ELSE coalesce(s."external_id", r."external_id") END,
        "tracking_number" = CASE WHEN (s.cleared >> 2) & 1 = 1 THEN NULL::text ELSE coalesce(s."tracking_number", r."tracking_number") END,
        "provider_id" = CASE WHEN (s.cleared >> 3) & 1 = 1 THEN NULL::text ELSE coalesce(s."provider_id", r."provider_id") END,
        "type" = CASE WHEN (s.cleared >> 4) & 1 = 1 THEN 'outbound'::text ELSE coalesce(s."type", r."type") END,
        "tags" = CASE WHEN (s.cleared >> 5) & 1 = 1 THEN '[]'::jsonb ELSE coalesce(s."tags", r."tags") END,
        "status" = CASE WHEN (s.cleared >> 6) & 1 = 1 THEN 'package_at_waypoint'::text ELSE coalesce(s."status", r."status") END,
        "estimated_delivery_at" = CASE WHEN (s.cleared >> 7) & 1 = 1 THEN NULL::timestamptz ELSE coalesce(s."estimated_delivery_at", r."estimated_delivery_at") END,
        "tracking_url" = CASE WHEN (s.cleared >> 8) & 1 = 1 THEN NULL::text ELSE coalesce(s."tracking_url", r."tracking_url") END,
        "location_id" = CASE WHEN (s.cleared >> 9) & 1 = 1 THEN NULL::text ELSE coalesce(s."location_id", r."location_id") END,
        "metadata" = jsonb_strip_nulls((CASE WHEN (s.cleared >> 10) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."metadata", '{}'::jsonb) END) || coalesce(s."metadata", '{}')),
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
INSERT INTO "staging"."changes_batch_1" (row)
SELECT row FROM done;
