"""The format of logs, `BATCH_LOG_FORMAT`: text, or one JSON object a line with time, level, message, batch and run.

All modules log by the standard library. `bound` and `bind` name the batch, organization and run that a thread or task
works on; records of a Dagster run have them from its tags. The text of an exception is logged only if it is ours:
databases and libraries may quote customers' values in theirs. The places of its trace always are.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from batch_pipeline.errors import BatchError

if TYPE_CHECKING:
    from structlog.stdlib import ProcessorFormatter
    from structlog.typing import EventDict

_TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# Tags of Dagster's runs, see `orchestration.tags`.
_TAGS = {"batch": "batch/id", "organization": "batch/organization"}


def is_json() -> bool:
    """Whether this process logs JSON. A wrong value is refused where the settings are read."""
    return os.environ.get("BATCH_LOG_FORMAT") == "json"


def configure_logs(stream: TextIO | None = None) -> None:
    """Makes the root logger write to the stream, by default stderr, in the format of `BATCH_LOG_FORMAT`.

    Records of loggers that have their own handlers (Dagster's, uvicorn's) are left to these. A repeated call replaces
    the handler.
    """
    root = logging.getLogger()
    for before in [each for each in root.handlers if isinstance(each, _RootHandler)]:
        root.removeHandler(before)
    handler = _RootHandler(stream or sys.stderr)
    handler.setFormatter(json_formatter() if is_json() else _TextFormatter(_TEXT_FORMAT))
    root.addHandler(handler)
    logging.captureWarnings(is_json())  # else Python writes them beside the records


def json_formatter() -> "ProcessorFormatter":
    """The formatter of JSON records, for any handler."""
    # Imported here, because it takes a command in text format 0.1 s.
    from structlog.contextvars import merge_contextvars
    from structlog.processors import JSONRenderer, TimeStamper
    from structlog.stdlib import ProcessorFormatter

    return ProcessorFormatter(
        foreign_pre_chain=[merge_contextvars, TimeStamper(fmt="iso", utc=True, key="time")],
        processors=[_fields, JSONRenderer(ensure_ascii=True, default=str)],
    )


def json_logger(name: str, level: str | int) -> logging.Logger:
    """A logger of its own, outside the hierarchy of loggers, that writes JSON to stderr."""
    logger = logging.Logger(name, level)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(json_formatter())
    logger.addHandler(handler)
    return logger


@contextmanager
def bound(*, batch: str | None = None, organization: str | None = None, run: str | None = None) -> Iterator[None]:
    """Names what this thread or task works on, for the records that it logs within the ``with``."""
    from structlog.contextvars import bound_contextvars

    with bound_contextvars(**_given(batch=batch, organization=organization, run=run)):
        yield


def bind(*, batch: str | None = None, organization: str | None = None) -> None:
    """As `bound`, until the end of the task, for example of a request."""
    from structlog.contextvars import bind_contextvars

    bind_contextvars(**_given(batch=batch, organization=organization))


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


class _RootHandler(logging.StreamHandler[TextIO]):
    """The root logger's handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Refuses records that a handler of a logger below the root has had."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None and logger is not logging.root:
            if any(not isinstance(each, logging.NullHandler) for each in logger.handlers):
                return False
            logger = logger.parent
        return bool(super().filter(record))


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        own = logging.makeLogRecord(record.__dict__)
        own.exc_text = None  # another handler's formatter may have left its text of the exception
        return super().format(own)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the library's name
        return "\n".join(_exception(ei) or ())


def _fields(_logger: Any, _method: str, event: "EventDict") -> "EventDict":
    """The record's fields, in order. Those without a value are left out."""
    record: logging.LogRecord = event["_record"]
    of_run = getattr(record, "dagster_meta", None) or {}
    run_tags = of_run.get("job_tags") or {}
    found = {
        "time": event["time"],
        "level": record.levelname.lower(),
        "message": event["event"],
        "logger": record.name,
        **{name: event.get(name) or run_tags.get(tag) for name, tag in _TAGS.items()},
        "run": event.get("run") or of_run.get("run_id"),
        "exception": _exception(event.get("exc_info")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _exception(exc_info: Any) -> list[str] | None:
    """Types and places of the exception and its causes, outermost first; texts of our own errors only."""
    if not isinstance(exc_info, tuple) or exc_info[1] is None:
        return None
    lines: list[str] = []
    error: BaseException | None = exc_info[1]
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = f": {error.message}" if isinstance(error, BatchError) else ""
        lines.append(f"{type(error).__module__}.{type(error).__qualname__}{text}")
        lines += [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines
