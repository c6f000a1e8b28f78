"""A child process that runs a batch and is killed with SIGKILL at a named call of a named function.

Nothing in the product knows of it: the child wraps the function before it begins. And all that a batch leaves behind,
so that a killed and retried one can be held to one that was never disturbed.
"""

import functools
import importlib
import itertools
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import psycopg
from batch_runs import contacts
from change_logs import logged
from dagster import DagsterInstance, DagsterRunStatus
from driving import run_attempt

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.reruns import WORKER_LOST
from batch_pipeline.batches.states import AT_REST, BatchStatus, Reason
from batch_pipeline.loading.record_ids import record_ids
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.forking import fork_context
from batch_pipeline.orchestration.reconciling import reconcile
from batch_pipeline.settings import get_settings
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System, open_system

_OF_ONE_RUN = ("number", "at", "organization_id", "batch_id")  # of a logged change

_VARIABLES = ("BATCH_", "AWS_", "DAGSTER_")
RELEASE_SECONDS = 60.0  # the contract's minute, in which reconciling notices that a killed process is gone


@dataclass(frozen=True)
class KillPoint:
    """The process dies before or after the n-th call of `module:name` (the name as its callers look it up)."""

    function: str
    call: int = 1
    after: bool = False

    def __str__(self) -> str:
        return (
            f"{'after' if self.after else 'before'} call {self.call} of {self.function.removeprefix('batch_pipeline.')}"
        )


def run_until_killed(batch_id: str, point: KillPoint) -> bool:
    """Runs the batch, with a run of Dagster, in another process; returns whether the point was reached."""
    environment = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    return _was_killed(fork_context().Process(target=_run, args=(batch_id, point, environment)))


def run_phases_until_killed(system: System, batch_id: str, point: KillPoint) -> bool:
    """As `run_until_killed`, without Dagster, in a fraction of the time.

    The process is a fork of this one, which has compiled the statements of `system` and imported what it needs.
    """
    return _was_killed(multiprocessing.get_context("fork").Process(target=_run_phases, args=(system, batch_id, point)))


def _was_killed(process: BaseProcess) -> bool:
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _run(batch_id: str, point: KillPoint, environment: Mapping[str, str]) -> None:
    from batch_pipeline.orchestration.instance import open_instance

    for name in [name for name in os.environ if name.startswith(_VARIABLES)]:
        del os.environ[name]
    os.environ.update(environment)
    get_settings.cache_clear()
    _arm(point)
    with open_system() as system, open_instance(in_process=True) as instance:
        execute_batch(system, instance, system.ledger.get(batch_id))


def _run_phases(system: System, batch_id: str, point: KillPoint) -> None:
    # The open connections are the parent's.
    system.engine.dispose(close=False)
    system = replace(system, store=Store(system.settings.require_storage_url()))
    _arm(point)
    run_attempt(system, system.ledger.get(batch_id))
    system.engine.dispose()
    system.store.close()


def _arm(point: KillPoint) -> None:
    module, _, path = point.function.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    wrapped = getattr(owner, name)
    calls = itertools.count(1)  # drawn from by several threads

    @functools.wraps(wrapped)
    def deadly(*args: Any, **kwargs: Any) -> Any:
        dies = next(calls) == point.call
        if dies and not point.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = wrapped(*args, **kwargs)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def kill(system: System, batch: Batch, point: KillPoint) -> Batch:
    """Runs the batch's phases until they are killed; returns it as reconciling ends one, unless it had come to rest."""
    killed = run_phases_until_killed(system, batch.id, point)
    left = system.ledger.get(batch.id)
    assert killed or left.status in AT_REST
    if left.status in AT_REST or left.run_id is None:
        return left
    ended = system.ledger.end_attempt(left.id, left.run_id, BatchStatus.failed, Reason(WORKER_LOST, "It was killed."))
    assert not any(phase.status == "running" for phase in ended.phases)
    return ended


def kill_run(system: System, instance: DagsterInstance, batch: Batch, point: KillPoint) -> Batch:
    """As `kill`, with a run of Dagster, which reconciling ends as well."""
    killed = run_until_killed(batch.id, point)
    batch = system.ledger.get(batch.id)
    assert killed or batch.status == "completed"
    if batch.status == "completed":
        return batch
    ended = _reconciled(system, instance, batch.id)
    assert (ended.status, ended.reason and ended.reason.code) == ("failed", "worker_lost")
    assert not any(phase.status == "running" for phase in ended.phases)
    run = instance.get_run_by_id(str(batch.run_id))
    assert run is not None
    assert run.status is DagsterRunStatus.FAILURE
    return ended


def run_killed_once(system: System, batch: Batch, statement: int) -> Batch:
    """The batch, run to its end; its process was killed before it executed its n-th statement, if there were so many.

    A kill between two files is the same as one before the next statement: nothing else remembers what was done.
    """
    left = kill(system, batch, KillPoint("psycopg:Cursor.execute", statement))
    if left.status in AT_REST and left.reason is not None and left.reason.code == WORKER_LOST:
        return retry(system, left)
    return left if left.status in AT_REST else run_attempt(system, left)


def retry(system: System, batch: Batch) -> Batch:
    """Runs the killed batch again, to its end: its phases, whose state the kill left behind, and no run of Dagster."""
    return run_attempt(system, system.ledger.request_rerun(batch.id, Starter.caller))


def _reconciled(system: System, instance: DagsterInstance, batch_id: str) -> Batch:
    """The batch after reconciling has noticed that its process is gone."""
    deadline = time.monotonic() + RELEASE_SECONDS
    while time.monotonic() < deadline:
        ended = {batch.id: batch for batch in reconcile(system, instance)}
        if batch_id in ended:
            return ended[batch_id]
    raise AssertionError(f"{batch_id} was not ended: {system.ledger.get(batch_id)}")


def end_state(system: System, batch: Batch) -> dict[str, Any]:
    """All that a batch leaves behind, without what differs between any two batches: new ids and times."""
    assert batch.arrived_at is not None
    rows = np.arange(1, batch.facts.items + 1)
    new_ids = record_ids("ctct_", batch_id=batch.id, arrived_at=batch.arrived_at, rows=rows)
    row_of = {new_id: f"row {row}" for row, new_id in enumerate(new_ids.to_pylist(), start=1)}
    records = []
    for record in contacts(system, str(batch.organization_id)):
        written = {None: None, batch.id: "this"}[record["batch_id"]]
        plain = {
            name: value for name, value in record.items() if name not in ("organization_id", "created_at", "updated_at")
        }
        records.append({**plain, "id": row_of.get(record["id"], record["id"]), "batch_id": written})
    result = [
        {**entry, "id": row_of.get(entry["id"], entry["id"])}
        for entry in json.loads(system.store.read(keys.result_json(batch.id)))
    ]
    changes = [
        {name: value for name, value in row.items() if name not in (*_OF_ONE_RUN, "created_at", "updated_at")}
        for row in logged(system, str(batch.organization_id), "contact_changes")
        if row["batch_id"] == batch.id
    ]
    with psycopg.connect(system.database_url) as connection:
        chunks = connection.execute(
            "SELECT phase, number, created_rows::text, is_logged FROM batch_chunks WHERE batch_id = %s ORDER BY 1, 2",
            (batch.id,),
        ).fetchall()
    return {
        "changes": sorted(changes, key=lambda row: row["record_id"]),
        "chunks": chunks,
        "status": (batch.status, batch.reason, batch.checksum, batch.has_errors_file, batch.has_result_file),
        "records": records,
        "stats": asdict(batch.stats),
        "phases": [
            (phase.name, phase.status, phase.total, phase.success, phase.error, phase.reason) for phase in batch.phases
        ],
        "errors.csv": system.store.read(keys.errors_csv(batch.id)),
        "errors.json": system.store.read(keys.errors_json(batch.id)),
        "result.json": result,
    }
