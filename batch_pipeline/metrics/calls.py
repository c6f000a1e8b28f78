"""The durations of API calls: the only figures that are not in a database.

Processes of one API (`BATCH_API_PROCESSES`) write them to files of one folder, prometheus_client's multiprocess mode,
so that each of the processes can answer for all of them.
"""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import cast

from prometheus_client import Histogram, disable_created_metrics
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

# No further series with the time of the process's start.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library leaves it untyped

# A call in mode sync waits for its batch.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_DESCRIPTION = (
    "Seconds from the request to the end of its answer, by route and HTTP status. Of this API alone, with all its "
    "processes, since its start: sum it over all APIs."
)
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported


@contextmanager
def sharing_calls() -> Iterator[None]:
    """Makes the processes that are started within the ``with`` count their calls together, from none."""
    with TemporaryDirectory(prefix="batch-api-calls-") as folder:
        before = os.environ.get(_FOLDER)
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]
            if before is not None:
                os.environ[_FOLDER] = before


def call_seconds() -> Histogram:
    """A histogram `batch_api_request_seconds` without observations, in no registry."""
    return Histogram(
        "batch_api_request_seconds",
        _DESCRIPTION,
        labelnames=("route", "status"),
        buckets=_BUCKETS,
        registry=None,
    )


def scraped_calls(seconds: Histogram) -> Collector:
    """The calls to show: in one of several processes those of all, of ended ones too; else this process's."""
    if multiprocessing.parent_process() is None:
        return seconds
    return cast(Collector, MultiProcessCollector(None))  # type: ignore[no-untyped-call] # the library leaves it untyped
