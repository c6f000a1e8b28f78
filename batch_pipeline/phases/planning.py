"""Planning, as validation does it first and processing again where another batch wrote meanwhile."""

from dataclasses import dataclass, replace

from batch_pipeline.batches.locks import newer_writers
from batch_pipeline.batches.model import Action, PhaseName, Work
from batch_pipeline.errors import RefusedError
from batch_pipeline.loading.chunks import done_outcome
from batch_pipeline.loading.delete_planner import DeletePlanner
from batch_pipeline.loading.limits import check_delete_limit, has_limit
from batch_pipeline.loading.plan import BatchPlanner, PlanCounts, count_records
from batch_pipeline.loading.planner import Planner
from batch_pipeline.loading.reference_fields import referred_resources
from batch_pipeline.loading.staging import Connection, Staging
from batch_pipeline.phases.artifacts import write_errors
from batch_pipeline.phases.attempt import MANY_ITEMS, Attempt

# PostgreSQL's settings for statements over a whole batch: few of them, each over millions of narrow rows.
TUNING = {
    "work_mem": "128MB",
    # Row counts are what plans need; the default samples ten times as many rows, at a second for a million.
    "default_statistics_target": "10",
}


@dataclass(frozen=True)
class Plan:
    """A plan that has been made: its counts, and the batch's facts with what it adds to them."""

    counts: PlanCounts
    work: Work


def make_plan(connection: Connection, attempt: Attempt, work: Work, phase: PhaseName) -> Plan:
    """Makes the plan in a phase, in the transaction of the connection (one with `TUNING`), which the caller commits.

    Raises RefusedError (`delete_limit_exceeded`) where it would delete too many records.
    """
    if work.items > MANY_ITEMS:
        attempt.announce(phase, f"planning what happens to each of the {work.items:,} rows, in the database")
    counts = _planner(connection, attempt, work).plan()
    unidentified = counts.unidentified + unreadable(attempt)
    if unidentified:  # then cleanup deletes nothing
        counts = replace(counts, to_delete=0)
    if has_limit(attempt.options.delete_limit, attempt.action):
        done = done_outcome(connection, attempt.batch.id, PhaseName.processing)
        if not _none_is_valid(attempt, counts.accepted + done.failed):  # which deletes nothing, and has its own reason
            check_delete_limit(
                attempt.options.delete_limit,
                to_delete=counts.accepted if attempt.action is Action.delete else counts.to_delete,
                # as they were before this batch
                records=count_records(connection, attempt.resource.table, attempt.organization_id)
                + done.deleted
                - done.created,
            )
    return Plan(counts, work.with_(to_delete=counts.to_delete, unidentified=unidentified))


def _planner(connection: Connection, attempt: Attempt, work: Work) -> BatchPlanner:
    staging, handling = Staging(attempt.batch.id), attempt.options.duplicate_handling
    newer = newer_writers(connection, attempt.batch, referred_resources(attempt.resource, work.fields))
    if attempt.action is Action.delete:
        return DeletePlanner(
            connection,
            attempt.resource,
            staging,
            organization_id=attempt.organization_id,
            handling=handling,
            newer=newer,
        )
    return Planner(
        connection,
        attempt.resource,
        staging,
        organization_id=attempt.organization_id,
        action=attempt.action,
        fields=work.fields,
        clears=work.clears,
        handling=handling,
        newer=newer,
    )


def unreadable(attempt: Attempt) -> int:
    """Rows of an overwrite that could not be read, so nobody knows which records they mean."""
    return attempt.batch.work.unreadable if attempt.action is Action.overwrite else 0


def require_valid_items(attempt: Attempt, accepted: int) -> None:
    """Raises RefusedError (`no_valid_items`) where items were read but none is valid, once the errors file exists."""
    if not _none_is_valid(attempt, accepted):
        return
    items = attempt.batch.work.items
    write_errors(attempt, PhaseName.validation)
    attempt.system.ledger.update(attempt.batch.id, attempt.run_id, has_errors_file=True)
    raise RefusedError(
        "no_valid_items",
        f"None of the {items:,} items is valid, so nothing was written: the errors file says what is wrong with each.",
    )


def _none_is_valid(attempt: Attempt, accepted: int) -> bool:
    return accepted == 0 and attempt.batch.work.items > 0
