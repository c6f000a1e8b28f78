"""Child processes that end with their parent, their log files, and lock files.

Servers and supervision use it. It does not depend on any of them.
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

from batch_pipeline.held_signals import holding_signals
from batch_pipeline.local.private_files import private_folder, private_opener

if TYPE_CHECKING:
    import psutil

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# Loaded before any fork: between fork and exec nothing may be imported.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class SystemUser:
    """The account that a child runs as, as numbers."""

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
    death_signal: signal.Signals = signal.SIGTERM,
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Starts ``command`` in its own session. Both outputs are appended to ``log``, which only its owner can read.

    In its own session the child gets no Ctrl-C of the terminal, so the parent decides the order of stopping, and
    `kill_group` reaches all processes that the child starts. On Linux the kernel sends ``death_signal`` to the child
    when the calling *thread* ends, also by SIGKILL: call this from a thread that lives as long as the child should.
    Files that the child creates are private unless it sets another mode itself. It inherits these file ``descriptors``.

    Call it in `holding_signals`, together with what remembers the process.
    """
    private_folder(log.parent)
    with open(log, "ab", opener=private_opener) as output:
        return _start(
            command,
            output=output,
            errors=subprocess.STDOUT,
            environment=environment,
            user=user,
            folder=folder,
            death_signal=death_signal,
            descriptors=descriptors,
        )


def run_process(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    user: SystemUser | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs ``command`` to its end, with its outputs as text.

    If a signal's handler raises meanwhile, the command and all that it started have ended when this raises. If this
    process is killed, so is the command.
    """
    process = None
    try:
        with holding_signals():
            process = _start(
                command,
                output=subprocess.PIPE,
                errors=subprocess.PIPE,
                environment=environment,
                user=user,
                folder=Path("/"),
                death_signal=signal.SIGKILL,
            )
        output, errors = process.communicate()
    except BaseException:
        if process is not None:
            kill_group(process.pid)
            process.communicate()  # until none of them has the pipes any more
        raise
    texts = [each.decode(errors="replace") for each in (output, errors)]
    return subprocess.CompletedProcess(command, process.returncode, *texts)


def _start(
    command: Sequence[str],
    *,
    output: IO[bytes] | int,
    errors: int,
    environment: Mapping[str, str] | None,
    user: SystemUser | None,
    folder: Path | None,
    death_signal: signal.Signals,
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 -- the commands are this package's own
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        env=environment,
        cwd=folder,
        pass_fds=descriptors,
        start_new_session=True,
        umask=0o077,
        user=None if user is None else user.uid,
        group=None if user is None else user.gid,
        extra_groups=None if user is None else [],
        # Runs after the change of user, which would clear the signal. preexec_fn is unsafe beside threads in
        # general; this one only calls a library that is loaded already.
        preexec_fn=end_with_parent(os.getpid(), death_signal),  # noqa: PLW1509 - see above
    )


def process_exists(pid: int) -> bool:
    """Whether a process has this id. psutil can tell it too, but its import takes longer than joining servers."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def end_with_parent(parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    """A function for a new child process, which then gets ``death_signal`` when its parent ends."""
    if _libc is None:
        return lambda: None
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
    """Sends ``first`` and waits, then each of ``then`` in turn. Returns when the process has ended."""
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


def kill_group(group: int) -> None:
    """Sends SIGKILL to all processes of a group, if any are left."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def exit_text(code: int) -> str:
    """How a process ended, from its return code: "ended with code 1", "was killed by signal 9"."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


def end_leftovers(
    is_leftover: "Callable[[psutil.Process], bool]",
    *,
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL),
    patience_seconds: float = 10.0,
) -> list[int]:
    """Ends processes that a killed owner left, and returns the ids of those that did not end.

    The caller holds the owner's lock, so that no other owner runs them.
    """
    import psutil

    def remaining() -> "list[psutil.Process]":
        found = []
        for process in psutil.process_iter(["name"]):
            try:
                if process.status() != psutil.STATUS_ZOMBIE and is_leftover(process):
                    found.append(process)
            except psutil.Error:  # it has ended, or is another user's
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
    """The last line of a log that contains ``about``, else the last line that is not empty, for an error message."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        text = _COLOUR.sub("", file.read().decode("utf-8", errors="replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if about in line), lines[-1] if lines else "")


class FileLock:
    """A lock that the kernel releases when its holder dies (``flock`` on a file that stays).

    Each object is a separate holder, also within one process. Child processes don't inherit the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def acquire(self, *, shared: bool = False) -> bool:
        """Acquires the lock, or changes its kind. Returns False if another holder prevents that; never waits."""
        if self._file is None:
            self._file = open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")  # noqa: SIM115 - `release` closes it
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Releases the lock, also for copies of it in forked children."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None
