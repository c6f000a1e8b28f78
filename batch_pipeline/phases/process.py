"""Processing: waits for the turn, makes the plan final, and writes it chunk by chunk on several connections."""

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from psycopg import sql

from batch_pipeline.batches.model import PhaseName
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.batches.turns import Turn, claim_version, take_turn
from batch_pipeline.database import connect
from batch_pipeline.loading.chunks import Chunk, ChunkOutcome, ChunkWriter, done_outcome, open_chunks
from batch_pipeline.loading.staging import Connection, Staging
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.validate import planner, require_valid_items, tune

WATCH_SECONDS = 0.25


def process(attempt: Attempt) -> None:
    """Runs the phase, unless it is done: writes every accepted item exactly once, whatever attempts came before."""
    if attempt.is_done(PhaseName.processing):
        return
    with _turn(attempt) as turn:
        attempt.system.ledger.transition(attempt.batch.id, attempt.run_id, BatchStatus.processing)
        attempt.refresh()
        accepted, chunks, done = _final_plan(attempt, turn)
        attempt.begin(PhaseName.processing, total=accepted)
        done = _write(attempt, turn, chunks, done)
        attempt.complete(
            success=done.created + done.updated + done.unchanged + done.deleted,
            error=done.failed,
            total=accepted,
        )


@contextmanager
def _turn(attempt: Attempt) -> Iterator[Turn]:
    """The batch's turn; the time spent waiting for it does not count towards the time-out."""
    began = time.time()
    with take_turn(attempt.system.database_url, attempt.batch, check=attempt.refresh) as turn:
        attempt.waited(time.time() - began)
        yield turn


def _final_plan(attempt: Attempt, turn: Turn) -> tuple[int, list[Chunk], ChunkOutcome]:
    """The number of accepted items, the chunks still to be written, and what the others did.

    Where another batch wrote since the plan was made, it is made anew for the items that are in no finished chunk.
    """
    with connect(attempt.system.database_url) as connection:
        if attempt.batch.plan_version != turn.version:
            tune(connection)
            planner(connection, attempt, attempt.batch.work.fields).plan()
        accepted = _accepted(connection, attempt)
        version = claim_version(connection, turn)
        connection.execute("UPDATE batches SET plan_version = %s WHERE id = %s", (version, attempt.batch.id))
        connection.commit()
        done = done_outcome(connection, attempt.batch.id)
        chunks = open_chunks(connection, attempt.batch.id)
    attempt.refresh()
    require_valid_items(attempt, accepted + done.failed)
    return accepted + done.failed, chunks, done


def _accepted(connection: Connection, attempt: Attempt) -> int:
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {} WHERE verdict = 'a'").format(Staging(attempt.batch.id).plan)
    ).fetchone()
    return 0 if row is None else int(row[0])


def _write(attempt: Attempt, turn: Turn, chunks: list[Chunk], done: ChunkOutcome) -> ChunkOutcome:
    """Writes the chunks on several connections; stops all of them at their next chunk when one fails."""
    todo: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    for chunk in chunks:
        todo.put(chunk)
    outcomes: queue.SimpleQueue[ChunkOutcome] = queue.SimpleQueue()
    stop = threading.Event()
    writers = max(1, min(attempt.system.settings.database_writers, len(chunks)))
    with ThreadPoolExecutor(writers) as pool:
        running: set[Future[None]] = {
            pool.submit(_write_chunks, attempt, turn, todo, outcomes, stop) for _ in range(writers)
        }
        try:
            while running:
                finished, running = wait(running, timeout=WATCH_SECONDS)
                for future in finished:
                    future.result()
                before = done
                while not outcomes.empty():
                    done += outcomes.get()
                if done != before:
                    attempt.advance(
                        success=done.created + done.updated + done.unchanged + done.deleted, error=done.failed
                    )
                attempt.check()
        finally:
            # Also when the run is interrupted: chunks under way are finished, no further ones begun.
            stop.set()
    while not outcomes.empty():
        done += outcomes.get()
    return done


def _write_chunks(
    attempt: Attempt,
    turn: Turn,
    todo: "queue.SimpleQueue[Chunk]",
    outcomes: "queue.SimpleQueue[ChunkOutcome]",
    stop: threading.Event,
) -> None:
    with connect(attempt.system.database_url) as connection:
        connection.autocommit = True  # each chunk opens its own transaction
        writer = ChunkWriter(
            connection,
            attempt.resource,
            Staging(attempt.batch.id),
            turn,
            fields=attempt.batch.work.fields,
            clears=attempt.batch.work.clears,
            keep_changes=attempt.options.save_result,
        )
        while not stop.is_set():
            try:
                chunk = todo.get_nowait()
            except queue.Empty:
                return
            outcomes.put(writer.write(chunk))
