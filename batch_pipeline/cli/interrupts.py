"""Signals that stop a command: each raises KeyboardInterrupt, so that everything is closed in order."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from batch_pipeline.cli.console import say

_STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


@contextmanager
def stopping_in_order() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP stop the command as Ctrl-C does, and prints a message at once. For the main thread.

    While Dagster executes a run, its own handlers for SIGINT and SIGTERM cancel the run.
    """
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, _raise_sigint),
    }
    try:
        with _first_signal_announced():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _first_signal_announced() -> Iterator[None]:
    """Prints a message at the first of the signals.

    A thread waits for it, because the main thread may be busy: in a statement, in an import, or while it waits for
    chunks to end. Python itself writes the signal's number to the socket, whichever handler is installed.
    """
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    before = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    announcer = threading.Thread(target=_announce, args=(receiving,), daemon=True)
    announcer.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        sending.close()
        announcer.join()
        receiving.close()


def _announce(receiving: socket.socket) -> None:
    while numbers := receiving.recv(64):
        if _STOP_SIGNALS.intersection(numbers):
            say("Interrupted: stopping in order, which can take some seconds …")
            return


def _raise_sigint(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
