"""Celery tasks with which the run of a large batch asks idle workers for help, and their execution.

Help tasks have a lower priority than runs: Redis keeps them in a list of their own, which workers read only while no
run waits. A helper that finds a run waiting leaves, and sends its request again for later.
"""

import logging
import time
from dataclasses import asdict
from typing import Any

import psycopg
from celery import Celery
from dagster_celery.make_app import make_app
from kombu.exceptions import OperationalError

from batch_pipeline.batches.model import PhaseName
from batch_pipeline.errors import BatchError, UnavailableError
from batch_pipeline.logs import bound
from batch_pipeline.orchestration.celery_app import QUEUE, celery_settings, count_waiting_runs
from batch_pipeline.orchestration.scratch import scratch_folder
from batch_pipeline.phases.attempt import HelpRequest
from batch_pipeline.settings import get_settings
from batch_pipeline.system import shared_system

logger = logging.getLogger(__name__)

HELP_TASK = "batch_pipeline.help"
_LOWEST_PRIORITY = 9
LOOK_SECONDS = 1.0  # between two looks for waiting runs
_RETRIES = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2}


def send_help_requests(request: HelpRequest, number: int) -> None:
    """Sends the request to this many workers. If the broker can't be reached, the run works alone."""
    app = _sender()
    try:
        for _ in range(number):
            app.send_task(
                HELP_TASK,
                kwargs={**asdict(request), "phase": request.phase.value},
                queue=QUEUE,
                routing_key=f"{QUEUE}.{HELP_TASK}",
                priority=_LOWEST_PRIORITY,
                retry_policy=_RETRIES,
            )
    except OperationalError:
        logger.warning("The broker can't be reached: batch %s gets no helpers.", request.batch_id)
    finally:
        app.close()


def help_with_chunks(**message: Any) -> None:
    """The task: does chunks of a large batch until none is open, or a run waits for a worker.

    An error ends only the help: the run does the chunk itself, and decides what the error means.
    """
    from batch_pipeline.phases.helping import help_out  # imports pandera

    request = HelpRequest(**{**message, "phase": PhaseName(message["phase"])})
    looking = _RunsWaiting()
    with bound(batch=request.batch_id, run=request.run_id):
        logger.info("Helps batch %s with %s.", request.batch_id, request.phase.value)
        try:
            with scratch_folder() as scratch, shared_system() as system:
                help_out(system, request, scratch, is_wanted=lambda: not looking())
        except BatchError as error:  # the usual one: the phase or the batch has ended
            logger.info("Helps batch %s no more: %s", request.batch_id, error.message)
        except psycopg.Error as error:  # its text may quote customers' values
            logger.warning("Helps batch %s no more (SQLSTATE %s).", request.batch_id, error.sqlstate)
        except Exception as error:
            logger.error("Helps batch %s no more (%s).", request.batch_id, type(error).__name__)
        else:
            if looking.found:
                logger.info("Leaves batch %s: a run waits for a worker.", request.batch_id)
                send_help_requests(request, 1)


class _RunsWaiting:
    """Whether runs wait for a worker, asked at most once in `LOOK_SECONDS`. Not known without the broker: then none."""

    def __init__(self) -> None:
        self.found = False
        self._app = _sender()
        self._looked_at = time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            try:
                self.found = count_waiting_runs(self._app) > 0
            except UnavailableError:
                self.found = False
        return self.found


def _sender() -> Celery:
    """An application without a result backend: nobody waits for what a helper did."""
    app: Celery = make_app(  # type: ignore[no-untyped-call] # dagster-celery's
        {"broker": get_settings().require_broker_url(), "config_source": celery_settings(), "set_as_current": False}
    )
    return app
