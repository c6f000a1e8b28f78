"""Work on one file or batch after the other, of which none holds up the others."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from batch_pipeline.errors import UnavailableError

Item = TypeVar("Item")
Done = TypeVar("Done")

logger = logging.getLogger(__name__)

REFUSED_AT_FIRST = 5  # then storage may be away, and each further try take as long as its time-out


def process_independently(
    items: Iterable[Item],
    work: Callable[[Item], Done | None],
    *,
    name_of: Callable[[Item], str],
    check_storage: Callable[[], None],
    limit: int,
    seconds: float | None = None,
) -> list[Done]:
    """Does the work on each item; returns what it gave, at most `limit`, None not counted.

    After so many `seconds`, and one item at least, the rest is left for the next time. An item that storage refuses,
    or whose work fails for any other reason, is logged under its name and left, and the next one's turn comes. Raises
    the first of these errors where nothing was done. Raised at once: an outage of the database, and what
    `check_storage` raises, which is asked where storage refuses the first few.
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
            logger.warning("%s is left for the next time: %s", name_of(item), error.message)
            faults.append(error)
            refused += 1
            if not done and refused == REFUSED_AT_FIRST:
                check_storage()
        except Exception as error:
            logger.exception("%s is left for the next time, as something unforeseen went wrong", name_of(item))
            faults.append(error)
        else:
            if result is not None:
                done.append(result)
    if faults and not done:
        raise faults[0]
    return done
