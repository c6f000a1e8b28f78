"""A process that imports what several services need, once, and then forks the services from itself.

`warm` starts it as ``python -m batch_pipeline.local.warm_process SOCKET``. It has no thread and no connection that a
service would share or miss. A forked service runs its module as ``python -m`` does, and can't be told from a command.
"""

import importlib
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from multiprocessing import util
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from setproctitle import setproctitle

from batch_pipeline.garbage import collect_nothing, collect_what_follows
from batch_pipeline.local.processes import end_with_parent
from batch_pipeline.local.warm import Message, Modules, Request
from batch_pipeline.orchestration.forking import start_fork_server
from batch_pipeline.settings import get_settings

_DESCRIPTORS = 1024  # more than a process has open that has only imported


def main() -> None:
    """Imports the modules of the first message, then forks services until the other end of the socket is closed."""
    socket: Connection[Message, Modules | Request] = Connection(int(sys.argv[1]))
    modules = socket.recv()
    assert not isinstance(modules, Request)  # noqa: S101 - the first message
    _import(modules)
    socket.send(Message("ready"))
    request = _fork_services(socket)
    if request is not None:
        _become(request)


def _import(modules: Modules) -> None:
    """Imports without collecting garbage: in a forked service, that would copy the memory of all that is imported."""
    collect_nothing()
    for module in modules:
        importlib.import_module(module)
    collect_what_follows()


def _fork_services(socket: "Connection[Message, Modules | Request]") -> Request | None:
    """Forks a process for each request. Returns the request in that process, and None here after the last one."""
    children: set[int] = set()

    def report_ends(_number: int, _frame: FrameType | None) -> None:
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            children.remove(pid)
            socket.send(Message("ended", pid, os.waitstatus_to_exitcode(status)))

    signal.signal(signal.SIGCHLD, report_ends)
    parent = os.getpid()
    while True:
        try:
            request = socket.recv()
        except EOFError:
            return None
        assert isinstance(request, Request)  # noqa: S101 - as all but the first message
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # until the child is in the set
        pid = os.fork()
        if pid:
            children.add(pid)
            socket.send(Message("started", pid))
        else:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        if not pid:
            socket.close()
            os.setsid()
            end_with_parent(parent, signal.SIGTERM)()
            return request
        _import(request.imported_next)


def _become(request: Request) -> None:
    """Does what the command would do in a new interpreter."""
    # First, because it finds the memory of the command line by that of the environment.
    setproctitle(" ".join([sys.executable, "-m", *request.arguments]))
    log = os.open(request.log, os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(request.environment)
    get_settings.cache_clear()
    if request.forks_runs:
        _fork_fork_server()
    sys.argv = list(request.arguments)
    runpy.run_module(request.arguments[0], run_name="__main__", alter_sys=True)


def _fork_fork_server() -> None:
    """Starts this process's fork server by a fork, because a new interpreter would import all again."""
    # `multiprocessing` starts interpreters by this function and has no setting for it. If it is renamed, the fork
    # server is a new interpreter, which takes longer.
    spawn = util.spawnv_passfds
    util.spawnv_passfds = _fork_interpreter  # type: ignore[assignment] # other parameter names
    try:
        start_fork_server()
    finally:
        util.spawnv_passfds = spawn


def _fork_interpreter(_path: bytes, command: Sequence[Any], kept: Sequence[int]) -> int:
    """Forks a process that does what ``command``, ``python … -c CODE``, would do. It keeps these file descriptors."""
    pid = os.fork()
    if pid:
        return pid
    try:
        words = [os.fsdecode(word) for word in command]
        setproctitle(" ".join(words))
        before = 3
        for descriptor in sorted({*kept} - {0, 1, 2}):
            os.closerange(before, descriptor)
            before = descriptor + 1
        os.closerange(before, max(before, _DESCRIPTORS))
        exec(words[-1], {})  # noqa: S102 - the code is of `multiprocessing`
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)  # nobody asks for its code, and what the caller would clean up is the caller's


if __name__ == "__main__":
    main()
