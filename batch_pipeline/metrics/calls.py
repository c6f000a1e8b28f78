"""The durations of this process's API calls: the only figures that are not in a database."""

from prometheus_client import Histogram, disable_created_metrics

# No further series with the time of the process's start.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library leaves it untyped

# A call in mode sync waits for its batch.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


def call_seconds() -> Histogram:
    """A histogram `batch_api_request_seconds` without observations, in no registry."""
    return Histogram(
        "batch_api_request_seconds",
        "Seconds from the request to the end of its answer, by route and HTTP status. Of this process alone, since its "
        "start: sum it over all API processes.",
        labelnames=("route", "status"),
        buckets=_BUCKETS,
        registry=None,
    )
