"""Dagster's own commands that log and end as ours do, and a daemon that looks at its sensors every second.

``python -m batch_pipeline.orchestration.dagster_command dagster._daemon run …`` runs a module of Dagster with flags.
Put here what Dagster's processes do differently and Dagster has no setting for. Formats belong to `logs`.
"""

import importlib
import runpy
import sys

from batch_pipeline.dropped_interrupts import repeating_dropped
from batch_pipeline.garbage import collect_nothing, collect_what_follows
from batch_pipeline.logs import configure_logs, is_json, json_formatter, json_logger

# Dagster's daemon looks every 5 s which sensors are due, so those of files would tick every 5 s and not every 2 s.
SENSORS_SECONDS = 1.0


def log_as_configured() -> None:
    """Makes Dagster's loggers, uvicorn's and all others of this process write JSON if `BATCH_LOG_FORMAT` is json.

    Call it before Dagster configures its loggers with ``--log-format json``. Dagster has no setting for another JSON
    format, nor for that of a sensor's ``context.log``, so its functions for both are replaced.
    """
    if not is_json():
        return
    import uvicorn.config
    from dagster._core.definitions import instigation_logger
    from dagster._utils import log

    configure_logs()
    log.get_structlog_json_formatter = json_formatter
    instigation_logger.create_console_logger = json_logger  # type: ignore[attr-defined] # not exported
    formatters = uvicorn.config.LOGGING_CONFIG["formatters"]
    formatters.update({name: {"()": json_formatter} for name in formatters})


def log_flags() -> list[str]:
    """The flags for Dagster's commands that fit `log_as_configured`."""
    return ["--log-format", "json"] if is_json() else []


def _look_at_sensors_often() -> None:
    from dagster._daemon import sensor

    sensor.MIN_INTERVAL_LOOP_TIME = SENSORS_SECONDS  # type: ignore[assignment] # a float does as well


def main() -> None:
    """Runs the package that the first argument names, as ``python -m`` does. Its command is in its module `cli`."""
    collect_nothing()
    log_as_configured()
    module = sys.argv[1]
    importlib.import_module(f"{module}.cli")
    collect_what_follows()
    if module == "dagster._daemon":
        _look_at_sensors_often()
    sys.argv = [module, *sys.argv[2:], *log_flags()]
    with repeating_dropped(KeyboardInterrupt):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
