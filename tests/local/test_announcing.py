"""A step that takes long is reported at intervals until it ends; a short one is not."""

import time

import pytest
from waiting import eventually

from batch_pipeline.local import announcing
from batch_pipeline.local.announcing import announced


def test_a_step_is_reported_repeatedly_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcing, "_EVERY_SECONDS", 0.2)
    lines: list[str] = []
    began = time.monotonic()
    with announced(lines.append, "Waiting for the test"):
        eventually(lambda: len(lines) == 2, pause=0.02)
        assert time.monotonic() - began >= 0.4
    assert lines[0].startswith("Waiting for the test … (")


def test_a_short_step_is_not_reported() -> None:
    lines: list[str] = []
    with announced(lines.append, "Nothing to wait for"):
        pass
    assert lines == []
