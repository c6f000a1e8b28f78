"""The database and storage of this process: those of the settings, or the embedded servers.

Every command imports it, so it imports no service of the local system.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from batch_pipeline.dagster_home import dagster_environment
from batch_pipeline.errors import SettingError
from batch_pipeline.local.servers import LocalServers, embedded_servers
from batch_pipeline.settings import get_settings


@contextmanager
def connected(
    data_dir: Path,
    *,
    start: Callable[[Path], AbstractContextManager[LocalServers]] = embedded_servers,
) -> Iterator[LocalServers | None]:
    """Sets this process's database and storage until the block ends.

    BATCH_DATABASE_URL and BATCH_STORAGE_URL name them, and it yields None. Otherwise ``start`` gives the embedded
    servers of ``data_dir``. Missing variables, including Dagster's, are added to ``os.environ`` and removed at the
    end. Raises SettingError if only one of the two variables is set, and the errors of ``start``.
    """
    settings = get_settings()
    if (settings.database_url is None) != (settings.storage_url is None):
        missing = "BATCH_DATABASE_URL" if settings.database_url is None else "BATCH_STORAGE_URL"
        raise SettingError(f"{missing} is not set: set both it and its counterpart, or neither")
    if settings.database_url is not None:
        with _environment(dagster_environment(settings, data_dir=data_dir)):
            yield None
        return
    with start(data_dir) as servers, _environment(servers.environment):
        yield servers


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    get_settings.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        get_settings.cache_clear()
