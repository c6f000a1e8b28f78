-- Made by `python tests/loading/rendered_sql.py`: change batch_pipeline/loading, not this file.

-- Chunk: delete records.
WITH done AS (
    DELETE FROM "public"."groups" r USING "staging"."plan_batch_1" p
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'a'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
    RETURNING p.row,
        r.external_id
)
SELECT count(*) FROM done;

-- The same with the change log, if the batch has a result file.
WITH done AS (
    DELETE FROM "public"."groups" r USING "staging"."plan_batch_1" p
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'a'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
    RETURNING p.row,
        r.id, r.batch_id AS before_batch,
        r."external_id",
        r."name",
        r."resource",
        r."location_id",
        r."metadata",
        r."created_at",
        r."updated_at"
), logged AS (
    INSERT INTO "public"."group_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch,
        "external_id", "name", "resource", "location_id", "metadata", "created_at", "updated_at"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'd', 0, before_batch,
        "external_id", "name", "resource", "location_id", "metadata", "created_at", "updated_at"
    FROM done
), noted AS (
    INSERT INTO "staging"."changes_batch_1" (row, external_id)
    SELECT row, external_id FROM done
)
SELECT count(*) FROM done;

-- Then: whether the organization has any links.
SELECT EXISTS (SELECT FROM "public"."group_members" WHERE organization_id = %(organization)s);

-- If so: remove those of the deleted records and log it.
WITH done AS (
    DELETE FROM "public"."group_members" g USING (
        SELECT l."group_id", l."member_id", d.row FROM "public"."group_members" l
        JOIN (
            SELECT record_id AS id, row FROM "staging"."plan_batch_1" WHERE row BETWEEN %(first)s AND %(last)s AND verdict = 'a'
        ) AS d ON d.id = l."group_id"
        WHERE l.organization_id = %(organization)s
        ORDER BY "l"."group_id", "l"."member_id"
        FOR UPDATE OF l
    ) AS found
    WHERE g.organization_id = %(organization)s AND g."group_id" = found."group_id" AND g."member_id" = found."member_id"
    RETURNING found.row, g."group_id" AS own, g."member_id" AS other,
        CASE WHEN old.organization_id IS NULL THEN 'a' WHEN old."is_primary" THEN 'p' ELSE 'm' END::"char" AS before,
        CASE WHEN new.organization_id IS NULL THEN 'a' WHEN new."is_primary" THEN 'p' ELSE 'm' END::"char" AS after
)
INSERT INTO "public"."group_member_changes" (organization_id, "group_id", "member_id", batch_id, row, before, after)
SELECT %(organization)s, own, other, %(batch)s, row, before, after
FROM done
WHERE before <> after;
