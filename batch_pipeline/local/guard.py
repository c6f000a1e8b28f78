"""A process that ends what `supervision` started, should the supervising process be killed.

Told the process groups on its standard input, one number a line, it waits for that to close; then it ends
the groups that are left. In the ordinary course none are. Children's death signals would not do: they do
not reach what the children started themselves, such as the processes of runs.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

_POLL_SECONDS = 0.05


def end_groups(groups: Sequence[int], patience_seconds: float, *, reap: Callable[[], object] = lambda: None) -> None:
    """Sends SIGTERM to all processes of the groups, and SIGKILL where they outlast ``patience_seconds``.

    ``reap`` is called meanwhile: to collect the caller's own children, else zombies in their group.
    """
    for group in groups:
        _signal(group, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while True:
        reap()
        left = [group for group in groups if _signal(group, 0)]
        if not left or time.monotonic() >= deadline:
            break
        time.sleep(_POLL_SECONDS)
    for group in left:
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Sends a signal (0: none) to a group. False if it has no process any more."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)
        return True
    return False


def main() -> None:
    """Waits for the supervising process to end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its end is the end of its input
    groups = [int(line) for line in sys.stdin]
    end_groups(groups, patience_seconds=10.0)


if __name__ == "__main__":
    main()
