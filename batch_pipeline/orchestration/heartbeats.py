"""How long Dagster's daemons have been silent.

Each thread of the daemon process ("daemon" in Dagster's words) stores a heartbeat about every 30 s, with the clock of
its own machine. The scheduler wakes once a minute and stores none within 30 s of the last one, so its first two
heartbeats may lie 90 s apart.
"""

import math
import time

from dagster import DagsterInstance


def daemon_heartbeat_ages(instance: DagsterInstance) -> dict[str, float]:
    """Seconds since the last heartbeat of each daemon that the instance requires, by daemon type.

    `math.inf` for a daemon without any heartbeat, for example before the first start. Never negative, because clocks
    of machines differ a little.
    """
    heartbeats = instance.get_daemon_heartbeats()
    now = time.time()
    return {
        daemon: max(0.0, now - heartbeats[daemon].timestamp) if daemon in heartbeats else math.inf
        for daemon in sorted(instance.get_required_daemon_types())
    }
