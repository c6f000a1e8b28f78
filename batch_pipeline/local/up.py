"""`up`: runs the local system until a signal stops it or a part of it ends."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from batch_pipeline.dropped_interrupts import interrupt_again, repeating_dropped
from batch_pipeline.local.announcing import Report
from batch_pipeline.local.inbox_folders import rename_undecodable
from batch_pipeline.local.supervision import ServiceEndedError
from batch_pipeline.local.system import LocalSystem, local_system
from batch_pipeline.settings import get_settings

_WATCH_SECONDS = 0.25
# Seconds between searches of the inbox for file names that S3 can't have.
_INBOX_SECONDS = 5.0


def run_up(
    data_dir: Path,
    *,
    port: int = 3000,
    api_port: int = 8000,
    s3_port: int = 9000,
    workers: int = 0,
    on_ready: Callable[[LocalSystem], None],
    report: Report,
) -> None:
    """Runs the local system until SIGINT, SIGTERM or SIGHUP; ``on_ready`` is called when it answers.

    Running batches have 30 s to end; a second signal kills them at once. If a part of the system ends, stops the rest
    and raises ServiceEndedError. Raises the errors of `local_system`.
    """
    hurry = threading.Event()
    with _stop_signals(hurry.set) as stopping:
        try:
            ports = {"port": port, "api_port": api_port, "s3_port": s3_port}
            with local_system(data_dir, **ports, workers=workers, report=report, hurry=hurry) as system:
                on_ready(system)
                try:
                    _watch(system, report)
                except ServiceEndedError as error:
                    report(error.message)
                    raise ServiceEndedError(
                        f"{error.message}. Everything was stopped: start `batch-pipeline up` again"
                    ) from None
                finally:
                    stopping.requested = True  # from now on a signal kills instead of waiting
        except _StopRequested:
            return


def _watch(system: LocalSystem, report: Report) -> None:
    """Never returns: raises ServiceEndedError, or the exception of a signal handler."""
    look_at_inbox = time.monotonic()
    while True:
        system.check()
        if system.servers is not None and time.monotonic() >= look_at_inbox:
            for line in rename_undecodable(system.servers.inbox, quiet_seconds=get_settings().inbox_quiet_seconds):
                report(line)
            look_at_inbox = time.monotonic() + _INBOX_SECONDS
        time.sleep(_WATCH_SECONDS)


class _StopRequested(BaseException):
    """A signal stops this process. A BaseException, so that no `except Exception` catches it."""


class _Stopping:
    """The signal handler: the first signal raises _StopRequested, each later one calls ``then``."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.requested = False
        self.then = then

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            self.then()
            return
        self.requested = True
        raise _StopRequested

    def again(self) -> None:
        """Repeats the first signal."""
        self.requested = False
        interrupt_again()


@contextmanager
def _stop_signals(then: Callable[[], None]) -> Iterator[_Stopping]:
    stopping = _Stopping(then)
    before = {number: signal.signal(number, stopping) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with repeating_dropped(_StopRequested, stopping.again):
            yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
