-- Made by `python tests/loading/rendered_sql.py`: change batch_pipeline/loading, not this file.

-- Chunk: delete records that the undone batch created and log it.
WITH done AS (
    DELETE FROM "public"."trackers" r USING "staging"."plan_batch_1" p
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
        r."provider_id",
        r."type",
        r."tags",
        r."status",
        r."estimated_delivery_at",
        r."tracking_url",
        r."location_id",
        r."metadata",
        r."created_at",
        r."updated_at"
), logged AS (
    INSERT INTO "public"."tracker_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch, undoes,
        "external_id", "tracking_number", "provider_id", "type", "tags", "status", "estimated_delivery_at", "tracking_url", "location_id", "metadata", "created_at", "updated_at"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'd', 0, before_batch, undoes,
        "external_id", "tracking_number", "provider_id", "type", "tags", "status", "estimated_delivery_at", "tracking_url", "location_id", "metadata", "created_at", "updated_at"
    FROM done
)
UPDATE "staging"."plan_batch_1" p SET verdict = '?'
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'd'
  AND NOT EXISTS (SELECT FROM done WHERE done.row = p.row);

-- Chunk: restore records that it deleted and log it.
WITH done AS (
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
    "metadata",
    "created_at"
)
    SELECT %(organization)s, p.record_id, %(batch)s,
    "s"."external_id",
    "s"."tracking_number",
    "s"."provider_id",
    "s"."type",
    "s"."tags",
    "s"."status",
    "s"."estimated_delivery_at",
    "s"."tracking_url",
    "s"."location_id",
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
    INSERT INTO "public"."tracker_changes" (organization_id, record_id, batch_id, row, op, changed, undoes)
    SELECT %(organization)s, p.record_id, %(batch)s, p.row, 'i', 0, p.number
    FROM done
    JOIN "staging"."plan_batch_1" p ON p.record_id = done.id AND p.row BETWEEN %(first)s AND %(last)s
)
UPDATE "staging"."plan_batch_1" p SET verdict = 'c', by_record = (
    SELECT min(r.id) FROM "public"."trackers" r
    WHERE r.organization_id = %(organization)s AND (r.id = p.record_id OR r.external_id = s.external_id)
)
FROM "staging"."items_batch_1" s
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND s.row = p.row
  AND p.verdict = 'i'
  AND NOT EXISTS (SELECT FROM done WHERE done.id = p.record_id);

-- Chunk: change fields back and log it.
WITH done AS (
    UPDATE "public"."trackers" r
    SET "external_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 1) & 1 = 1 THEN s."external_id" ELSE r."external_id" END,
    "tracking_number" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 3) & 1 = 1 THEN s."tracking_number" ELSE r."tracking_number" END,
    "provider_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 4) & 1 = 1 THEN s."provider_id" ELSE r."provider_id" END,
    "type" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 5) & 1 = 1 THEN s."type" ELSE r."type" END,
    "tags" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 6) & 1 = 1 THEN s."tags" ELSE r."tags" END,
    "status" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 7) & 1 = 1 THEN s."status" ELSE r."status" END,
    "estimated_delivery_at" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 8) & 1 = 1 THEN s."estimated_delivery_at" ELSE r."estimated_delivery_at" END,
    "tracking_url" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 9) & 1 = 1 THEN s."tracking_url" ELSE r."tracking_url" END,
    "location_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 10) & 1 = 1 THEN s."location_id" ELSE r."location_id" END,
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
        organization_id, record_id, batch_id, row, op, changed, before_batch, undoes,
        "external_id", "tracking_number", "provider_id", "type", "tags", "status", "estimated_delivery_at", "tracking_url", "location_id", "metadata"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'u', changed, before_batch, undoes,
        "external_id", "tracking_number", "provider_id", "type", "tags", "status", "estimated_delivery_at", "tracking_url", "location_id", "metadata"
    FROM done
    WHERE changed <> 0
)
UPDATE "staging"."plan_batch_1" p SET verdict = '?'
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'r'
  AND NOT EXISTS (SELECT FROM done WHERE done.line = p.row);
