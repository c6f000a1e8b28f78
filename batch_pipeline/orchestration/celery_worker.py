"""A Celery worker that executes runs in warm processes.

The parent imports all that a run needs, then forks its processes. It opens no connection to PostgreSQL or storage,
because a forked process would share it. Each process keeps its connections for the next run.
"""

import gc
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import billiard
from celery import Celery, signals
from celery.apps.worker import Worker
from celery.worker import state
from dagster import DagsterExecutionInterruptedError
from dagster._grpc.impl import core_execute_run
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import unpack_value
from dagster._utils.hosted_user_process import recon_job_from_origin
from dagster_celery.config import TASK_EXECUTE_JOB_NAME
from dagster_celery.make_app import make_app

from batch_pipeline.batches.locks import Ownership, run_task
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.errors import StateError, UnavailableError
from batch_pipeline.garbage import collect_as_usual
from batch_pipeline.logs import configure_logs, is_json
from batch_pipeline.orchestration.celery_app import QUEUE, celery_settings, check_broker
from batch_pipeline.orchestration.celery_helpers import HELP_TASK, help_with_chunks
from batch_pipeline.orchestration.execute import is_interruption
from batch_pipeline.orchestration.instance import open_instance
from batch_pipeline.orchestration.run_attempt import cancelled_reason
from batch_pipeline.settings import get_settings
from batch_pipeline.system import shared_system

if TYPE_CHECKING:
    from dagster import DagsterInstance

logger = logging.getLogger(__name__)


def worker_app(broker_url: str) -> Celery:
    """The Celery application of workers: it knows the tasks, and stores states in the broker for monitoring."""
    app: Celery = make_app(  # type: ignore[no-untyped-call] # dagster-celery's
        {
            "broker": broker_url,
            "backend": broker_url,
            "config_source": celery_settings(),
            "task_default_queue": QUEUE,
        }
    )
    app.task(name=TASK_EXECUTE_JOB_NAME)(execute_job)
    app.task(name=HELP_TASK)(help_with_chunks)
    return app


def serve(*, concurrency: int | None = None, name: str | None = None) -> int:
    """Runs a worker until SIGTERM, SIGINT or SIGHUP; returns its exit code. For a process of its own.

    The first signal lets running batches end, the second one cancels them. `concurrency` is the number of processes,
    by default one per CPU. `name` is unique among workers, by default made of process id and host.
    Raises SettingError, and UnavailableError if the broker can't be reached.
    """
    app = worker_app(get_settings().require_broker_url())
    check_broker(app)
    if is_json():
        signals.setup_logging.connect(_log_json, weak=False)  # Celery then leaves logging as it is
    from batch_pipeline.orchestration import preload  # noqa: F401 - forked processes need what it imports

    gc.collect()
    gc.freeze()  # collections in the children would copy the memory pages that they share with the parent
    worker = _Worker(
        app=app,
        hostname=name or f"{os.getpid()}@{socket.gethostname()}",
        concurrency=concurrency or "auto",
        pool="prefork",
        loglevel="INFO",
        quiet=True,  # no banner
        # Messages between workers. Their start after a reconnect can hang, and nothing here uses them.
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


class _Worker(Worker):  # type: ignore[misc] # Celery has no types
    """Celery's worker with one rule for all signals that stop it."""

    def install_platform_tweaks(self, worker: Worker) -> None:
        super().install_platform_tweaks(worker)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _stop)


def _log_json(**_: Any) -> None:
    """Makes Celery's records JSON as well."""
    configure_logs()
    logging.getLogger().setLevel(logging.INFO)


def _stop(_number: int, _frame: object) -> None:
    """First signal: no further run begins, and the worker ends after the running ones. Second: cancels those."""
    if state.should_stop is None:
        state.should_stop = 0
        logger.warning("Stopping once running batches have ended. A second signal cancels them.")
        return
    for process in billiard.active_children():
        os.kill(process.pid, signal.SIGTERM)  # Dagster's handler makes the run stop in order


@signals.worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator] # Celery has no types
def _begin_process(**_: Any) -> None:
    """Makes a process ignore the Ctrl-C of its terminal, which is the parent's to handle."""
    os.setpgrp()
    collect_as_usual()


def _end_batch(run_id: str) -> None:
    """Cancels the batch of an interrupted run, unless an op has: between two ops there is none to do it."""
    with shared_system() as system:
        batch = system.ledger.of_run(run_id)
        if batch is not None:
            system.ledger.end_attempt(batch.id, run_id, BatchStatus.failed, cancelled_reason)


def execute_job(execute_job_args_packed: Any) -> None:
    """The task: executes one run of Dagster in this process, unless another process does or it has begun.

    The outcome is in the ledger and in Dagster. In an outage of the database the run stays as it is: a run that has not
    begun is sent again, and the batch of one that has begun is ended by reconciling.
    """
    run_id = unpack_value(execute_job_args_packed, as_type=ExecuteRunArgs).run_id
    try:
        with _own_signals(), shared_system() as system, Ownership(system.engine) as ownership:
            ownership.take(run_task(run_id))
            if _execute(run_id):
                logger.info("Run %s was interrupted.", run_id)
                _end_batch(run_id)
    except StateError:
        logger.info("Run %s is executed by another process.", run_id)
    except UnavailableError as error:
        logger.error("Run %s: %s", run_id, error.message)


_instance: "DagsterInstance | None" = None
_opened = ExitStack()


def _execute(run_id: str) -> bool:
    """Executes the run; returns whether a signal has interrupted it, which Dagster may raise or not."""
    global _instance  # noqa: PLW0603 - the process's own
    try:
        if _instance is None:
            _instance = _opened.enter_context(open_instance(in_process=True))
        run = _instance.get_run_by_id(run_id)
        if run is None or run.job_code_origin is None:
            logger.warning("Run %s is unknown: it was deleted.", run_id)
            return False
        is_interrupted = False
        for event in core_execute_run(
            recon_job_from_origin(run.job_code_origin), run, _instance, inject_env_vars=False
        ):
            is_interrupted = is_interrupted or is_interruption(event)
        return is_interrupted
    except DagsterExecutionInterruptedError:
        return True
    except Exception:
        _instance = None  # its connections may be broken
        _opened.close()
        raise


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restores the handlers that Dagster replaces: after a run it would leave SIGTERM ignored, as SIGINT is."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
