"""Cancelled callers of mode sync and mixed, and the processes that run batches: real ones, in an event loop."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from batch_runs import arrived, new_organization
from process_table import forked_processes
from psycopg import sql
from serving import PATIENCE_SECONDS

from batch_pipeline.batches.api_keys import create_key
from batch_pipeline.batches.listing import Filters, list_page
from batch_pipeline.batches.model import Batch
from batch_pipeline.orchestration.workers import NoWorkerError, Worker, WorkerLostError, WorkerPool
from batch_pipeline.service.context import Service, open_service
from batch_pipeline.service.creating import Caller, create_batch
from batch_pipeline.settings import load_settings
from batch_pipeline.system import System

ITEMS = [{"external_id": "crm-1", "name": "Ada"}]


@contextmanager
def locked(system: System, table: str) -> Iterator[None]:
    """Whoever writes into the table waits."""
    with psycopg.connect(system.database_url) as connection:
        connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.Identifier(table)))
        yield
        connection.rollback()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def is_waiting_for_a_lock(system: System) -> bool:
    with psycopg.connect(system.database_url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
    return found != (0,)


def batches_of(system: System, caller: Caller) -> list[Batch]:
    page = list_page(system.engine, caller.organization_id, Filters(), page=1, limit=10, newest_first=False)
    return list(page.batches)


@pytest.fixture
def caller(system: System) -> Caller:
    organization_id = new_organization(system)
    return Caller(organization_id, create_key(system.engine, organization_id).id)


def body(mode: str) -> memoryview:
    return memoryview(json.dumps({"resource": "contact", "action": "merge", "mode": mode, "data": ITEMS}).encode())


async def cancel(task: "asyncio.Task[Batch]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_worker_whose_caller_is_cancelled_is_lent_again_only_with_another_process(system: System) -> None:
    waits = arrived(system, new_organization(system), b"name\nAda\n")
    next_one = arrived(
        system,
        new_organization(system),
        b"item_id,location_id,serial_number\nitem_1,loc_1,S1\n",
        name="laptops.csv",
        resource="asset",
    )

    async def run(pool: WorkerPool, batch: Batch) -> None:
        async with pool.worker(at_most_seconds=PATIENCE_SECONDS) as worker:
            await worker.run(batch.id, at_most_seconds=PATIENCE_SECONDS)

    async def scenario() -> None:
        pool = WorkerPool(1)
        try:
            before = forked_processes()
            caller = asyncio.create_task(run(pool, waits))
            await until(lambda: asyncio.to_thread(is_waiting_for_a_lock, system))
            (process,) = forked_processes() - before
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            await until(lambda: asyncio.to_thread(lambda: not process.is_running()))
            await run(pool, next_one)
        finally:
            pool.close()

    with locked(system, "contacts"):
        asyncio.run(scenario())
        assert system.ledger.get(next_one.id).status == "completed"


def test_a_closed_worker_starts_no_process(system: System) -> None:
    async def scenario() -> None:
        before = forked_processes()
        worker = Worker()
        worker.warm_up()
        worker.close()
        with pytest.raises(WorkerLostError):
            await worker.run("batch_x", at_most_seconds=PATIENCE_SECONDS)
        assert forked_processes() <= before

    asyncio.run(scenario())


def test_the_batch_of_a_cancelled_sync_call_goes_on_and_keeps_its_worker(system: System, caller: Caller) -> None:
    async def is_processed(service: Service) -> bool:
        found = await service.in_thread(batches_of, system, caller)
        return bool(found) and found[0].status == "processing"

    async def scenario() -> None:
        settings = load_settings().model_copy(update={"sync_workers": 1})
        async with open_service(settings) as service:
            with locked(system, "contacts"):
                call = asyncio.create_task(create_batch(service, caller, body("sync")))
                await until(lambda: is_processed(service))
                await cancel(call)
                with pytest.raises(NoWorkerError):
                    async with service.workers.worker(at_most_seconds=0):
                        pass
            async with service.workers.worker(at_most_seconds=PATIENCE_SECONDS):
                (batch,) = await service.in_thread(batches_of, system, caller)
                assert (batch.status, batch.stats.created) == ("completed", 1)

    asyncio.run(scenario())


def test_a_service_closes_while_a_process_of_its_holds_locks_and_ends_it(system: System, caller: Caller) -> None:
    before = forked_processes()

    async def scenario() -> None:
        async with open_service() as service:
            call = asyncio.create_task(create_batch(service, caller, body("sync")))
            await until(lambda: service.in_thread(is_waiting_for_a_lock, system))
            await cancel(call)

    with locked(system, "contacts"):
        asyncio.run(scenario())
    assert forked_processes() <= before
    (batch,) = batches_of(system, caller)
    assert batch.status == "processing"  # until reconciling finds its process gone


def test_a_mixed_call_that_is_cancelled_while_its_batch_is_accepted_keeps_the_payload(
    system: System, caller: Caller
) -> None:
    async def scenario() -> None:
        async with open_service(warm_up=False) as service:
            with locked(system, "batches"):
                call = asyncio.create_task(create_batch(service, caller, body("mixed")))
                await until(lambda: service.in_thread(is_waiting_for_a_lock, system))
                await cancel(call)

    asyncio.run(scenario())
    (batch,) = batches_of(system, caller)
    assert json.loads(system.store.read(str(batch.upload_key))) == ITEMS
