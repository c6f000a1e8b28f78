"""What makes the process of a run cheap: it imports no package, and connects to Dagster's database a few times."""

import sys
from collections.abc import Iterator

import psycopg2.extensions
import pytest
import sqlalchemy as sa
from batch_runs import arrived, new_organization

from batch_pipeline.batches.model import Starter
from batch_pipeline.definitions import defs
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.forking import end_processes, forked_executor
from batch_pipeline.orchestration.instance import open_instance
from batch_pipeline.orchestration.requested_runs import run_config_of, run_tags_of
from batch_pipeline.orchestration.workers import _execute
from batch_pipeline.system import System

IMPORTED = "sorted(__import__('sys').modules)"
COLLECTED = "len(__import__('gc').get_objects())"


@pytest.fixture
def dagsters_connections() -> Iterator[list[object]]:
    """The connections that this process has opened by psycopg2, which only Dagster uses."""
    opened: list[object] = []

    def note(connection: object, _: object) -> None:
        if isinstance(connection, psycopg2.extensions.connection):
            opened.append(connection)

    sa.event.listen(sa.Pool, "connect", note)
    yield opened
    sa.event.remove(sa.Pool, "connect", note)


def test_a_forked_process_has_imported_the_packages_that_a_run_uses(system: System) -> None:
    batch = arrived(system, new_organization(system), b"name\nAda\n")
    executor = forked_executor()
    try:
        before = set(executor.submit(eval, IMPORTED).result())
        assert executor.submit(_execute, batch, None).result() is None
        after = set(executor.submit(eval, IMPORTED).result())
    finally:
        end_processes(executor)
    assert system.ledger.get(batch.id).status == "completed"
    packages, late = ({name.partition(".")[0] for name in names} for names in (before, after - before))
    assert late - packages - sys.stdlib_module_names == set()


def test_a_collection_in_a_forked_process_leaves_out_what_was_imported_before() -> None:
    executor = forked_executor()
    try:
        assert executor.submit(eval, COLLECTED).result() < 10_000  # of 300,000
    finally:
        end_processes(executor)


def test_a_run_that_dagster_launches_keeps_its_connections(system: System, dagsters_connections: list[object]) -> None:
    batch = arrived(system, new_organization(system), b"name\nAda\n", starter=Starter.launcher)
    with open_instance() as instance:
        dagsters_connections.clear()
        defs.resolve_job_def(tags.JOB_NAME).execute_in_process(
            instance=instance, run_config=run_config_of(batch), tags=run_tags_of(batch)
        )
    assert system.ledger.get(batch.id).status == "completed"
    assert 0 < len(dagsters_connections) < 40  # else one for each of its hundred events and queries
