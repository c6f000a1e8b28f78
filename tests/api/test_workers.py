"""Cancelled callers of mode sync and mixed, and the processes that run batches: real ones, in an event loop."""

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psycopg
import pytest
import uvicorn
from batch_runs import arrived, new_organization
from dagster import DagsterInstance
from process_table import forked_processes
from psycopg import sql
from pydantic import SecretStr
from serving import PATIENCE_SECONDS
from waiting import eventually

from batch_pipeline.api.app import create_app
from batch_pipeline.api.routes import find_caller
from batch_pipeline.batches.api_keys import NewKey, create_key
from batch_pipeline.batches.callers import CALL_THREADS
from batch_pipeline.batches.model import Batch
from batch_pipeline.local.s3 import HOST, free_port
from batch_pipeline.orchestration import warming
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


def is_waiting_for_a_lock(system: System) -> bool:
    with psycopg.connect(system.database_url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
    return found != (0,)


def batches_of(system: System, key: NewKey) -> list[Batch]:
    return system.ledger.find(organization_id=key.organization_id)[::-1]


@pytest.fixture
def key(system: System) -> NewKey:
    return create_key(system.engine, new_organization(system))


async def caller_of(service: Service, key: NewKey) -> Caller:
    """The key's caller, whose calls have the rows of its organization from now on, also in tasks."""
    caller = await find_caller(service, key.key)
    assert caller is not None
    return caller


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
            await worker.run(batch, at_most_seconds=PATIENCE_SECONDS)

    async def scenario() -> None:
        pool = WorkerPool(1)
        try:
            before = forked_processes()
            caller = asyncio.create_task(run(pool, waits))
            await asyncio.to_thread(eventually, lambda: is_waiting_for_a_lock(system))
            (process,) = forked_processes() - before
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            await asyncio.to_thread(eventually, lambda: not process.is_running())
            await run(pool, next_one)
        finally:
            pool.close()

    with locked(system, "contacts"):
        asyncio.run(scenario())
        assert system.ledger.get(next_one.id).status == "completed"


def test_a_closed_worker_starts_no_process(system: System) -> None:
    batch = arrived(system, new_organization(system), b"name\nAda\n")

    async def scenario() -> None:
        before = forked_processes()
        worker = Worker()
        worker.warm_up()
        worker.close()
        with pytest.raises(WorkerLostError):
            await worker.run(batch, at_most_seconds=PATIENCE_SECONDS)
        assert forked_processes() <= before

    asyncio.run(scenario())


def test_the_batch_of_a_cancelled_sync_call_goes_on_and_keeps_its_worker(system: System, key: NewKey) -> None:
    def is_processed() -> bool:
        return any(batch.status == "processing" for batch in batches_of(system, key))

    async def scenario() -> None:
        settings = load_settings().model_copy(update={"sync_workers": 1})
        async with open_service(settings) as service:
            caller = await caller_of(service, key)
            with locked(system, "contacts"):
                call = asyncio.create_task(create_batch(service, caller, body("sync")))
                await asyncio.to_thread(eventually, is_processed)
                await cancel(call)
                with pytest.raises(NoWorkerError):
                    async with service.workers.worker(at_most_seconds=0):
                        pass
            async with service.workers.worker(at_most_seconds=PATIENCE_SECONDS):
                (batch,) = await service.in_thread(batches_of, system, key)
                assert (batch.status, batch.stats.created) == ("completed", 1)

    asyncio.run(scenario())


def test_a_service_closes_while_a_process_of_its_holds_locks_and_ends_it(system: System, key: NewKey) -> None:
    before = forked_processes()

    async def scenario() -> None:
        async with open_service() as service:
            caller = await caller_of(service, key)
            call = asyncio.create_task(create_batch(service, caller, body("sync")))
            await asyncio.to_thread(eventually, lambda: is_waiting_for_a_lock(system))
            await cancel(call)

    with locked(system, "contacts"):
        asyncio.run(scenario())
    assert forked_processes() <= before
    (batch,) = batches_of(system, key)
    assert batch.status == "processing"  # until reconciling finds its process gone


def test_a_mixed_call_that_is_cancelled_while_its_batch_is_accepted_keeps_the_payload(
    system: System, key: NewKey
) -> None:
    async def scenario() -> None:
        async with open_service(warm_up=False) as service:
            caller = await caller_of(service, key)
            with locked(system, "batches"):
                call = asyncio.create_task(create_batch(service, caller, body("mixed")))
                await asyncio.to_thread(eventually, lambda: is_waiting_for_a_lock(system))
                await cancel(call)

    asyncio.run(scenario())
    (batch,) = batches_of(system, key)
    assert json.loads(system.store.read(str(batch.upload_key))) == ITEMS


def test_a_port_opens_once_connections_are_open_and_warming_up_records_nothing(
    system: System, instance: DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    def connections() -> int:
        with psycopg.connect(system.database_url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
        assert row is not None
        return int(row[0])

    before = connections()
    port = free_port()
    config = uvicorn.Config(create_app(load_settings().model_copy(update={"sync_workers": 2})), host=HOST, port=port)
    server = uvicorn.Server(config)
    with ThreadPoolExecutor(1) as serving, psycopg.connect(system.database_url) as holder:
        holder.execute("LOCK TABLE batches IN ACCESS EXCLUSIVE MODE")
        serving.submit(server.run)
        eventually(lambda: is_waiting_for_a_lock(system))
        assert not accepts(port)
        holder.rollback()
        eventually(lambda: accepts(port))
        opened = connections() - before
        figures = httpx.get(f"http://{HOST}:{port}/metrics", timeout=60).text
        server.should_exit = True
    assert "warming up failed" not in caplog.text
    of_dagster = 2  # runs, and events
    assert opened >= 2 * (warming.CONNECTIONS + of_dagster) + CALL_THREADS
    assert "batch_api_request_seconds_count" not in figures
    assert system.ledger.find() == []
    assert instance.get_runs() == []
    assert system.store.list("") == []


def test_a_service_opens_in_an_outage_and_says_that_it_is_not_warm(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        away = SecretStr("postgresql://nobody@127.0.0.1:1/none")
        async with open_service(load_settings().model_copy(update={"api_database_url": away})) as service:
            assert not service.workers.closed

    asyncio.run(scenario())
    assert "warming up failed: The database can't be reached" in caplog.text


def accepts(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as trial:
        return trial.connect_ex((HOST, port)) == 0
