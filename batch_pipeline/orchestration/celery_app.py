"""The Celery application: its settings with their reasons, and questions to its broker.

The launcher sends tasks by it and workers receive them. Celery brings runs to processes and decides nothing about them:
the ledger and its locks know which run is alive.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from batch_pipeline.errors import UnavailableError

QUEUE = "dagster"  # dagster-celery's default
CONNECT_SECONDS = 5
# A worker acknowledges a task when a process begins it, milliseconds after it has received it. A task that a worker
# received and did not begin within this time goes to another worker.
VISIBILITY_SECONDS = 60
RESULT_SECONDS = 8 * 24 * 3600  # for monitoring only; a run takes 7 days at most


def celery_settings() -> dict[str, Any]:
    """Settings of launcher and workers."""
    return {
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_keepalive": True,
        },
        "broker_connection_timeout": CONNECT_SECONDS,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a worker outlives any outage of its broker
        # Early acknowledgement: Dagster never executes a run twice, so a second delivery of a task that has begun is
        # useless. A killed worker's batch is ended by reconciling and re-run as a new run.
        "task_acks_late": False,
        # A worker takes no task that it can't begin at once. Else tasks would wait behind a long one, while other
        # workers are idle.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "task_track_started": True,
        "result_expires": RESULT_SECONDS,
        # A result that can't be stored must not hold a process up.
        "result_backend_transport_options": {"retry_policy": {"max_retries": 2, "interval_max": 1.0}},
        "task_serializer": "json",
        "accept_content": ["json"],
        # Bounds what libraries leak. A new process is forked from the parent, which has imported the code.
        "worker_max_tasks_per_child": 500,
        "worker_send_task_events": False,
    }


@contextmanager
def _channel(app: Celery) -> Iterator[Any]:
    """A channel of a new connection. Raises UnavailableError (service ``broker``) with one line, without the URL."""
    with app.connection_for_read() as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=CONNECT_SECONDS)
            yield connection.default_channel
        except (OperationalError, *connection.connection_errors) as error:
            cause = " ".join(str(error.__cause__ or error).split()).rstrip(".")
            raise UnavailableError(
                "broker",
                f"The broker can't be reached ({cause}): check BATCH_CELERY_BROKER_URL, and that Redis is running.",
            ) from None


def check_broker(app: Celery) -> None:
    """Connects once. Raises UnavailableError (service ``broker``)."""
    with _channel(app) as channel:
        channel.client.ping()


def tasks_in_broker(app: Celery) -> set[str]:
    """Ids of the tasks that wait in Redis, or that a worker has received and not begun.

    A task that a worker takes out at this moment may be missing. Raises UnavailableError (service ``broker``).
    """
    with _channel(app) as channel:
        waiting = [json.loads(text) for text in channel.client.lrange(QUEUE, 0, -1)]
        received = [json.loads(text)[0] for text in channel.client.hvals(channel.unacked_key)]
    return {str(message["headers"]["id"]) for message in waiting + received}


def count_waiting_runs(app: Celery) -> int:
    """The number of runs that wait in Redis. Requests for help are in another list: their priority is lower.

    Raises UnavailableError (service ``broker``).
    """
    with _channel(app) as channel:
        return int(channel.client.llen(QUEUE))


def is_worker_ready(broker_url: str, name: str) -> bool:
    """Whether the worker of this name answers."""
    with (
        Celery(broker=broker_url, config_source=celery_settings(), set_as_current=False) as app,
        app.connection_for_write() as connection,
    ):
        try:
            return bool(app.control.ping(destination=[name], timeout=1.0, connection=connection))
        except (OperationalError, *connection.connection_errors):  # the broker may not answer yet
            return False
