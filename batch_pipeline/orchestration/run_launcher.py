"""Dagster's run launcher of our settings, because dagster.yaml can't choose between two.

It imports nothing of Celery unless the settings name it: each of Dagster's processes loads the launcher.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagster import DagsterInstance
from dagster._core.launcher import DefaultRunLauncher, RunLauncher
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from batch_pipeline.orchestration.celery_extra import require_celery
from batch_pipeline.settings import get_settings

if TYPE_CHECKING:
    from dagster._config import UserConfigSchema

    from batch_pipeline.orchestration.celery_launcher import CeleryLauncher


class SettingsRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Stands in dagster.yaml for the launcher that BATCH_LAUNCHER names. It has no instances of its own."""

    @classmethod
    def config_type(cls) -> "UserConfigSchema":
        """No settings here."""
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override] # Dagster uses what it returns as any launcher
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> RunLauncher[Any]:
        """The launcher that the settings name. Raises SettingError."""
        settings = get_settings()
        if settings.launcher == "default":
            return DefaultRunLauncher(inst_data=inst_data)
        return load_celery_launcher()(settings.require_broker_url(), inst_data=inst_data)


def load_celery_launcher() -> "type[CeleryLauncher]":
    """The class of the Celery launcher. Raises SettingError if the extra is not installed."""
    require_celery()
    from batch_pipeline.orchestration.celery_launcher import CeleryLauncher

    return CeleryLauncher
