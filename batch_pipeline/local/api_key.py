"""The API key of the local system: created once, kept in the data directory (mode 0600), and printed by `up`."""

from pathlib import Path

from batch_pipeline.local.private_files import write_private

FILE_NAME = "api-key"


def local_key(data_dir: Path) -> str:
    """The key of organization ``default``: the one in the folder if it is valid, else a new one.

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
    write_private(path, made + "\n")
    return made
