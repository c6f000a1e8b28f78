"""A crash of the database server loses no item, whatever it empties."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from batch_runs import arrived, as_csv, contacts, new_organization
from driving import run_attempt
from pydantic import SecretStr
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from batch_pipeline import migrations
from batch_pipeline.batches.model import Starter
from batch_pipeline.errors import RefusedError
from batch_pipeline.local.postgres import EmbeddedPostgres
from batch_pipeline.settings import get_settings
from batch_pipeline.storage import keys
from batch_pipeline.system import System, open_system

PATIENCE_SECONDS = 60.0
SMALL, LARGE = 100, 300  # rows of a batch that shares staging tables, and of one that has unlogged items of its own


@pytest.fixture
def system(session_folder: Path, environment: dict[str, str], storage_url: str) -> Iterator[System]:
    """A system with a database server of its own."""
    server = EmbeddedPostgres(session_folder / "crashing")
    try:
        url = server.start()
        migrations.upgrade(url)
        settings = get_settings().model_copy(
            update={"database_url": SecretStr(url), "storage_url": storage_url, "chunk_rows": 50}
        )
        with open_system(settings) as opened:
            yield opened
    finally:
        server.stop()


def crash(system: System) -> None:
    """Kills one server process, upon which the server restarts all of them and recovers from its log."""
    with psycopg.connect(system.database_url, autocommit=True) as witness:
        with psycopg.connect(system.database_url) as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
        # Until the server notices the crash, it accepts connections, and ends them with the witness's.
        until_it_fails = Retrying(
            retry=retry_if_result(bool), stop=stop_after_delay(PATIENCE_SECONDS), wait=wait_fixed(0.05)
        )
        until_it_fails(_answers, witness)
    system.engine.dispose()
    for attempt in Retrying(
        retry=retry_if_exception_type(psycopg.OperationalError),
        stop=stop_after_delay(PATIENCE_SECONDS),
        wait=wait_fixed(0.05),
        reraise=True,
    ):
        with attempt:
            psycopg.connect(system.database_url).close()


def _answers(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("rows_of_upload", [SMALL, LARGE])
def test_no_item_is_lost_if_the_server_crashes_after_validation(system: System, rows_of_upload: int) -> None:
    organization = new_organization(system)
    rows = [{"external_id": f"e{number}", "name": f"Name {number}"} for number in range(rows_of_upload)]
    batch = arrived(system, organization, as_csv(rows), save_result=True)

    def crash_and_stop() -> None:
        crash(system)
        raise RefusedError("stopped", "The test stops the first attempt here.")

    stopped = run_attempt(system, batch, once_validated=crash_and_stop)
    assert (stopped.status, contacts(system, organization)) == ("failed", [])
    done = run_attempt(system, system.ledger.request_rerun(batch.id, Starter.caller))

    assert (done.status, done.stats.created, done.stats.items_read) == ("completed", rows_of_upload, rows_of_upload)
    written = {record["external_id"]: record["name"] for record in contacts(system, organization)}
    assert written == {row["external_id"]: row["name"] for row in rows}
    results = json.loads(system.store.read(keys.result_json(batch.id)))
    assert [entry["external_id"] for entry in results] == [row["external_id"] for row in rows]
