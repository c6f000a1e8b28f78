"""A process that kills the services of `supervision` if the supervising process is killed.

It reads the ids of process groups from its standard input, one per line. When the input closes, it kills the groups
that still exist; after an orderly stop there are none. Death signals are not enough: they reach the services, but not
the processes of runs that the services started.

It sends SIGKILL, so that the batch is reported as ``worker_lost``. On SIGTERM, Dagster would cancel the run.
"""

import signal
import sys

from batch_pipeline.local.processes import kill_group


def main() -> None:
    """Waits for the supervising process to end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when its input ends
    for group in [int(line) for line in sys.stdin]:
        kill_group(group)


if __name__ == "__main__":
    main()
