"""Processes files or batches one after the other, so that one that fails does not block the others."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from batch_pipeline.errors import UnavailableError

Item = TypeVar("Item")
Done = TypeVar("Done")

logger = logging.getLogger(__name__)

REFUSED_AT_FIRST = 5  # then storage may be unavailable, and each further item may take a whole time-out


def process_independently(
    items: Iterable[Item],
    work: Callable[[Item], Done | None],
    *,
    name_of: Callable[[Item], str],
    check_storage: Callable[[], None],
    limit: int,
    seconds: float | None = None,
) -> list[Done]:
    """Calls `work` on each item; returns its results that are not None, at most `limit`.

    Stops after `seconds`, but processes at least one item. If `work` raises, the item is logged with its name and
    skipped; if there are no results in the end, the first of these errors is raised.

    Raises at once if the database is unavailable. If storage refuses `REFUSED_AT_FIRST` items before the first result,
    calls `check_storage` and raises what that raises.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    done: list[Done] = []
    faults: list[Exception] = []
    refused = 0
    for looked_at, item in enumerate(items):
        if len(done) >= limit or (looked_at and deadline is not None and time.monotonic() > deadline):
            break
        try:
            result = work(item)
        except UnavailableError as error:
            if error.service != "storage":
                raise
            logger.warning("%s is skipped until the next tick: %s", name_of(item), error.message)
            faults.append(error)
            refused += 1
            if not done and refused == REFUSED_AT_FIRST:
                check_storage()
        except Exception as error:
            logger.exception("%s is skipped until the next tick, because of an unexpected error", name_of(item))
            faults.append(error)
        else:
            if result is not None:
                done.append(result)
    if faults and not done:
        raise faults[0]
    return done
