"""Makes the copies of large uploads in the background, in a separate process."""

import logging
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from threading import Lock

from batch_pipeline.orchestration.forking import end_processes, forked_executor

logger = logging.getLogger(__name__)


class Copier:
    """Makes the copies of one upload at a time. Requests for copies that are waiting or in progress are ignored.

    Copies that were not made when it closes are made when they are requested again.
    """

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None
        self._requested: set[str] = set()
        self._lock = Lock()

    def make_copies(self, batch_id: str) -> None:
        """Requests the copies; returns at once."""
        with self._lock:
            if batch_id in self._requested:
                return
            if self._executor is None:  # most uploads are small, and copied by their run
                self._executor = forked_executor()
            self._requested.add(batch_id)
            done = self._executor.submit(_make_copies, batch_id)
        done.add_done_callback(partial(self._ended, batch_id))

    def _ended(self, batch_id: str, done: "Future[None]") -> None:
        error = None if done.cancelled() else done.exception()
        with self._lock:
            self._requested.discard(batch_id)
            if error is not None:
                self._executor = None  # its process may be gone
        if error is not None:
            logger.warning("The copies of batch %s could not be made (%s).", batch_id, type(error).__name__)

    def close(self) -> None:
        """Kills the process."""
        if self._executor is not None:
            end_processes(self._executor)


def _make_copies(batch_id: str) -> None:
    from batch_pipeline.errors import BatchError
    from batch_pipeline.phases.copies import make_copies
    from batch_pipeline.system import open_system

    try:
        with open_system() as system:
            make_copies(system, batch_id)
    except BatchError as error:
        raise RuntimeError(error.code) from None  # not every error can be pickled
