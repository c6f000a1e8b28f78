"""Commands on keys of the HTTP API: `keys create`, `keys list`, `keys revoke`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from batch_pipeline.cli.console import data_console, print_json, say
from batch_pipeline.cli.flags import DEFAULT_DATA_DIR, DEFAULT_ORGANIZATION, DataDir, Json, OrganizationName
from batch_pipeline.cli.session import open_ledger

if TYPE_CHECKING:
    from batch_pipeline.batches.api_keys import ApiKey

keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(keys, name="keys", help="Keys of the HTTP API: create, list, revoke.")


@keys.command("create")
def create(
    organization: OrganizationName = DEFAULT_ORGANIZATION, data_dir: DataDir = DEFAULT_DATA_DIR, json: Json = False
) -> None:
    """Create a key of an organization and print it.

    It can't be shown again: only its hash is stored.
    """
    from batch_pipeline.batches.api_keys import create_key

    with open_ledger(data_dir) as (_, engine):
        made = create_key(engine, organization)
    if json:
        print_json({"id": made.id, "key": made.key, "organization": made.organization_id})
        return
    data_console().print(made.key, soft_wrap=True)
    say(f"Key {made.id} of organization {made.organization_id}. Keep it: only its hash is stored.")


@keys.command("list")
def list_all(
    organization: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this tenant.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """List the keys, including revoked ones, without secrets."""
    from batch_pipeline.batches.api_keys import list_keys

    with open_ledger(data_dir) as (_, engine):
        if organization is not None:
            from batch_pipeline.batches.organizations import get_organization

            get_organization(engine, organization)
        found = list_keys(engine, organization)
    if json:
        print_json([_key_json(key) for key in found])
        return
    table = Table("key", "organization", "created", "revoked")
    for key in found:
        revoked = "" if key.revoked_at is None else f"{key.revoked_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(key.id, key.organization_id, f"{key.created_at:%Y-%m-%d %H:%M:%S}", revoked)
    data_console().print(table if found else "No keys.")


@keys.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="A key's id: key_…")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Revoke a key at once and permanently."""
    from batch_pipeline.batches.api_keys import revoke_key

    with open_ledger(data_dir) as (_, engine):
        revoked = revoke_key(engine, key_id)
    if json:
        print_json(_key_json(revoked))
        return
    data_console().print(f"Key {revoked.id} of organization {revoked.organization_id} is revoked.")


def _key_json(key: "ApiKey") -> dict[str, object]:
    return {
        "id": key.id,
        "organization": key.organization_id,
        "created_at": int(key.created_at.timestamp()),
        "revoked_at": None if key.revoked_at is None else int(key.revoked_at.timestamp()),
    }
