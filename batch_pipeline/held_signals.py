"""Holds signals back while this process does what no exception of their handlers may divide.

A signal's handler runs between two instructions of the main thread. If it raises while a child process is started, the
child runs, and nobody has its object.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def holding_signals() -> Iterator[None]:
    """Calls the handlers of SIGINT, SIGTERM and SIGHUP at the end of the block, for signals that arrive in it.

    Keep the block short. Signals that are ignored, or end the process at once, stay so. Does nothing outside the main
    thread, in which no handler runs.
    """
    # The handlers are replaced, instead of the signals masked: Python runs a handler in the main thread, whichever
    # thread got the signal, and a mask is only of one thread. A child has no handlers, but would inherit the mask.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    holding = True
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {
        number: handler for number in _STOP_SIGNALS if callable(handler := signal.getsignal(number))
    }

    def hold(number: int, frame: FrameType | None) -> None:
        if holding:
            arrived.append(number)
        else:
            handlers[number](number, frame)

    try:
        for number in handlers:
            signal.signal(number, hold)
        yield
    finally:
        holding = False  # a handler that raises while the others are put back leaves ones that do the same as these
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in arrived:
            handlers[number](number, None)
