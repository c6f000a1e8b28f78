"""Dagster's processes end on SIGTERM, though Python drops the exception of its handler."""

import os
import sys
from pathlib import Path

import pytest
from waiting import eventually

from batch_pipeline.dagster_home import LOCATION_NAME, MODULE_NAME
from batch_pipeline.local.processes import kill_group, start_process
from batch_pipeline.system import System

TESTS = Path(__file__).parent.parent
# Runs one of our modules as `python -m` does. SIGTERM arrives right after Dagster has set its handler.
INTERRUPTED = """
import runpy, signal, sys
from dagster._utils import interrupts
from interrupting import interrupt_in_callback

set_handlers = interrupts.setup_interrupt_handlers

def set_handlers_and_interrupt():
    interrupts.setup_interrupt_handlers = set_handlers
    set_handlers()
    print("interrupted", flush=True)
    interrupt_in_callback(signal.SIGTERM)

interrupts.setup_interrupt_handlers = set_handlers_and_interrupt
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
COMMAND = "batch_pipeline.orchestration.dagster_command"


@pytest.mark.parametrize(
    "command",
    [
        [COMMAND, "dagster_webserver", "--port", "0", "--empty-workspace"],
        [COMMAND, "dagster._daemon", "run", "--empty-workspace"],
        [
            *("batch_pipeline.orchestration.code_server", "--socket", "code-server"),
            *("--module-name", MODULE_NAME, "--location-name", LOCATION_NAME),
        ],
    ],
    ids=["webserver", "daemon", "code server"],
)
def test_sigterm_whose_exception_is_dropped_ends_the_process(
    system: System, tmp_path: Path, command: list[str]
) -> None:
    del system  # os.environ leads to it
    log = tmp_path / "log"
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = start_process(
        [sys.executable, "-c", INTERRUPTED, *command],
        log=log,
        environment={**os.environ, "PYTHONPATH": path},
        folder=tmp_path,
    )
    try:
        eventually(lambda: process.poll() is not None, about=log.read_text)
    finally:
        kill_group(process.pid)
        process.wait()
    assert log.read_text().count("interrupted\n") == 1
