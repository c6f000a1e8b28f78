"""Repeats a signal if Python has dropped the exception of its handler.

A signal's handler runs between two instructions of the main thread, in whatever code that is at. Python can't raise an
exception in a weak reference's callback or in ``__del__``: it prints "Exception ignored in …" and goes on. A signal
that arrives during a garbage collection meets such a callback often. So a Ctrl-C had no effect.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# The dropped exception's callback ends within microseconds, a garbage collection with callbacks within this time.
_PAUSE_SECONDS = 0.05


def interrupt_again() -> None:
    """Sends SIGINT to the main thread, which also ends a system call that it waits in."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def repeat_dropped(exception: type[BaseException], repeat: Callable[[], None] = interrupt_again) -> Callable[[], None]:
    """Calls ``repeat`` in another thread whenever Python has dropped an exception of this class, until it is ended.

    Returns a function that ends it; a call that has not begun is then omitted.
    """
    before = sys.unraisablehook
    timers: list[threading.Timer] = []

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if not issubclass(dropped.exc_type, exception):
            before(dropped)
            return
        timer = threading.Timer(_PAUSE_SECONDS, repeat)
        timer.daemon = True
        timers.append(timer)
        timer.start()

    def end() -> None:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()

    sys.unraisablehook = hook
    return end


@contextmanager
def repeating_dropped(exception: type[BaseException], repeat: Callable[[], None] = interrupt_again) -> Iterator[None]:
    """As `repeat_dropped`, until the block ends. Does nothing outside the main thread, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    end = repeat_dropped(exception, repeat)
    try:
        yield
    finally:
        end()
