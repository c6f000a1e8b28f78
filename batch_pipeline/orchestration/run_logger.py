"""The console logger of runs: Dagster's own, or JSON if `BATCH_LOG_FORMAT` is json."""

import logging

from dagster import DagsterInstance, InitLoggerContext, LoggerDefinition
from dagster._core.execution import context_creation_job
from dagster._loggers import colored_console_logger

from batch_pipeline.logs import is_json, json_logger


def _make_logger(context: InitLoggerContext) -> logging.Logger:
    if not is_json():
        made: logging.Logger = colored_console_logger.logger_fn(context)
        return made
    return json_logger(context.logger_config["name"], context.logger_config["log_level"].upper())


# The same settings as Dagster's: a run's config names a level.
console_logger = LoggerDefinition(
    _make_logger, config_schema=colored_console_logger.config_schema, description="Logs of runs, by BATCH_LOG_FORMAT."
)
LOGGERS = {"console": console_logger}


def log_runs_as_configured() -> None:
    """Makes runs in this process use `console_logger` if `BATCH_LOG_FORMAT` is json.

    A run whose config names no logger uses Dagster's default one, whatever loggers its job has. Dagster has no setting
    for it, so its function is replaced.
    """
    if is_json():
        context_creation_job.default_system_loggers = _default_loggers  # type: ignore[attr-defined] # not exported


def _default_loggers(instance: DagsterInstance | None) -> list[tuple[LoggerDefinition, dict[str, object]]]:
    level = instance.python_log_level if instance is not None else None
    return [(console_logger, {"name": "dagster", "log_level": level or "DEBUG"})]
