"""Waits for what other processes and threads do."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_SECONDS = 150.0  # for what takes seconds on a machine that isn't overloaded

Found = TypeVar("Found")


def eventually(
    condition: Callable[[], Found | None],
    *,
    seconds: float = PATIENCE_SECONDS,
    pause: float = 0.1,
    about: Callable[[], object] | None = None,
) -> Found:
    """What the condition returns, once that is true; fails after so many seconds with what `about` returns.

    An error in the condition is raised at once. `pause`: seconds between two looks.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, about() if about else f"not within {seconds:g} s"
        time.sleep(pause)
    return found
