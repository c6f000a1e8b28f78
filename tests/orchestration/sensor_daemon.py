"""Dagster's sensor daemon, driven tick by tick, with a real code server.

What it launches stays in Dagster's queue until a test says how it went.
"""

import logging
import signal
import time

from dagster._core.remote_representation.external import RemoteSensor
from dagster._core.scheduler.instigation import SensorInstigatorData, TickStatus
from dagster._core.test_utils import freeze_time
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.sensor import execute_sensor_iteration

from batch_pipeline.dagster_home import LOCATION_NAME
from batch_pipeline.definitions import defs
from batch_pipeline.system import System

SENSORS = sorted(sensor.name for sensor in defs.get_repository_def().sensor_defs)
UPLOADS = "upload_sensor"
# The places in a tick at which Dagster's own tests end the daemon.
CRASHES = ["TICK_HELD", "RUN_IDS_RESERVED", "RUN_CREATED", "RUN_LAUNCHED"]
ALL_SECONDS = 301.0  # between ticks, so that every sensor ticks
UPLOADS_SECONDS = 5.0  # so that only those of files do
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
        if state is not None and isinstance(state.instigator_data, SensorInstigatorData):
            cleared = state.instigator_data._replace(cursor=None)
            self.instance.update_instigator_state(state.with_data(cleared))
        self.instance.reset_sensor(sensor)

    def last_tick(self, name: str) -> TickStatus:
        sensor = self.sensor(name)
        (tick,) = self.instance.get_ticks(sensor.get_remote_origin_id(), sensor.selector_id, limit=1)
        return tick.status
