"""Validation: applies the row rules to every item, then makes the plan. Does not change the organization's records."""

from batch_pipeline.batches.locks import planned_version
from batch_pipeline.batches.model import Action, PhaseName
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.errors import RefusedError
from batch_pipeline.loading.chunks import chunk_ranges, store_chunks
from batch_pipeline.loading.own_staging import FEW_ROWS
from batch_pipeline.loading.reference_fields import referred_resources
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.copies import begin_small_copies, finish_small_copies
from batch_pipeline.phases.items import stage_items, staged_fields
from batch_pipeline.phases.parallel_staging import stage_in_parallel
from batch_pipeline.phases.planning import TUNING, Plan, make_plan, refusal_for_items, require_valid_items
from batch_pipeline.phases.showing import show_plan, show_plan_again
from batch_pipeline.phases.undo import stage_undo

# Each chunk of a large delete scans all records, so it has few chunks. But work can stop only between chunks.
LARGE_DELETE = 100_000  # items
DELETE_CHUNKS = 2
DELETE_CHUNK_LIMIT = 10  # in chunk_rows


def validate(attempt: Attempt) -> None:
    """Runs the phase unless it is done. A batch that awaits a decision shows its plan and becomes `planned`.

    Raises RefusedError: `no_items`, `delete_limit_exceeded`, or after it has written the errors files `no_valid_items`
    and `reject_limit_exceeded`.
    """
    if attempt.is_done(PhaseName.validation):
        if attempt.batch.awaits_decision:
            show_plan_again(attempt)
        return
    if attempt.action is Action.undo:
        plan, version = _plan_undo(attempt)
    else:
        plan, version = _plan_items(attempt)
    counts = plan.counts
    goes_on = not attempt.batch.awaits_decision and refusal_for_items(attempt, plan.facts) is None
    if not (goes_on and plan.facts.shares_staging):  # else the few items are written meanwhile
        finish_small_copies(attempt)
    attempt.complete(
        success=counts.accepted + counts.duplicates,
        error=counts.rejected,
        total=counts.accepted + counts.duplicates + counts.rejected,
        work=plan.facts.to_row(),
        plan_version=version,
        status=BatchStatus.queued if goes_on else None,
    )
    if goes_on:
        return
    require_valid_items(attempt, plan.facts)
    show_plan(attempt, plan.facts)


def _plan_items(attempt: Attempt) -> tuple[Plan, int | None]:
    """Stages the items and makes their plan; also returns the version of the records that it is for."""
    facts = attempt.batch.facts
    if attempt.action is Action.overwrite and facts.items == 0 and not attempt.options.allow_empty:
        raise RefusedError(
            "no_items",
            "The upload has no items, and an overwrite would delete every record. "
            "If that is what you want, set allow_empty (and delete_limit).",
        )
    attempt.begin(PhaseName.validation, total=facts.items - facts.unreadable - facts.equal)
    fields = staged_fields(attempt.resource, attempt)
    with attempt.borrow(**TUNING) as connection:
        stage = stage_in_parallel if attempt.is_parallel else stage_items
        staged = stage(attempt, connection, fields)
        begin_small_copies(attempt)  # while the database makes the plan
        if facts.items > FEW_ROWS:
            attempt.staging.analyze(connection, *staged.parts)
        if not facts.shares_staging:  # few items take no transaction of their own
            connection.commit()
        version = planned_version(connection, attempt.batch, referred_resources(attempt.resource, fields))
        chunks = chunk_ranges(facts.items, _chunk_rows(attempt, facts.items))
        is_first = attempt.batch.attempts == 1
        store_chunks(connection, attempt.batch.id, PhaseName.processing, chunks, is_first=is_first)
        facts = facts.with_(fields=fields, clears=staged.clears, kinds=staged.kinds)
        plan = make_plan(connection, attempt, facts, PhaseName.validation, is_first=True)
        connection.commit()
    return plan, version


def _plan_undo(attempt: Attempt) -> tuple[Plan, int | None]:
    """As `_plan_items`, for the lines of an undo."""
    attempt.begin(PhaseName.validation)
    fields = tuple(field.name for field in attempt.resource.fields)
    with attempt.borrow(**TUNING) as connection:
        lines = stage_undo(attempt, connection)
        connection.commit()
        attempt.limit_transactions(connection)
        version = planned_version(connection, attempt.batch, referred_resources(attempt.resource, fields))
        chunks = chunk_ranges(lines, attempt.system.settings.chunk_rows)
        store_chunks(connection, attempt.batch.id, PhaseName.processing, chunks)
        plan = make_plan(
            connection, attempt, attempt.batch.facts.with_(items=lines, fields=fields), PhaseName.validation
        )
        connection.commit()
    return plan, version


def _chunk_rows(attempt: Attempt, items: int) -> int:
    """Rows per chunk of processing. A large delete has larger chunks, because each chunk scans the records."""
    rows = attempt.system.settings.chunk_rows
    if attempt.action is not Action.delete or items <= LARGE_DELETE:
        return rows
    return rows * min(max(items // (DELETE_CHUNKS * rows), 1), DELETE_CHUNK_LIMIT)
