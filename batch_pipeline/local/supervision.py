"""Running long-lived services as children of this process: start in order, watch, stop in reverse order.

Nothing here knows what the services are; `system` does.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from batch_pipeline.errors import BatchError, UnavailableError
from batch_pipeline.local.guard import end_groups
from batch_pipeline.local.processes import last_line, start_process

_POLL_SECONDS = 0.05
# What a service's own children get between SIGTERM and SIGKILL once the service has ended.
_REMAINDER_SECONDS = 5.0


@dataclass(frozen=True)
class Service:
    """One long-lived child process.

    Attributes:
        name: as users know it, "the Dagster webserver"; also names the log.
        command: program and arguments; no secrets.
        is_ready: whether it answers already; None for one that has nothing to ask.
        start_seconds: how long it may take to answer.
        stop_seconds: how long it may take to end after SIGTERM.
    """

    name: str
    command: Sequence[str]
    is_ready: Callable[[], bool] | None = None
    start_seconds: float = 120.0
    stop_seconds: float = 15.0

    @property
    def log_name(self) -> str:
        """The name of its log file."""
        return f"{self.name.removeprefix('the ').lower().replace(' ', '-')}.log"


class ServiceEndedError(BatchError):
    """A service ended that was to run until it is stopped."""


class Supervisor:
    """The running services; a context manager that leaves none behind, whatever happens.

    Use it from the main thread. If this process is killed, a `guard` ends them; ``guard_holds`` are open
    files that it keeps until it has.
    """

    def __init__(self, environment: Mapping[str, str], log_folder: Path, *, guard_holds: Sequence[int] = ()) -> None:
        self._environment = dict(environment)
        self._guard_holds = guard_holds
        self._log_folder = log_folder
        self._running: list[tuple[Service, subprocess.Popen[bytes]]] = []
        self._guard: subprocess.Popen[bytes] | None = None
        self._in_a_hurry = False

    def __enter__(self) -> "Supervisor":
        self._guard = subprocess.Popen(
            [sys.executable, "-P", "-m", "batch_pipeline.local.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=self._guard_holds,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._running:
                self._stop(*self._running.pop())
        finally:
            if self._guard is not None and self._guard.stdin is not None:
                self._guard.stdin.close()
                self._guard.wait()

    def hurry(self) -> None:
        """From now on stopping waits for nothing. May be called from a signal handler."""
        self._in_a_hurry = True

    def start(self, *services: Service) -> None:
        """Starts all, then waits until each answers. They must not need each other to start.

        Raises UnavailableError (service ``dagster``) if one ends or does not answer in time.
        """
        for service in services:
            self._launch(service)
        for service in services:
            deadline = time.monotonic() + service.start_seconds
            while service.is_ready is not None and not service.is_ready():
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        "dagster",
                        f"{service.name} did not answer in {service.start_seconds:.0f} s (see {self._log(service)})",
                    )
                try:
                    self.check()
                except ServiceEndedError as error:
                    raise UnavailableError("dagster", error.message) from None
                time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raises ServiceEndedError, saying which and why, if a service has ended."""
        if self._guard is not None and self._guard.poll() is not None:
            raise ServiceEndedError("service_ended", "the process that guards the others was killed")
        for service, process in self._running:
            if (code := process.poll()) is not None:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                log = self._log(service)
                said = last_line(log)
                raise ServiceEndedError(
                    "service_ended", f"{service.name} {how}{f': {said}' if said else ''} (see {log})"
                )

    def _log(self, service: Service) -> Path:
        return self._log_folder / service.log_name

    def _launch(self, service: Service) -> None:
        if self._guard is None or self._guard.stdin is None:
            raise ValueError("use the supervisor in a with statement")
        log = self._log(service)
        self._log_folder.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)  # so that what it says last is about this start
        # In a folder without code: Python, and Dagster's loading of modules, look in the present one first.
        process = start_process(service.command, log=log, environment=self._environment, folder=self._log_folder)
        self._running.append((service, process))
        self._guard.stdin.write(f"{process.pid}\n".encode())
        self._guard.stdin.flush()

    def _stop(self, service: Service, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + service.stop_seconds
        if process.poll() is None:
            process.terminate()
        while process.poll() is None and time.monotonic() < deadline and not self._in_a_hurry:
            time.sleep(_POLL_SECONDS)
        # Its group: the service, if it still runs, and what it started.
        end_groups([process.pid], 0.0 if self._in_a_hurry else _REMAINDER_SECONDS, reap=process.poll)
        process.wait()
