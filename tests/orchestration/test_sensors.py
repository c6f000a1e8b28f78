"""The sensors as Dagster's daemon drives them, whatever becomes of the daemon and whoever switches them off.

Ticks are Dagster's own, with a real code server; what they launch stays in Dagster's queue until a test says how it
went.
"""

import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from batch_runs import new_organization
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_representation.external import RemoteSensor
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.sensor import execute_sensor_iteration
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.dagster_home import LOCATION_NAME, MODULE_NAME
from batch_pipeline.definitions import defs
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.cancel import cancel_batch
from batch_pipeline.system import System

SENSORS = sorted(sensor.name for sensor in defs.get_repository_def().sensor_defs)
UPLOADS = "upload_sensor"
# The places in a tick at which Dagster's own tests end the daemon.
CRASHES = ["TICK_HELD", "RUN_IDS_RESERVED", "RUN_CREATED", "RUN_LAUNCHED"]
ALL_SECONDS = 60.0  # between ticks, so that every sensor ticks
UPLOADS_SECONDS = 5.0  # so that only the one of uploads does
LOGGER = logging.getLogger("tests.sensors")


class Daemon:
    """Dagster's sensor daemon, one iteration at a time."""

    def __init__(self, system: System, context: WorkspaceProcessContext) -> None:
        self.system = system
        self.context = context
        self.instance = context.instance
        self._now = time.time()

    def tick(self, *, later_seconds: float = ALL_SECONDS, crash: str | None = None) -> bool:
        """Each sensor that is on and due ticks once, unless the daemon is killed at a place in the one of uploads.

        Returns whether it was: a tick that resumes an earlier one does not come by all places.
        """
        flags = {} if crash is None else {UPLOADS: {crash: signal.SIGINT}}
        self._now += later_seconds
        with freeze_time(self._now):
            iteration = execute_sensor_iteration(self.context, LOGGER, None, None, debug_crash_flags=flags)
            try:
                assert [error for error in iteration if error is not None] == []
            except KeyboardInterrupt:  # on which Dagster leaves everything as it is, as if it had been killed
                return True
            return False

    def sensor(self, name: str) -> RemoteSensor:
        location = self.context.create_request_context().get_code_location(LOCATION_NAME)
        (repository,) = location.get_repositories().values()
        return repository.get_sensor(name)

    def switch(self, name: str, *, on: bool) -> None:
        sensor = self.sensor(name)
        if on:
            self.instance.start_sensor(sensor)
        else:
            self.instance.stop_sensor(sensor.get_remote_origin_id(), sensor.selector_id, sensor)

    def reset(self, name: str) -> None:
        """Sets the sensor back to how its code declares it, and forgets its cursor."""
        sensor = self.sensor(name)
        state = self.instance.get_instigator_state(sensor.get_remote_origin_id(), sensor.selector_id)
        if state is not None and state.instigator_data is not None:
            cleared = state.instigator_data._replace(cursor=None)  # type: ignore[union-attr]
            self.instance.update_instigator_state(state.with_data(cleared))
        self.instance.reset_sensor(sensor)

    def last_tick(self, name: str) -> TickStatus:
        sensor = self.sensor(name)
        (tick,) = self.instance.get_ticks(sensor.get_remote_origin_id(), sensor.selector_id, limit=1)
        return tick.status


@pytest.fixture(scope="module")
def daemon(module_system: System) -> Iterator[Daemon]:
    target = ModuleTarget(MODULE_NAME, attribute=None, working_directory=None, location_name=LOCATION_NAME)
    with (
        DagsterInstance.from_ref(InstanceRef.from_dir(os.environ["DAGSTER_HOME"])) as instance,
        create_test_daemon_workspace_context(target, instance) as context,
    ):
        yield Daemon(module_system, context)


class Inbox:
    """One organization's files, batches and runs."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.system = daemon.system
        self.organization = new_organization(daemon.system)
        self.dropped: list[str] = []

    def drop(self) -> None:
        self.dropped.append(f"uploads/{self.organization}/contact/merge/{len(self.dropped)}-{secrets.token_hex(2)}.csv")
        self.system.store.write(self.dropped[-1], b"name\nAda\n")

    def batches(self) -> list[Batch]:
        return self.system.ledger.find(organization_id=self.organization, newest_first=False)

    def runs(self, batch: Batch) -> list[DagsterRun]:
        """Newest first."""
        return list(self.daemon.instance.get_runs(RunsFilter(tags={tags.BATCH_ID: batch.id})))

    def waiting(self) -> list[tuple[Batch, DagsterRun]]:
        """The batches whose run is in Dagster's queue, in the order in which Dagster would start them."""
        found = [(batch, run) for batch in self.batches() for run in self.runs(batch) if not run.is_finished]
        return [(batch, run) for batch, run in found if run.status is DagsterRunStatus.QUEUED]

    def complete(self, batch: Batch, run: DagsterRun) -> None:
        ledger = self.system.ledger
        ledger.begin_attempt(batch.id, run.run_id)
        for status in (BatchStatus.queued, BatchStatus.processing, BatchStatus.completed):
            ledger.transition(batch.id, run.run_id, status)
        for event in (DagsterEventType.RUN_START, DagsterEventType.RUN_SUCCESS):
            self.daemon.instance.report_dagster_event(DagsterEvent(event.value, run.job_name), run.run_id)

    def codes(self) -> list[str | None]:
        """Why each batch ended."""
        return [batch.reason and batch.reason.code for batch in self.batches()]

    def check(self) -> None:
        """At no time is there a second batch of a file, or a second run of a batch."""
        sources = [batch.source_key for batch in self.batches()]
        assert len(sources) == len(set(sources)) <= len(self.dropped)
        for batch in self.batches():
            unfinished = [run for run in self.runs(batch) if not run.is_finished]
            assert len(unfinished) <= 1
            if unfinished and unfinished[0].status is DagsterRunStatus.QUEUED:
                assert batch.awaits_run is Starter.launcher

    def check_nothing_lost(self) -> None:
        """Each file is a batch, in the order of the files, and each that awaits a run has one in Dagster's queue."""
        assert [batch.source_key for batch in self.batches()] == self.dropped
        assert self.system.store.list(f"uploads/{self.organization}/") == []
        awaiting = [batch.id for batch in self.batches() if batch.awaits_run is not None]
        assert sorted(batch.id for batch, _ in self.waiting()) == sorted(awaiting)
        for batch in self.batches():
            finished = [run.status for run in self.runs(batch) if run.is_finished]
            if batch.status == BatchStatus.completed:
                assert finished[0] is DagsterRunStatus.SUCCESS
            elif batch.awaits_run is None:
                assert batch.status == BatchStatus.failed
                assert finished == [] or finished[0] in {DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}


@pytest.fixture
def inbox(daemon: Daemon) -> Inbox:
    return Inbox(daemon)


def test_every_sensor_is_on_named_and_described_and_its_ticks_succeed(daemon: Daemon) -> None:
    daemon.tick()
    for name in SENSORS:
        sensor = daemon.sensor(name)
        state = daemon.instance.get_instigator_state(sensor.get_remote_origin_id(), sensor.selector_id)
        assert sensor.get_current_instigator_state(state).is_running
        assert len(sensor.description or "") > 40
        assert name.endswith("_sensor")
        assert daemon.last_tick(name) in {TickStatus.SKIPPED, TickStatus.SUCCESS}


@pytest.mark.parametrize("place", CRASHES)
def test_a_daemon_that_dies_in_a_tick_takes_in_and_launches_all_once_when_it_is_back(
    daemon: Daemon, inbox: Inbox, place: str
) -> None:
    inbox.drop()
    inbox.drop()
    assert daemon.tick(later_seconds=UPLOADS_SECONDS, crash=place)
    inbox.check()
    inbox.drop()
    for _ in range(2):
        daemon.tick(later_seconds=UPLOADS_SECONDS)
        inbox.check()
    assert len(inbox.waiting()) == 3
    inbox.check_nothing_lost()


@pytest.mark.parametrize("names", [[UPLOADS], [name for name in SENSORS if name != UPLOADS]])
def test_sensors_that_were_off_or_are_reset_go_on_where_things_stand(
    daemon: Daemon, inbox: Inbox, names: list[str]
) -> None:
    """What is to be done is in the ledger and in Dagster's runs, not in a cursor."""
    for _ in range(2):
        inbox.drop()
    daemon.tick(later_seconds=UPLOADS_SECONDS)
    for name in names:
        daemon.switch(name, on=False)
    inbox.drop()
    (first, first_run), (second, second_run) = inbox.waiting()
    daemon.instance.report_run_canceled(first_run)
    daemon.instance.report_run_failed(second_run)
    daemon.tick()
    assert len(inbox.batches()) == (2 if UPLOADS in names else 3)
    codes = ["cancelled", "never_started"]
    assert inbox.codes()[:2] == (codes if UPLOADS in names else [None, None])
    for name in names:
        daemon.reset(name)
        daemon.switch(name, on=True)
    daemon.tick()
    assert inbox.codes()[:2] == codes
    for batch in (first, second):
        inbox.system.ledger.request_rerun(batch.id, Starter.launcher)
    for name in names:
        daemon.reset(name)
    daemon.tick()
    inbox.check()
    assert len(inbox.waiting()) == 3
    inbox.check_nothing_lost()


class SensorMachine(RuleBasedStateMachine):
    """Files, ticks, crashes, switches, resets, and runs that go one way or another, in any order."""

    daemon: Daemon

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox(self.daemon)
        self.off: set[str] = set()

    @rule(count=st.integers(1, 3))
    def drop(self, count: int) -> None:
        for _ in range(count):
            self.inbox.drop()

    @rule()
    def tick(self) -> None:
        self.daemon.tick()

    @precondition(lambda self: UPLOADS not in self.off)
    @rule(place=st.sampled_from(CRASHES))
    def crash(self, place: str) -> None:
        self.inbox.drop()  # so that the tick has something to launch
        self.daemon.tick(later_seconds=UPLOADS_SECONDS, crash=place)

    @rule(name=st.sampled_from(SENSORS))
    def switch(self, name: str) -> None:
        self.daemon.switch(name, on=name in self.off)
        self.off ^= {name}

    @rule(name=st.sampled_from(SENSORS))
    def reset(self, name: str) -> None:
        self.daemon.reset(name)
        self.off.discard(name)

    @precondition(lambda self: self.inbox.waiting())
    @rule(how=st.sampled_from(["completes", "fails before it begins", "is cancelled in Dagster", "is cancelled here"]))
    def run_goes(self, how: str) -> None:
        batch, run = self.inbox.waiting()[0]
        instance = self.daemon.instance
        ways: dict[str, Callable[[], Any]] = {
            "completes": lambda: self.inbox.complete(batch, run),
            "fails before it begins": lambda: instance.report_run_failed(run),
            "is cancelled in Dagster": lambda: instance.report_run_canceled(run),
            "is cancelled here": lambda: cancel_batch(self.inbox.system, instance, batch.id),
        }
        ways[how]()

    @rule()
    def retry(self) -> None:
        for batch in self.inbox.batches():
            if batch.status == BatchStatus.failed and batch.awaits_run is None:
                self.inbox.system.ledger.request_rerun(batch.id, Starter.launcher)

    @invariant()
    def nothing_is_doubled(self) -> None:
        self.inbox.check()

    def teardown(self) -> None:
        for name in self.off:
            self.daemon.switch(name, on=True)
        for _ in range(3):
            self.daemon.tick()
        self.inbox.check_nothing_lost()


def test_no_order_of_events_loses_or_doubles_anything(daemon: Daemon) -> None:
    machine = type("Machine", (SensorMachine,), {"daemon": daemon})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("SENSOR_EXAMPLES", "3")),
            stateful_step_count=8,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
