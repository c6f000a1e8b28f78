"""Makes the plan. Validation makes it first; processing makes it again if another batch wrote in between."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from batch_pipeline.batches.facts import BatchFacts
from batch_pipeline.batches.locks import newer_writers
from batch_pipeline.batches.model import Action, PhaseName
from batch_pipeline.database import Connection
from batch_pipeline.errors import RefusedError
from batch_pipeline.loading.chunks import ChunkOutcome, done_outcome
from batch_pipeline.loading.delete_planner import DeletePlanner
from batch_pipeline.loading.limits import check_delete_limit, has_limit, reject_limit_refusal
from batch_pipeline.loading.own_staging import FEW_ROWS
from batch_pipeline.loading.plan import BatchPlanner, PlanCounts, count_records
from batch_pipeline.loading.planner import Planner
from batch_pipeline.loading.reference_fields import referred_resources
from batch_pipeline.loading.staging import Part
from batch_pipeline.loading.undo_planner import UndoPlanner
from batch_pipeline.phases.artifacts import write_errors
from batch_pipeline.phases.attempt import MANY_ITEMS, Attempt
from batch_pipeline.phases.undo import undo_planner

# PostgreSQL settings for a few statements that each process millions of narrow rows.
TUNING = {
    "work_mem": "128MB",
    # The query planner needs only row counts. The default samples ten times as many rows: one second per million.
    "default_statistics_target": "10",
    # A worker shares the match. Its result has a row for each item, and with the default (0.1) PostgreSQL expects to
    # hand these over at a higher cost than to find them. A second worker took longer on two cores.
    "parallel_tuple_cost": "0.005",
    "max_parallel_workers_per_gather": "1",
}


@dataclass(frozen=True)
class Plan:
    """A plan that was made.

    Attributes:
        counts: of the items in the plan.
        facts: the batch's facts, updated by the plan.
        accepted: accepted items, including those that the database refused in finished chunks.
    """

    counts: PlanCounts
    facts: BatchFacts
    accepted: int


def make_plan(
    connection: Connection, attempt: Attempt, facts: BatchFacts, phase: PhaseName, *, is_first: bool = False
) -> Plan:
    """Makes the plan in the connection's transaction, which the caller commits. Announces it for the phase.

    `is_first`: the staged rows are new.

    The connection must have the settings `TUNING`. Raises RefusedError (`delete_limit_exceeded`) if the plan would
    delete too many records.
    """
    if facts.items > MANY_ITEMS:
        attempt.announce(phase, f"planning what happens to each of the {facts.items:,} rows, in the database")
    counts = _planner(connection, attempt, facts, is_first=is_first).plan()
    if facts.items > FEW_ROWS:
        attempt.staging.index(connection, *_read_in_ranges(attempt, facts, counts))
    unidentified = counts.unidentified + unreadable(attempt)
    if unidentified:  # then cleanup deletes nothing
        counts = replace(counts, to_delete=0)
    done = ChunkOutcome()  # validation makes the chunks anew
    if phase is PhaseName.processing:
        done = done_outcome(connection, attempt.batch.id, phase)
    accepted = counts.accepted + done.failed
    facts = facts.with_(
        accepted=accepted,
        accepts_valid=counts.accepts_valid,
        to_delete=counts.to_delete,
        unidentified=unidentified,
    )
    if done == ChunkOutcome():  # else part of the batch is written, so the rest is written whatever is rejected
        facts = facts.with_(rejected=counts.rejected + facts.unreadable)
    # A batch that is refused for its rejected items deletes nothing. It is refused after the errors are committed.
    if has_limit(attempt.options.delete_limit, attempt.action) and refusal_for_items(attempt, facts) is None:
        check_delete_limit(
            attempt.options.delete_limit,
            to_delete=counts.accepted if attempt.action is Action.delete else counts.to_delete,
            # the number before this batch
            records=count_records(connection, attempt.resource.table, attempt.organization_id)
            + done.deleted
            - done.created,
        )
    return Plan(counts, facts, accepted)


def _read_in_ranges(attempt: Attempt, facts: BatchFacts, counts: PlanCounts) -> Iterator[Part]:
    """The parts of which later steps read ranges of rows. A large upload that changes nothing needs no index."""
    if counts.accepted > counts.unchanged or attempt.batch.awaits_decision or attempt.options.save_result:
        yield "plan"
        if attempt.action in (Action.merge, Action.overwrite):
            yield "items"
    if counts.rejected or facts.unreadable:
        yield "errors"


def _planner(
    connection: Connection, attempt: Attempt, facts: BatchFacts, *, is_first: bool
) -> BatchPlanner | UndoPlanner:
    if attempt.action is Action.undo:
        return undo_planner(attempt, connection)
    staging, handling = attempt.staging, attempt.options.duplicate_handling
    newer = newer_writers(connection, attempt.batch, referred_resources(attempt.resource, facts.fields))
    if attempt.action is Action.delete:
        return DeletePlanner(
            connection,
            attempt.resource,
            staging,
            organization_id=attempt.organization_id,
            handling=handling,
            newer=newer,
            is_first=is_first,
        )
    return Planner(
        connection,
        attempt.resource,
        staging,
        organization_id=attempt.organization_id,
        action=attempt.action,
        items=facts.items - facts.unreadable - facts.equal,
        has_gaps=facts.unreadable + facts.equal > 0,
        fields=facts.fields,
        clears=facts.clears,
        kinds=facts.kinds,
        keeps_unchanged=facts.shares_staging or attempt.options.plan_only or attempt.options.save_result,
        handling=handling,
        newer=newer,
        is_first=is_first,
    )


def unreadable(attempt: Attempt) -> int:
    """The number of an overwrite's unreadable rows: the records that they identify are unknown."""
    return attempt.batch.facts.unreadable if attempt.action is Action.overwrite else 0


def require_valid_items(attempt: Attempt, facts: BatchFacts) -> None:
    """Refuses a batch whose plan rejects too many items: writes the errors files and raises RefusedError.

    `facts` are those of the plan. `no_valid_items`: items were read but none is valid. `reject_limit_exceeded`: the
    last plan made before a chunk was written rejects more items than `reject_limit` allows.
    """
    refusal = refusal_for_items(attempt, facts)
    if refusal is None:
        return
    summary = write_errors(attempt, PhaseName.validation)
    attempt.system.ledger.update(attempt.batch.id, attempt.run_id, has_errors_file=True, error_summary=summary)
    raise refusal


def refusal_for_items(attempt: Attempt, facts: BatchFacts) -> RefusedError | None:
    """The refusal that `require_valid_items` raises; None if it raises none."""
    if facts.accepted == 0 and facts.items > 0:
        return RefusedError(
            "no_valid_items",
            f"None of the {facts.items:,} items is valid, so nothing was written: "
            "the errors file has the errors of each.",
        )
    return reject_limit_refusal(attempt.options.reject_limit, rejected=facts.rejected, items=facts.items)
