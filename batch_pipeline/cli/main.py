"""Entry of the command line: all commands, and an exit code and one line for every failure."""

import importlib
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from batch_pipeline.cli.console import join_sentences, say_error
from batch_pipeline.dropped_interrupts import repeating_dropped
from batch_pipeline.errors import BatchError, UnavailableError
from batch_pipeline.logs import configure_logs, is_json

ENDED_OTHERWISE = 1
WRONG_USE = 2
UNREACHABLE = 3
_TYPERS_INTERRUPTED = 130  # Typer's exit code for KeyboardInterrupt

# What to check if a configured service can't be reached. Messages about embedded services name their logs.
_HINTS = {
    "database": "Check BATCH_DATABASE_URL, and that the server is running.",
    "storage": "Check BATCH_STORAGE_URL and the AWS_ variables, and that the service is running.",
}

# The modules of this package with their commands, in the order of the help.
_COMMANDS = {
    "running": ("run",),
    "plans": ("plan", "apply"),
    "submitting": ("submit",),
    "watching": ("watch",),
    "rerunning": ("retry", "cancel", "undo"),
    "batches": ("show", "list", "errors", "result"),
    "history": ("history", "changes"),
    "organizations": ("organizations",),
    "keys": ("keys",),
    "webhooks": ("webhooks",),
    "demo": ("demo",),
    "serving": ("api", "worker"),
    "pruning": ("prune",),
    "metrics": ("metrics",),
    "system": ("up", "db"),
}


def command_line(command: str | None = None) -> typer.Typer:
    """The command line with the module of this command alone, or with all modules if none has it.

    A command doesn't wait for the others: their modules and flags take a tenth of the time of `show`.
    """
    app = typer.Typer(
        name="batch-pipeline",
        help="Bulk operations on logistics records: a file becomes correct rows in PostgreSQL, or an errors file.",
        epilog="Exit codes: 0 done; 1 the batch did not complete, or the command was interrupted; 2 wrong flags, file "
        "or setting; 3 database, storage or Dagster can't be reached.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_flags)
    for name in [name for name, commands in _COMMANDS.items() if command in commands] or _COMMANDS:
        importlib.import_module(f"batch_pipeline.cli.{name}").add_to(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"batch-pipeline {version('batch-pipeline')}")
        raise typer.Exit


def _flags(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass  # `--version` is done by its callback


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits.

    Exit codes: 0 done; 1 the batch did not complete, or the command was interrupted; 2 wrong use; 3 a service can't be
    reached.
    """
    # Libraries log their retries and errors; the errors are printed below, in one line.
    logging.getLogger().addHandler(logging.NullHandler())
    if is_json():
        configure_logs()
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"dagster(\.|_|$)")  # about its own beta features
    with repeating_dropped(KeyboardInterrupt):
        code = _run(arguments)
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = command_line(given[0] if given else None)(args=given, standalone_mode=False)
        sys.stdout.flush()
        if code == _TYPERS_INTERRUPTED:
            raise KeyboardInterrupt
    except typer.TyperException as error:
        message = error.format_message().replace("Value error, ", "").rstrip(".")
        say_error(f"{message} (see {_command_of(error)} --help)")
        return WRONG_USE
    except BatchError as error:
        hint = _hint(error)
        say_error(join_sentences(error.message, hint) if hint else error.message)
        return UNREACHABLE if isinstance(error, UnavailableError) else WRONG_USE
    except (KeyboardInterrupt, typer.Abort):
        say_error("Interrupted before the end: run the command again.")
        return ENDED_OTHERWISE
    except BrokenPipeError:
        # The reader closed the pipe (`… | head`): drop what is still in the buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        say_error(f"Unexpected {type(error).__name__}: please report it with {_crash_report(error)}")
        return ENDED_OTHERWISE
    return code if isinstance(code, int) else 0


def _command_of(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "batch-pipeline"


def _hint(error: BatchError) -> str | None:
    if not isinstance(error, UnavailableError) or "BATCH_DATABASE_URL" not in os.environ:
        return None
    return None if "DAGSTER_POSTGRES_URL" in error.message else _HINTS.get(error.service)


def _crash_report(error: Exception) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="batch-pipeline-crash-", suffix=".log", delete=False) as file:
        file.write("".join(traceback.format_exception(error)))
    return file.name
