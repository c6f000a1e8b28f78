"""Helps with a large batch whose run another worker executes: does chunks of the phase that the run has offered.

A helper decides nothing about the batch. If it fails, hangs or is killed, its chunk is rolled back, and the run or
another helper does it. An error that is the batch's own comes up in the run as well, which ends the batch by it.
"""

from collections.abc import Callable
from pathlib import Path

from batch_pipeline.batches.locks import held_turn
from batch_pipeline.batches.model import PhaseName
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.database import Connection, borrowed
from batch_pipeline.phases.attempt import Attempt, HelpRequest
from batch_pipeline.phases.chunk_threads import ChunkThreads, ChunkWork
from batch_pipeline.phases.cleanup import cleanup_writer
from batch_pipeline.phases.items import ItemStager, staged_fields
from batch_pipeline.phases.parallel_staging import ChunkStaging
from batch_pipeline.phases.process import item_writer
from batch_pipeline.phases.writing import InWork, MakeWriter, Writing
from batch_pipeline.records.descriptions import get_resource
from batch_pipeline.system import System

# A chunk takes seconds. The server ends the transaction of a helper that takes longer, for example because its process
# was suspended: the run waits for the chunk.
CHUNK_SECONDS = 60.0
_WRITERS: dict[PhaseName, MakeWriter] = {PhaseName.processing: item_writer, PhaseName.cleanup: cleanup_writer}


def help_out(system: System, request: HelpRequest, scratch: Path, *, is_wanted: Callable[[], bool]) -> None:
    """Does chunks of the phase until no open one is left or `is_wanted` returns False.

    `scratch`: an empty folder on local disk. Raises SupersededError if the batch has ended, or the run has lost it or
    is in another phase; UnavailableError and psycopg's errors.
    """
    attempt = _attempt(system, request, scratch)

    def watch() -> bool:
        attempt.refresh()
        return is_wanted()

    threads = system.settings.database_writers
    ChunkThreads(attempt, _open_work(attempt, request), threads=threads, stays=False).run(watch)


def _attempt(system: System, request: HelpRequest, scratch: Path) -> Attempt:
    """The attempt whose chunks the helper does. Only the run reports for it to the ledger."""
    batch = system.ledger.check_live(request.batch_id, request.run_id)
    return Attempt(
        system=system,
        batch=batch,
        run_id=request.run_id,
        resource=get_resource(batch.address.resource),
        options=BatchOptions.model_validate(batch.options),
        scratch=scratch,
        report=lambda progress: None,
        used_seconds=system.ledger.attempt_seconds(request.run_id),
        transaction_seconds=CHUNK_SECONDS,
    )


def _open_work(attempt: Attempt, request: HelpRequest) -> Callable[[Connection], ChunkWork]:
    if request.fence is None:
        fields = staged_fields(attempt.resource, attempt)
        stager = ItemStager(attempt, fields)
        return lambda connection: ChunkStaging(attempt, connection, stager)
    with borrowed(attempt.system.engine) as connection:
        turn = held_turn(connection, attempt.batch, request.fence)
    make_writer, in_work = _WRITERS[request.phase], InWork()
    return lambda connection: Writing(attempt, connection, make_writer(attempt, connection, turn), in_work)
