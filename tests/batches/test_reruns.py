"""Which batches run again by themselves, when, and how often."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from batch_runs import accepted

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Batch, Mode, Starter
from batch_pipeline.batches.queries import awaiting_launch
from batch_pipeline.batches.reruns import Reruns, request_due_reruns
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.database import create_engine

LOST = Reason("worker_lost", "The worker was lost.")


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    engine = create_engine(database_url)
    yield Ledger(engine, Reruns(limit=3, pause_seconds=10))
    engine.dispose()


def _begin(ledger: Ledger, batch: Batch) -> Batch:
    return ledger.begin_attempt(batch.id, f"{batch.id}/{batch.attempts}")


def _arrived(ledger: Ledger, mode: Mode = Mode.mixed) -> Batch:
    return _begin(ledger, accepted(ledger.engine, "default", key="k", mode=mode))


def _pass_pause(ledger: Ledger) -> list[Batch]:
    """Lets the pauses of all batches pass; returns the batches that run again."""
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE batches SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")
    return request_due_reruns(ledger.engine, 100)


def _pause_seconds(batch: Batch) -> float | None:
    """Seconds until the batch runs again by itself, from its end on."""
    return None if batch.next_attempt_at is None else (batch.next_attempt_at - batch.updated_at).total_seconds()


def test_a_lost_batch_runs_again_three_times_after_growing_pauses(ledger: Ledger) -> None:
    batch, pauses = _arrived(ledger), []
    while (ended := ledger.end(batch.id, BatchStatus.failed, LOST)).next_attempt_at is not None:
        assert request_due_reruns(ledger.engine, 100) == []  # not before the pause has passed
        assert ended.to_json()["next_attempt_at"] >= datetime.now(UTC).timestamp()
        pauses.append(_pause_seconds(ended))
        assert [each.id for each in _pass_pause(ledger)] == [batch.id]
        assert [each.id for each in awaiting_launch(ledger.engine, 100)] == [batch.id]
        batch = _begin(ledger, ledger.get(batch.id))
    assert pauses == pytest.approx([10, 60, 300], abs=1)
    assert ended.reason is not None
    assert (ended.attempts, ended.reason.code, ended.to_json()["next_attempt_at"]) == (4, "worker_lost", None)
    assert ended.reason.message == "The worker was lost. It ran again 3 times by itself."
    assert ledger.request_rerun(batch.id, Starter.launcher).reruns == 0  # from here on, three times again


@pytest.mark.parametrize(
    ("code", "status", "mode", "runs_again"),
    [
        ("worker_lost", BatchStatus.failed, Mode.mixed, True),
        ("database_unavailable", BatchStatus.failed, Mode.mixed, True),
        ("storage_unavailable", BatchStatus.failed, Mode.mixed, True),
        ("never_started", BatchStatus.failed, Mode.mixed, True),
        ("worker_lost", BatchStatus.failed, Mode.sync, False),
        ("no_valid_items", BatchStatus.failed, Mode.mixed, False),
        ("cancelled", BatchStatus.failed, Mode.mixed, False),
        ("internal_error", BatchStatus.failed, Mode.mixed, False),
        ("run_deleted", BatchStatus.failed, Mode.mixed, False),
        ("timed_out", BatchStatus.timed_out, Mode.mixed, False),
    ],
)
def test_only_a_lost_worker_or_service_makes_a_batch_run_again(
    ledger: Ledger, code: str, status: BatchStatus, mode: Mode, *, runs_again: bool
) -> None:
    ended = ledger.end(_arrived(ledger, mode).id, status, Reason(code, "It ended."))
    assert (ended.next_attempt_at is not None) == runs_again
    assert [batch.id for batch in _pass_pause(ledger)] == ([ended.id] if runs_again else [])


def test_a_chunk_that_kills_its_worker_three_times_is_named_and_not_tried_again(ledger: Ledger) -> None:
    ledger = Ledger(ledger.engine, Reruns(limit=100))
    batch = _arrived(ledger)
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO batch_chunks (batch_id, phase, number, first_row, last_row, done_at)"
            " VALUES (%s, 'processing', 0, 1, 50000, NULL), (%s, 'processing', 1, 50001, 100000, NULL)",
            (batch.id, batch.id),
        )

    def lose() -> Batch:
        """The batch after its worker was lost in phase processing."""
        with ledger.engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE batches SET phases = jsonb_set(phases, '{2,status}', '\"running\"') WHERE id = %s", (batch.id,)
            )
        return ledger.end(batch.id, BatchStatus.failed, LOST)

    for done in (None, 0, None):  # another chunk's death in between, and time to think, don't count
        if done is not None:
            with ledger.engine.begin() as connection:
                connection.exec_driver_sql("UPDATE batch_chunks SET done_at = now() WHERE number = %s", (done,))
        assert lose().next_attempt_at is not None
        _pass_pause(ledger)
        _begin(ledger, ledger.get(batch.id))
    ended = lose()
    assert ended.next_attempt_at is None
    assert ended.reason is not None
    assert ended.reason.message == (
        "The worker was lost. 3 workers were lost at chunk 2 of processing (rows 50,001 to 100,000), so the batch does"
        " not run again by itself."
    )
    _begin(ledger, ledger.request_rerun(batch.id, Starter.caller))
    assert lose().next_attempt_at is None  # one more worker, not three


def test_due_batches_run_again_in_the_order_of_their_payloads(ledger: Ledger) -> None:
    first, second, third = (_arrived(ledger) for _ in range(3))
    for batch in (third, first, second):
        ledger.end(batch.id, BatchStatus.failed, LOST)
    assert [batch.id for batch in _pass_pause(ledger)] == [first.id, second.id, third.id]
    arrivals = [ledger.get(batch.id).arrival or 0 for batch in (first, second, third)]
    assert arrivals == sorted(arrivals)


def test_a_batch_whose_files_are_gone_stays_failed(ledger: Ledger) -> None:
    batch = _arrived(ledger)
    ledger.end(batch.id, BatchStatus.failed, LOST)
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE batches SET pruned_at = now() WHERE id = %s", (batch.id,))
    assert _pass_pause(ledger) == []
    assert (ledger.get(batch.id).status, ledger.get(batch.id).next_attempt_at) == ("failed", None)
