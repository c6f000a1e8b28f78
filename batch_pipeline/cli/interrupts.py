"""Signals that ask a command to stop: each becomes KeyboardInterrupt, so that everything is closed in order."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopping_in_order() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP stop what is going on as Ctrl-C does. For the main thread.

    While Dagster executes a run, it has a handler of its own for SIGINT and SIGTERM, which cancels the run.
    """
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, _as_ctrl_c),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_ctrl_c(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
