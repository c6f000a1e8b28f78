"""Makes a process ready for its first batch: opens what a run uses, and runs the code once.

Nothing stays recorded: no batch, no run and no object in storage. A batch that only warms up would be in lists,
statistics and the order of arrival.
"""

import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from dagster import (
    AssetKey,
    DagsterInstance,
    In,
    Nothing,
    OpExecutionContext,
    Out,
    RunsFilter,
    in_process_executor,
    job,
    op,
)

from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.locks import Ownership
from batch_pipeline.batches.model import Action, DuplicateHandling
from batch_pipeline.batches.rehearsal import rehearse
from batch_pipeline.database import Connection, borrowed
from batch_pipeline.errors import NotFoundError
from batch_pipeline.loading.planner import Planner
from batch_pipeline.loading.shared_staging import SharedStaging
from batch_pipeline.loading.staging import STAGED_BATCH
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.config import SAMPLE_CONFIG
from batch_pipeline.orchestration.execute import prepare_job, quiet
from batch_pipeline.orchestration.outcomes import tag_at_end
from batch_pipeline.orchestration.run_events import gathering_events
from batch_pipeline.payloads.model import ReadLimits
from batch_pipeline.payloads.parsed import to_table
from batch_pipeline.payloads.reader import open_payload
from batch_pipeline.records.cells import ReadingOptions
from batch_pipeline.records.check import RowRules
from batch_pipeline.records.descriptions import all_resources
from batch_pipeline.records.fields import RuleContext
from batch_pipeline.system import System, connect_ahead

CONNECTIONS = 3  # that a small batch uses at once: the ledger's, the turn's, and one that writes

_ITEM = b'[{"external_id": "1", "name": "Ada", "email": "ada@example.com", "phone": "+14155550132"}]'


@op(out=Out(Nothing))
def first() -> None:
    """Does nothing."""


@op(ins={"start": In(Nothing)}, out=Out(Nothing))
def last(context: OpExecutionContext) -> None:
    """Tags its run, as each batch does."""
    tag_at_end(context, {tags.OUTCOME: ""})


@job(executor_def=in_process_executor)
def warm_up_job() -> None:
    """Two ops without work."""
    last(first())


def warm_up(system: System, instance: DagsterInstance) -> None:
    """Opens connections to database, storage and Dagster's tables, and runs rules and job machinery once.

    Raises UnavailableError in an outage.
    """
    connect_ahead(system, CONNECTIONS)
    nothing = new_batch_id()  # the id of no batch, and of no run
    with Ownership(system.engine) as ownership:
        ownership.take(nothing)
    with suppress(NotFoundError):
        system.ledger.get(nothing)
    system.ledger.of_run(nothing)
    system.ledger.attempts_at(nothing)
    instance.get_run_by_id(nothing)
    instance.get_runs(RunsFilter(tags={tags.BATCH_ID: nothing}), limit=1)
    instance.get_records_for_run(nothing, limit=1)
    instance.get_latest_materialization_event(AssetKey(nothing))
    rehearse(system.engine, CONNECTIONS)
    with ExitStack() as borrowing:
        for connection in [
            borrowing.enter_context(borrowed(system.engine, **{STAGED_BATCH: nothing})) for _ in range(CONNECTIONS)
        ]:
            _plan_nothing(connection, nothing)
    prepare_job(system, SAMPLE_CONFIG)
    check_items(system)
    _run_nothing(instance)


def _plan_nothing(connection: Connection, batch_id: str) -> None:
    """Plans a batch without items of each resource in the shared staging tables. Changes nothing."""
    for resource in all_resources():
        Planner(
            connection,
            resource,
            SharedStaging(batch_id, resource.name),
            organization_id=batch_id,
            action=Action.merge,
            items=0,
            has_gaps=False,
            fields=tuple(field.name for field in resource.fields),
            clears=False,
            kinds=None,
            keeps_unchanged=True,
            handling=DuplicateHandling.use_last,
            newer=[],
        ).plan()
    connection.rollback()


def _run_nothing(instance: DagsterInstance) -> None:
    """Runs a job of two ops without work and deletes its run, because nobody asked for it.

    An instance in memory would not do: most of the time of a first run goes to Dagster's statements in PostgreSQL.
    """
    run_id = str(uuid4())
    try:
        with gathering_events(instance, run_id):
            warm_up_job.execute_in_process(
                instance=instance, run_config=quiet("CRITICAL"), run_id=run_id, tags={tags.BATCH_ID: ""}
            )
    finally:
        instance.delete_run(run_id)  # with its events


def check_items(system: System) -> None:
    """Reads one item and checks it by the rules of each resource, all in memory."""
    with tempfile.TemporaryDirectory(prefix="batch-pipeline-warm-up-") as folder:
        path = Path(folder) / "items.json"
        path.write_bytes(_ITEM)
        payload = open_payload(path, name=path.name, limits=ReadLimits.from_settings(system.settings))
        for chunk in payload.chunks():
            pq.write_table(to_table(chunk), pa.BufferOutputStream(), compression="lz4")
            options = ReadingOptions(mapping={}, properties={}, blank_clears=False)
            for resource in all_resources():
                RowRules(resource, options, RuleContext("US")).check(chunk)
