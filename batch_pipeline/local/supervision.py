"""Runs long-lived services as children of this process: starts them, watches them, stops them in reverse order.

It does not depend on the services; `system` defines them.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from batch_pipeline.errors import BatchError, UnavailableError
from batch_pipeline.held_signals import holding_signals
from batch_pipeline.local.announcing import Report, announced, silent
from batch_pipeline.local.private_files import private_folder
from batch_pipeline.local.processes import exit_text, kill_group, last_line, start_process
from batch_pipeline.local.warm import ForkedProcess, Modules, Request, WarmProcess

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Service:
    """One long-lived child process.

    Attributes:
        name: for display, "the Dagster webserver"; also the name of the log.
        command: program and arguments; no secrets.
        is_ready: returns whether it answers; None for a service without such a check.
        start_seconds: maximum time until it answers.
        stop_seconds: maximum time to end after SIGTERM; then it and all its processes are killed.
        stop_note: added to the progress line while it stops: what it waits for.
        is_forked: whether its command is ``python -m …`` and it is forked from the warm process, if there is one.
        forks_runs: whether a forked service forks the processes of runs.
        imported_next: what the warm process imports once it has forked the service.
    """

    name: str
    command: Sequence[str]
    is_ready: Callable[[], bool] | None = None
    start_seconds: float = 120.0
    stop_seconds: float = 15.0
    stop_note: str = ""
    is_forked: bool = False
    forks_runs: bool = False
    imported_next: Modules = ()

    @property
    def log_name(self) -> str:
        """The name of its log file."""
        return f"{self.name.removeprefix('the ').lower().replace(' ', '-')}.log"


class ServiceEndedError(BatchError):
    """A service or server ended while it was needed."""

    def __init__(self, message: str) -> None:
        super().__init__("service_ended", message)


class Supervisor:
    """The running services; a context manager that stops all of them, also after an error.

    For the main thread. If this process is killed, `guard` kills the services. When ``hurry`` is set, for example by
    a signal handler, stopping kills instead of waiting.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        log_folder: Path,
        *,
        hurry: threading.Event | None = None,
        report: Report = silent,
        warm: WarmProcess | None = None,
    ) -> None:
        self._environment = dict(environment)
        self._log_folder = log_folder
        self._hurry = hurry or threading.Event()
        self._report = report
        self._warm = warm
        self._running: list[tuple[Service, subprocess.Popen[bytes] | ForkedProcess]] = []
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Supervisor":
        self._guard = subprocess.Popen(
            # -P: no module is imported from the folder that this command was started in.
            [sys.executable, "-P", "-m", "batch_pipeline.local.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
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

    def start(self, *services: Service) -> None:
        """Starts all, then waits until each answers. No service may need another one to start.

        Raises UnavailableError (service ``dagster``) if one ends or does not answer in time.
        """
        for service in services:
            self._launch(service)
        for service in services:
            deadline = time.monotonic() + service.start_seconds
            with announced(self._report, f"Starting {service.name}"):
                while service.is_ready is not None and not service.is_ready():
                    if time.monotonic() > deadline:
                        raise UnavailableError(
                            "dagster",
                            f"{service.name} did not answer in {service.start_seconds:.0f} s "
                            f"(see {self._log(service)})",
                        )
                    try:
                        self.check()
                    except ServiceEndedError as error:
                        raise UnavailableError("dagster", error.message) from None
                    time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raises ServiceEndedError with the service's name and the reason if a service has ended."""
        if self._guard is not None and self._guard.poll() is not None:
            raise ServiceEndedError("the guard process was killed")
        if self._warm is not None and (ended := self._warm.ended()) is not None:
            raise ServiceEndedError(ended)
        for service, process in self._running:
            if (code := process.poll()) is not None:
                log = self._log(service)
                text = last_line(log)
                raise ServiceEndedError(f"{service.name} {exit_text(code)}{f': {text}' if text else ''} (see {log})")

    def _log(self, service: Service) -> Path:
        return self._log_folder / service.log_name

    def _launch(self, service: Service) -> None:
        if self._guard is None or self._guard.stdin is None:
            raise ValueError("use the supervisor in a with statement")
        log = self._log(service)
        private_folder(self._log_folder)
        log.unlink(missing_ok=True)  # so that its last line is of this start
        with holding_signals():
            process = self._start(service, log)
            self._running.append((service, process))
            self._guard.stdin.write(f"{process.pid}\n".encode())
            self._guard.stdin.flush()

    def _start(self, service: Service, log: Path) -> "subprocess.Popen[bytes] | ForkedProcess":
        if service.is_forked and self._warm is not None:
            log.touch(mode=0o600)
            return self._warm.fork(
                Request(service.command[2:], log, self._environment, service.forks_runs, service.imported_next)
            )
        # In a folder without code, because Python and Dagster look for modules in the current folder first.
        return start_process(service.command, log=log, environment=self._environment, folder=self._log_folder)

    def _stop(self, service: Service, process: "subprocess.Popen[bytes] | ForkedProcess") -> None:
        deadline = time.monotonic() + service.stop_seconds
        if process.poll() is None:
            process.terminate()
        with announced(self._report, f"Stopping {service.name}{service.stop_note}"):
            while process.poll() is None and time.monotonic() < deadline and not self._hurry.is_set():
                time.sleep(_POLL_SECONDS)
        kill_group(process.pid)  # the service, if it still runs, and all that it started
        process.wait()
