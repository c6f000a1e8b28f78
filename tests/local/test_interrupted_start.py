"""`up` is stopped while it starts."""

from collections.abc import Callable
from pathlib import Path

import pytest
from interrupting import interrupt_in_callback
from waiting import eventually

from batch_pipeline.local.s3 import free_port
from batch_pipeline.local.up import run_up
from batch_pipeline.settings import get_settings


def test_up_stops_though_python_drops_the_exception_of_the_signals_handler(
    data_dir: Path,
    processes_of: Callable[[Path], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("BATCH_DATABASE_URL", "BATCH_STORAGE_URL"):
        monkeypatch.delenv(name, raising=False)
    get_settings.cache_clear()
    reported: list[str] = []

    def report(line: str) -> None:
        reported.append(line)
        if len(reported) == 1:
            interrupt_in_callback()

    ports = {"port": free_port(), "api_port": free_port(), "s3_port": free_port()}
    run_up(data_dir, **ports, on_ready=lambda _: pytest.fail("it went on"), report=report)
    assert reported[0] == "Starting …"
    assert not list(data_dir.glob("socket-*"))
    eventually(lambda: not processes_of(data_dir))  # a child of initdb ends a moment after it
    get_settings.cache_clear()
