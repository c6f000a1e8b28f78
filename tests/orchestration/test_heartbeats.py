"""The ages of the daemons' heartbeats, as monitoring and alerts read them."""

import math
import time

from dagster import DagsterInstance
from dagster._daemon.types import DaemonHeartbeat

from batch_pipeline.orchestration.heartbeats import daemon_heartbeat_ages

REQUIRED = {"SENSOR", "SCHEDULER", "QUEUED_RUN_COORDINATOR", "MONITORING", "BACKFILL"}


def test_the_age_counts_from_the_last_heartbeat_of_each_required_daemon(instance: DagsterInstance) -> None:
    ages = daemon_heartbeat_ages(instance)
    assert ages.keys() == REQUIRED
    assert set(ages.values()) == {math.inf}  # no daemon has ever started

    for seconds_ago in (500.0, 100.0):
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - seconds_ago, "SENSOR", "1", []))
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() + 100, "MONITORING", "1", []))  # a clock that is ahead
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "NOT_REQUIRED", "1", []))

    later = daemon_heartbeat_ages(instance)
    assert later.keys() == ages.keys()
    assert 100 <= later["SENSOR"] < 400
    assert later["MONITORING"] == 0
    assert later["SCHEDULER"] == math.inf
