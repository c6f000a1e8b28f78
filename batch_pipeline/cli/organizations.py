"""Commands on tenants: `organizations create`, `organizations list`."""

from typing import Annotated

import typer
from rich.table import Table

from batch_pipeline.cli.console import data_console, print_json
from batch_pipeline.cli.flags import DEFAULT_DATA_DIR, DataDir, Json
from batch_pipeline.cli.session import open_ledger, servers

organizations = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(organizations, name="organizations", help="Tenants: create, list.")


@organizations.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, - and _. It is the tenant's id.")],
    region: Annotated[str, typer.Option(metavar="CODE", help="Region of national phone numbers: US, DE, …")] = "US",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Create a tenant."""
    from batch_pipeline.batches.organizations import create_organization

    with servers(data_dir) as local, open_ledger(data_dir) as (_, engine):
        made = create_organization(engine, name, region)
        if local is not None:
            from batch_pipeline.local.inbox_folders import make_inbox_folders

            make_inbox_folders(local.inbox, [made.id])
    if json:
        print_json({"id": made.id, "region": made.region})
    else:
        data_console().print(f"Organization {made.id} (region {made.region}) created.")


@organizations.command("list")
def list_all(data_dir: DataDir = DEFAULT_DATA_DIR, json: Json = False) -> None:
    """List the tenants."""
    from batch_pipeline.batches.organizations import list_organizations

    with open_ledger(data_dir) as (_, engine):
        found = list_organizations(engine)
    if json:
        print_json([{"id": each.id, "region": each.region} for each in found])
        return
    table = Table("organization", "region")
    for each in found:
        table.add_row(each.id, each.region)
    data_console().print(table)
