"""Whether Celery is installed. Imports nothing of it, nor Dagster."""

from importlib.util import find_spec

from batch_pipeline.errors import SettingError


def require_celery() -> None:
    """Raises SettingError if the extra `celery` is not installed."""
    if any(find_spec(name) is None for name in ("dagster_celery", "redis")):
        raise SettingError("Celery is not installed: pip install 'batch-pipeline[celery]', or unset BATCH_LAUNCHER")
