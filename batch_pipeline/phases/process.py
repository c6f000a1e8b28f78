"""Processing: waits for the turn, makes the plan final, and writes it."""

from batch_pipeline.batches.locks import Turn, claim_version, referred_version
from batch_pipeline.batches.model import Action, PhaseName
from batch_pipeline.database import Connection
from batch_pipeline.loading.chunks import ChunkWriter
from batch_pipeline.loading.deleting import DeleteWriter
from batch_pipeline.loading.merging import MergeWriter
from batch_pipeline.loading.reference_fields import referred_resources
from batch_pipeline.loading.staging import Staging
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.items import restore_items
from batch_pipeline.phases.planning import TUNING, make_plan, require_valid_items
from batch_pipeline.phases.writing import turn_of, write_chunks


def process(attempt: Attempt) -> None:
    """Runs the phase unless it is done. Writes every accepted item exactly once, across all attempts."""
    if attempt.is_done(PhaseName.processing):
        return
    restore_items(attempt)
    with turn_of(attempt) as turn:
        total = _final_plan(attempt, turn)
        write_chunks(
            attempt,
            PhaseName.processing,
            lambda connection: _writer(attempt, connection, turn),
            total=total,
        )


def _writer(attempt: Attempt, connection: Connection, turn: Turn) -> ChunkWriter:
    staging = Staging(attempt.batch.id)
    if attempt.action is Action.delete:
        return DeleteWriter(connection, attempt.resource, staging, turn, keep_changes=attempt.options.save_result)
    return MergeWriter(
        connection,
        attempt.resource,
        staging,
        turn,
        fields=attempt.batch.facts.fields,
        clears=attempt.batch.facts.clears,
        keep_changes=attempt.options.save_result,
    )


def _final_plan(attempt: Attempt, turn: Turn) -> int:
    """Makes the plan final; returns the number of items to write, including those of finished chunks.

    If another batch wrote after the plan was made, or an earlier release made it, makes it again for the items that are
    in no finished chunk.
    """
    with attempt.borrow(**TUNING) as connection:
        referred = referred_version(
            connection, turn.organization_id, referred_resources(attempt.resource, attempt.batch.facts.fields)
        )
        facts = attempt.batch.facts
        accepted = facts.accepted
        if accepted is None or referred is None or attempt.batch.plan_version != turn.version + referred:
            plan = make_plan(connection, attempt, facts, PhaseName.processing)
            accepted = plan.accepted
            connection.commit()
            attempt.limit_transactions(connection)
            attempt.batch = attempt.system.ledger.update(attempt.batch.id, attempt.run_id, work=plan.facts.to_row())
        connection.rollback()
        require_valid_items(attempt, accepted)
        attempt.limit_transactions(connection)
        # Locks the batch's row before the turn's: the order in `batches.locks`.
        connection.execute("SELECT FROM batches WHERE id = %s FOR UPDATE", (attempt.batch.id,))
        claimed = claim_version(connection, turn)
        version = None if referred is None else claimed + referred
        connection.execute("UPDATE batches SET plan_version = %s WHERE id = %s", (version, attempt.batch.id))
        connection.commit()
    attempt.refresh()
    return accepted
