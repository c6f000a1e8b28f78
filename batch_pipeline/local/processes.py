"""Child processes of the local system: started so that they end with their parent, and stopped for certain.

What the servers and the supervision share about processes, log files and lock files; nothing about a single
server.
"""

import ctypes
import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# Loaded before any fork: between fork and exec nothing may be imported.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class SystemUser:
    """The account that a child runs as, by its numbers."""

    name: str
    uid: int
    gid: int


def start_process(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    user: SystemUser | None = None,
    folder: Path | None = None,
    death_signal: signal.Signals | None = signal.SIGTERM,
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Starts ``command`` in a session of its own, both outputs appended to ``log``.

    The session keeps a terminal's Ctrl-C from reaching the child before its parent decides on the order of
    stopping, and makes ``os.killpg`` reach whatever the child starts. On Linux the child gets
    ``death_signal`` (unless None) when the calling *thread* ends, be it by SIGKILL: so call this from a
    thread that lives as long as the child should. Of open files only ``descriptors`` are handed on.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 -- the commands are this package's own
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else [],
            pass_fds=descriptors,
            # Runs after the change of user, which would clear the signal. Threads make preexec_fn unsafe in
            # general; this one only calls into a library that is loaded already.
            preexec_fn=_end_with_parent(os.getpid(), death_signal),  # noqa: PLW1509
        )


def _end_with_parent(parent: int, death_signal: signal.Signals | None) -> Callable[[], None] | None:
    if _libc is None or death_signal is None:
        return None
    prctl, number = _libc.prctl, int(death_signal)

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died before the signal was set
            os._exit(1)

    return in_child


def stop_process(
    process: subprocess.Popen[bytes],
    *,
    first: signal.Signals = signal.SIGTERM,
    patience_seconds: float = 10.0,
    then: Sequence[signal.Signals] = (signal.SIGKILL,),
) -> None:
    """Sends ``first`` and waits; then each of ``then`` in turn. Returns once the process has ended."""
    for number in (first, *then):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            continue
        return
    process.wait()


def is_alive(process: "psutil.Process") -> bool:
    """Whether the process still does something: it has neither ended nor, having ended, waits to be collected."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end_leftovers(
    is_leftover: "Callable[[psutil.Process], bool]",
    *,
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL),
    patience_seconds: float = 10.0,
) -> list[int]:
    """Ends the processes of an owner that was killed, and returns the ids of those that would not end.

    To be called with the owner's lock held, so that nobody rightly runs them.
    """
    import psutil

    def remaining() -> "list[psutil.Process]":
        found = []
        for process in psutil.process_iter(["name"]):
            try:
                if process.status() != psutil.STATUS_ZOMBIE and is_leftover(process):
                    found.append(process)
            except psutil.Error:  # ended meanwhile, or another user's
                continue
        return found

    for number in signals:
        left = remaining()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        psutil.wait_procs(left, timeout=patience_seconds)
    return [process.pid for process in remaining()]


def last_line(log: Path, about: str = "") -> str:
    """The last line of a log that has ``about`` in it, else that says anything: for a message of one line."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        text = _COLOUR.sub("", file.read().decode("utf-8", errors="replace"))
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(said) if about in line), said[-1] if said else "")


class FileLock:
    """A lock that the kernel drops when its holder dies, however it dies (``flock`` on a file that stays).

    Each object is a holder of its own, also within one process. Not inherited by programs that a holder
    starts, unless ``descriptor`` is passed to them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
        """Takes the lock (or changes its kind). False if not ``wait`` and another holder is in the way."""
        if self._file is None:
            self._file = open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")  # noqa: SIM115
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Drops the lock, also for copies of it in forked children."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None

    def close_here(self) -> None:
        """Forgets the lock without dropping it: a child that was given ``descriptor`` holds it now."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def descriptor(self) -> int:
        """The open file's number, to be passed to a child."""
        if self._file is None:
            raise ValueError(f"the lock {self.path} is not open")
        return self._file.fileno()

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
