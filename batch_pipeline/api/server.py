"""Serves the application: in this process, or in several processes on one port (`BATCH_API_PROCESSES`).

Several processes accept calls from one socket. uvicorn's supervisor, in the parent, starts them and replaces each that
ends. The parent binds the socket and doesn't listen, so the port opens when the first process is warm. The parent does
not import the application, which takes memory.
"""

import copy
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import socket
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import SIGNALS

from batch_pipeline.garbage import collect_nothing, collect_seldom
from batch_pipeline.logs import configure_logs, is_json, json_formatter
from batch_pipeline.metrics.calls import sharing_calls
from batch_pipeline.notifications.background import open_people
from batch_pipeline.orchestration.forking import start_fork_server
from batch_pipeline.settings import get_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

STARTUP_FAILURE = 3  # exit code: something can't be reached
# A process answers the supervisor as soon as its interpreter has started, which takes long on a busy machine.
_UNRESPONSIVE_SECONDS = 60


def serve(*, host: str, port: int, processes: int, on_ready: Callable[[], None]) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP; running calls then have 10 s to end.

    The port opens when the service is warm. `on_ready` is called once all processes are. Garbage is collected from then
    on. Raises SettingError for a wrong setting, and SystemExit if the service can't start.
    """
    collect_nothing()
    configure_logs()
    if processes == 1:
        start_fork_server()  # it imports while this process does
        from batch_pipeline.api.app import create_app

        _serve_here(_config(create_app(), host=host, port=port), on_ready)
    else:
        collect_seldom()
        open_people(get_settings())  # raises here what would end each process
        _serve_in_processes(_config(f"{__name__}:open_app", host=host, port=port, processes=processes), on_ready)


def open_app() -> "FastAPI":
    """The application of one of several processes. Raises SystemExit if it can't start, which ends all of them."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # of a closed terminal: the parent stops its processes in order
    collect_nothing()
    configure_logs()
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - the supervisor
    threading.Thread(target=_stop_after, args=(parent,), daemon=True).start()
    start_fork_server()
    try:
        from batch_pipeline.api.app import create_app

        return create_app()
    except Exception:
        logger.exception("The API can't start.")  # a new process would fail as well
        raise SystemExit(STARTUP_FAILURE) from None


def _stop_after(parent: multiprocessing.process.BaseProcess) -> None:
    """Stops this process in order when its parent has ended, by whatever signal."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _config(app: "FastAPI | str", *, host: str, port: int, processes: int = 1) -> uvicorn.Config:
    log_config: dict[str, Any] = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    if is_json():
        log_config["formatters"] = {name: {"()": json_formatter} for name in log_config["formatters"]}
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=processes,
        log_config=log_config,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=10,
        timeout_worker_healthcheck=_UNRESPONSIVE_SECONDS,
    )


def _serve_here(config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready()

    server = Server(config)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(STARTUP_FAILURE)


def _serve_in_processes(config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
    with sharing_calls(), _signal_handlers_restored(), config.bind_socket() as bound:
        supervisor = _Supervisor(config, [bound], on_ready)
        supervisor.run()
    if not supervisor.was_stopped:
        raise SystemExit(STARTUP_FAILURE)


class _Supervisor(Multiprocess):
    """Calls `on_ready` once, and logs that it replaced a process."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket], on_ready: Callable[[], None]) -> None:
        super().__init__(config, sockets)
        self._on_ready: Callable[[], None] | None = on_ready
        self.was_stopped = False  # by a signal

    def run(self) -> None:
        try:
            super().run()
        except BaseException:  # a replacement can't be started: no process may stay without its parent
            self.terminate_all()
            self.join_all()
            raise

    def terminate_all(self) -> None:
        for bound in self.sockets:
            bound.close()  # else new connections would wait in the parent's copy until the last process has ended
        super().terminate_all()

    def keep_subprocess_alive(self) -> None:
        if self._on_ready is not None and any(process.exitcode is not None for process in self.processes):
            logger.error("A process of the API ended while it started, so none is started again.")
            self.should_exit.set()
            return
        for process in self.processes:
            # Else the parent holds the pipe of an ended process open, and waits for its answer to the end.
            process.child_conn.close()
        before = [process.pid for process in self.processes]
        super().keep_subprocess_alive()
        if self.should_exit.is_set():
            return
        for ended, process in zip(before, self.processes, strict=True):
            if process.pid != ended:
                logger.warning("Process %s of the API has ended; process %s replaces it.", ended, process.pid)
        if self._on_ready is not None and all(process.is_ready() for process in self.processes):
            self._on_ready()
            self._on_ready = None

    def handle_int(self) -> None:
        self.was_stopped = True
        super().handle_int()

    def handle_term(self) -> None:
        self.was_stopped = True
        super().handle_term()

    def handle_hup(self) -> None:
        """Stops, as in a single process, where uvicorn would start all processes anew."""
        self.handle_term()


@contextmanager
def _signal_handlers_restored() -> Iterator[None]:
    """Puts the handlers back that the supervisor replaces."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
