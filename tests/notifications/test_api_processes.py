"""Two processes of the API deliver and alert; both are killed in the middle and one is started again."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.synchronize import Semaphore

import sqlalchemy as sa
from batch_runs import accepted
from receivers import ALLOWED, Received, Verdict, receiving
from serving import served
from standardwebhooks import Webhook as Verifier
from systems import leading_to
from waiting import eventually

from batch_pipeline.batches.deliveries import LEASE, DeliveryStatus, list_deliveries
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.outbox import write_event
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.batches.tables import webhook_deliveries
from batch_pipeline.batches.webhooks import create_webhook
from batch_pipeline.metrics.calls import sharing_calls
from batch_pipeline.orchestration.forking import fork_context
from batch_pipeline.system import System

WHY = Reason("test", "The test says so.")
EVENTS = 60


@contextmanager
def api_processes(number: int, **variables: str) -> Iterator[None]:
    """Processes of the API that are ready; killed at the end, as if their machine had vanished.

    They are forked from a process that has imported most of what they need, and don't run batches.
    """
    forking = fork_context()
    ready = forking.Semaphore(0)
    with sharing_calls(), leading_to(variables):
        processes = [forking.Process(target=_serve, args=(ready, dict(os.environ))) for _ in range(number)]
        for process in processes:
            process.start()
        try:
            for _ in processes:
                eventually(lambda: ready.acquire(block=False))
            yield
        finally:
            for process in processes:
                process.kill()
                process.join()


def _serve(ready: Semaphore, environment: dict[str, str]) -> None:
    with leading_to(environment), served():
        ready.release()
        threading.Event().wait()


def test_nothing_is_lost_when_the_processes_are_killed_and_an_alert_is_told_once(system: System) -> None:
    first: set[str] = set()

    def answer(call: Received) -> Verdict:
        """Slow, and fails an event's first call."""
        time.sleep(0.05)
        is_first = call.id not in first
        first.add(call.id)
        return 503 if is_first and hash(call.id) % 4 == 0 else 204

    with receiving(answer) as receiver, receiving() as people:
        settings = {
            "BATCH_WEBHOOK_NETWORKS": ALLOWED,
            "BATCH_ALERT_URL": f"json://127.0.0.1:{people.port}/",
        }
        batch = replace(accepted(system.engine, "default"), status=BatchStatus.completed)
        failed = [
            system.ledger.end(accepted(system.engine, "default", key="k").id, BatchStatus.failed, WHY).id
            for _ in range(3)
        ]
        webhook = create_webhook(system.engine, "default", receiver.url, allows_private=True)
        ids = {new_batch_id() for _ in range(EVENTS)}
        with api_processes(2, **settings):
            eventually(lambda: people.received)
            with system.engine.begin() as connection:
                for batch_id in ids:
                    write_event(connection, replace(batch, id=batch_id))
            eventually(lambda: len(receiver.received) > EVENTS / 4)
        assert len(receiver.accepted) < EVENTS
        _let_claims_end(system)
        with api_processes(1, **settings):
            eventually(
                lambda: (
                    list_deliveries(system.engine, webhook.webhook.id, status=DeliveryStatus.delivered).total_count
                    == EVENTS
                )
            )
    assert {json.loads(call.body)["data"]["id"] for call in receiver.accepted} == ids
    for call in receiver.received:
        Verifier(webhook.secret).verify(call.body, call.headers)
    (message,) = [json.loads(call.body) for call in people.received]
    assert message["title"] == "batch_pipeline: 3 batches failed"
    assert [line.split(":")[0] for line in message["message"].splitlines()] == failed


def _let_claims_end(system: System) -> None:
    """As if the time for which a process claims a delivery had passed."""
    due = webhook_deliveries.c.due_at
    with system.engine.begin() as connection:
        connection.execute(sa.update(webhook_deliveries).where(due.is_not(None)).values(due_at=due - LEASE))
