"""How often Python looks for garbage: seldom while a process starts, as usual in one that lives long."""

import gc

_USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """For the start of a process, and for one that ends soon.

    Imports make hundreds of thousands of objects, which stay. To look through them again for every 700 new ones,
    Python's default, takes a sixth of the time in which a run or a command starts.
    """
    gc.set_threshold(10_000, 10, 10)


def collect_as_usual() -> None:
    """For servers: what they no longer need would pile up, as most of it is part of a reference cycle."""
    gc.set_threshold(*_USUAL)
