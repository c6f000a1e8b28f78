"""Flags that several commands share; those of a batch's options are made from `BatchOptions` itself."""

import inspect
from collections.abc import Callable
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from batch_pipeline.batches.model import Action
from batch_pipeline.batches.options import BatchOptions, parse_options
from batch_pipeline.errors import RefusedError

DEFAULT_DATA_DIR = Path(".batch-pipeline")
DEFAULT_ORGANIZATION = "default"  # as batches.organizations has it, whose import is too heavy for `--help`

DataDir = Annotated[
    Path,
    typer.Option("--data-dir", help="Folder of the embedded servers, used unless BATCH_DATABASE_URL is set."),
]
OrganizationName = Annotated[
    str, typer.Option("--organization", help="The tenant whose records and batches these are.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, alone on stdout.")]
BatchId = Annotated[str, typer.Argument(metavar="ID", help="A batch's id: batch_…")]
ResourceName = Annotated[str, typer.Option("--resource", help="What the items are: contact, …")]
ActionName = Annotated[Action, typer.Option("--action", help="What to do with them.")]

# Options that are a table of names and values: a flag for each pair.
_PAIR_FLAGS = {
    "properties": ("--property", "FIELD=VALUE", "A default value for items without the field (may be repeated)"),
    "column_mapping": ("--map", "FIELD=HEADER", "A field's header in the file (may be repeated)"),
}


def same_place(data_dir: Path, organization: str) -> str:
    """The flags that lead another command to the same batches, where they aren't the defaults; begins with a blank."""
    flags = f" --organization {organization}" if organization != DEFAULT_ORGANIZATION else ""
    return f"{flags} --data-dir {data_dir}" if data_dir != DEFAULT_DATA_DIR else flags


def with_batch_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives the command, in place of its parameter ``options: BatchOptions``, one flag per option of a batch.

    Their names, defaults and help are those of `BatchOptions`, which also checks the values: the command is not
    called with wrong ones, but RefusedError raised.
    """
    names = list(BatchOptions.model_fields)
    flags = [_flag(name) for name in names]
    signature = inspect.signature(command)
    others = [parameter for parameter in signature.parameters.values() if parameter.name != "options"]

    @wraps(command)
    def with_flags(**given: Any) -> None:
        values = {name: _plain(name, given.pop(name)) for name in names}
        command(**given, options=parse_options(values))

    # What Typer makes the command's flags from.
    with_flags.__signature__ = signature.replace(parameters=[*others, *flags])  # type: ignore[attr-defined]
    return with_flags


def _flag(name: str) -> inspect.Parameter:
    field = BatchOptions.model_fields[name]
    if name in _PAIR_FLAGS:
        flag, metavar, text = _PAIR_FLAGS[name]
        kind: Any = list[str]
        default: Any = ()
        option = typer.Option(flag, metavar=metavar, help=f"{text}.", show_default=False)
    else:
        kind = field.annotation
        default = field.default
        flag = f"--{name.replace('_', '-')}"
        if field.annotation is bool:
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
        if not (isinstance(kind, type) and issubclass(kind, (bool, Enum))):
            kind = next((part for part in get_args(kind) if part is not type(None)), kind) | None
        option = typer.Option(flag, help=f"{field.description}.", show_default=default is not None)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _plain(name: str, value: Any) -> Any:
    if name in _PAIR_FLAGS:
        return _pairs(_PAIR_FLAGS[name][0], value)
    return value.value if isinstance(value, Enum) else value


def _pairs(flag: str, texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise RefusedError("invalid_options", f"{flag} {text!r} has no name and value: write {flag} name=value.")
        if name.strip() in pairs:
            raise RefusedError("invalid_options", f"{flag} is given twice for {name.strip()}: give it once.")
        pairs[name.strip()] = value
    return pairs
