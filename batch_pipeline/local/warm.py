"""Starts services by forking them from a process that has imported what they share, `warm_process`."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

from batch_pipeline.errors import UnavailableError
from batch_pipeline.held_signals import holding_signals
from batch_pipeline.local.processes import exit_text, kill_group, last_line, start_process

_START_SECONDS = 120.0

Modules = tuple[str, ...]  # as the first message to the warm process: what it imports first


@dataclass(frozen=True)
class Request:
    """A message to the warm process: fork a service.

    Attributes:
        arguments: a module and its arguments, as after ``python -m``.
        log: the file that both outputs are appended to; it exists.
        environment: all variables of the service.
        forks_runs: whether the service gets a fork server.
        imported_next: what the warm process imports afterwards, before it forks another service.
    """

    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    forks_runs: bool
    imported_next: Modules = ()


class Message(NamedTuple):
    """A message of the warm process."""

    kind: Literal["ready", "started", "ended"]
    pid: int = 0
    code: int = 0


class WarmProcess:
    """The process that services are forked from."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", socket: "Connection[Modules | Request, Message]", log: Path
    ) -> None:
        self._process = process
        self._socket = socket
        self._log = log
        self._codes: dict[int, int] = {}  # of forked processes that have ended

    def ended(self) -> str | None:
        """One line on its end; None while it runs."""
        if (code := self._process.poll()) is None:
            return None
        text = last_line(self._log)
        return f"the services' common process {exit_text(code)}{f': {text}' if text else ''} (see {self._log})"

    def wait_until_ready(self) -> None:
        """Waits until it has imported all. Raises UnavailableError if it doesn't."""
        if not self._socket.poll(_START_SECONDS):
            raise UnavailableError("dagster", f"the services' common process took too long (see {self._log})")
        self._receive("ready")

    def fork(self, request: Request) -> "ForkedProcess":
        """Forks a service from the ready process, in its own session. Raises UnavailableError if that has ended.

        Call it in `holding_signals`, together with what remembers the process.
        """
        try:
            self._socket.send(request)
        except OSError:
            raise self._unavailable() from None
        return ForkedProcess(self._receive("started").pid, self)

    def exit_code(self, pid: int) -> int | None:
        """The exit code of a forked process; None while it runs."""
        try:
            while self._socket.poll():
                self._note(self._socket.recv())
        except (EOFError, OSError):
            # The warm process was killed. So nobody has the codes, and its services have got this signal.
            return self._codes.setdefault(pid, -signal.SIGTERM)
        return self._codes.get(pid)

    def wait_for(self, pid: int) -> int:
        """Waits for the end of a forked process, and returns its exit code."""
        while (code := self.exit_code(pid)) is None:
            self._socket.poll(None)  # until the warm process reports an end, or ends itself
        return code

    def _receive(self, kind: str) -> Message:
        try:
            while (message := self._socket.recv()).kind != kind:
                self._note(message)
        except (EOFError, OSError):
            raise self._unavailable() from None
        return message

    def _note(self, message: Message) -> None:
        self._codes[message.pid] = message.code

    def _unavailable(self) -> UnavailableError:
        self._process.wait()  # it has closed its end of the socket
        return UnavailableError("dagster", self.ended() or "")


@dataclass(frozen=True)
class ForkedProcess:
    """A forked service, with the methods of `subprocess.Popen` that the supervisor uses."""

    pid: int
    _warm: WarmProcess

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._warm.exit_code(self.pid)

    def terminate(self) -> None:
        """Sends SIGTERM to the service if it runs."""
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Waits for its end, and returns its exit code."""
        return self._warm.wait_for(self.pid)


@contextmanager
def warm_process(modules: Modules, log: Path) -> Iterator[WarmProcess]:
    """Starts a process that imports the modules meanwhile. At the end it is killed, and its services must have ended.

    For the main thread.
    """
    log.unlink(missing_ok=True)
    here, there = multiprocessing.Pipe()
    process = None
    try:
        with holding_signals():
            process = start_process(
                [sys.executable, "-m", "batch_pipeline.local.warm_process", str(there.fileno())],
                log=log,
                folder=log.parent,  # a folder without code, because Python looks for modules in it first
                death_signal=signal.SIGKILL,
                descriptors=[there.fileno()],
            )
        there.close()
        here.send(modules)
        yield WarmProcess(process, here, log)
    finally:
        here.close()
        there.close()
        if process is not None:
            kill_group(process.pid)
            process.wait()
