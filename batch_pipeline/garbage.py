"""Frequency of Python's garbage collection: low while a process starts, the default in a server, none at the end."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """Sets a high threshold, for the start of a process and for short processes.

    Imports create hundreds of thousands of objects that stay. With Python's default threshold of 700 new objects,
    collections take a sixth of the start time of a run or a command.
    """
    gc.set_threshold(10_000, 10, 10)


def collect_nothing() -> None:
    """Ends automatic collections, for commands that end after a second, and until a command has started.

    A command that goes on calls one of the others, or its garbage accumulates.
    """
    gc.set_threshold(0)


@contextmanager
def present_objects_spared() -> Iterator[None]:
    """Makes collections within the ``with`` leave out the objects from before it, for servers that have started.

    Most of a server's objects are of its imports. To look at all of them takes a fifth of a second, in which no call is
    answered.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def collect_what_follows() -> None:
    """As `collect_seldom`, but no collection looks at the present objects: those of imports take a fifth of a second.

    For a command that has started, once.
    """
    gc.freeze()
    collect_seldom()


def collect_as_usual() -> None:
    """Restores Python's default, for servers: most of their garbage is in reference cycles and would accumulate."""
    gc.set_threshold(*_USUAL)


def omit_last_collection() -> None:
    """Makes the end of the process collect nothing.

    When a process ends, Python looks for garbage among all its objects: 0.7 s after a run of 100 rows. The kernel frees
    the memory at once. Files, connections and temporary folders are closed before, in ``with`` and ``atexit``.
    """
    atexit.register(gc.freeze)  # a frozen object takes no part in collections
