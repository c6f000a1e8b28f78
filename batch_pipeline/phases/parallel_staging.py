"""Stages the items of a large batch by parsed chunks: in threads, and with the help of other workers.

Each chunk is one transaction: claim, COPY and its note in `parsed_chunks`. So each chunk is staged once, whoever fails.
It needs no fence: every worker makes the same rows of a chunk, and a new attempt makes new tables.
"""

from batch_pipeline.batches.model import PhaseName
from batch_pipeline.database import Connection, borrowed
from batch_pipeline.loading.chunks import worker_name
from batch_pipeline.loading.own_staging import OwnStaging
from batch_pipeline.loading.parsed_chunks import ParsedChunks, ParsedDone
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.chunk_threads import ChunkThreads, ChunkWork
from batch_pipeline.phases.items import ItemStager, Staged, copy_staged, create_staging


class ChunkStaging(ChunkWork):
    """Stages parsed chunks."""

    def __init__(self, attempt: Attempt, connection: Connection, stager: ItemStager) -> None:
        self._staging = OwnStaging(attempt.batch.id)
        self._connection = connection
        self._stager = stager
        self._parsed = ParsedChunks(connection, self._staging)

    def do_next(self) -> bool:
        """Stages the first chunk that nobody else has claimed."""
        with self._connection.transaction():
            number = self._parsed.claim_next()
            if number is None:
                return False
            staged = self._stager.check(self._stager.read(number))
            copy_staged(self._staging, self._connection, staged, is_new=False)
            self._parsed.note(
                number,
                worker_name(),
                valid=staged.valid,
                invalid=staged.invalid,
                clears=staged.clears,
                kinds=sorted(staged.kinds),
            )
        return True

    def is_finished(self) -> bool:
        """Whether all chunks are staged."""
        done = self._parsed.done()
        return done.chunks == done.total


def stage_in_parallel(attempt: Attempt, connection: Connection, fields: tuple[str, ...]) -> Staged:
    """As `items.stage_items`, for a batch that `is_parallel`; commits the connection's transaction.

    Raises the error of a chunk that failed here, or as `Attempt.check` does.
    """
    staging = OwnStaging(attempt.batch.id)
    create_staging(attempt, connection, fields)
    ParsedChunks(connection, staging).create(attempt.batch.facts.chunks)
    connection.commit()
    attempt.offer(PhaseName.validation, chunks=attempt.batch.facts.chunks)
    stager = ItemStager(attempt, fields)
    done: ParsedDone | None = None

    def watch() -> bool:
        nonlocal done
        before = done
        with borrowed(attempt.system.engine) as watching:
            done = ParsedChunks(watching, staging).done()
        if done == before:
            attempt.check()
        else:
            attempt.advance(
                success=done.valid, error=done.invalid, chunk=done.chunks, chunks=done.total, workers=done.workers
            )
        return True

    ChunkThreads(
        attempt,
        lambda own: ChunkStaging(attempt, own, stager),
        threads=min(attempt.system.settings.database_writers, attempt.batch.facts.chunks),
        stays=True,
    ).run(watch)
    attempt.limit_transactions(connection)
    parsed = ParsedChunks(connection, staging)
    done = parsed.done()
    if done.workers > 1:
        attempt.announce_workers(PhaseName.validation, parsed.count_by_worker())
    return Staged((stager.target, "errors"), done.clears, parsed.kinds())
