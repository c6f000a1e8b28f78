"""One Redis, one local system that sends runs to Celery, and its workers, for the tests of one module."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from crew import Crew, Redis
from large_batches import CHUNK_ROWS, ITEMS, SLOW_TABLES
from process_table import command_of

from batch_pipeline.errors import SettingError
from batch_pipeline.local.redis import redis_command
from batch_pipeline.local.system import LocalSystem
from batch_pipeline.system import System


@pytest.fixture(scope="module")
def worker_folder(session_folder: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix="workers-", dir=session_folder))


@pytest.fixture(scope="module")
def redis_server(worker_folder: Path) -> Iterator[Redis]:
    try:
        redis_command(worker_folder / "socket", worker_folder / "data")
    except SettingError as error:
        pytest.skip(error.message)
    server = Redis(worker_folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def system_settings(redis_server: Redis) -> dict[str, str]:
    return {
        "BATCH_LAUNCHER": "celery",
        "BATCH_CELERY_BROKER_URL": redis_server.url,
        "BATCH_CHUNK_ROWS": str(CHUNK_ROWS),
        "BATCH_PARALLEL_ITEMS": str(ITEMS // 2),
        "BATCH_RERUN_PAUSE_SECONDS": "0.5",
        "BATCH_SYNC_WORKERS": "1",
    }


@pytest.fixture(scope="module")
def crew(module_system: System, running: LocalSystem, redis_server: Redis, worker_folder: Path) -> Iterator[Crew]:
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute(SLOW_TABLES)
    hired = Crew(module_system, running, redis_server, worker_folder)
    yield hired
    hired.stop()
    for child in psutil.Process().children():
        if "dagster._daemon" in command_of(child):
            child.kill()
