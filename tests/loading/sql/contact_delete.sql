-- Made by `python tests/loading/rendered_sql.py`: change batch_pipeline/loading, not this file.

-- Chunk: delete records.
DELETE FROM "public"."contacts" r USING "staging"."plan_batch_1" p
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'a'
  AND r.organization_id = %(organization)s
  AND r.id = p.record_id;

-- The same if the batch has a result file.
WITH done AS (
    DELETE FROM "public"."contacts" r USING "staging"."plan_batch_1" p
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'a'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
    RETURNING p.row, r.external_id
)
INSERT INTO "staging"."changes_batch_1" (row, external_id)
SELECT row, external_id FROM done;

-- Then: whether the organization has any links.
SELECT EXISTS (SELECT FROM "public"."group_members" WHERE organization_id = %(organization)s);

-- If so: remove those of the deleted records.
DELETE FROM "public"."group_members" g USING (
    SELECT l."group_id", l."member_id" FROM "public"."group_members" l
    WHERE l.organization_id = %(organization)s AND l."member_id" IN (
        SELECT record_id FROM "staging"."plan_batch_1" WHERE row BETWEEN %(first)s AND %(last)s AND verdict = 'a'
    )
    ORDER BY "l"."group_id", "l"."member_id"
    FOR UPDATE OF l
) AS found
WHERE g.organization_id = %(organization)s AND g."group_id" = found."group_id" AND g."member_id" = found."member_id";
