"""The system that long-lived processes share: opened once, closed when nobody uses it any more."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa

from batch_pipeline.batches.callers import CALL_THREADS
from batch_pipeline.settings import get_settings
from batch_pipeline.system import System, open_system, shared_system

THREADS = 8
USE = """
from batch_pipeline.system import shared_system
with shared_system() as system:
    print(system.store.list(""))
"""


def _fail_with_it() -> None:
    with shared_system():
        raise ZeroDivisionError


def test_concurrent_and_sequential_users_share_one_system(system: System) -> None:
    together = Barrier(THREADS)

    def use(_: int) -> System:
        with shared_system() as shared:
            together.wait()
            return shared

    with ThreadPoolExecutor(THREADS) as threads:
        used = list(threads.map(use, range(THREADS)))
    with shared_system() as shared:
        assert {id(each) for each in used} == {id(shared)}
        assert shared.database_url == system.database_url
        assert shared.store.list("") == []


@pytest.mark.usefixtures("system")
def test_after_an_error_the_system_is_reopened_and_others_keep_theirs() -> None:
    with shared_system() as first:
        with pytest.raises(ZeroDivisionError):
            _fail_with_it()
        with shared_system() as second:
            assert second is not first
        first.store.write("by the first", b"x")
        assert first.ledger.find() == []

    with shared_system() as third:
        assert third is second
        assert third.store.read("by the first") == b"x"


def test_the_shared_system_follows_the_settings(
    system: System, storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shared_system() as before:
        assert before.store.uri("") == system.store.uri("")
    monkeypatch.setenv("BATCH_STORAGE_URL", storage_url)
    get_settings.cache_clear()

    with shared_system() as after:
        assert after.store.uri("") == storage_url
        after.store.write("a", b"x")

    assert not system.store.exists("a")


@pytest.mark.usefixtures("system")
def test_a_closed_system_leaves_no_connection() -> None:
    with shared_system() as shared:
        assert shared.ledger.find() == []
        assert shared.engine.pool.checkedin() == 1
    with pytest.raises(ZeroDivisionError):
        _fail_with_it()

    assert shared.engine.pool.checkedin() == 0


@pytest.mark.usefixtures("system")
def test_a_process_that_used_the_shared_system_ends_without_a_word() -> None:
    ended = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[]\n", "")


@pytest.mark.usefixtures("system")
def test_simultaneous_calls_of_the_api_keep_their_connections_for_later_calls() -> None:
    together = Barrier(CALL_THREADS)
    opened: list[object] = []

    def call(engine: sa.Engine) -> None:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT"))
            together.wait(60)

    with open_system(for_api=True) as api, ThreadPoolExecutor(CALL_THREADS) as threads:
        sa.event.listen(api.engine, "connect", lambda connection, _: opened.append(connection))
        for _ in range(3):
            list(threads.map(call, [api.engine] * CALL_THREADS))

    assert len(opened) == CALL_THREADS
