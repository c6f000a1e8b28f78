"""Memory that threads have freed, and threads that libraries start."""

import os
import subprocess
import sys

import pytest

MIB = 1 << 20
SETTINGS = ("ARROW_DEFAULT_MEMORY_POOL", "MALLOC_ARENA_MAX")
THREADS = 8
MOST_BYTES = 32 * MIB
BLOCK_BYTES = 64 << 10
# Each thread allocates blocks, frees all but the last one, and stays until the end. They do it one after the other.
PROGRAM = f"""
import batch_pipeline
import threading
from pathlib import Path
import pyarrow as pa

def anonymous_bytes():
    return 1024 * int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])

ending = threading.Event()
kept = []

def work(done):
    try:
        blocks = [allocate({BLOCK_BYTES}) for _ in range({MOST_BYTES} // {BLOCK_BYTES})]
        kept.append(blocks.pop())
        del blocks
    finally:
        done.set()
    ending.wait()

def allocate_arrow(size):
    half = pa.nulls(size // 16, pa.int64()).fill_null(0)
    return pa.concat_arrays([half, half])

for allocate in (bytearray, allocate_arrow):
    before = anonymous_bytes()
    for _ in range({THREADS}):
        done = threading.Event()
        threading.Thread(target=work, args=(done,), daemon=True).start()
        done.wait()
    print(anonymous_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_use_again_what_others_have_freed() -> None:
    variables = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=variables)
    for growth_bytes in map(int, ended.stdout.split()):
        assert growth_bytes < 2.5 * MOST_BYTES  # two heaps, not one for each thread


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_numpy_starts_no_thread() -> None:
    program = "import batch_pipeline, numpy, os; print(len(os.listdir('/proc/self/task')))"
    variables = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=variables)
    assert int(ended.stdout) == 1
