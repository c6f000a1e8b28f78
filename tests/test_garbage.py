"""Garbage collection at the end of a process."""

import subprocess
import sys

# What is registered first is called last: after all that the package has registered.
AT_THE_END = "import atexit, gc\natexit.register(lambda: print(len(gc.get_objects())))\n"


def test_the_end_of_a_process_collects_nothing_of_what_its_imports_left() -> None:
    program = AT_THE_END + "import batch_pipeline.cli.batches"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 1_000


def test_a_command_that_reads_ends_without_a_collection() -> None:
    program = (
        "import atexit, gc, sys\n"
        "atexit.register(gc.callbacks.clear)\n"
        "sys.argv = ['batch-pipeline', 'show', '--help']\n"
        "gc.disable()\n"
        "from batch_pipeline.__main__ import main\n"
        "gc.enable()\n"
        "gc.callbacks.append(lambda *_: print('collected'))\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Show a batch" in ended.stdout
    assert "collected" not in ended.stdout
