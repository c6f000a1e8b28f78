"""Processing: waits for the turn, makes the plan final, and writes it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from batch_pipeline.batches.locks import Turn, claim_version, referred_version
from batch_pipeline.batches.model import Action, IfChanged, Phase, PhaseName, PhaseStatus
from batch_pipeline.database import Connection
from batch_pipeline.errors import PlanChangedError
from batch_pipeline.loading.change_partitions import make_partitions_ahead, partition_exists, partition_of_tomorrow
from batch_pipeline.loading.chunks import ChunkWriter, done_outcome
from batch_pipeline.loading.deleting import DeleteWriter
from batch_pipeline.loading.merging import MergeWriter
from batch_pipeline.loading.reference_fields import referred_resources
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.items import restore_items
from batch_pipeline.phases.planning import TUNING, make_plan, require_valid_items
from batch_pipeline.phases.showing import compare_plan, show_changed_plan, write_changed_plan
from batch_pipeline.phases.undo import undo_writer
from batch_pipeline.phases.writing import turn_of, write_chunks


def process(attempt: Attempt) -> None:
    """Runs the phase unless it is done. Writes every accepted item exactly once, across all attempts.

    Raises PlanChangedError if the plan to apply has changed since it was shown. Then nothing was written, and the batch
    is `planned` again, with the new plan.
    """
    if attempt.is_done(PhaseName.processing):
        return
    restore_items(attempt)
    with turn_of(attempt, partial(_begun_phases, attempt)) as turn:
        begun = attempt.batch.phase(PhaseName.processing)
        if attempt.batch.attempts == 1 and begun.status is PhaseStatus.running:  # the plan is the final one
            claim = partial(_claim_version, attempt, turn)
            write_chunks(attempt, turn, PhaseName.processing, item_writer, total=begun.total or 0, claim=claim)
            return
        final = _final_plan(attempt, turn)
        if final.is_written:
            write_chunks(attempt, turn, PhaseName.processing, item_writer, total=final.accepted)
    if final.changed is None or final.is_written:
        return
    show_changed_plan(attempt, final.changed)
    raise PlanChangedError(
        "plan_changed",
        f"The plan of batch {attempt.batch.id} has changed since it was shown, so nothing was written. The batch shows "
        "the new plan and the difference: look at it, then apply it.",
    )


def _begun_phases(attempt: Attempt, turn: Turn) -> list[Phase]:
    """Phase processing as running, if this is the first attempt and the plan will not be made again."""
    batch, facts = attempt.batch, attempt.batch.facts
    is_final = (
        batch.attempts == 1
        and facts.accepted is not None
        and batch.plan_version == turn.version
        and batch.if_changed is None
        and attempt.action is not Action.undo
        and not referred_resources(attempt.resource, facts.fields)
    )
    return [batch.phase(PhaseName.processing).begun(facts.accepted)] if is_final else []


def item_writer(attempt: Attempt, connection: Connection, turn: Turn) -> ChunkWriter:
    """The writer of the batch's items, or of an undo's lines, over a connection in autocommit mode."""
    if attempt.action is Action.undo:
        return undo_writer(attempt, connection, turn)
    staging, logs = attempt.staging, attempt.logs_changes(connection)
    if attempt.action is Action.delete:
        return DeleteWriter(
            connection, attempt.resource, staging, turn, keep_changes=attempt.options.save_result, logs=logs
        )
    return MergeWriter(
        connection,
        attempt.resource,
        staging,
        turn,
        fields=attempt.batch.facts.fields,
        clears=attempt.batch.facts.clears,
        accepts_valid=attempt.batch.facts.accepts_valid,
        keep_changes=attempt.options.save_result,
        logs=logs,
    )


@dataclass(frozen=True)
class _Final:
    """The final plan.

    Attributes:
        accepted: items to write, including those of finished chunks.
        changed: the plan as shown, if it differs from the one that was shown before; None for other batches.
        is_written: whether the plan is to be written.
    """

    accepted: int
    changed: dict[str, Any] | None = None
    is_written: bool = True


def _final_plan(attempt: Attempt, turn: Turn) -> _Final:
    """Makes the plan final.

    If another batch wrote after the plan was made, or an earlier release made it, makes it again for the items that are
    in no finished chunk. A plan that was shown is always made again and compared: hours may have passed, and other
    programs write as well.
    """
    changed: dict[str, Any] | None = None
    with attempt.borrow(**TUNING) as connection:
        referred = referred_version(
            connection, turn.organization_id, referred_resources(attempt.resource, attempt.batch.facts.fields)
        )
        facts = attempt.batch.facts
        accepted = facts.accepted
        compares = attempt.batch.if_changed is not None and not _has_written(connection, attempt)
        is_outdated = referred is None or attempt.batch.plan_version != turn.version + referred
        # Other programs write as well, and an undo keeps what they wrote, by field.
        if accepted is None or is_outdated or compares or attempt.action is Action.undo:
            plan = make_plan(connection, attempt, facts, PhaseName.processing)
            accepted = plan.accepted
            if compares:
                changed = compare_plan(connection, attempt, plan.facts)
            connection.commit()
            attempt.limit_transactions(connection)
            attempt.batch = attempt.system.ledger.update(attempt.batch.id, attempt.run_id, work=plan.facts.to_row())
        connection.commit()
        if changed is not None and attempt.batch.if_changed is IfChanged.fail:
            return _Final(accepted, changed, is_written=False)
        require_valid_items(attempt, attempt.batch.facts)
        if changed is not None:
            write_changed_plan(attempt)  # before the batch shows it: a re-run does not compare with the plan before
            attempt.limit_transactions(connection)
        claim_version(connection, turn, referred=referred, plan=changed)
        _make_partitions(attempt, connection)
        connection.commit()
    return _Final(accepted, changed)


def _claim_version(attempt: Attempt, turn: Turn, connection: Connection) -> None:
    """As `_final_plan`, for a plan that is the final one, over a connection in autocommit mode."""
    claim_version(connection, turn, referred=0)
    _make_partitions(attempt, connection)


def _make_partitions(attempt: Attempt, connection: Connection) -> None:
    """Makes the change log's partitions that are due. Looks for one until this process has found it."""
    partition = partition_of_tomorrow(attempt.resource.changes_table)
    found = attempt.system.partitions
    if partition in found or not attempt.logs_changes(connection):
        return
    if partition_exists(connection, partition):
        found.add(partition)
        return
    connection.commit()
    attempt.limit_transactions(connection)
    make_partitions_ahead(connection, datetime.now(UTC))


def _has_written(connection: Connection, attempt: Attempt) -> bool:
    done = done_outcome(connection, attempt.batch.id, PhaseName.processing)
    return done.written + done.failed > 0
