"""The limits within which the tests read."""

from typing import Any

from batch_pipeline.payloads.model import ReadLimits
from batch_pipeline.settings import Settings


def default_limits(**changes: int) -> ReadLimits:
    settings: dict[str, Any] = {"database_url": None, "storage_url": None, **changes}
    return ReadLimits.from_settings(Settings(**settings))
