"""Commands that serve until they are stopped: `api`, the HTTP service, and `worker`, which runs batches."""

from contextlib import ExitStack
from typing import Annotated

import typer

from batch_pipeline.cli.console import say
from batch_pipeline.cli.flags import DEFAULT_DATA_DIR, DataDir
from batch_pipeline.cli.interrupts import stopping_in_order
from batch_pipeline.cli.progress import step
from batch_pipeline.cli.session import servers
from batch_pipeline.errors import SettingError, UnavailableError
from batch_pipeline.garbage import collect_seldom
from batch_pipeline.settings import get_settings


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("api")(api)
    app.command("worker")(worker)


def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Serve the HTTP API until interrupted."""
    with stopping_in_order(), servers(data_dir):
        _require_free(host, port)
        _require_row_security()
        with step("loading the API"):
            from batch_pipeline.api.server import serve
        with ExitStack() as starting:
            starting.enter_context(step("warming up"))

            def say_address() -> None:
                starting.close()
                say(f"The API listens on http://{host}:{port} (docs at /docs).")

            serve(host=host, port=port, processes=get_settings().api_processes, on_ready=say_address)


def worker(
    concurrency: Annotated[
        int | None, typer.Option(help="Batches that it runs at once. Default: one per CPU.", min=1, max=256)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Its name among all workers. Default: process id and host.", show_default=False)
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Run a Celery worker, which runs batches, until interrupted.

    It takes the runs that Dagster launches with BATCH_LAUNCHER=celery from the broker, BATCH_CELERY_BROKER_URL. The
    first signal lets its running batches end; the second one cancels them.
    """
    collect_seldom()
    from batch_pipeline.orchestration.celery_extra import require_celery

    get_settings().require_broker_url()
    require_celery()
    with servers(data_dir):
        with step("loading what batches need"):
            from batch_pipeline.database import connect
            from batch_pipeline.orchestration.celery_worker import serve

        connect(get_settings().require_database_url()).close()
        code = serve(concurrency=concurrency, name=name)
    raise typer.Exit(code)


def _require_row_security() -> None:
    """Raises SettingError if the API's role reads every organization's rows. Each later connection is checked again."""
    from batch_pipeline.batches.callers import require_row_security
    from batch_pipeline.database import connect

    settings = get_settings()
    if not settings.api_row_security:
        say("BATCH_API_ROW_SECURITY is off: the database does not separate the organizations' rows for the API.")
        return
    try:
        with connect(settings.require_api_database_url()) as connection:
            require_row_security(connection)
    except UnavailableError as error:
        say(f"{error.message} Until then the API answers 503.")


def _require_free(host: str, port: int) -> None:
    """Raises SettingError if the address can't be used, before the imports, which take seconds."""
    import socket

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family[0], family[1]) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(family[4])
    except OSError as error:
        raise SettingError(f"{host}:{port} can't be used ({error.strerror}): choose another --host or --port") from None
