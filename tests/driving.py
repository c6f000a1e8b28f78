"""Runs a batch's phases one after another, as the ops of a run do, without Dagster."""

import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.errors import BatchError, PlanChangedError
from batch_pipeline.phases.attempt import Attempt, HelpRequest
from batch_pipeline.phases.cleanup import cleanup
from batch_pipeline.phases.kept_chunks import KeptChunks
from batch_pipeline.phases.parse import parse
from batch_pipeline.phases.process import process
from batch_pipeline.phases.validate import validate
from batch_pipeline.records.descriptions import get_resource
from batch_pipeline.system import System


def run_attempt(
    system: System,
    batch: Batch,
    *,
    once_validated: Callable[[], None] = lambda: None,
    call_helpers: Callable[[HelpRequest, int], None] = lambda request, number: None,
) -> Batch:
    """One attempt at the batch, to its end; `once_validated` is called before it takes its turn."""
    run_id = str(uuid.uuid4())
    attempt_batch = system.ledger.begin_attempt(batch.id, run_id)
    with tempfile.TemporaryDirectory() as scratch:
        attempt = Attempt(
            system=system,
            batch=attempt_batch,
            run_id=run_id,
            resource=get_resource(str(batch.resource)),
            options=BatchOptions.model_validate(batch.options),
            scratch=Path(scratch),
            report=lambda progress: None,
            call_helpers=call_helpers,
            kept=KeptChunks(Path(scratch)),
        )
        try:
            parse(attempt)
            validate(attempt)
            if attempt.batch.status is BatchStatus.planned:
                return attempt.batch
            once_validated()
            process(attempt)
            cleanup(attempt)
        except PlanChangedError:
            pass  # the batch is planned again
        except BatchError as error:
            system.ledger.end_attempt(batch.id, run_id, BatchStatus.failed, Reason.of(error))
    return system.ledger.get(batch.id)
