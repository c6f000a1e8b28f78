"""Garbage collection at the end of a process."""

import subprocess
import sys

# What is registered first is called last: after all that the package has registered.
AT_THE_END = "import atexit, gc\natexit.register(lambda: print(len(gc.get_objects())))\n"


def test_the_end_of_a_process_collects_nothing_of_what_its_imports_left() -> None:
    program = AT_THE_END + "import batch_pipeline.cli.batches"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 1_000
