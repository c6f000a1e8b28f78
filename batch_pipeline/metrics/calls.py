"""The durations of API calls: the only figures that are not in a database.

Processes of one API (`BATCH_API_PROCESSES`) write them to files of one folder, prometheus_client's multiprocess mode,
so that each of the processes can answer for all of them.
"""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import Histogram, disable_created_metrics
from prometheus_client.core import Metric
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
    return _CallsOfAll(Path(os.environ[_FOLDER]))


class _CallsOfAll(Collector):
    """The calls that the files of a folder count together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """The metric families."""
        # The library can't read a file without its first block: that of a process that makes it just now, or could not
        # write it.
        files = [str(file) for file in self._folder.glob("*.db") if file.stat().st_size]
        metrics: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call] # as above
        return metrics
