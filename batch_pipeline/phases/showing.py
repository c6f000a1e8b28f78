"""Shows the plan of a batch and compares it with the plan that was shown before."""

from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import sql

from batch_pipeline.batches.facts import BatchFacts
from batch_pipeline.batches.locks import planned_version
from batch_pipeline.batches.model import Action, PhaseName
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.database import Connection
from batch_pipeline.loading.bulk_copy import fetch_table
from batch_pipeline.loading.plan import count_records
from batch_pipeline.loading.plan_warnings import plan_warnings
from batch_pipeline.loading.preview import LINES_DIFFER, Preview, preview_query
from batch_pipeline.loading.reference_fields import referred_resources
from batch_pipeline.loading.undo_preview import undo_preview_query
from batch_pipeline.payloads.artifacts import PLAN_SCHEMA, PlanWriter
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.items import restore_items
from batch_pipeline.phases.planning import TUNING, make_plan, require_valid_items
from batch_pipeline.phases.undo import undo_statements
from batch_pipeline.storage import keys

# As many as a person reads (`plan-apply-undo.md`). The artifacts have all.
MOST_SAMPLES = 20
MOST_DELETIONS = 100
MOST_DIFFERENCES = 100

_LINES = """\
SELECT v.row, v.outcome, v.id, v.external_id, v.changes::text, e.errors::text, {was}
FROM {preview} v
LEFT JOIN (
    SELECT row, jsonb_agg(jsonb_build_object('code', code, 'field', field, 'message', message, 'value', value)
                          ORDER BY step, number) AS errors
    FROM {errors}
    WHERE row BETWEEN %(first)s AND %(last)s
    GROUP BY row
) e ON e.row = v.row
{shown}
WHERE v.row BETWEEN %(first)s AND %(last)s
ORDER BY v.row"""

_JOIN_SHOWN = "LEFT JOIN {shown} o ON o.row = v.row AND o.row BETWEEN %(first)s AND %(last)s"

_WAS = """\
CASE WHEN {differ}
            THEN jsonb_build_object('outcome', o.outcome, 'id', o.id, 'changes', o.changes)::text END"""

_DELETIONS = """\
SELECT NULL::bigint, 'overwrite', v.id, v.external_id, NULL::text, NULL::text, NULL::text
FROM {preview} v
WHERE v.row IS NULL AND v.id > %(after)s
ORDER BY v.id
LIMIT {most}"""

# A record that the shown plan would have deleted and this one keeps has a line as well.
_COMPARED_DELETIONS = """\
SELECT NULL::bigint, CASE WHEN v.id IS NULL THEN 'unchanged' ELSE 'overwrite' END, coalesce(v.id, o.id),
       coalesce(v.external_id, o.external_id), NULL::text, NULL::text,
       CASE WHEN v.id IS NULL THEN jsonb_build_object('outcome', 'overwrite', 'id', o.id, 'changes', NULL)::text
            WHEN o.id IS NULL THEN 'null' END
FROM (SELECT id, external_id FROM {preview} WHERE row IS NULL) v
FULL JOIN (SELECT id, external_id FROM {shown} WHERE row IS NULL) o ON o.id = v.id
WHERE coalesce(v.id, o.id) > %(after)s
ORDER BY coalesce(v.id, o.id)
LIMIT {most}"""


def show_plan(attempt: Attempt, facts: BatchFacts) -> None:
    """Stores the plan for people, with its artifacts, and sets status `planned`. Validation has made the plan."""
    with attempt.borrow(**TUNING) as connection:
        _make_preview(connection, attempt, facts)
        shown = _shown_plan(connection, attempt, digest=_preview(connection, attempt).digest())
        connection.commit()
    _write_plan(attempt, is_compared=False)
    _store(attempt, shown)


def show_plan_again(attempt: Attempt) -> None:
    """Makes the plan of a validated batch anew, for a re-executed run, and shows it."""
    restore_items(attempt)
    with attempt.borrow(**TUNING) as connection:
        facts = attempt.batch.facts
        version = planned_version(connection, attempt.batch, referred_resources(attempt.resource, facts.fields))
        plan = make_plan(connection, attempt, facts, PhaseName.validation)
        connection.commit()
    require_valid_items(attempt, plan.facts)
    attempt.batch = attempt.system.ledger.update(
        attempt.batch.id, attempt.run_id, work=plan.facts.to_row(), plan_version=version
    )
    show_plan(attempt, plan.facts)


def compare_plan(connection: Connection, attempt: Attempt, facts: BatchFacts) -> dict[str, Any] | None:
    """Makes the preview of the plan that was just made; returns it as shown if it differs from the shown one.

    In the transaction of the plan.
    """
    staging = attempt.staging
    preview = _preview(connection, attempt)
    before = (attempt.batch.plan or {}).get("digest")
    # Only the preview that was shown is compared. A run that died after it had made another plan left that one.
    if preview.digest() == before:
        staging.keep_shown(connection)
    _make_preview(connection, attempt, facts)
    now = preview.digest()
    if now == before:
        return None
    return _shown_plan(connection, attempt, digest=now) | {"difference": preview.difference(MOST_DIFFERENCES)}


def write_changed_plan(attempt: Attempt) -> None:
    """Replaces the artifacts by those of the plan that `compare_plan` returned."""
    _write_plan(attempt, is_compared=True)


def show_changed_plan(attempt: Attempt, shown: dict[str, Any]) -> None:
    """Shows the plan that `compare_plan` returned, with its artifacts, instead of the one before. Status `planned`."""
    write_changed_plan(attempt)
    _store(attempt, shown)
    with attempt.borrow_untimed() as connection:
        attempt.staging.drop_shown(connection)


def _store(attempt: Attempt, shown: dict[str, Any]) -> None:
    expires_at = datetime.fromtimestamp(shown["expires_at"], UTC)
    attempt.move_to(BatchStatus.planned, plan=shown, plan_expires_at=expires_at, if_changed=None)


def _preview(connection: Connection, attempt: Attempt) -> Preview:
    return Preview(connection, attempt.staging, attempt.organization_id)


def _make_preview(connection: Connection, attempt: Attempt, facts: BatchFacts) -> None:
    attempt.announce(PhaseName.validation, f"showing what happens to each of the {facts.items:,} rows")
    if attempt.action is Action.undo:
        query = undo_preview_query(undo_statements(attempt, connection))
    else:
        query = preview_query(
            attempt.resource,
            attempt.staging,
            attempt.action,
            fields=facts.fields,
            clears=facts.clears,
            items=facts.items,
            has_deletions=attempt.action is Action.overwrite and facts.unidentified == 0,
        )
    _preview(connection, attempt).make(query)


def _shown_plan(connection: Connection, attempt: Attempt, *, digest: str) -> dict[str, Any]:
    """The plan of the batch object; times in epoch seconds."""
    preview = _preview(connection, attempt)
    counts = preview.counts()
    records = count_records(connection, attempt.resource.table, attempt.organization_id)
    # Warnings are about wrong files.
    is_undo = attempt.action is Action.undo
    warnings = [] if is_undo else plan_warnings(preview, attempt.resource, counts, records=records)
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM gives one row
    made_at: datetime = row[0]
    return {
        "counts": counts,
        "fields": preview.field_counts(),
        "samples": preview.samples(MOST_SAMPLES),
        "deletions": preview.deletions(MOST_DELETIONS),
        "warnings": [{"code": warning.code, "message": warning.message} for warning in warnings],
        "digest": digest,
        "made_at": int(made_at.timestamp()),
        "expires_at": int((made_at + timedelta(hours=attempt.system.settings.plan_hours)).timestamp()),
    }


def _write_plan(attempt: Attempt, *, is_compared: bool) -> None:
    """Writes plan.csv and plan.json. `is_compared`: lines that differ from the shown plan have what was shown."""
    staging, store, batch = attempt.staging, attempt.system.store, attempt.batch
    joined = sql.SQL(_JOIN_SHOWN).format(shown=staging.shown) if is_compared else sql.SQL("")
    lines = sql.SQL(_LINES).format(
        preview=staging.preview,
        errors=staging.errors,
        was=sql.SQL(_WAS).format(differ=LINES_DIFFER) if is_compared else sql.SQL("NULL::text"),
        shown=joined,
    )
    items, step = batch.facts.items, attempt.system.settings.chunk_rows
    deletions = sql.SQL(_COMPARED_DELETIONS if is_compared else _DELETIONS).format(
        preview=staging.preview, shown=staging.shown, most=sql.Literal(step)
    )
    csv_path, json_path = attempt.scratch / "plan.csv", attempt.scratch / "plan.json"
    total = items + batch.facts.to_delete
    with attempt.writing(PhaseName.validation, "plan.csv, plan.json", total=total) as advance:
        with (
            attempt.borrow_untimed() as connection,
            csv_path.open("wb") as csv_file,
            json_path.open("wb") as json_file,
            PlanWriter(csv_file, json_file) as writer,
        ):
            for first in range(1, items + 1, step):
                last = min(first + step - 1, items)
                writer.write(fetch_table(connection, lines, {"first": first, "last": last}, PLAN_SCHEMA))
                advance(last)
            after, done = "", items
            while True:
                found = fetch_table(connection, deletions, {"after": after}, PLAN_SCHEMA)
                writer.write(found)
                done += found.num_rows
                advance(done)
                if found.num_rows < step:
                    break
                after = found["id"][-1].as_py()
        store.upload(csv_path, keys.plan_csv(batch.id))
        store.upload(json_path, keys.plan_json(batch.id))
