"""What Dagster's storage shows of its daemons, sensors and size, for monitoring."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from dagster import DagsterInstance
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, SensorInstigatorData, TickStatus
from dagster_postgres import PostgresEventLogStorage
from dagster_postgres.utils import DagsterPostgresException

from batch_pipeline.errors import UnavailableError
from batch_pipeline.orchestration.heartbeats import daemon_heartbeat_ages
from batch_pipeline.orchestration.sensors import SENSORS

_EVENT_LOG = "SELECT pg_total_relation_size('event_logs')"
_DONE = [TickStatus.SUCCESS, TickStatus.SKIPPED]


@dataclass(frozen=True)
class DagsterFigures:
    """What Dagster's storage shows at one time."""

    heartbeat_ages: dict[str, float]  #: seconds since the last heartbeat, by daemon; infinite without one
    tick_ages: dict[str, float]  #: seconds since the last tick that did not fail, by sensor; infinite without one
    event_log_bytes: int | None  #: size of the events with their indexes; None if they are not in PostgreSQL


def read_dagster_figures(instance: DagsterInstance) -> DagsterFigures:
    """Reads all figures. Within `translating_dagster_outages`, raises UnavailableError in an outage."""
    return DagsterFigures(daemon_heartbeat_ages(instance), sensor_tick_ages(instance), _event_log_bytes(instance))


def sensor_tick_ages(instance: DagsterInstance) -> dict[str, float]:
    """Seconds since the last tick of each sensor that did not fail, by sensor; a skipped tick counts.

    `math.inf` for a sensor without such a tick. A sensor that is stopped gets older, as one whose ticks fail.
    """
    states = {
        state.instigator_name: state for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    }
    now = time.time()
    return {
        sensor.name: max(0.0, now - _last_done(instance, states[sensor.name])) if sensor.name in states else math.inf
        for sensor in SENSORS
    }


def _last_done(instance: DagsterInstance, state: InstigatorState) -> float:
    """Epoch seconds; `-math.inf` without a tick that did not fail."""
    data = state.instigator_data
    # Dagster clears the time while a tick goes on and after a failure.
    if isinstance(data, SensorInstigatorData) and data.last_tick_success_timestamp:
        return data.last_tick_success_timestamp
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1, statuses=_DONE)
    return ticks[0].timestamp if ticks else -math.inf


def _event_log_bytes(instance: DagsterInstance) -> int | None:
    storage = instance.event_log_storage
    if not isinstance(storage, PostgresEventLogStorage):
        return None  # the user's own dagster.yaml has another storage
    with storage.index_connection() as connection:
        return int(connection.execute(sa.text(_EVENT_LOG)).scalar_one())


@contextmanager
def translating_dagster_outages() -> Iterator[None]:
    """Turns a lost connection to Dagster's database, or a statement that took too long, into UnavailableError."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, DagsterPostgresException) as error:
        raise UnavailableError("database", "Dagster's database does not answer: check DAGSTER_POSTGRES_URL.") from error
