"""An organization's single batch starts soon, however many of others wait: by Dagster's own queue, without runs."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

import psycopg
import pytest
from batch_runs import arrived, new_organization
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, RunRequest, build_sensor_context
from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._core.test_utils import MockedRunLauncher, create_test_daemon_workspace_context
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.definitions import defs
from batch_pipeline.intake import inbox
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.requested_runs import QUEUED_PER_SLOT
from batch_pipeline.orchestration.run_queue import RUNS_PER_TURN
from batch_pipeline.system import System

WAITING = 1_000  # batches of the flood
FINISHED_PER_ROUND = 5
ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "all"), tags.JOB_NAME)


@pytest.fixture
def daemon_context(system: System) -> Iterator[WorkspaceProcessContext]:
    """Dagster as configured, except that what is launched goes no further."""
    launcher = {"module": "dagster._core.test_utils", "class": "MockedRunLauncher"}
    ref = InstanceRef.from_dir(os.environ["DAGSTER_HOME"], overrides={"run_launcher": launcher})
    with (
        DagsterInstance.from_ref(ref) as instance,
        create_test_daemon_workspace_context(EmptyWorkspaceTarget(), instance) as context,
    ):
        yield context


class Simulation:
    """Rounds of: a tick of the sensor, a look of Dagster's queue, runs that begin, and some that end."""

    def __init__(self, system: System, context: WorkspaceProcessContext) -> None:
        self.system = system
        self.context = context
        self.instance = context.instance
        self.queue = QueuedRunCoordinatorDaemon(interval_seconds=1)
        self.asked_for: set[str] = set()
        self.started: list[Batch] = []
        self.running: list[tuple[Batch, DagsterRun]] = []

    def round(self) -> None:
        with build_sensor_context(instance=self.instance) as tick:
            for request in cast("Iterator[object]", defs.get_sensor_def("upload_sensor")(tick)):
                # As Dagster does: of requests with the same key only the first makes a run.
                if isinstance(request, RunRequest) and str(request.run_key) not in self.asked_for:
                    self.asked_for.add(str(request.run_key))
                    self._submit(request)
        list(self.queue.run_iteration(self.context))
        launcher = self.instance.run_launcher
        assert isinstance(launcher, MockedRunLauncher)
        while launcher.queue():
            self._begin(launcher.queue().pop(0))
        self._check_limits()
        for batch, run in self.running[:FINISHED_PER_ROUND]:
            self.system.ledger.end_attempt(batch.id, run.run_id, BatchStatus.failed, Reason("over", "It is over."))
            self.instance.report_run_failed(run)
        del self.running[:FINISHED_PER_ROUND]

    def _submit(self, request: RunRequest) -> None:
        run = self.instance.create_run_for_job(
            defs.resolve_job_def(tags.JOB_NAME),
            run_config=request.run_config,
            tags=dict(request.tags),
            remote_job_origin=ORIGIN,
        )
        self.instance.run_coordinator.submit_run(SubmitRunContext(run, self.context.create_request_context()))

    def _begin(self, run: DagsterRun) -> None:
        started = DagsterEvent(DagsterEventType.RUN_START.value, run.job_name)
        self.instance.report_dagster_event(started, run.run_id)
        batch = self.system.ledger.begin_attempt(run.tags[tags.BATCH_ID], run.run_id)
        self.started.append(batch)
        self.running.append((batch, run))

    def _check_limits(self) -> None:
        settings = self.system.settings
        assert len(self.running) <= settings.concurrent_runs
        per_organization = Counter(batch.organization_id for batch, _ in self.running)
        assert max(per_organization.values()) <= settings.organization_runs
        per_turn = Counter((batch.organization_id, batch.resource) for batch, _ in self.running)
        assert max(per_turn.values()) <= RUNS_PER_TURN

    def starts_before(self, batch: Batch) -> int:
        """Goes on until the batch starts; how many others did since now."""
        before = len(self.started)
        while batch.id not in (ids := [started.id for started in self.started]):
            self.round()
            assert len(self.started) < WAITING
        return ids.index(batch.id) - before


def _flood(system: System, organizations: Sequence[str], count: int) -> None:
    """So many batches that await their run, of each of these organizations, of contacts and groups in turn."""
    for organization in organizations:
        first = arrived(system, organization, b"name\nAda\n", starter=Starter.launcher)
        with psycopg.connect(system.database_url) as connection:
            connection.execute(
                """
                INSERT INTO batches SELECT (jsonb_populate_record(b, jsonb_build_object(
                    'id', b.id || n, 'arrival', nextval('batch_arrivals'),
                    'resource', (ARRAY['contact', 'group'])[1 + n %% 2]))).*
                FROM batches b, generate_series(1, %s) n WHERE b.id = %s
                """,
                (count - 1, first.id),
            )


@pytest.mark.parametrize("floods", [1, 3])
def test_a_single_batch_starts_soon_while_a_thousand_of_others_wait(
    system: System, daemon_context: WorkspaceProcessContext, floods: int
) -> None:
    """One organization can't fill Dagster's slots; three can, and then its queue must be short."""
    _flood(system, [new_organization(system) for _ in range(floods)], WAITING // floods)
    simulation = Simulation(system, daemon_context)
    for _ in range(3):
        simulation.round()
    single = arrived(system, new_organization(system), b"name\nAda\n", starter=Starter.launcher)
    starts = simulation.starts_before(single)
    settings = system.settings
    if floods * settings.organization_runs < settings.concurrent_runs:
        assert starts <= settings.organization_runs
    assert starts <= floods * QUEUED_PER_SLOT * settings.organization_runs
    # Each flood went on meanwhile, in the order of arrival for each kind of record.
    for organization in {batch.organization_id for batch in simulation.started} - {single.organization_id}:
        for resource in ("contact", "group"):
            line = [
                b.arrival for b in simulation.started if (b.organization_id, b.resource) == (organization, resource)
            ]
            assert line == sorted(line, key=int)


def test_organizations_take_turns_if_a_tick_takes_fewer_files_than_exist(system: System) -> None:
    floods = [new_organization(system) for _ in range(2)]
    single = new_organization(system)
    for number in range(6):
        for flood in floods:
            system.store.write(f"uploads/{flood}/contact/merge/{number}.csv", b"name\nAda\n")
    system.store.write(f"uploads/{single}/contact/merge/only.csv", b"name\nAda\n")
    taken = [inbox.take_in(system, limit=1)[0].organization_id for _ in range(6)]
    assert set(taken[:3]) == set(taken[3:5]) | {single}
    assert Counter(taken)[single] == 1
    assert sorted(Counter(taken[3:]).values()) == [1, 2]


def test_a_tick_stops_in_time_and_the_next_tick_continues(system: System) -> None:
    for number in range(5):
        system.store.write(f"uploads/default/contact/merge/{number}.csv", b"name\nAda\n")
    counts = [len(inbox.take_in(system, limit=100, seconds=0.0)) for _ in range(6)]
    assert counts == [1, 1, 1, 1, 1, 0]
