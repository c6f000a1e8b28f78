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
       CASE WHEN r.id IS NULL THEN hashtextextended(('k0' || s."id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."trackers" r ON r.organization_id = %(organization)s
    AND r."id" = s."id"
WHERE s.kind = 0
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
       CASE WHEN r.id IS NULL THEN hashtextextended(('k1' || s."external_id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."trackers" r ON r.organization_id = %(organization)s
    AND r."external_id" = s."external_id"
WHERE s.kind = 1
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
       CASE WHEN r.id IS NULL THEN hashtextextended(concat_ws(E'\x1f', 'k2', (coalesce(s."tracking_number", '') COLLATE "C"), (coalesce(s."provider_id", '') COLLATE "C")) COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."trackers" r ON r.organization_id = %(organization)s
    AND (coalesce(r."tracking_number", '') COLLATE "C") = (coalesce(s."tracking_number", '') COLLATE "C")
    AND (coalesce(r."provider_id", '') COLLATE "C") = (coalesce(s."provider_id", '') COLLATE "C")
    AND s."tracking_number" IS NOT NULL
WHERE s.kind = 2
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

-- The same if each item that the row rules accept creates a record.
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
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND s.invalid = 0
  AND s.kind IS NOT NULL;

-- Chunk: update records that change.
WITH done AS (
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
      AND r.id = p.record_id
    RETURNING s.row
)
SELECT count(*) FROM done;

-- The same with the change log, if some item clears a field and the batch has a result file.
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
    RETURNING s.row, old.id, old.batch_id AS before_batch,
        CASE WHEN old."external_id" IS DISTINCT FROM new."external_id" THEN 2 ELSE 0 END
            | CASE WHEN old."tracking_number" IS DISTINCT FROM new."tracking_number" THEN 8 ELSE 0 END
            | CASE WHEN old."provider_id" IS DISTINCT FROM new."provider_id" THEN 16 ELSE 0 END
            | CASE WHEN old."type" IS DISTINCT FROM new."type" THEN 32 ELSE 0 END
            | CASE WHEN old."tags" IS DISTINCT FROM new."tags" THEN 64 ELSE 0 END
            | CASE WHEN old."status" IS DISTINCT FROM new."status" THEN 128 ELSE 0 END
            | CASE WHEN old."estimated_delivery_at" IS DISTINCT FROM new."estimated_delivery_at" THEN 256 ELSE 0 END
            | CASE WHEN old."tracking_url" IS DISTINCT FROM new."tracking_url" THEN 512 ELSE 0 END
            | CASE WHEN old."location_id" IS DISTINCT FROM new."location_id" THEN 1024 ELSE 0 END
            | CASE WHEN old."metadata" IS DISTINCT FROM new."metadata" THEN 4 ELSE 0 END AS changed,
        nullif(old."external_id", new."external_id") AS "external_id",
        nullif(old."tracking_number", new."tracking_number") AS "tracking_number",
        nullif(old."provider_id", new."provider_id") AS "provider_id",
        nullif(old."type", new."type") AS "type",
        nullif(old."tags", new."tags") AS "tags",
        nullif(old."status", new."status") AS "status",
        nullif(old."estimated_delivery_at", new."estimated_delivery_at") AS "estimated_delivery_at",
        nullif(old."tracking_url", new."tracking_url") AS "tracking_url",
        nullif(old."location_id", new."location_id") AS "location_id",
        CASE WHEN old."metadata" IS DISTINCT FROM new."metadata"
            THEN public.changed_keys(old."metadata", new."metadata") END AS "metadata"
), logged AS (
    INSERT INTO "public"."tracker_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch,
        "external_id", "tracking_number", "provider_id", "type", "tags", "status", "estimated_delivery_at", "tracking_url", "location_id", "metadata"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'u', changed, before_batch,
        "external_id", "tracking_number", "provider_id", "type", "tags", "status", "estimated_delivery_at", "tracking_url", "location_id", "metadata"
    FROM done
    WHERE changed <> 0
), noted AS (
    INSERT INTO "staging"."changes_batch_1" (row)
    SELECT row FROM done
)
SELECT count(*) FROM done;
