"""Processes that begin in milliseconds: a fork server has imported all that a run needs, and forks them.

A new interpreter imports for seconds. The fork server has no thread and no connection that a fork would share or miss.
Each process that uses it has its own fork server, which ends with the process.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

PRELOADED = "batch_pipeline.orchestration.preload"


def fork_context() -> ForkServerContext:
    """The context of this process's fork server, which starts with the first process that it forks.

    Its processes have the environment that the server was started with.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    return context


def start_fork_server() -> None:
    """Starts this process's fork server ahead, so that it imports while this process does something else."""
    fork_context()
    forkserver.ensure_running()


def forked_executor() -> ProcessPoolExecutor:
    """An executor with one forked process, which has this process's environment.

    The process ignores SIGINT, which is this process's to handle, and ends with this process.
    """
    return ProcessPoolExecutor(1, mp_context=fork_context(), initializer=_begin, initargs=(dict(os.environ),))


def end_processes(executor: ProcessPoolExecutor) -> None:
    """Kills the executor's processes and waits until they have ended."""
    processes = list((executor._processes or {}).values())
    for process in processes:
        process.kill()
    executor.shutdown(wait=False)  # its futures fail with BrokenProcessPool
    for process in processes:
        process.join()


def _begin(environment: Mapping[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger().addHandler(logging.NullHandler())  # without a handler, warnings go to stderr
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
