"""Sensors under Dagster's daemon, with crashes, restarts, and sensors that are stopped or reset."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget
from examples import examples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sensor_daemon import CRASHES, SENSORS, UPLOADS, UPLOADS_SECONDS, Daemon
from sensor_world import World

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.states import FINAL, BatchStatus
from batch_pipeline.dagster_home import LOCATION_NAME, MODULE_NAME
from batch_pipeline.orchestration.instance import open_migrated_instance
from batch_pipeline.orchestration.reconciling import cancel_batch
from batch_pipeline.system import System

IDLE_ROUNDS = 2


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_RERUN_PAUSE_SECONDS": "86400"}  # passes when a test lets it pass


@pytest.fixture(scope="module")
def daemon(module_system: System) -> Iterator[Daemon]:
    target = ModuleTarget(MODULE_NAME, attribute=None, working_directory=None, location_name=LOCATION_NAME)
    with (
        open_migrated_instance() as instance,
        create_test_daemon_workspace_context(target, instance) as context,
    ):
        yield Daemon(module_system, context)


@pytest.fixture
def world(daemon: Daemon) -> Iterator[World]:
    world = World(daemon.system, daemon.instance)
    yield world
    world.leave_nothing_waiting()


def test_every_sensor_is_on_named_and_described_and_its_ticks_succeed(daemon: Daemon) -> None:
    daemon.tick()
    for name in SENSORS:
        sensor = daemon.sensor(name)
        state = daemon.instance.get_instigator_state(sensor.get_remote_origin_id(), sensor.selector_id)
        assert sensor.get_current_instigator_state(state).is_running
        assert len(sensor.description or "") > 40
        assert name.endswith("_sensor")
        assert daemon.last_tick(name) in {TickStatus.SKIPPED, TickStatus.SUCCESS}


def test_ticks_of_an_idle_system_keep_their_connections_to_the_database(daemon: Daemon) -> None:
    """Each new connection is a process of the server; Dagster's own storage opens over fifty here."""
    daemon.tick()
    before = _sessions(daemon.system)
    for _ in range(IDLE_ROUNDS):
        daemon.tick()
    assert _sessions(daemon.system) - before <= IDLE_ROUNDS


def _sessions(system: System) -> int:
    """The sessions that the database has had."""
    count = sa.text("SELECT sessions FROM pg_stat_database WHERE datname = current_database()")
    with system.engine.connect() as connection:
        return int(connection.execute(count).scalar_one())


@pytest.mark.parametrize("place", CRASHES)
def test_a_restarted_daemon_takes_in_and_launches_everything_once(daemon: Daemon, world: World, place: str) -> None:
    world.drop()
    world.drop()
    assert daemon.tick(later_seconds=UPLOADS_SECONDS, crash=place)
    world.check()
    world.drop()
    for _ in range(2):
        daemon.tick(later_seconds=UPLOADS_SECONDS)
        world.check()
    assert len(world.waiting()) == 3
    world.check_nothing_lost()


@pytest.mark.parametrize("names", [[UPLOADS], [name for name in SENSORS if name != UPLOADS]])
def test_sensors_that_were_stopped_or_reset_continue_from_the_ledger(
    daemon: Daemon, world: World, names: list[str]
) -> None:
    """What is to be done is in the ledger, in storage and in Dagster's runs, not in a cursor."""
    for _ in range(4):
        world.drop()
    came, never_came, came_late = world.ask(), world.ask(), world.ask()
    world.runs_out(came_late)
    daemon.tick()
    for name in names:
        daemon.switch(name, on=False)
    world.drop()
    (first, first_run), (second, second_run), (third, third_run), (fourth, fourth_run) = world.waiting()
    world.instance.report_run_canceled(first_run)
    world.instance.report_run_failed(second_run)
    world.begins(third, third_run)
    world.completes(fourth, fourth_run)
    world.ages(fourth.id)
    world.send(came)
    world.send(came_late)
    world.runs_out(never_came)
    daemon.tick()
    assert len(world.of_files()) == (4 if UPLOADS in names else 5)
    codes = ["cancelled", "never_started", "worker_lost", None]
    assert world.codes()[:4] == (codes if UPLOADS in names else [None] * 4)
    for name in names:
        daemon.reset(name)
        daemon.switch(name, on=True)
    daemon.tick()
    assert world.codes()[:4] == codes
    for batch in (first, second, third):
        world.retries(batch)
    for name in names:
        daemon.reset(name)
    for _ in range(2):
        daemon.tick()
    world.check()
    assert len(world.waiting()) == 5
    world.check_nothing_lost()


class SensorMachine(RuleBasedStateMachine):
    """Files, upload URLs, ticks, crashes, switches, resets, age, and runs that go one way or another, in any order."""

    daemon: Daemon

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.daemon.system, self.daemon.instance)
        self.off: set[str] = set()

    def ended(self) -> list[Batch]:
        """The batches that nothing is to happen to any more."""
        ended = [batch for batch in self.world.batches() if batch.status in FINAL and batch.awaits_run is None]
        return [batch for batch in ended if batch.next_attempt_at is None]

    @rule(count=st.integers(1, 3))
    def drop(self, count: int) -> None:
        for _ in range(count):
            self.world.drop()

    @rule(file=st.sampled_from(["comes", "comes at the last moment", "never comes", "is awaited", "comes twice"]))
    def ask(self, file: str) -> None:
        batch_id = self.world.ask()
        if "comes" in file and "never" not in file:
            self.world.send(batch_id)
        if file in {"comes at the last moment", "never comes"}:
            self.world.runs_out(batch_id)
        if file == "comes twice":
            self.daemon.tick()
            self.world.send(batch_id)

    @precondition(lambda self: self.world.asked)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        self.world.send(data.draw(st.sampled_from(self.world.asked)))

    @rule()
    def tick(self) -> None:
        self.daemon.tick()

    @precondition(lambda self: UPLOADS not in self.off)
    @rule(place=st.sampled_from(CRASHES))
    def crash(self, place: str) -> None:
        self.world.drop()  # so that the tick has something to launch
        self.daemon.tick(later_seconds=UPLOADS_SECONDS, crash=place)

    @rule(name=st.sampled_from(SENSORS))
    def switch(self, name: str) -> None:
        self.daemon.switch(name, on=name in self.off)
        self.off ^= {name}

    @rule(name=st.sampled_from(SENSORS))
    def reset(self, name: str) -> None:
        self.daemon.reset(name)
        self.off.discard(name)

    @precondition(lambda self: self.world.waiting())
    @rule(
        how=st.sampled_from(
            ["completes", "loses its worker", "fails before it begins", "is cancelled in Dagster", "is cancelled here"]
        )
    )
    def run_goes(self, how: str) -> None:
        world = self.world
        batch, run = world.waiting()[0]
        ways: dict[str, Callable[[], Any]] = {
            "completes": lambda: world.completes(batch, run),
            "loses its worker": lambda: world.begins(batch, run),
            "fails before it begins": lambda: world.instance.report_run_failed(run),
            "is cancelled in Dagster": lambda: world.instance.report_run_canceled(run),
            "is cancelled here": lambda: cancel_batch(world.system, world.instance, batch.id),
        }
        ways[how]()

    @precondition(lambda self: self.ended())
    @rule(data=st.data())
    def age(self, data: st.DataObject) -> None:
        self.world.ages(data.draw(st.sampled_from([batch.id for batch in self.ended()])))

    @rule()
    def let_pauses_pass(self) -> None:
        self.world.passes_pauses()

    @rule()
    def retry(self) -> None:
        for batch in self.ended():
            if batch.status == BatchStatus.failed and batch.pruned_at is None:
                self.world.retries(batch)

    @invariant()
    def nothing_is_doubled(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        for name in self.off:
            self.daemon.switch(name, on=True)
        for _ in range(3):
            self.daemon.tick()
        self.world.check_nothing_lost()
        self.world.leave_nothing_waiting()


def test_any_order_of_events_processes_each_file_once(daemon: Daemon) -> None:
    machine = type("Machine", (SensorMachine,), {"daemon": daemon})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(2, thorough=50),
            stateful_step_count=8,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
