"""Makes the batch that takes another batch back. Nothing is uploaded for it: its items are what that batch wrote."""

from batch_pipeline.batches.accept import NewBatch, UndoRequest, accept
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Action, Batch, Starter, Via
from batch_pipeline.batches.options import NAME_MAX, BatchOptions, UndoOptions
from batch_pipeline.database import borrowed
from batch_pipeline.errors import StateError
from batch_pipeline.loading.log_support import require_log
from batch_pipeline.system import System

_PREFIX = "undo of "


def request_undo(
    system: System,
    batch_id: str,
    *,
    starter: Starter,
    options: UndoOptions,
    claim_seconds: float | None = None,
    updated_by: str = "undo",
) -> Batch:
    """Accepts a batch of action undo (`undo_of`), which writes a result file.

    `claim_seconds`: seconds that the caller has to launch the run before the sensor does. Raises NotFoundError, and
    StateError as `require_undoable` and `require_log` do, and `changes_off` if this system logs no changes.
    """
    undone = system.ledger.get(batch_id)
    with borrowed(system.engine) as connection:
        require_log(connection)
    if not system.settings.changes:
        raise StateError("changes_off", "Undo needs the log of changes, and this system runs with BATCH_CHANGES=off.")
    new = NewBatch(
        id=new_batch_id(),
        organization_id=undone.organization_id,
        resource=undone.resource,
        action=Action.undo,
        name=(_PREFIX + undone.name)[:NAME_MAX],
        options=BatchOptions(**options.model_dump(), save_result=True),
        via=Via.api,
        undo_of=undone.id,
        updated_by=updated_by,
    )
    request = UndoRequest(starter, kept_days=system.settings.changes_days, claim_seconds=claim_seconds)
    return accept(system.engine, new, undo=request).batch
