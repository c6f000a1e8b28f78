"""A helper that hangs in a chunk of a large batch: its process is suspended, and the run does its chunk."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import psycopg
import pytest
from batch_runs import arrived, as_csv, contacts, new_organization
from driving import run_attempt
from waiting import eventually

from batch_pipeline.batches.model import PhaseName
from batch_pipeline.errors import SupersededError
from batch_pipeline.loading.chunks import worker_name
from batch_pipeline.orchestration.forking import fork_context
from batch_pipeline.phases import helping
from batch_pipeline.phases.attempt import HelpRequest
from batch_pipeline.settings import get_settings
from batch_pipeline.system import System, open_system

ITEMS = 600
WAIT_SECONDS = 60.0
HELD = 4711  # an advisory lock

_TRIGGER = f"""
CREATE FUNCTION wait_if_held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name = 'held' THEN PERFORM pg_advisory_xact_lock_shared({HELD}); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER wait_if_held BEFORE INSERT ON contacts FOR EACH ROW EXECUTE FUNCTION wait_if_held()
"""


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "50", "BATCH_PARALLEL_ITEMS": str(ITEMS)}


def _help(request: HelpRequest, scratch: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    get_settings.cache_clear()
    helping.CHUNK_SECONDS = 2.0
    # The server has ended its session, and the batch has ended.
    with open_system() as system, suppress(psycopg.OperationalError, SupersededError):
        helping.help_out(system, request, scratch, is_wanted=lambda: True)


@contextmanager
def _helper(request: HelpRequest, scratch: Path) -> Iterator[BaseProcess]:
    environment = {name: value for name, value in os.environ.items() if name.startswith(("BATCH_", "AWS_"))}
    child = fork_context().Process(target=_help, args=(request, scratch, environment))
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def _wait_until_held(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    query = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted)"
    eventually(lambda: connection.execute(query, (HELD,)).fetchone() == (True,), pause=0.05)


def _wait_until_stopped(process: psutil.Process) -> None:
    eventually(lambda: process.status() == psutil.STATUS_STOPPED, pause=0.01)


def test_the_chunk_of_a_suspended_helper_is_done_by_the_run_and_not_again_by_the_helper(
    module_system: System, tmp_path: Path
) -> None:
    system, organization = module_system, new_organization(module_system)
    rows = [{"external_id": f"x{place:03}", "name": "held" if place == 0 else "free"} for place in range(ITEMS)]
    batch = arrived(system, organization, as_csv(rows), save_result=True)
    helpers: list[BaseProcess] = []

    def suspend_a_helper_in_the_first_chunk(request: HelpRequest, number: int) -> None:
        if request.phase is not PhaseName.processing:
            return
        assert number == 7  # of eight workers the run's is one
        with psycopg.connect(system.database_url, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (HELD,))
            helper = open_helper.enter_context(_helper(request, tmp_path))
            _wait_until_held(connection)
            os.kill(helper.pid or 0, signal.SIGSTOP)
            _wait_until_stopped(psutil.Process(helper.pid))  # a signal takes its time on a busy machine
            helpers.append(helper)

    with psycopg.connect(system.database_url) as connection:
        connection.execute(_TRIGGER)
    with ExitStack() as open_helper:
        done = run_attempt(system, batch, call_helpers=suspend_a_helper_in_the_first_chunk)
        (helper,) = helpers
        assert helper.is_alive()
        os.kill(helper.pid or 0, signal.SIGCONT)
        helper.join(WAIT_SECONDS)
        assert helper.exitcode == 0
    assert (done.status, done.reason, done.stats.created) == ("completed", None, ITEMS)
    assert [row["external_id"] for row in contacts(system, organization) if row["name"] == "held"] == ["x000"]
    assert len(contacts(system, organization)) == ITEMS
    with psycopg.connect(system.database_url) as connection:
        query = "SELECT worker FROM batch_chunks WHERE batch_id = %s AND phase = 'processing' AND number = 0"
        assert connection.execute(query, (batch.id,)).fetchall() == [(worker_name(),)]
