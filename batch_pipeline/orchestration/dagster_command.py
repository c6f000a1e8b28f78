"""Dagster's own commands with the log format of `BATCH_LOG_FORMAT`, and with few garbage collections while they start.

``python -m batch_pipeline.orchestration.dagster_command dagster._daemon run …`` runs a module of Dagster with flags.
Put here what makes Dagster's processes log as ours do. Formats belong to `logs`.
"""

import runpy
import sys

from batch_pipeline.logs import configure_logs, is_json, json_formatter, json_logger


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


def main() -> None:
    """Runs the module that the first argument names, as ``python -m`` does."""
    log_as_configured()
    module = sys.argv[1]
    sys.argv = [module, *sys.argv[2:], *log_flags()]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
