"""Progress lines for steps that take seconds, so that no command is silent for more than two of them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str], None]

_EVERY_SECONDS = 2.0


def silent(_line: str) -> None:
    """A `Report` that prints nothing."""


@contextmanager
def announced(report: Report, step: str) -> Iterator[None]:
    """Reports ``step`` and the seconds so far, every 2 s until the block ends.

    A shorter block is not reported. ``report`` is called from another thread.
    """
    ended = threading.Event()
    began = time.monotonic()

    def repeat() -> None:
        while not ended.wait(_EVERY_SECONDS):
            report(f"{step} … ({time.monotonic() - began:.0f} s)")

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
