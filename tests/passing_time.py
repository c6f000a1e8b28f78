"""Time that passes at once: what waits by a moment that the database stores finds that it is over."""

from collections.abc import Callable

import psycopg
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.scheduler.instigation import InstigatorType, SensorInstigatorData
from waiting import Found, eventually

RECONCILING = "reconcile_sensor"


def eventually_reconciled(
    instance: DagsterInstance, condition: Callable[[], Found | None], *, about: Callable[[], object] | None = None
) -> Found:
    """As `eventually`; meanwhile `reconcile_sensor` ticks each time the daemon looks at its sensors."""

    def met() -> Found | None:
        if found := condition():
            return found
        _let_sensor_be_due(instance, RECONCILING)
        return None

    return eventually(met, pause=0.5, about=about)


def age_runs(database_url: str, *statuses: DagsterRunStatus) -> None:
    """Lets the runs look as if nothing had been heard of them for three minutes."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE dagster.runs SET update_timestamp = update_timestamp - interval '3 min' WHERE status = ANY(%s)",
            ([status.value for status in statuses],),
        )


def _let_sensor_be_due(instance: DagsterInstance, name: str) -> None:
    """Forgets when the sensor ticked. A tick that ends at this moment may store that again."""
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        data = state.instigator_data
        if state.instigator_name == name and isinstance(data, SensorInstigatorData) and data.last_tick_timestamp:
            never = data._replace(last_tick_timestamp=None, last_tick_start_timestamp=None)
            instance.update_instigator_state(state.with_data(never))
