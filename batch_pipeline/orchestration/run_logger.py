"""The console logger of runs: Dagster's own, or JSON if `BATCH_LOG_FORMAT` is json."""

import logging
import sys

from dagster import InitLoggerContext, LoggerDefinition
from dagster._loggers import colored_console_logger

from batch_pipeline.logs import is_json, json_formatter


def _make_logger(context: InitLoggerContext) -> logging.Logger:
    if not is_json():
        made: logging.Logger = colored_console_logger.logger_fn(context)
        return made
    logger = logging.Logger(context.logger_config["name"], context.logger_config["log_level"].upper())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(json_formatter())
    logger.addHandler(handler)
    return logger


# The same settings as Dagster's: a run's config names a level.
console_logger = LoggerDefinition(
    _make_logger, config_schema=colored_console_logger.config_schema, description="Logs of runs, by BATCH_LOG_FORMAT."
)
LOGGERS = {"console": console_logger}
