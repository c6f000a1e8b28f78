"""How a process allocates memory and threads: for libraries that take more than they need here."""

import os
import sys

_M_ARENA_MAX = -8  # <malloc.h>
_ARENAS = "2"


def use_one_blas_thread() -> None:
    """Keeps OpenBLAS, a part of numpy, from starting a thread for each core. Nothing here multiplies matrices.

    Such a thread waits in a busy loop at first: numpy's import took 0.11 s of the processor instead of 0.06 s on two
    cores. ``OPENBLAS_NUM_THREADS`` in the environment takes precedence.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def share_freed_memory() -> None:
    """Limits the heaps of a process, for what it imports and the threads it starts afterwards.

    By default Arrow's allocator and glibc's have a heap for each thread, and each keeps much of what was freed in it. A
    run has a dozen threads: with 36 MB at most in Arrow arrays, its process took 220 MB more than with two heaps. Two
    are enough, because threads that allocate mostly hold Python's lock.

    ``ARROW_DEFAULT_MEMORY_POOL`` and ``MALLOC_ARENA_MAX`` in the environment take precedence.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # Arrow reads it at its first allocation
    if sys.platform != "linux" or "MALLOC_ARENA_MAX" in os.environ:
        return
    import ctypes

    # For child processes: in this one glibc has read its variable already.
    os.environ["MALLOC_ARENA_MAX"] = _ARENAS
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not in musl
        libc.mallopt(_M_ARENA_MAX, int(_ARENAS))
