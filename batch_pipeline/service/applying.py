"""Applies the plan of a planned batch."""

import time

from batch_pipeline.batches.model import Batch, IfChanged, PhaseName, PhaseStatus, Starter
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.errors import StateError
from batch_pipeline.service.changing import find_batch
from batch_pipeline.service.context import Service
from batch_pipeline.service.creating import Caller, launch

# A change of the status is announced. The begin of writing is not.
_POLL_SECONDS = 0.5


async def apply(service: Service, caller: Caller, batch_id: str, *, if_changed: IfChanged, digest: str | None) -> Batch:
    """Requests the apply, and waits until the plan is written, has changed, or the time to wait is over.

    The status of the returned batch shows which: `planned` if the plan has changed, so that nothing was written. If the
    apply is requested already, requests nothing. `digest`: of the plan to apply; None: the plan shown now.

    Raises NotFoundError, and StateError (`not_planned`, `plan_expired`, `plan_changed`).
    """
    batch = await find_batch(service, caller, batch_id)
    async with service.listener.changes(batch.id) as changes:
        if not _is_applied(batch):
            batch = await _request(service, caller, batch, if_changed=if_changed, digest=digest)
        # A repeated call with `replan` names the plan that it looked at, and the batch shows the one that it writes.
        elif digest is not None and if_changed is IfChanged.fail and (batch.plan or {}).get("digest") != digest:
            raise StateError("plan_changed", f"Batch {batch.id} applies another plan than that of this digest.")
        deadline = time.monotonic() + service.system.settings.mixed_wait_seconds
        while not _is_decided(batch := await service.in_thread(service.system.ledger.get, batch.id)):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            await changes.next(at_most_seconds=min(left, _POLL_SECONDS))
    return batch


async def _request(
    service: Service, caller: Caller, batch: Batch, *, if_changed: IfChanged, digest: str | None
) -> Batch:
    """Requests the apply and launches its run, unless another call did in the meantime."""
    try:
        batch = await service.in_thread(
            service.system.ledger.request_apply,
            batch.id,
            Starter.launcher,
            if_changed=if_changed,
            digest=digest,
            claim_seconds=service.claim_seconds,
            updated_by=caller.key_id,
        )
    except StateError:
        found = await service.in_thread(service.system.ledger.get, batch.id)
        if not _is_applied(found):
            raise
        return found
    await launch(service, batch)
    return batch


def _is_applied(batch: Batch) -> bool:
    return batch.if_changed is not None and batch.status in (BatchStatus.queued, BatchStatus.processing)


def _is_decided(batch: Batch) -> bool:
    """Whether the batch writes its plan, or has ended, or is planned again."""
    if batch.status is BatchStatus.processing:
        return batch.phase(PhaseName.processing).status is not PhaseStatus.pending
    return batch.status is not BatchStatus.queued
