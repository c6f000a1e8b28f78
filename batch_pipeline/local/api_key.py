"""The key of the local system: made once, kept in the data directory for its owner alone, and printed by `up`."""

import os
from pathlib import Path

FILE_NAME = "api-key"


def local_key(data_dir: Path) -> str:
    """The key of organization ``default``: the one kept in the folder, if it is still good, else a new one.

    The settings must lead to the database.
    """
    from batch_pipeline.batches.api_keys import create_key, find_key
    from batch_pipeline.batches.organizations import DEFAULT_ORGANIZATION
    from batch_pipeline.database import create_engine
    from batch_pipeline.settings import get_settings

    path = data_dir / FILE_NAME
    engine = create_engine(get_settings().require_database_url())
    try:
        kept = path.read_text(encoding="ascii").strip() if path.exists() else ""
        if kept and find_key(engine, kept) is not None:
            return kept
        made = create_key(engine, DEFAULT_ORGANIZATION).key
    finally:
        engine.dispose()
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(made + "\n")
    return made
