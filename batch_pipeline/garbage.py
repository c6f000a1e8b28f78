"""Frequency of Python's garbage collection: low while a process starts, the default in a long-lived process, none at
the end.
"""

import atexit
import gc

_USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """Sets a high threshold, for the start of a process and for short processes. Omits the collection at the end.

    Imports create hundreds of thousands of objects that stay. With Python's default threshold of 700 new objects,
    collections take a sixth of the start time of a run or a command.

    When a process ends, Python collects the garbage among all its objects: 0.7 s for a run of 100 rows. The kernel
    frees the memory at once. Files, connections and temporary folders are closed before, in ``with`` and ``atexit``.
    """
    gc.set_threshold(30_000, 10, 10)
    atexit.register(gc.freeze)  # a frozen object takes no part in collections; a second call changes nothing


def collect_as_usual() -> None:
    """Restores Python's default, for servers: most of their garbage is in reference cycles and would accumulate."""
    gc.set_threshold(*_USUAL)
