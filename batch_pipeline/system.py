"""The system that batches run in: settings, database, ledger and storage, opened together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.database import create_engine
from batch_pipeline.settings import Settings, get_settings
from batch_pipeline.storage.store import Store


@dataclass(frozen=True)
class System:
    """What every part of the work needs."""

    settings: Settings
    database_url: str
    engine: sa.Engine
    ledger: Ledger
    store: Store


@contextmanager
def open_system(settings: Settings | None = None) -> Iterator[System]:
    """Opens the system that the settings name. Raises SettingError where one is missing.

    Connections are made on first use, so an outage shows there.
    """
    settings = settings or get_settings()
    database_url = settings.require_database_url()
    store = Store(settings.require_storage_url())
    engine = create_engine(database_url)
    try:
        yield System(settings, database_url, engine, Ledger(engine), store)
    finally:
        engine.dispose()
