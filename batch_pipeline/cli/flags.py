"""Flags that several commands share. Those of a batch's options are generated from `BatchOptions`."""

import inspect
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from batch_pipeline.batches.facts import REMEMBERED
from batch_pipeline.batches.model import UploadAction
from batch_pipeline.batches.options import BatchOptions, parse_options
from batch_pipeline.cli.help import ACTIONS, FORMATS, RESOURCES
from batch_pipeline.cli.moments import parse_moment
from batch_pipeline.errors import BatchError, RefusedError

DEFAULT_DATA_DIR = Path(".batch-pipeline")
DEFAULT_ORGANIZATION = "default"  # equals the one in batches.organizations, which takes too long to import for `--help`
_MOST_COMPLETED = 50


def complete_batch_ids(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The ids of the organization's newest batches that begin like this, each with its status and name.

    None if no server is running, because completing must start none, or if it can't be reached: there is no place for a
    message on the line that is being typed.
    """
    from batch_pipeline.cli.session import open_ledger
    from batch_pipeline.local.system import is_up
    from batch_pipeline.settings import get_settings

    organization = str(context.params.get("organization") or DEFAULT_ORGANIZATION)
    data_dir = Path(context.params.get("data_dir") or DEFAULT_DATA_DIR)
    try:
        if get_settings().database_url is None and not is_up(data_dir):
            return []
        with open_ledger(data_dir) as (ledger, _):
            found = ledger.find(organization_id=organization, or_unknown_organization=True, limit=_MOST_COMPLETED)
    except BatchError:
        return []
    return [(batch.id, f"{batch.status}, {batch.name}") for batch in found if batch.id.startswith(incomplete)]


DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir", metavar="FOLDER", help="Folder of the embedded servers; ignored if BATCH_DATABASE_URL is set."
    ),
]
OrganizationName = Annotated[
    str, typer.Option("--organization", metavar="NAME", help="Tenant that owns the records and batches.")
]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]
BatchId = Annotated[str, typer.Argument(metavar="ID", help="A batch's id: batch_…", autocompletion=complete_batch_ids)]
UploadFile = Annotated[
    str,
    typer.Argument(metavar="FILE", help=f"The upload: {FORMATS}; all except XLSX also as gzip or zstd."),
]
ResourceName = Annotated[str, typer.Option("--resource", metavar="NAME", help=f"Resource of the items: {RESOURCES}.")]
ActionName = Annotated[UploadAction, typer.Option("--action", help=f"What to do with the items: {ACTIONS}.")]
OnlyResource = Annotated[
    str | None, typer.Option("--resource", metavar="NAME", help=f"Only batches of this resource: {RESOURCES}.")
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        parser=parse_moment,
        metavar="TIME",
        help="Only since this time: 2026-03-31, 2026-03-31T14:00, epoch seconds, or an age: 2h, 3d.",
    ),
]

# Options that are a table of names and values: a flag for each pair.
_PAIR_FLAGS = {
    "properties": ("--property", "FIELD=VALUE", "A default value for items without the field (may be repeated)"),
    "column_mapping": (
        "--map",
        "FIELD=HEADER",
        "A field's header in the file (may be repeated), or the word remembered",
    ),
}


def location_flags(data_dir: Path, organization: str) -> str:
    """Flags by which another command finds the same batches: " --organization acme"; empty for the defaults."""
    flags = f" --organization {organization}" if organization != DEFAULT_ORGANIZATION else ""
    return f"{flags} --data-dir {data_dir}" if data_dir != DEFAULT_DATA_DIR else flags


def with_batch_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces the command's parameter ``options: BatchOptions`` by one flag per option of a batch.

    Names, defaults and help come from `BatchOptions`, which also checks the values. A wrong value raises RefusedError
    before the command is called.
    """
    names = list(BatchOptions.model_fields)
    flags = [_flag(name) for name in names]
    signature = inspect.signature(command)
    others = [parameter for parameter in signature.parameters.values() if parameter.name != "options"]

    @wraps(command)
    def with_flags(**given: Any) -> None:
        values = {name: _option_value(name, given.pop(name)) for name in names}
        command(**given, options=parse_options(values))

    # Typer generates the command's flags from its signature.
    with_flags.__signature__ = signature.replace(parameters=[*others, *flags])  # type: ignore[attr-defined] # typeshed lacks it
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


def _option_value(name: str, value: Any) -> Any:
    """The flag's value as `parse_options` takes it."""
    if name == "column_mapping" and list(value) == [REMEMBERED]:
        return REMEMBERED
    if name == "column_mapping" and REMEMBERED in value:
        raise RefusedError("invalid_options", f"--map {REMEMBERED} stands alone: give it without other --map flags.")
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
