"""Frequency of Python's garbage collection: low while a process starts, the default in a long-lived process."""

import gc

_USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """Sets a high threshold, for the start of a process and for short processes.

    Imports create hundreds of thousands of objects that stay. With Python's default threshold of 700 new objects,
    collections take a sixth of the start time of a run or a command.
    """
    gc.set_threshold(10_000, 10, 10)


def collect_as_usual() -> None:
    """Restores Python's default, for servers: most of their garbage is in reference cycles and would accumulate."""
    gc.set_threshold(*_USUAL)
