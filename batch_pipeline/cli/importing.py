"""Imports what a run needs while a command waits for its servers to start."""

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

# What `session.open_workplace` and the phases of a run import, and what libraries import late.
_OF_RUNS = (
    "batch_pipeline.orchestration.execute",
    "batch_pipeline.orchestration.instance",
    "batch_pipeline.orchestration.reconciling",
    "batch_pipeline.phases.cleanup",
    "batch_pipeline.phases.parse",
    "batch_pipeline.phases.process",
    "batch_pipeline.phases.validate",
    "pandera.backends.pandas.builtin_checks",
    "s3fs",
)


@contextmanager
def importing_meanwhile() -> Iterator[Callable[[], None]]:
    """Imports in a thread; yields a function that waits for it, as the block's end does.

    Until then the caller should import nothing of these libraries: two threads in one import can meet half a module.
    """
    thread = threading.Thread(target=_import_all, daemon=True)
    thread.start()
    try:
        yield thread.join
    finally:
        thread.join()


def _import_all() -> None:
    with suppress(ImportError):  # whoever needs the module imports it again, and fails
        for module in _OF_RUNS:
            importlib.import_module(module)
