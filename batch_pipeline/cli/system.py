"""Commands on the system itself: `up`, `db upgrade`, `db roles`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.table import Table

from batch_pipeline.cli.console import data_console, say, say_error
from batch_pipeline.cli.flags import DEFAULT_DATA_DIR, DataDir
from batch_pipeline.cli.progress import step
from batch_pipeline.cli.session import check_data_dir, servers

if TYPE_CHECKING:
    from batch_pipeline.local.system import LocalSystem

database = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("up")(up)
    app.add_typer(database, name="db", help="The database's schema and roles: upgrade, roles.")


def up(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.", min=1, max=65535)] = 3000,
    api_port: Annotated[int, typer.Option(help="Port of the API.", min=1, max=65535)] = 8000,
    s3_port: Annotated[int, typer.Option(help="Port of the embedded S3 server.", min=1, max=65535)] = 9000,
    workers: Annotated[
        int, typer.Option(help="Celery workers that run the batches, one each at a time.", min=0, max=64)
    ] = 0,
) -> None:
    """Run the local system until interrupted.

    It consists of Dagster, the HTTP API, and the embedded PostgreSQL and S3 servers unless others are configured; with
    --workers also of a Redis server, unless BATCH_CELERY_BROKER_URL is set, and of Celery workers.
    """
    with step("preparing the local system"):
        from batch_pipeline.local.supervision import ServiceEndedError
        from batch_pipeline.local.up import run_up

        check_data_dir(data_dir)
        if workers:
            from batch_pipeline.orchestration.celery_extra import require_celery

            require_celery()
    ports = {"port": port, "api_port": api_port, "s3_port": s3_port}
    try:
        run_up(data_dir, **ports, workers=workers, on_ready=_show_addresses, report=say)
    except ServiceEndedError as error:
        say_error(error.message)
        raise typer.Exit(1) from None


@database.command("upgrade")
def upgrade(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Upgrade the database's schema, including Dagster's tables."""
    with servers(data_dir, migrate=True), step("upgrading Dagster's tables"):
        from batch_pipeline.database import connect
        from batch_pipeline.migrations.roles import protect
        from batch_pipeline.orchestration.instance import upgrade_dagster
        from batch_pipeline.settings import get_settings

        upgrade_dagster()
        with connect(get_settings().require_database_url()) as connection:
            protect(connection)  # Dagster's tables as well
    say("The database is up to date.")


@database.command("roles")
def roles(
    apply: Annotated[
        bool, typer.Option("--apply", help="Execute it by BATCH_DATABASE_URL, which must be an administrator's.")
    ] = False,
) -> None:
    """Print the SQL that makes the roles of the database, with their rights and row-level security.

    It has no passwords. Execute it as an administrator of the database, for example with psql. It can be repeated.
    """
    from batch_pipeline.migrations.roles import protection_sql, roles_sql

    statements = f"BEGIN;\n{roles_sql()}\n{protection_sql()}COMMIT;"
    if not apply:
        typer.echo(statements)
        return
    from batch_pipeline.database import connect
    from batch_pipeline.settings import get_settings

    with step("making the roles"), connect(get_settings().require_database_url(), autocommit=True) as connection:
        connection.execute(statements.encode())
    say("The database has its roles.")


def _show_addresses(system: "LocalSystem") -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("Dagster UI", system.dagster_url)
    grid.add_row("API", f"{system.api_url} (docs at /docs)")
    grid.add_row("API key", system.api_key)
    if system.servers is not None:
        local = system.servers
        grid.add_row("S3", f"{local.environment['AWS_ENDPOINT_URL']} ({local.environment['BATCH_STORAGE_URL']})")
        grid.add_row("Inbox", f"{_short(local.inbox)}/ORGANIZATION/RESOURCE/ACTION/")
    grid.add_row("Logs", _short(system.log_folder))
    console = data_console()
    console.print(Panel(grid, title="batch-pipeline is running", subtitle="Ctrl-C stops it", expand=False))
    console.file.flush()


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
