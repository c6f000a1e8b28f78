"""Imports all that a run needs, for processes that other runs are forked from, or that wait for one.

It opens no connection and starts no thread of Python: a forked process would share or miss them.
"""

import importlib

from batch_pipeline.dropped_interrupts import repeat_dropped
from batch_pipeline.garbage import collect_nothing, collect_what_follows
from batch_pipeline.logs import configure_logs, is_json

_MODULES = (
    "batch_pipeline.definitions",
    "batch_pipeline.orchestration.execute",
    "batch_pipeline.orchestration.instance",
    "batch_pipeline.orchestration.workers",
    "batch_pipeline.phases.cleanup",
    "batch_pipeline.phases.helping",
    "batch_pipeline.phases.parse",
    "batch_pipeline.phases.process",
    "batch_pipeline.phases.validate",
    # What Dagster and the libraries import late, at the first run, validation or connection of a process.
    "dagster._grpc.server",
    "pandera.backends.pandas.builtin_checks",
    "pandera.backends.pandas.container",
    "psycopg2.extras",
    "pyarrow.dataset",
    "s3fs",
    "upath.implementations.local",
)


def _import_all() -> None:
    for module in _MODULES:
        importlib.import_module(module)
    from dagster import DagsterExecutionInterruptedError

    from batch_pipeline.orchestration.run_logger import log_runs_as_configured
    from batch_pipeline.records.descriptions import all_resources
    from batch_pipeline.storage.store import s3_descriptions

    # Forked processes inherit it. Dagster terminates a run by SIGINT, whose handler raises this exception.
    repeat_dropped(DagsterExecutionInterruptedError)
    all_resources()
    s3_descriptions()
    if is_json():
        # Forked processes inherit both.
        configure_logs()
        log_runs_as_configured()


collect_nothing()
_import_all()
# A collection in a forked process would look at the 300,000 objects of the imports, and copy their memory pages.
collect_what_follows()
